"""Reference points, drawn from each class of a map, each with a picture to be labelled by.

What is written is GeoJSON (RFC 7946): points in longitude and latitude at the centres of pixels, with the
properties `stratum`, the class on the map, and `label`, null: the class that is there, to be filled in.
They stand in random order, so that those that are labelled first are a sample too.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segengine.areas.olofsson import allocated
from segengine.areas.points import is_blank
from segengine.areas.strata import Pixel, Strata, left_out
from segengine.errors import CorruptInputError, JobError, TransientInputError
from segengine.guards import texts
from segengine.outputs import TakenError, claimed, taken_up
from segengine.pictures import draw
from segengine.pictures.view import matching
from segengine.reader import SceneStore, Store, open_store
from segengine.store.keys import MASK
from segengine.urls import public

ALLOCATIONS = ("proportional", "neyman")
LEAST = 2
"""Points of a class, without which it has no interval."""
_MOST = 1_000_000
_AROUND = 48
"""Pixels on each side of a point that its picture shows."""
_TIMES = 4
"""By how much a pixel is enlarged."""
_OUTLINE = (255, 214, 10)
_POINT = (255, 45, 85)
_LONGEST = 1 << 26
"""Bytes of a file that is there, of which it is told what it holds."""
_DIGITS = 9
"""Decimals of a degree: a tenth of a millimetre."""


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What `sample` drew."""

    store: str
    points: str
    """The file."""
    pictures: str
    """The folder."""
    pictured: int
    """How many points, the first ones, have a picture."""
    strata: Mapping[str, Mapping[str, Any]]
    """Of each class of the map: its area in square metres, its share, and how many points."""
    notices: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "store": self.store,
            "points": self.points,
            "pictures": self.pictures,
            "pictured": self.pictured,
            "strata": {name: dict(one) for name, one in self.strata.items()},
            "notices": list(self.notices),
        }

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        total = sum(one["points"] for one in self.strata.values())
        width = max(map(len, self.strata))
        which = "of each" if self.pictured == total else f"of the first {self.pictured:,}"
        shown = f"a picture {which} in {self.pictures}" if self.pictured else "without pictures"
        found = [f"{self.points}: {total:,} points, {shown}"]
        found += [
            f"{name:{width}}  {one['area'] / 1e6:14,.4f} km2 {one['share']:8.2%} {one['points']:7,}"
            for name, one in self.strata.items()
        ]
        found += list(self.notices)
        found.append(f"fill in `label` of each, then: segengine area {self.store} {self.points}")
        return tuple(found)


def sample(
    store_path: str,
    size: int,
    out: str,
    *,
    seed: int = 0,
    allocation: str = "proportional",
    accuracy: Mapping[str, float] | None = None,
    pictures: int | None = None,
    overwrite: bool = False,
    trust: bool | None = None,
) -> SampleReport:
    """Draw `size` points, stratified by the classes of the map, and write them with pictures.

    `allocation`: proportional to the area of a class, or Neyman's, by the user's accuracy that is
    expected of each: `accuracy`, by class, else as measured against the store's truth. `pictures`: of how
    many points, the first ones; None: of each. `overwrite`: also files that no command wrote, or that
    were changed since. `trust`: code that the store names may be used to read images. Raises JobError,
    StoreError.
    """
    path = Path(out)
    if path.suffix.lower() not in (".geojson", ".json"):
        raise JobError(f"--out: {out} ends in neither .geojson nor .json")
    if not 1 <= size <= _MOST:
        raise JobError(f"--size: {size} is not from 1 to {_MOST:,}")
    if pictures is not None and pictures < 0:
        raise JobError(f"--pictures: {pictures} is below 0")
    store = open_store(store_path, trust)
    expected = _expected(store, allocation, accuracy)
    strata = Strata.of(store)
    areas = strata.areas
    if not any(areas):
        raise JobError(f"{store.path}: has no labelled pixel with a place on earth")
    try:
        sizes = allocated(size, areas, expected, LEAST)
    except ValueError as error:
        raise JobError(f"--size: {size} is too few: {error}") from error
    folder = path.with_name(f"{path.stem}-pictures")
    shown = size if pictures is None else min(size, pictures)
    names = [f"{n:0{len(str(size))}}.png" for n in range(1, shown + 1)]
    files = [path, *(folder / name for name in names)]
    try:
        output = claimed(store, os.fspath(path.parent), files, overwrite=overwrite)
    except TakenError as error:
        if path.is_file():
            raise JobError(f"--out: {out} {_held(path)}") from error
        raise
    drawn = [
        (pixel, label)
        for label, count in enumerate(sizes)
        for pixel in strata.draw(label, count, seed)
    ]
    random.Random(f"segengine sample {seed}").shuffle(drawn)
    counts = Counter(label for _, label in drawn)
    notices = list(_notices(strata, sizes, counts))
    unread = set()
    del names[len(drawn) :]
    order = sorted(range(len(names)), key=lambda i: drawn[i][0])  # near ones after each other
    for i in order:
        picture, reason = _picture(store, drawn[i][0], i + 1)
        if reason:
            unread.add(reason)
        with output.replacing(folder / names[i]) as partial:
            partial.write_bytes(draw.encode_png(picture))
    if unread:
        notices.append(
            f"pictures without their image, as it cannot be read now: {sorted(unread)[0]}"
        )
    about = {
        "seed": seed,
        "allocation": allocation,
        "areas": dict(zip(store.classes, areas, strict=True)),
    }
    features = _features(store, drawn, [f"{folder.name}/{name}" for name in names])
    with output.replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(_text({"type": "FeatureCollection", "segengine": about}, features))
    output.close()
    taken, where = taken_up(store, [os.fspath(folder / name) for name in names])
    if taken:
        notices.append(
            f"{taken:,} pictures lie where the next run looks for inputs (source.paths: {where}) and "
            "would be segmented; move them, or narrow that path"
        )
    total = sum(areas)
    return SampleReport(
        store=store.path,
        points=os.fspath(path),
        pictures=os.fspath(folder),
        pictured=len(names),
        strata={
            name: {"area": area, "share": area / total, "points": counts[label]}
            for label, (name, area) in enumerate(zip(store.classes, areas, strict=True))
        },
        notices=tuple(notices),
    )


