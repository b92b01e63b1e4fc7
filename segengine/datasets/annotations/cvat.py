"""CVAT's XML for images, version 1.1: polygons, masks, boxes and ellipses of many pictures.

    <annotations><version>1.1</version>
      <image id="0" name="a.png" width="640" height="480">
        <polygon label="car" points="12.5,3.0;40.0,3.0;40.0,20.5" z_order="0"></polygon>
        <mask label="car" rle="3, 5, 12" left="10" top="4" width="5" height="4" z_order="1"></mask>
        <box label="car" xtl="1" ytl="2" xbr="30" ybr="40"></box>

A mask's run lengths go along the rows of its box, zeros first. A pixel is of a polygon, a box or an
ellipse if its centre lies inside. Shapes of one label and `group_id` are one object; `z_order` says what
is on top. Points, lines, skeletons and cuboids are no objects; tracks of a video are refused.

No document type, and so no entity, is read: one is an error. Nothing is read beyond an element.
Source: CVAT's manual, "CVAT for image 1.1".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from xml.parsers import expat

import numpy as np

from segengine.datasets._spans import digest, locate, read_spans, span_of
from segengine.datasets.annotations.drawn import Drawn
from segengine.datasets.annotations.pictures import LARGEST, Picture, records_at, worded
from segengine.datasets.annotations.shapes import (
    MOST_POINTS,
    Patch,
    clipped,
    ellipse,
    filled,
    number,
    points_of,
    rectangle,
    together,
    turned,
)
from segengine.errors import CorruptInputError, SegengineError, TransientInputError
from segengine.sources._files import open_input

_BLOCK = 1 << 20
_DEEPEST = 16
_AREAS = ("polygon", "mask", "box", "ellipse")


class _Reader:
    """Elements of a file, as expat finds them; Raises ValueError for what is no such file."""

    def __init__(self) -> None:
        # bytes are UTF-8 whatever a declaration says: offsets are of the file's own bytes
        self.parser = expat.ParserCreate("utf-8")
        self.depth = 0
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.DefaultHandler = self._other

    def _refuse(self, *_: Any) -> None:
        raise ValueError("declares a document type, which annotations need not; take it out")

    def _start(self, name: str, about: dict[str, str]) -> None:
        self.at(self.parser.CurrentByteIndex)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError("is nested too deeply")
        self.begins(name, about)

    def _end(self, name: str) -> None:
        self.at(self.parser.CurrentByteIndex)
        self.ends(name)
        self.depth -= 1

    def _other(self, _: str) -> None:
        self.at(self.parser.CurrentByteIndex)

    def feed(self, data: bytes, last: bool = False) -> None:
        """Read on. Raises ValueError."""
        try:
            self.parser.Parse(data, last)
        except expat.ExpatError as error:
            raise ValueError(f"is no XML: {error}") from error

    def at(self, offset: int) -> None:
        """Something begins there."""

    def begins(self, name: str, about: dict[str, str]) -> None:
        """An element."""

    def ends(self, name: str) -> None:
        """The end of one."""


class _Images(_Reader):
    """Where each image lies."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, int]] = []
        self._name, self._from, self._closing = "", -1, False

    def at(self, offset: int) -> None:
        if self._closing:  # what comes next begins where the image ended
            self.found.append((self._name, self._from, offset))
            self._closing, self._from = False, -1

    def begins(self, name: str, about: dict[str, str]) -> None:
        if self.depth == 1 and name != "annotations":
            raise ValueError(f"is no file of CVAT: its root is {name[:40]!r}, not annotations")
        if self.depth == 2 and name == "track":
            raise ValueError(
                "is of CVAT's video format; export it as CVAT for images 1.1, or as COCO"
            )
        if self.depth == 2 and name == "image":
            self._name, self._from = about.get("name", ""), self.parser.CurrentByteIndex

    def ends(self, name: str) -> None:
        if self.depth == 2 and name == "image":
            self._closing = True


def pictures(uri: str) -> Iterator[Picture]:
    """Every image of a file, in one pass. Raises SegengineError where it is damaged."""
    reader = _Images()
    try:
        with open_input(uri) as file:
            done = 0
            while block := file.read(_BLOCK):
                if not done and block[:2] in (b"\xff\xfe", b"\xfe\xff"):
                    raise ValueError("is of 16-bit letters; save it as UTF-8")
                reader.feed(block)
                done += len(block)
                if done - max(reader.parser.CurrentByteIndex, 0) > LARGEST:
                    raise ValueError(f"has an element of more than {LARGEST >> 20} MB")
            reader.feed(b"", True)
        for name, start, stop in reader.found:
            (text,) = read_spans(uri, f"{start}+{stop - start}")
            span = span_of(start, text)
            yield Picture(name.replace("\\", "/"), locate([span]), digest(span))
    except (ValueError, CorruptInputError, TransientInputError) as error:
        raise SegengineError(f"{uri}: {error}; export it again") from error


