"""COCO's JSON: polygons, run lengths and crowds of many pictures. CVAT and others write it too.

Polygons are those of pycocotools; areas and boxes are the annotated ones, as in COCO's figures.
Source: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Iterator

from segengine.datasets._coco import (
    Id,
    catalog_of,
    image_of,
    key_of,
    number_of,
    outlined,
    parse,
    require_images,
    scan,
)
from segengine.datasets._json import parsed
from segengine.datasets._spans import Span, SpanIndex, digest, locate, span_of
from segengine.datasets.annotations.drawn import Drawn
from segengine.datasets.annotations.pictures import Picture, records_at
from segengine.instances.rle import compress_runs

SECTIONS = ("images", "annotations", "categories")
NEEDED = ("images", "annotations")
"""What is there in every file, be it empty."""


def pictures(uri: str) -> Iterator[Picture]:
    """Every image of a file, in one pass. Raises SegengineError where it is damaged."""
    index, images, kinds = SpanIndex(), dict[str, tuple[Id, Span]](), list[Span]()
    numbers: list[Id] = []
    for found in scan(uri, SECTIONS, NEEDED):
        span = span_of(found.offset, found.text)
        if found.section == "annotations":
            index.add(key_of(image_of(found, uri)), found.offset, found.text)
        elif found.section == "categories":
            kinds.append(span)
        else:
            image = parse(found, uri)
            numbers.append(number_of(image["id"], found, uri))
            images.setdefault(image["file_name"], (numbers[-1], span))
    require_images(index, numbers, uri)
    spans = index.lookup([key_of(number) for number, _ in images.values()])
    head = locate(kinds)
    for (name, (_, image_span)), own in zip(images.items(), spans, strict=True):
        place = f"{head};{locate([image_span])};{locate(own)}"
        yield Picture(name, place, digest(*kinds, image_span, *own))


def objects(uri: str, picture: Picture, size: tuple[int, int]) -> Iterator[Drawn]:
    """The objects of an image of `size` (y, x). Raises ValueError with what is wrong."""
    kinds, (image,), own = ([parsed(text) for text in group] for group in records_at(uri, picture))
    if (image.get("height"), image.get("width")) != size:
        raise ValueError(
            f"image {image['id']} is {image.get('width')} x {image.get('height')} pixels there, "
            f"its frame {size[1]} x {size[0]}"
        )
    names = {category.id: category.name for category in catalog_of(kinds)}
    for each in own:
        try:
            if each["category_id"] not in names:
                raise ValueError(f"has the category {each['category_id']}, which does not exist")
            runs, area, box = outlined(each, size)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"annotation {each.get('id')} {what}") from error
        rle, crowd = compress_runs(runs), bool(each.get("iscrowd"))
        kind = names[each["category_id"]]
        yield Drawn(kind, rle, crowd=crowd, area=area, box=box)