def _expected(
    store: Store, allocation: str, accuracy: Mapping[str, float] | None
) -> list[float] | None:
    """Standard deviation of being right in each class, for Neyman's allocation; else None."""
    if allocation not in ALLOCATIONS:
        raise JobError(f"--allocation: {allocation!r} is none of {', '.join(ALLOCATIONS)}")
    if allocation == "proportional":
        if accuracy:
            raise JobError("--accuracy: goes with --allocation neyman")
        return None
    given = dict(accuracy or {})
    for name, value in given.items():
        if name not in store.classes:
            raise JobError(
                f"--accuracy: {name!r} is no class of the store; there are {', '.join(store.classes)}"
            )
        if not 0 <= value <= 1:
            raise JobError(f"--accuracy: {name}={value:g} is not from 0 to 1")
    measured = _measured(store)
    found = []
    for name in store.classes:
        users = given.get(name, measured.get(name))
        if users is None:
            raise JobError(
                f"--allocation: neyman needs the user's accuracy that is expected of {name!r}, which "
                f"was not measured: --accuracy {name}=0.8"
            )
        found.append(math.sqrt(users * (1 - users)))
    return found


def _measured(store: Store) -> dict[str, float]:
    """User's accuracy of each class that was measured against the store's truth."""
    confusion = store.metrics.get("confusion")
    if not confusion:
        return {}
    rows, counts = confusion["rows"], np.asarray(confusion["counts"], np.int64)
    totals = counts.sum(axis=0)
    return {
        store.classes[label]: float(counts[true, label] / totals[label])
        for label, true in matching(store.classes, rows, store.metrics.get("matching")).items()
        if true is not None and totals[label]
    }


def _held(path: Path) -> str:
    """What lies where the points are to go, and what to do about it."""
    points = labelled = 0
    try:
        if path.stat().st_size > _LONGEST:
            return (
                "is there, and is large: it may hold labels; name another file, or add --overwrite"
            )
        features = texts.parse(path.read_bytes(), path.name)["features"]
        labels = [one["properties"]["label"] for one in features]
        points, labelled = len(labels), sum(not is_blank(label) for label in labels)
    except (OSError, ValueError, TypeError, KeyError):
        pass  # of somebody else
    if not points:
        return "is there, and no points of `sample`; add --overwrite, or name another file"
    return (
        f"holds {points:,} points already, of which {labelled:,} are labelled; go on with `segengine "
        "area`, name another file, or add --overwrite, which throws these labels away"
    )


def _notices(strata: Strata, sizes: Sequence[int], counts: Mapping[int, int]) -> Iterator[str]:
    if strata.unplaced:
        yield left_out(strata.unplaced)
    if strata.unfinished:
        yield f"{strata.unfinished:,} shards are not done: nothing is drawn there"
    for label, (wanted, name) in enumerate(zip(sizes, strata.store.classes, strict=True)):
        found = counts[label]
        if found < wanted:
            yield f"class {name}: has {found:,} pixels only, of {wanted:,} that were to be drawn"


# ------------------------------------------------------------------------------------------ pictures


