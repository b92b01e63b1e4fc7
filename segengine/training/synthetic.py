"""Procedural pictures with truth, as many as there are seeds: for tests, trials and the demo.

- `scene`: fields, water, roads, buildings and clouds seen from above. The colours of the classes
  overlap (wet fields and water, bare fields and roofs, roads and roofs, bright roofs and clouds), so
  that a pixel's colour does not tell its class: texture and shape do.
- `vehicles`: vehicles on asphalt that overlap, each with a mask of its own.
- `pet`: one animal on a plain or patterned ground, with a trimap.

`python -m segengine.training.synthetic OUT --scenes N [--seed S] [--size PX]` writes scenes as
OUT/images/*.png and OUT/labels/*.png; `--pets N` a folder in the layout of Oxford-IIIT Pet,
`--vehicles N` one in that of COCO, with instances.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.instances.boxes import row_of

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]
CLASSES = ("field", "water", "road", "building", "cloud")
FIELD, WATER, ROAD, BUILDING, CLOUD = range(5)
PET, BACKGROUND, BORDER = 1, 2, 3
"""Values of a trimap, as Oxford-IIIT Pet codes them."""
SEEN = 0.3
"""Least share of an object that must be visible; one that is more hidden is marked as a crowd,
which is neither learned nor scored."""
BREEDS = ("Abyssinian", "beagle", "Bengal", "pug")
"""Names of the public set: a capital begins the name of a cat."""


def smooth(rng: np.random.Generator, height: int, width: int, grain: float) -> Floats:
    """Smooth noise (y, x) of mean 0 and deviation 1, whose bumps are about `grain` pixels wide."""
    import cv2

    rows, cols = (max(2, round(n / grain) + 2) for n in (height, width))
    coarse = rng.standard_normal((rows, cols), np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray((fine - fine.mean()) / (fine.std() + 1e-6), np.float32)


def scene(seed: int, size: int = 256) -> tuple[RGB, NDArray[np.uint8]]:
    """A scene from above: pixels (y, x, 3) and labels (y, x), indices into `CLASSES`."""
    rng = np.random.default_rng([seed, 1])
    image = np.zeros((size, size, 3), np.float32)
    labels = np.full((size, size), FIELD, np.uint8)
    _fields(rng, image)
    _water(rng, image, labels)
    _roads(rng, image, labels)
    _buildings(rng, image, labels)
    image += rng.normal(0, 5, image.shape).astype(np.float32)
    _clouds(rng, image, labels)
    image *= rng.uniform(0.85, 1.1)  # the light of the day
    return _eight(image), labels


def _eight(image: Floats) -> RGB:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def _fields(rng: np.random.Generator, image: Floats) -> None:
    """Parcels of a crop each, with furrows of their own direction and distance."""
    size = len(image)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    count = max(4, size // 24)
    seeds = rng.uniform(0, size, (count, 2))
    bend = smooth(rng, size, size, 40) * 4
    parcel = np.argmin([(y - a + bend) ** 2 + (x - b - bend) ** 2 for a, b in seeds], axis=0)
    crops = np.array(
        [
            [86, 118, 60],
            [124, 142, 74],
            [150, 132, 92],
            [168, 150, 118],
            [62, 84, 66],
            [120, 116, 104],
        ]
    )
    for index in range(count):
        inside = parcel == index
        color = crops[rng.integers(len(crops))] + rng.normal(0, 9, 3)
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(4, 8)
        furrows = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / pitch))
        tone = furrows * rng.uniform(8, 18) + smooth(rng, size, size, 14) * 5
        image[inside] = (color + tone[..., None])[inside]


def _water(rng: np.random.Generator, image: Floats, labels: NDArray[np.uint8]) -> None:
    """A lake or a river: dark, without furrows, of the colours of wet fields."""
    size = len(image)
    level = smooth(rng, size, size, size / rng.uniform(2, 4))
    wet = level > rng.uniform(0.75, 1.3)
    color = np.array([64, 86, 84]) + rng.normal(0, 12, 3)
    tone = smooth(rng, size, size, 30) * 6 + smooth(rng, size, size, 5) * 2
    image[wet] = (color + tone[..., None])[wet]
    labels[wet] = WATER


def _roads(rng: np.random.Generator, image: Floats, labels: NDArray[np.uint8]) -> None:
    import cv2

    size = len(image)
    for _ in range(int(rng.integers(1, 4))):
        start, stop = rng.uniform(-0.1, 1.1, (2, 2)) * size
        if rng.random() < 0.5:
            start[0], stop[0] = 0, size
        else:
            start[1], stop[1] = 0, size
        middle = (start + stop) / 2 + rng.normal(0, size / 10, 2)
        t = np.linspace(0, 1, 24)[:, None]
        line = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * stop
        mask = np.zeros(labels.shape, np.uint8)
        points = np.rint(line).astype(np.int32)[:, None]
        cv2.polylines(mask, [points], False, 1, int(rng.integers(4, 9)))
        gray = rng.uniform(105, 165)
        tone = gray + smooth(rng, size, size, 6) * 4
        on = mask > 0
        image[on] = (tone[..., None] + rng.normal(0, 4, 3).astype(np.float32))[on]
        labels[on] = ROAD


def _buildings(rng: np.random.Generator, image: Floats, labels: NDArray[np.uint8]) -> None:
    """Roofs in groups: two slopes of different light, and a shadow that is field."""
    import cv2

    size = len(image)
    roofs = np.array(
        [[158, 96, 78], [150, 146, 142], [120, 112, 108], [206, 200, 192], [140, 124, 96]]
    )
    for _ in range(max(1, size // 64)):
        village, angle = rng.uniform(0.05, 0.95, 2) * size, rng.uniform(0, 90)
        for _ in range(int(rng.integers(3, 9))):
            centre = village + rng.normal(0, size / 14, 2)
            sides = rng.uniform(9, 22, 2)
            box = cv2.boxPoints((tuple(centre.tolist()), tuple(sides.tolist()), angle))
            ridge = (box[0] + box[1]) / 2, (box[2] + box[3]) / 2
            half = np.array([box[0], ridge[0], ridge[1], box[3]])
            whole, slope, shadow = (np.zeros(labels.shape, np.uint8) for _ in range(3))
            cv2.fillPoly(shadow, [np.rint(box + 3).astype(np.int32)], 1)
            cv2.fillPoly(whole, [np.rint(box).astype(np.int32)], 1)
            cv2.fillPoly(slope, [np.rint(half).astype(np.int32)], 1)
            if labels[whole > 0].size and (labels[whole > 0] != FIELD).any():
                continue
            image[(shadow > 0) & (labels == FIELD)] *= 0.55
            roof = roofs[rng.integers(len(roofs))] + rng.normal(0, 8, 3)
            light = np.where(slope > 0, 1.12, 0.86)[..., None]
            image[whole > 0] = (roof * light)[whole > 0]
            labels[whole > 0] = BUILDING


def _clouds(rng: np.random.Generator, image: Floats, labels: NDArray[np.uint8]) -> None:
    """Bright and soft; where more than half of the light is the cloud's, it is cloud."""
    size = len(image)
    height = smooth(rng, size, size, size / 4) + 0.35 * smooth(rng, size, size, size / 14)
    cover = np.clip((height - rng.uniform(0.9, 2.0)) * 1.6, 0, 1)[..., None]
    white = rng.uniform(205, 240) + smooth(rng, size, size, 24)[..., None] * 8
    image[:] = image * (1 - cover) + white * cover
    labels[cover[..., 0] > 0.5] = CLOUD


