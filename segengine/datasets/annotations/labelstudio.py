"""Label Studio's JSON: tasks with brushes, polygons, boxes and ellipses on pictures.

    [{"id": 1, "data": {"image": "/data/upload/1/1a2b3c4d-a.png"}, "annotations": [{"result": [
        {"id": "x1", "type": "brushlabels", "original_width": 640, "original_height": 480,
         "value": {"format": "rle", "rle": [0, 18, 192, ...], "brushlabels": ["car"]}},
        {"id": "x2", "type": "polygonlabels", "original_width": 640, "original_height": 480,
         "value": {"points": [[12.5, 3.0], ...], "polygonlabels": ["car"]}}]}]}]

Points are per cent of the picture's sides. A pixel is of a polygon, a box or an ellipse if its centre lies
inside. A region that is told by several results of one id is one object. Of several annotations of a task
the one marked as ground truth counts, else the last that was not cancelled; predictions do not. Key
points and other regions without an area are no objects.

A brush is the picture's RGBA, word by word, in runs and literals of bits; what is not transparent is of
the object.
Source: Label Studio's documentation, "Image annotation units" and "Export: JSON"; heartexlabs'
`label_studio_converter/brush.py` for the bits (after thi-ng/rle-pack).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from segengine.compiled import compiled
from segengine.datasets._spans import digest, locate, span_of
from segengine.datasets.annotations.drawn import Drawn
from segengine.datasets.annotations.pictures import (
    LARGEST,
    Picture,
    items,
    listed,
    object_of,
    records_at,
    worded,
)
from segengine.datasets.annotations.shapes import (
    Patch,
    ellipse,
    filled,
    number,
    points_of,
    rectangle,
    turned,
)
from segengine.errors import SegengineError

_PICTURES = ("image", "img", "picture", "photo")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""
_SIZES = (3, 4, 8, 16)
"""Bits of the lengths of runs, as Label Studio writes them."""
_DRAWN = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels")
_HEAD_BITS = 32 + 5 + 4 * len(_SIZES)


def pictures(uri: str) -> Iterator[Picture]:
    """Every task of a file, in one pass. Raises SegengineError where it is damaged."""
    for found in items(uri, ()):
        try:
            if len(found.text) > LARGEST:
                raise ValueError(f"has more than {LARGEST >> 20} MB")
            task = object_of(found.text)
            if not isinstance(task.get("annotations"), list):
                raise ValueError("has no list of annotations: export as JSON, not as JSON_MIN")
            name = _name(task)
        except ValueError as error:
            raise SegengineError(f"{uri}: the task at byte {found.offset} {error}") from error
        span = span_of(found.offset, found.text)
        yield Picture(name, locate([span]), digest(span))


def _name(task: Mapping[str, Any]) -> str:
    """The path of a task's picture."""
    data = task.get("data")
    values = data if isinstance(data, dict) else {}
    keys = (*_PICTURES, *(key for key in values if key not in _PICTURES))
    found = next((values[key] for key in keys if isinstance(values.get(key), str)), None)
    if found is None:
        raise ValueError("names no picture in its data")
    return path_of(found)


def path_of(url: str) -> str:
    """The path that a task's URL means.

    >>> path_of("/data/upload/1/1a2b3c4d-a.png"), path_of("/data/local-files/?d=set/a%20b.png")
    ('a.png', 'set/a b.png')
    """
    if "?d=" in url:
        return parse_qs(urlsplit(url).query).get("d", [""])[0].lstrip("/")
    path = unquote(urlsplit(url).path) if "://" in url or url.startswith("/data/") else url
    folder, _, name = path.replace("\\", "/").rpartition("/")
    if folder.startswith("/data/upload"):
        return _UPLOADED.sub("", name)
    return f"{folder}/{name}".lstrip("/")