class _Shapes(_Reader):
    """The shapes of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.image: dict[str, str] = {}
        self.found: list[tuple[str, dict[str, str]]] = []

    def begins(self, name: str, about: dict[str, str]) -> None:
        if self.depth == 1:
            self.image = about
        elif self.depth == 2 and name in _AREAS:
            self.found.append((name, about))


def objects(uri: str, picture: Picture, size: tuple[int, int]) -> Iterator[Drawn]:
    """The objects of an image of `size` (y, x). Raises ValueError with what is wrong."""
    ((text,),) = records_at(uri, picture)
    reader = _Shapes()
    reader.feed(text, True)
    stated = tuple(number(reader.image.get(side, "")) for side in ("height", "width"))
    if stated != size:
        raise ValueError(
            f"image {picture.name} is {stated[1]:g} x {stated[0]:g} pixels there, its frame "
            f"{size[1]} x {size[0]}"
        )
    groups: dict[tuple[str | None, str], list[tuple[int, Patch]]] = {}
    for i, (shape, about) in enumerate(reader.found, 1):
        try:
            kind, level = worded(about.get("label")), int(number(about.get("z_order", 0)))
            patch = _patch(shape, about, size)
        except ValueError as error:
            raise ValueError(f"image {picture.name}: {shape} {i} {error}") from error
        group = about.get("group_id", "0")
        key = (kind, f"{i}") if group in ("", "0") else (kind, f"group {group}")
        groups.setdefault(key, []).append((level, patch))
    for (kind, _), parts in groups.items():
        whole = together(patch for _, patch in parts)
        yield Drawn(kind, whole.rle(size), level=max(level for level, _ in parts))


def _patch(shape: str, about: dict[str, str], size: tuple[int, int]) -> Patch:
    def value(key: str) -> float:
        return number(about.get(key, ""))

    turn = number(about.get("rotation", 0))
    if shape == "mask":
        return _mask(about, size)
    if shape == "ellipse":
        return ellipse((value("cx"), value("cy")), (value("rx"), value("ry")), size, turn)
    if shape == "box":
        x, y = value("xtl"), value("ytl")
        width, height = value("xbr") - x, value("ybr") - y
        middle = (x + width / 2, y + height / 2)
        return filled([turned(rectangle(x, y, width, height), turn, middle)], size)
    pairs = about.get("points", "").split(";", MOST_POINTS)
    return filled([points_of([[number(v) for v in pair.split(",")] for pair in pairs])], size)


def _mask(about: dict[str, str], size: tuple[int, int]) -> Patch:
    left, top, width, height = (
        int(number(about.get(key, ""))) for key in ("left", "top", "width", "height")
    )
    pixels = width * height
    if width < 1 or height < 1 or pixels > 4 * size[0] * size[1]:
        raise ValueError(f"has a box of {width} x {height} pixels")
    text = about.get("rle", "")
    if text.count(",") > pixels + 1:
        raise ValueError(f"has more run lengths than {width} x {height} pixels can take")
    try:
        runs = np.array(text.split(","), np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError("has run lengths that are no whole numbers") from error
    if ((runs < 0) | (runs > pixels)).any() or runs.sum() != pixels:
        raise ValueError(f"has run lengths that do not sum to {width} x {height} pixels")
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return clipped(mask, (top, left), size)


HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
TAIL = b"</annotations>\n"


def image(
    place: int, name: str, size: tuple[int, int], found: Iterable[tuple[str, Patch]]
) -> bytes:
    """An image of a file, the `place`-th, of `size` (y, x), with objects as (class, pixels)."""
    lines = [
        f'  <image id="{place}" name={quoted(name)} width="{size[1]}" height="{size[0]}">',
        *(_element(kind, patch) for kind, patch in found),
        "  </image>\n",
    ]
    return "\n".join(lines).encode()


def _element(kind: str, patch: Patch) -> str:
    """A polygon where one ring is the mask's outline, else a mask."""
    from segengine.instances.polygons import polygons

    about = f'label={quoted(kind)} source="auto" occluded="0"'
    found = polygons(patch.mask, patch.corner)
    if len(found) == 1 and len(found[0]) == 1:
        corners = found[0][0][:-1].astype(int).tolist()
        points = ";".join(f"{x},{y}" for x, y in corners)
        return f'    <polygon {about} points="{points}" z_order="0"></polygon>'
    flat = patch.mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(edges, prepend=0, append=len(flat)).tolist()
    rle = ", ".join(map(str, [0, *runs] if flat[0] else runs))
    (y, x), (height, width) = patch.corner, patch.mask.shape
    box = f'left="{x}" top="{y}" width="{width}" height="{height}"'
    return f'    <mask {about} rle="{rle}" {box} z_order="0"></mask>'


def quoted(text: str) -> str:
    """A text as an attribute's value, with the few letters that XML has no way to write as `?`."""
    from xml.sax.saxutils import quoteattr

    kept = "".join(
        c if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff") else "?" for c in text
    )
    return quoteattr(kept)