@dataclass(frozen=True, slots=True)
class Shapes:
    """A picture of objects that overlap."""

    pixels: RGB
    """(y, x, 3)"""
    masks: NDArray[np.bool_]
    """(object, y, x): each object whole, also where another covers it"""
    classes: NDArray[np.uint8]
    """(object,) index into `VEHICLES`"""

    @property
    def visible(self) -> NDArray[np.uint32]:
        """(y, x) id of the object on top, 1 for the first; 0 = none."""
        ids = np.zeros(self.pixels.shape[:2], np.uint32)
        for index, mask in enumerate(self.masks):
            ids[mask] = index + 1
        return ids


VEHICLES = ("car", "truck", "bus")
GLASS = {
    0: ((0.22, 0.14, 0.8), (-0.32, 0.1, 0.7)),
    1: ((0.42, 0.08, 0.8), (0.25, 0.05, 1.0)),
    2: ((0.46, 0.06, 0.9), (0.2, 0.12, 0.4), (-0.1, 0.12, 0.4), (-0.4, 0.12, 0.4)),
}
"""What is dark on each: a car's windscreen and rear window, a truck's and the gap behind its cab, a
bus's and the hatches in its roof; place along it, length and width as shares of the vehicle's. So one
that is half hidden can still be told from the others."""