def _picture(store: Store, pixel: Pixel, number: int) -> tuple[draw.RGB, str]:
    """What is around a point: the image, and with the outlines of the mask; why there is no image."""
    scene = store[pixel.scene]
    ref = scene.layout.frame(pixel.frame)
    rows, cols = (
        slice(max(0, at - _AROUND), min(length, at + _AROUND + 1))
        for at, length in ((pixel.row, ref.height), (pixel.column, ref.width))
    )
    labels = scene.read(MASK, pixel.frame, rows, cols)
    image, reason = _image(scene, pixel.frame, rows, cols)
    if image is None:
        image = draw.stripes(*labels.shape)
    at = (pixel.row - rows.start, pixel.column - cols.start)
    plain = _large(image)
    outlined = plain.copy()
    large = labels.repeat(_TIMES, axis=0).repeat(_TIMES, axis=1)
    outlined[draw.borders(large)] = _OUTLINE
    name = _safe(ref.name)
    panels = [
        (f"{number}: {name}", _marked(plain, at)),
        ("outlines of the mask", _marked(outlined, at)),
    ]
    return draw.sheet(panels), f"{name}: {reason}" if reason else ""


def _image(scene: SceneStore, frame: int, rows: slice, cols: slice) -> tuple[draw.RGB | None, str]:
    try:
        tile = scene.pixels(frame, rows, cols)
    except (CorruptInputError, TransientInputError, OSError) as error:
        return None, public(str(error))
    return draw.to_rgb(tile.pixels, tile.valid), ""


def _large(picture: draw.RGB) -> draw.RGB:
    return picture.repeat(_TIMES, axis=0).repeat(_TIMES, axis=1)


def _marked(picture: draw.RGB, at: tuple[int, int]) -> draw.RGB:
    """A picture with a frame around the point's pixel, which stays as it is, and four lines to it."""
    found = picture.copy()
    top, left = (place * _TIMES for place in at)
    bottom, right = top + _TIMES, left + _TIMES
    box = np.zeros(found.shape[:2], np.bool_)
    box[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = True
    box[top:bottom, left:right] = False
    middle_y, middle_x = top + _TIMES // 2, left + _TIMES // 2
    near, far = 10, 26
    box[middle_y - 1 : middle_y + 1, max(0, left - far) : max(0, left - near)] = True
    box[middle_y - 1 : middle_y + 1, right + near : right + far] = True
    box[max(0, top - far) : max(0, top - near), middle_x - 1 : middle_x + 1] = True
    box[bottom + near : bottom + far, middle_x - 1 : middle_x + 1] = True
    found[box] = _POINT
    return found


# ------------------------------------------------------------------------------------------- GeoJSON


def _features(
    store: Store, drawn: Sequence[tuple[Pixel, int]], pictures: Sequence[str]
) -> Iterator[dict[str, Any]]:
    places = _lonlats(store, [pixel for pixel, _ in drawn])
    found = itertools.zip_longest(drawn, places, pictures)
    for number, ((pixel, label), place, picture) in enumerate(found, 1):
        properties = {
            "stratum": store.classes[label],
            "label": None,
            "picture": picture,
            "scene": pixel.scene,
            "frame": pixel.frame,
            "name": _safe(store[pixel.scene].layout.frame_name(pixel.frame)),
            "row": pixel.row,
            "column": pixel.column,
        }
        geometry = {"type": "Point", "coordinates": place}
        yield {"type": "Feature", "id": number, "properties": properties, "geometry": geometry}


def _text(document: Mapping[str, Any], features: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One feature a line, so that it can be edited by hand."""
    yield f'{json.dumps(document, ensure_ascii=False)[:-1]}, "features": ['
    before = "\n"
    for feature in features:
        yield before + json.dumps(feature, ensure_ascii=False)
        before = ",\n"
    yield "\n]}\n"


def _lonlats(store: Store, pixels: Sequence[Pixel]) -> list[list[float]]:
    """Longitude and latitude of WGS84 of the centre of each pixel; those of a scene are made together."""
    from pyproj import CRS, Transformer

    found: list[list[float]] = [[]] * len(pixels)
    by_scene: dict[str, list[int]] = {}
    for i, pixel in enumerate(pixels):
        by_scene.setdefault(pixel.scene, []).append(i)
    for name, own in by_scene.items():
        placing = store[name].layout.placing
        to = Transformer.from_crs(CRS.from_wkt(placing.wkt), "OGC:CRS84", always_xy=True).transform
        columns, rows = (
            np.array([getattr(pixels[i], axis) for i in own]) + 0.5 for axis in ("column", "row")
        )
        lon, lat = to(*placing.at(columns, rows))
        lons = ((np.asarray(lon) + 180) % 360 - 180).tolist()
        for i, x, y in zip(own, lons, np.asarray(lat).tolist(), strict=True):
            found[i] = [round(x, _DIGITS), round(y, _DIGITS)]
    return found


def _safe(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
