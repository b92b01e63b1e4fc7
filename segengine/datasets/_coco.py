"""Records of a JSON file in COCO's format, one by one: images, annotations and categories.

Source: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import xxhash

from segengine.datasets._json import Found, parsed, records
from segengine.datasets._spans import SpanIndex
from segengine.errors import CorruptInputError, SegengineError, TransientInputError
from segengine.instances.outlines import outline_runs
from segengine.instances.rle import Runs, runs_box
from segengine.sources._files import open_input
from segengine.types import Color

_IMAGE_ID = re.compile(rb'"image_id"\s*:\s*(\d+)\s*[,}]')
_MOST = 65_000
"""Categories: labels have 16 bits."""
_FARTHEST = 2.0**48
"""Of areas and of the sides of boxes."""
_LIMITS = (32**2, 96**2)
"""Areas at which COCO's figures tell small, medium and large objects apart."""

Id = int | str
"""COCO's ids are whole numbers; other programs write texts, and whole numbers as floats."""


def id_of(value: object) -> Id:
    """An id as it is compared. Raises ValueError for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"{value!r:.80}, no whole number from 0 and no text")
    if isinstance(value, int) and not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.80}, no whole number from 0 of 63 bits")
    return value


def key_of(value: Id) -> int:
    """A number for an index; texts get those that no number has."""
    if isinstance(value, int):
        return value
    mark: int = xxhash.xxh3_64_intdigest(value.encode("utf-8", "surrogatepass"))
    return mark | 1 << 63


class Category(NamedTuple):
    """A category of the JSON."""

    id: Id
    name: str
    thing: bool
    color: Color | None


def scan(file: str, sections: Sequence[str], needed: Sequence[str] = ()) -> Iterator[Found]:
    """Records of a file's arrays; those that it needs must be there, be they empty."""
    seen: set[str] = set()
    try:
        with open_input(file) as stream:
            yield from records(stream, sections, seen=seen)
        lacking = next((section for section in needed if section not in seen), None)
        if lacking is not None:
            raise ValueError(f"has no list of {lacking}")
    except (ValueError, CorruptInputError, TransientInputError) as error:
        raise SegengineError(f"{file}: {error}; get it again") from error


def parse(found: Found, file: str) -> dict[str, Any]:
    """A record while listing, where one that is damaged stops the run: there is no telling whose."""
    needed = {"images": ("id", "file_name"), "annotations": ("image_id",)}.get(found.section, ())
    try:
        record: dict[str, Any] = parsed(found.text)
        missing = next((key for key in needed if key not in record), None)
    except ValueError as error:
        raise SegengineError(f"{file}: damaged at byte {found.offset}: {error}") from error
    if missing is not None:
        raise SegengineError(f"{file}: the record at byte {found.offset} has no {missing!r}")
    name = record.get("file_name", "")
    if not isinstance(name, str) or not _is_text(name):
        raise SegengineError(
            f"{file}: the file_name at byte {found.offset} is no text: {name!r:.80}"
        )
    return record


def _is_text(name: str) -> bool:
    """False of half a character, which JSON can write and no file or table can hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def word(error: Exception) -> str:
    """What is wrong, in one short line."""
    return f"lacks {error}" if isinstance(error, KeyError) else f"{error}"[:200]


def image_of(found: Found, file: str) -> Id:
    """The image of an annotation; it is parsed only where more than one key is named so."""
    numbers = _IMAGE_ID.findall(found.text)
    plain = len(numbers) == 1 and len(numbers[0]) < 20
    one = int(numbers[0]) if plain else parse(found, file)["image_id"]
    return number_of(one, found, file)


def number_of(value: object, found: Found, file: str) -> Id:
    try:
        return id_of(value)
    except ValueError as error:
        raise SegengineError(f"{file}: the image's id at byte {found.offset} is {error}") from error


def require_images(index: SpanIndex, images: Sequence[Id], file: str) -> None:
    """Refuse an annotation of an image that the file has not: there is no telling whose it is."""
    offset = index.stranger([key_of(number) for number in images])
    if offset is not None:
        raise SegengineError(
            f"{file}: the annotation at byte {offset} is of an image that is not in the file"
        )


@lru_cache(maxsize=4)
def categories_in(file: str, mark: str) -> tuple[Category, ...]:
    """The categories of a JSON file of this fingerprint."""
    found = [parse(each, file) for each in scan(file, ("categories",))]
    try:
        known = catalog_of(found)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SegengineError(f"{file}: a category is damaged: {word(error)}") from error
    if len(known) > _MOST:
        raise SegengineError(f"{file}: has {len(known):,} categories; at most {_MOST:,} are labels")
    names = Counter(category.name for category in known)
    twice = next((name for name in names if names[name] > 1), None)
    odd = next((name for name in names if not _is_text(name)), None)
    if odd is not None:
        raise SegengineError(f"{file}: the name of a category is no text: {odd!r}")
    if twice is not None:
        raise SegengineError(f"{file}: two categories are named {twice!r}; rename one")
    return known


def catalog_of(categories: Sequence[Mapping[str, Any]]) -> tuple[Category, ...]:
    return tuple(
        Category(
            id_of(each["id"]),
            str(each["name"]),
            bool(each.get("isthing", 1)),
            None if not each.get("color") else tuple(int(c) for c in each["color"]),  # type: ignore[arg-type]
        )
        for each in categories
    )


def whole_area(area: float) -> int:
    """An area as an integer that is above, at or below each of COCO's limits as the area is.

    >>> [whole_area(area) for area in (1023.5, 1024.0, 1024.5, 7.1)]
    [1023, 1024, 1025, 8]
    """
    up = math.ceil(area)
    return up - 1 if up in _LIMITS and area < up else up


class Outlined(NamedTuple):
    """What an annotation says of its object."""

    runs: Runs
    area: float
    """As annotated, else pixels."""
    box: list[float]
    """x, y, width, height, as annotated, else those of the pixels."""


def outlined(annotation: Mapping[str, Any], size: tuple[int, int]) -> Outlined:
    """The outline of an annotation of an image of `size` (y, x). Raises ValueError, TypeError,
    OverflowError with what is wrong with it."""
    runs = outline_runs(annotation.get("segmentation"), *size)
    area = float(annotation["area"]) if "area" in annotation else float(runs[1::2].sum())
    box = [float(v) for v in annotation.get("bbox") or runs_box(runs, size[0])]
    if len(box) != 4 or not all(abs(value) <= _FARTHEST for value in (*box, area)):
        raise ValueError(f"has the box {box[:4]} and the area {area}")
    return Outlined(runs, area, box)