def vehicles(seed: int, size: int = 128, count: int = 6) -> Shapes:
    """Vehicles on asphalt, later ones over earlier ones."""
    import cv2

    rng = np.random.default_rng([seed, 2])
    image = np.full((size, size, 3), rng.uniform(80, 130), np.float32)
    image += smooth(rng, size, size, 9)[..., None] * 6
    lengths = {0: (0.16, 0.20), 1: (0.26, 0.34), 2: (0.34, 0.42)}
    masks, kinds = [], []
    for _ in range(count):
        kind = int(rng.integers(len(VEHICLES)))
        length = size * rng.uniform(*lengths[kind])
        width = size * (0.09 + 0.02 * kind)
        centre, angle = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0, 180)
        body = _box(centre, (length, width), angle, size)
        paint = rng.uniform(30, 235, 3)
        image[body] = paint
        turn = np.deg2rad(angle)
        ahead = np.array([np.cos(turn), np.sin(turn)]) * length
        for place, long, wide in GLASS[kind]:
            sides = (length * long, width * wide)
            image[_box(centre + ahead * place, sides, angle, size) & body] = (40, 48, 58)
        edge = cv2.dilate(body.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~body
        image[edge] *= 0.6
        masks.append(body)
        kinds.append(kind)
    image += rng.normal(0, 4, image.shape).astype(np.float32)
    found = np.array(masks, np.bool_).reshape(-1, size, size)
    return Shapes(_eight(image), found, np.array(kinds, np.uint8))


def _box(
    centre: NDArray[Any], sides: tuple[float, float], angle: float, size: int
) -> NDArray[np.bool_]:
    import cv2

    corners = cv2.boxPoints((tuple(centre.tolist()), sides, angle))
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
    return mask.astype(np.bool_)


def pet(seed: int, height: int = 150, width: int = 200) -> tuple[RGB, NDArray[np.uint8]]:
    """An animal: pixels (y, x, 3) and its trimap (y, x), 1 pet, 2 background, 3 border."""
    import cv2

    rng = np.random.default_rng([seed, 3])
    image = np.zeros((height, width, 3), np.float32) + rng.uniform(60, 200, 3).astype(np.float32)
    image += smooth(rng, height, width, 30)[..., None] * rng.uniform(5, 30)
    body = np.zeros((height, width), np.uint8)
    side = min(height, width)
    middle = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
    axes = side * rng.uniform(0.2, 0.3, 2)
    head = middle + np.array([axes[0] * rng.choice([-1.0, 1.0]), -axes[1] * 0.9])
    radius = side * rng.uniform(0.11, 0.16)
    turn = rng.uniform(-25, 25)
    cv2.ellipse(body, _point(middle), _point(axes), turn, 0, 360, 1, -1)
    cv2.circle(body, _point(head), round(radius), 1, -1)
    for way in (-1.0, 1.0):
        root, inner = (np.array(v) * radius for v in ((way * 0.95, -0.2), (0.0, -0.9)))
        tip = np.array([way * 0.75, -1.4]) * radius
        ear = head + np.stack([root, tip, inner])
        cv2.fillPoly(body, [np.rint(ear).astype(np.int32)], 1)
    fur = rng.uniform(40, 220, 3) + smooth(rng, height, width, 7)[..., None] * 16
    image[body > 0] = fur[body > 0]
    image += rng.normal(0, 5, image.shape).astype(np.float32)
    kernel = np.ones((5, 5), np.uint8)
    trimap = np.full((height, width), BACKGROUND, np.uint8)
    trimap[cv2.dilate(body, kernel) > 0] = BORDER
    trimap[cv2.erode(body, kernel) > 0] = PET
    return _eight(image), trimap


def _point(values: NDArray[Any]) -> tuple[int, int]:
    return round(float(values[0])), round(float(values[1]))


# ----------------------------------------------------------------------------------------- on disk


def write_scenes(folder: str | Path, seeds: Sequence[int], size: int = 256) -> Path:
    """Scenes as images/scene-<seed>.png and labels/scene-<seed>.png (values 0 to 4); the folder."""
    folder = Path(folder)
    for seed in seeds:
        pixels, labels = scene(seed, size)
        _write(folder / "images" / f"scene-{seed:05d}.png", pixels)
        _write(folder / "labels" / f"scene-{seed:05d}.png", labels)
    return folder


def write_pets(folder: str | Path, count: int, seed: int = 0) -> Path:
    """A stand-in for Oxford-IIIT Pet, in its layout and coding; the folder.

    images/<Breed>_<n>.jpg, annotations/trimaps/<Breed>_<n>.png of values 1 to 3, and the lists
    annotations/list.txt, trainval.txt and test.txt with the lines `<name> <class> <species> <breed>`
    (species 1 cat, 2 dog). Half of each breed is for trainval.
    """
    folder = Path(folder)
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for index in range(count):
        which, number = index % len(BREEDS), index // len(BREEDS)
        name = f"{BREEDS[which]}_{number + 1}"
        rng = np.random.default_rng([seed, index])
        height, width = (int(n) for n in rng.integers(110, 190, 2))
        pixels, trimap = pet(seed * 100_000 + index, height, width)
        _write(folder / "images" / f"{name}.jpg", pixels)
        _write(folder / "annotations" / "trimaps" / f"{name}.png", trimap)
        cats = [b for b in BREEDS if b[0].isupper()]
        species = 1 if BREEDS[which] in cats else 2
        breed = [b for b in BREEDS if (b in cats) == (species == 1)].index(BREEDS[which]) + 1
        part = "trainval" if number % 2 == 0 else "test"
        lines[part].append(f"{name} {which + 1} {species} {breed}")
    head = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n#SPECIES: 1:Cat 2:Dog\n"
    files = {
        "list.txt": head + _text(sorted([*lines["trainval"], *lines["test"]], key=str.lower)),
        "trainval.txt": _text(lines["trainval"]),
        "test.txt": _text(lines["test"]),
    }
    for file, text in files.items():
        (folder / "annotations" / file).write_text(text, encoding="utf-8")
    return folder


def write_vehicles(
    folder: str | Path,
    seeds: Sequence[int],
    size: int = 128,
    count: int = 6,
    split: str = "vehicles",
) -> Path:
    """<split>/vehicles-<seed>.png and annotations/instances_<split>.json; the folder."""
    from PIL import Image

    folder = Path(folder)
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        drawn = vehicles(seed, size, count)
        name = f"vehicles-{seed:05d}.png"
        Image.fromarray(drawn.pixels).save(folder / split / name)
        images.append({"id": number, "file_name": name, "height": size, "width": size})
        visible = drawn.visible
        for index, (mask, kind) in enumerate(zip(drawn.masks, drawn.classes, strict=True), 1):
            part = visible == index
            if not part.any():
                continue
            row = row_of(index, int(kind), 1.0, part, (0, 0), (size, size))
            hidden = np.count_nonzero(part) < SEEN * np.count_nonzero(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(kind) + 1,
                    "segmentation": {"size": [size, size], "counts": row["rle"]},
                    "bbox": row["bbox"],
                    "area": row["area"],
                    "iscrowd": int(hidden),
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(VEHICLES, 1)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    file = folder / "annotations" / f"instances_{split}.json"
    file.write_text(text, encoding="utf-8")
    return folder


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _write(file: Path, picture: RGB) -> None:
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file, quality=92)


def main(argv: Sequence[str] | None = None) -> int:
    """Write scenes, pets or vehicles; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m segengine.training.synthetic")
    parser.add_argument("out", help="folder to write to")
    parser.add_argument("--scenes", type=int, default=0, help="number of scenes")
    parser.add_argument("--pets", type=int, default=0, help="number of pets")
    parser.add_argument("--vehicles", type=int, default=0, help="number of road scenes")
    parser.add_argument("--seed", type=int, default=0, help="the first picture's seed")
    parser.add_argument("--size", type=int, default=256, help="side of a scene in pixels")
    args = parser.parse_args(argv)
    if args.scenes:
        write_scenes(args.out, range(args.seed, args.seed + args.scenes), args.size)
    if args.pets:
        write_pets(args.out, args.pets, args.seed)
    if args.vehicles:
        write_vehicles(args.out, range(args.seed, args.seed + args.vehicles))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
