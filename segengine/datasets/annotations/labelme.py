"""labelme's JSON: one file a picture, with polygons, rectangles, circles and masks.

    {"shapes": [{"label": "cell", "points": [[x, y], ...], "shape_type": "polygon", "group_id": null}],
     "imagePath": "a.png", "imageData": null, "imageHeight": 512, "imageWidth": 512}

Points are drawn as labelme's `shape_to_mask` draws them, by Pillow: the outline is of the shape. Shapes
of one label and `group_id` are one object. Points and lines have no area, and are no objects. A mask is
a PNG in Base64, its box's corners are pixels of it.
Source: wkentaro/labelme, `labelme/utils/shape.py` and `label_file.py`.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.datasets.annotations.drawn import Drawn
from segengine.datasets.annotations.pictures import Picture, object_of, whole, worded
from segengine.datasets.annotations.shapes import (
    NOTHING,
    Patch,
    Points,
    clipped,
    points_of,
    together,
)
from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._pillow import opened
from segengine.sources._sound import require_sound

_NO_AREA = ("point", "points", "line", "linestrip")
_CORNERS = {"circle": 2, "rectangle": 2, "oriented_rectangle": 4, "mask": 2}
_KINDS = ("polygon", *_CORNERS)


def pictures(uri: str) -> Iterator[Picture]:
    """The one picture of a file."""
    yield Picture("")


def objects(uri: str, picture: Picture, size: tuple[int, int]) -> Iterator[Drawn]:
    """The objects of a picture of `size` (y, x). Raises ValueError with what is wrong."""
    found = object_of(whole(uri))
    stated = found.get("imageHeight"), found.get("imageWidth")
    if None not in stated and stated != size:
        raise ValueError(
            f"is of {stated[1]!r:.20} x {stated[0]!r:.20} pixels, its frame {size[1]} x {size[0]}"
        )
    if not isinstance(found.get("shapes"), list):
        raise ValueError("has no list of shapes")
    groups: dict[Any, list[Patch]] = {}
    for i, shape in enumerate(found["shapes"]):
        try:
            kind, group = worded(shape.get("label")), shape.get("group_id")
            patch = _patch(shape, size)
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"shape {i + 1} {error}") from error
        if patch is not None:
            own = i if group is None else f"{group!r:.80}"
            groups.setdefault((kind, own), []).append(patch)
    for (kind, _), patches in groups.items():
        yield Drawn(kind, together(patches).rle(size))


def _patch(shape: Any, size: tuple[int, int]) -> Patch | None:
    """The pixels of a shape; None: it has no area."""
    kind = shape.get("shape_type") or "polygon"
    if kind in _NO_AREA:
        return None
    if kind not in _KINDS:
        raise ValueError(f"is a {kind!r:.40}; known are {', '.join((*_KINDS, *_NO_AREA))}")
    points = points_of(shape.get("points"))
    if len(points) != _CORNERS.get(kind, len(points)) or len(points) < 2:
        raise ValueError(f"is a {kind} of {len(points)} points")
    if kind == "mask":
        return _mask(shape.get("mask"), points, size)
    if kind == "circle":
        radius = math.dist(*points)
        low, high = points[0] - radius, points[0] + radius
    else:
        if kind != "rectangle" and len(points) < 3:
            raise ValueError(f"is a {kind} of {len(points)} points")
        low, high = points.min(axis=0), points.max(axis=0)
    return drawn(kind, points, low, high, size)


def drawn(kind: str, points: Points, low: Points, high: Points, size: tuple[int, int]) -> Patch:
    """What Pillow draws of a shape between `low` and `high` (x, y) in a frame of `size` (y, x)."""
    from PIL import Image, ImageDraw

    left, top = (max(0, math.floor(v) - 1) for v in low.tolist())
    right, bottom = (min(size[1 - axis], math.ceil(v) + 2) for axis, v in enumerate(high.tolist()))
    if right <= left or bottom <= top:
        return NOTHING
    image = Image.new("L", (right - left, bottom - top))
    draw = ImageDraw.Draw(image)
    # whole pixels: what is drawn does not depend on where it begins
    shift = np.array([left, top])
    if kind in ("circle", "rectangle"):
        ends = [tuple((low - shift).tolist()), tuple((high - shift).tolist())]
        (draw.ellipse if kind == "circle" else draw.rectangle)(ends, outline=1, fill=1)
    else:
        draw.polygon([tuple(p) for p in (points - shift).tolist()], outline=1, fill=1)
    return Patch(np.asarray(image) != 0, (top, left))


def _mask(text: Any, points: Points, size: tuple[int, int]) -> Patch:
    (x0, y0), (x1, y1) = (np.trunc(p).astype(int).tolist() for p in points)
    if not isinstance(text, str):
        raise ValueError("is a mask without pixels")
    try:
        data = base64.b64decode(text, validate=True)
        name, image = opened(data)
        with image:
            if name != "PNG" or image.size != (x1 - x0 + 1, y1 - y0 + 1):
                raise ValueError(
                    f"is a mask of {image.size[0]} x {image.size[1]} pixels in a box of "
                    f"{x1 - x0 + 1} x {y1 - y0 + 1}"
                )
            require_sound(name, data, image)
            mask = np.asarray(image.convert("L")) != 0
    except (binascii.Error, CorruptInputError, TransientInputError, OSError, SyntaxError) as error:
        raise ValueError(f"is a mask that is no PNG in Base64: {error}") from error
    return clipped(mask, (y0, x0), size)


def document(name: str, size: tuple[int, int], found: Iterable[tuple[str, Patch]]) -> bytes:
    """A file of a picture `name` of `size` (y, x), with objects as (class, pixels)."""
    shapes = [_shape(kind, patch) for kind, patch in found]
    head: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None,
    }
    return json.dumps({**head, "imageHeight": size[0], "imageWidth": size[1]}, indent=1).encode()


def _shape(kind: str, patch: Patch) -> dict[str, Any]:
    """A polygon where one gives the very pixels, else a mask."""
    shape: dict[str, Any] = {"label": kind, "group_id": None, "description": "", "flags": {}}
    y, x = patch.corner
    outline = _outline(patch.mask)
    if outline is not None:
        points = (outline + np.array([x, y])).tolist()
        return {**shape, "points": points, "shape_type": "polygon", "mask": None}
    corners = [[x, y], [x + patch.mask.shape[1] - 1, y + patch.mask.shape[0] - 1]]
    return {**shape, "points": corners, "shape_type": "mask", "mask": _png(patch.mask)}


def _outline(mask: NDArray[np.bool_]) -> Points | None:
    """Corners (point, 2) through the outermost pixels, if Pillow gives the mask back from them."""
    import cv2

    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if len(found) != 1 or len(found[0]) < 3:
        return None
    points = found[0].reshape(-1, 2).astype(np.float64)
    again = drawn("polygon", points, points.min(axis=0), points.max(axis=0), mask.shape)
    same = np.zeros_like(mask)
    y, x = again.corner
    same[y : y + again.mask.shape[0], x : x + again.mask.shape[1]] = again.mask
    return points if np.array_equal(same, mask) else None


def _png(mask: NDArray[np.bool_]) -> str:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(mask).save(sink, format="PNG")
    return base64.b64encode(sink.getvalue()).decode("ascii")