def objects(uri: str, picture: Picture, size: tuple[int, int]) -> Iterator[Drawn]:
    """The objects of a picture of `size` (y, x). Raises ValueError with what is wrong."""
    ((text,),) = records_at(uri, picture)
    task = object_of(text)
    regions: dict[str, list[Mapping[str, Any]]] = {}
    for i, result in enumerate(_results(task)):
        if isinstance(result, dict) and isinstance(result.get("value"), dict):
            regions.setdefault(str(result.get("id") or i), []).append(result)
    for name, results in regions.items():
        try:
            patches = (_patch(each, size) for each in results)
            patch = next((each for each in patches if each is not None), None)
            kind = next((kind for kind in map(_kind, results) if kind is not None), None)
        except ValueError as error:
            raise ValueError(f"task {task.get('id')}: region {name:.40} {error}") from error
        if patch is not None:
            yield Drawn(kind, patch.rle(size))


def _results(task: Mapping[str, Any]) -> list[Any]:
    """What was drawn; nothing where nobody has looked at the picture."""
    chosen = _chosen(task)
    if chosen is not None and not isinstance(chosen.get("result"), list):
        raise ValueError(f"task {task.get('id')}: an annotation has no list of results")
    return [] if chosen is None else list(chosen["result"])


def _chosen(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The annotation that counts; None where there is none."""
    found = [
        each
        for each in listed(task.get("annotations"), "annotations")
        if isinstance(each, dict) and not each.get("was_cancelled")
    ]
    sure = [each for each in found if each.get("ground_truth")]
    return next(reversed(sure or found), None)


def _kind(result: Mapping[str, Any]) -> str | None:
    """The first of a result's labels."""
    named = str(result.get("type") or "")
    names = listed(result["value"].get(named), "labels") if named.endswith("labels") else []
    return worded(names[0]) if names else None


def _patch(result: Mapping[str, Any], size: tuple[int, int]) -> Patch | None:
    """The pixels of a result; None: it has no area."""
    value = result["value"]
    shown = [key for key in ("rle", "points", "radiusX", "width") if key in value]
    if not shown and result.get("type") in _DRAWN:
        raise ValueError(f"is of {result['type']}, and has no shape")
    if not shown or (shown == ["width"] and str(result.get("type", "")).startswith("keypoint")):
        return None
    stated = result.get("original_height"), result.get("original_width")
    if stated != size:
        raise ValueError(
            f"is of a picture of {stated[1]!r:.20} x {stated[0]!r:.20} pixels, its frame is of "
            f"{size[1]} x {size[0]}"
        )
    if result.get("image_rotation"):
        raise ValueError("is of a picture that was turned; turn the file instead")
    if shown[0] == "rle":
        return Patch(brushed(value["rle"], size), (0, 0))
    unit = np.array(size[::-1], np.float64) / 100
    if shown[0] == "points":
        return filled([points_of(value["points"]) * unit], size)
    x, y = number(value.get("x")) * unit[0], number(value.get("y")) * unit[1]
    turn = number(value.get("rotation", 0))
    if shown[0] == "radiusX":
        radii = number(value["radiusX"]) * unit[0], number(value.get("radiusY")) * unit[1]
        return ellipse((x, y), radii, size, turn)
    width, height = number(value["width"]) * unit[0], number(value.get("height")) * unit[1]
    return filled([turned(rectangle(x, y, width, height), turn, (x, y))], size)


def brushed(codes: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (y, x) behind a brush's run lengths. Raises ValueError for what is none of `size`."""
    pixels = size[0] * size[1]
    if not isinstance(codes, list) or len(codes) > 16 * pixels + 64:
        raise ValueError(
            "has a brush whose run lengths are no list, or more than its picture takes"
        )
    try:
        data = bytes(codes)
    except (TypeError, ValueError) as error:
        raise ValueError("has a brush whose run lengths are no bytes") from error
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    mask = np.zeros(pixels, np.bool_)
    if len(bits) < _HEAD_BITS or not _unpacked(bits, mask):
        raise ValueError(
            f"has a brush whose run lengths are not those of {size[1]} x {size[0]} pixels"
        )
    return mask.reshape(size)


@compiled
def _unpacked(bits: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bool:
    """Fill in the mask from the alpha of each pixel; False where the bits are not of its size."""
    count, at = 0, 0
    for _ in range(32):
        count, at = 2 * count + bits[at], at + 1
    word = 1
    for place in range(5):
        word += bits[at + place] << (4 - place)
    at += 5
    sizes = np.ones(4, np.int64)
    for i in range(4):
        for place in range(4):
            sizes[i] += bits[at + place] << (3 - place)
        at += 4
    if count != 4 * len(mask):
        return False
    done = 0
    while done < count:
        if at + 3 > len(bits):
            return False
        same = bits[at]
        width = sizes[2 * bits[at + 1] + bits[at + 2]]
        at += 3
        if at + width > len(bits):
            return False
        run = 1
        for place in range(width):
            run += bits[at + place] << (width - 1 - place)
        at += width
        words = 1 if same else run
        if done + run > count or at + words * word > len(bits):
            return False
        for _ in range(words):
            shown = False
            for place in range(word):
                shown = shown or bits[at + place] > 0
            at += word
            stop = done + run if same else done + 1
            if shown:
                for place in range(done, stop):
                    if place % 4 == 3:
                        mask[place // 4] = True
            done = stop
    return True


def packed(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (y, x) as a brush's run lengths: white where it is, transparent black where not."""
    flat = mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], edges])
    lengths = 4 * np.diff(starts, append=len(flat))
    parts = [f"{4 * len(flat):032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for shown, length in zip(flat[starts].tolist(), lengths.tolist(), strict=True):
        value = "11111111" if shown else "00000000"
        for done in range(0, length, 1 << _SIZES[-1]):
            left = min(length - done, 1 << _SIZES[-1]) - 1
            kind = next(i for i, size in enumerate(_SIZES) if left < 1 << size)
            parts.append(f"1{kind:02b}{left:0{_SIZES[kind]}b}{value}")
    bits = np.frombuffer("".join(parts).encode("ascii"), np.uint8) - ord("0")
    return np.packbits(bits).tolist()


def task(place: int, url: str, size: tuple[int, int], found: Iterable[tuple[str, Patch]]) -> bytes:
    """A task, the `place`-th, of a picture of `size` (y, x), with objects as (class, pixels)."""
    results = [_result(i, kind, patch, size) for i, (kind, patch) in enumerate(found, 1)]
    whole = {"id": place, "data": {"image": url}, "annotations": [{"result": results}]}
    return json.dumps(whole).encode()


def _result(place: int, kind: str, patch: Patch, size: tuple[int, int]) -> dict[str, Any]:
    """A polygon where one ring is the mask's outline, else a brush."""
    from segengine.instances.polygons import polygons

    sides = {"original_width": size[1], "original_height": size[0], "image_rotation": 0}
    found = polygons(patch.mask, patch.corner)
    if len(found) == 1 and len(found[0]) == 1:
        points = (found[0][0][:-1] * 100 / np.array(size[::-1])).tolist()
        shape, value = "polygon", {"points": points, "closed": True}
    else:
        mask = np.zeros(size, np.bool_)
        (y, x), (height, width) = patch.corner, patch.mask.shape
        mask[y : y + height, x : x + width] = patch.mask
        shape, value = "brush", {"format": "rle", "rle": packed(mask)}
    named = f"{shape}labels"
    about = {"id": f"object-{place}", "type": named, "from_name": shape, "to_name": "image"}
    return {**about, **sides, "value": {**value, named: [kind]}}


def interface(classes: Sequence[tuple[str, Sequence[int]]]) -> bytes:
    """The labelling interface that takes such tasks: classes with their colours (red, green, blue)."""
    from segengine.datasets.annotations.cvat import quoted

    lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
    for tag, name in (("BrushLabels", "brush"), ("PolygonLabels", "polygon")):
        lines.append(f'  <{tag} name="{name}" toName="image">')
        for kind, (red, green, blue) in classes:
            lines.append(
                f'    <Label value={quoted(kind)} background="#{red:02x}{green:02x}{blue:02x}"/>'
            )
        lines.append(f"  </{tag}>")
    return "\n".join([*lines, "</View>\n"]).encode()
