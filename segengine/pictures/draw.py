"""Pictures of labels: as colours, over the image, against the truth; side by side with captions.

An RGB picture is uint8 (y, x, 3). Void is drawn as grey stripes, so that it is never mistaken for a
class.
"""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segengine.types import Bool, Color

RGB = NDArray[np.uint8]
"""(y, x, 3) red, green, blue."""
Panel = tuple[str, RGB]
"""Caption and picture."""

CLEAR = ("background", "BG", "__background__", "line")
"""Names of classes that leave the image as it is."""
RIGHT: Color = (46, 204, 113)
WRONG: Color = (235, 64, 82)
UNLABELLED: Color = (64, 132, 255)
"""Has a true class and no label."""
NODATA: Color = (58, 58, 64)
_STRIPES: tuple[Color, Color] = ((94, 94, 100), (122, 122, 128))
_PAPER: Color = (255, 255, 255)
_INK: Color = (32, 34, 40)
_TAILS = (2, 98)  # percentiles: as the colours of clusters are stretched


def to_rgb(pixels: NDArray[Any], valid: Bool | None = None) -> RGB:
    """Source pixels (y, x, band) of any dtype as a picture; `valid` (y, x) is False at nodata.

    Of three or more bands the first three, else the first as grey. 8-bit values as they are, others
    stretched so that 2 % of the valid values are darkest and 2 % brightest.
    """
    bands = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
    shown = np.isfinite(bands).all(-1) if bands.dtype.kind == "f" else None
    if valid is not None:
        shown = valid if shown is None else shown & valid
    if bands.dtype == np.bool_:
        bands = bands.view(np.uint8) * np.uint8(255)
    elif bands.dtype != np.uint8:
        bands = _stretched(bands, shown)
    picture = np.repeat(bands, 3, axis=-1) if bands.shape[-1] == 1 else bands.copy()
    if shown is not None:
        picture[~shown] = NODATA
    return picture


def _stretched(bands: NDArray[Any], shown: Bool | None) -> NDArray[np.uint8]:
    values = (bands if shown is None else bands[shown]).ravel()
    if not values.size:
        return np.zeros(bands.shape, np.uint8)
    step = max(1, values.size >> 20)  # a million values are enough for two percentiles
    low, high = np.percentile(values[::step].astype(np.float64), _TAILS)
    scaled = (bands.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    clipped: RGB = np.rint(np.clip(np.nan_to_num(scaled), 0, 255)).astype(np.uint8)
    return clipped


def stripes(height: int, width: int) -> RGB:
    """The pattern that stands for void."""
    y, x = np.ogrid[:height, :width]
    picture: RGB = np.asarray(_STRIPES, np.uint8)[((x + y) // 4) % 2]
    return picture


def colorize(labels: NDArray[Any], colors: ArrayLike) -> RGB:
    """Each pixel in the colour of its label; `colors` (class, 3). Labels above them are void."""
    table = np.asarray(colors, np.uint8).reshape(-1, 3)
    codes = np.minimum(labels, len(table))
    picture: RGB = np.vstack([table, np.zeros((1, 3), np.uint8)])[codes]
    void = codes == len(table)
    if void.any():
        picture[void] = stripes(*labels.shape)[void]
    return picture


def borders(labels: NDArray[Any]) -> Bool:
    """True where a pixel's right or lower neighbour has another label."""
    found = np.zeros(labels.shape, np.bool_)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return found


def overlay(
    image: RGB,
    labels: NDArray[Any],
    colors: ArrayLike,
    *,
    clear: Collection[int] = (),
    opacity: float = 0.5,
) -> RGB:
    """The image tinted with the colours of its labels, borders between labels in full colour.

    Labels in `clear` leave the image as it is.
    """
    import cv2

    tint = colorize(labels, colors)
    mixed: RGB = np.asarray(cv2.addWeighted(image, 1 - opacity, tint, opacity, 0.0), np.uint8)
    outline = borders(labels)
    mixed[outline] = tint[outline]
    if clear:
        background = np.isin(labels, list(clear))
        mixed[background] = image[background]
    return mixed


def tint(
    labels: NDArray[Any], colors: ArrayLike, *, clear: Collection[int] = ()
) -> NDArray[np.uint8]:
    """(y, x, 4) the colours of labels to lay over an image; where they are in `clear`, nothing."""
    alpha = np.full(labels.shape, 255, np.uint8)
    alpha[np.isin(labels, list(clear))] = 0
    layer: NDArray[np.uint8] = np.dstack([colorize(labels, colors), alpha])
    layer[alpha == 0] = 0
    return layer


@dataclass(frozen=True, slots=True)
class Drawn:
    """An instance as it is drawn; lengths are in pixels of the picture."""

    number: int
    """Decides its colour."""
    text: str
    """What it is: its class, and its score where it has one."""
    box: tuple[float, float, float, float]
    """x, y, width, height."""
    mask: Bool
    """(y, x) which of the pixels from `corner` on are its own; may be empty."""
    corner: tuple[int, int]
    """Row and column of the mask's first pixel."""


def instance_color(number: int) -> Color:
    """A colour that differs from those of the numbers around it."""
    hue = number * 0.618033988749895 % 1  # the golden ratio keeps any few in a row apart
    red, green, blue = colorsys.hsv_to_rgb(
        hue, (0.85, 0.6, 1.0)[number % 3], (1.0, 0.95, 0.75)[number % 3]
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def instances(image: RGB, found: Sequence[Drawn], *, least: int = 1, opacity: float = 0.45) -> RGB:
    """The image with the masks, outlines, boxes and names of instances, each in a colour of its own.

    The last is on top. The picture is enlarged until it is `least` pixels wide. A name is left out
    where its box is too small for it or another name is there.
    """
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    times = max(1, -(-least // max(1, image.shape[1])))
    picture = enlarge(image, least).copy()
    kernel = np.ones((3, 3), np.uint8)
    for one in found:
        color = np.array(instance_color(one.number), np.float32)
        mask = one.mask.repeat(times, axis=0).repeat(times, axis=1)
        y, x = one.corner[0] * times, one.corner[1] * times
        part = picture[y : y + mask.shape[0], x : x + mask.shape[1]]
        part[mask] = np.rint(part[mask] * (1 - opacity) + color * opacity)
        inner = cv2.erode(np.pad(mask, 1).view(np.uint8), kernel)[1:-1, 1:-1] if mask.size else mask
        part[mask & (inner == 0)] = color
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    taken: list[tuple[float, ...]] = []
    for one in reversed(found):
        left, top, right, bottom = (v * times for v in _corners(one.box))
        color_of = instance_color(one.number)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color_of)
        tag = _tag(one.text, (left, top, right, bottom), canvas.size, font, taken)
        if tag is not None:
            taken.append(tag)
            pen.rectangle(tag, fill=color_of)
            dark = np.dot(color_of, (0.2125, 0.7154, 0.0721)) > 140
            pen.text((tag[0] + 3, tag[1]), one.text, fill=_INK if dark else _PAPER, font=font)
    return np.asarray(canvas)


def _corners(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x, y, x + width, y + height


def _tag(
    text: str,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    font: Any,
    taken: Sequence[tuple[float, ...]],
) -> tuple[float, float, float, float] | None:
    """Where a name goes: above its box, else inside; None: there is no room."""
    left, top, right, bottom = box
    wide, high = font.getlength(text) + 6, 17
    if not text or right - left < min(wide, 40) or bottom - top < high:
        return None
    left = max(0, min(left, size[0] - wide))
    for y in (top - high, top):
        place = (left, y, left + wide, y + high)
        apart = all(
            place[2] <= t[0] or t[2] <= place[0] or place[3] <= t[1] or t[3] <= place[1]
            for t in taken
        )
        if y >= 0 and apart:
            return place
    return None


def error_map(
    image: RGB,
    labels: NDArray[Any],
    truth: NDArray[Any],
    matching: Mapping[int, int | None],
    truths: int,
) -> RGB:
    """The image in dark grey; wrong labels red, missing ones blue, right ones faintly green.

    `matching` gives the true class of each label; pixels whose `truth` is none of `truths` classes
    are not scored and drawn as void.
    """
    classes = max(matching, default=-1) + 1
    table = np.full(classes + 1, -1)  # the last: void
    for label, true in matching.items():
        table[label] = -1 if true is None else true
    codes = np.minimum(labels, classes)
    scored = (truth >= 0) & (truth < truths)
    verdict = np.where(codes == classes, 2, 1)
    verdict[table[codes] == truth] = 0
    # In 64 greys, which no eye tells from 256 that dark: then a palette holds the picture.
    picture: RGB = _verdicts()[verdict, _gray(image) & 0b11111100]
    picture[~scored] = stripes(*labels.shape)[~scored]
    return picture


def _verdicts() -> NDArray[np.uint8]:
    """(3, 256, 3) colour of right, wrong and missing labels over each grey."""
    gray = np.arange(256)[:, None] * 0.45
    weights = ((RIGHT, 0.18), (WRONG, 0.85), (UNLABELLED, 0.85))
    mixed = [gray + (np.array(color) - gray) * weight for color, weight in weights]
    return np.rint(mixed).astype(np.uint8)


def _gray(image: RGB) -> NDArray[np.uint8]:
    """(y, x) grey of a picture, with scikit-image's weights to within 1."""
    import cv2

    gray = cv2.transform(image, np.array([[0.2125, 0.7154, 0.0721]]))
    return np.asarray(gray, np.uint8).reshape(image.shape[:2])


def signed(response: NDArray[np.floating[Any]]) -> RGB:
    """A signed response (y, x) in grey: 0 in the middle, 99.5 % of the values in range."""
    finite = np.nan_to_num(response)
    scale = float(np.percentile(np.abs(finite), 99.5)) or float(np.abs(finite).max()) or 1.0
    gray = np.rint(np.clip(128 + finite * (127 / scale), 0, 255)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def enlarge(picture: RGB, least: int) -> RGB:
    """A picture narrower than `least` pixels, each pixel repeated until it is that wide."""
    times = -(-least // max(1, picture.shape[1]))
    return picture if times <= 1 else picture.repeat(times, axis=0).repeat(times, axis=1)


def sheet(panels: Sequence[Panel], legend: Sequence[tuple[str, Color]] = ()) -> RGB:
    """Panels of one size side by side, each below its caption; a legend of colours below."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(15)
    margin, caption = 12, 26
    height, width = panels[0][1].shape[:2]
    total = margin + len(panels) * (width + margin)
    rows = _legend_rows([name for name, _ in legend], total - 2 * margin, font)
    body = margin + caption + height + margin
    canvas = Image.new("RGB", (total, body + 26 * len(rows)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for i, (title, picture) in enumerate(panels):
        left = margin + i * (width + margin)
        pen.text((left, margin), _fitted(title, width, font), fill=_INK, font=font)
        canvas.paste(Image.fromarray(picture), (left, margin + caption))
    for r, row in enumerate(rows):
        for k, left in row:
            name, color = legend[k]
            top = body + 26 * r
            box = (margin + left, top + 2, margin + left + 14, top + 16)
            pen.rectangle(box, fill=tuple(color), outline=(150, 150, 156))
            label = _fitted(name, total - 2 * margin - 22, font)
            pen.text((margin + left + 20, top), label, fill=_INK, font=font)
    return np.asarray(canvas)


def _fitted(text: str, width: int, font: Any) -> str:
    """The text, cut in its middle so that it is not wider than `width` pixels."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(_shortened(text, keep)) > width:
        keep -= 1
    return _shortened(text, keep)


def _shortened(text: str, keep: int) -> str:
    head = keep // 2
    return f"{text[: keep - head]}…{text[len(text) - head :]}"


def _legend_rows(names: Sequence[str], width: int, font: Any) -> list[list[tuple[int, int]]]:
    """(entry, left edge) by row."""
    rows: list[list[tuple[int, int]]] = []
    left = width + 1
    for k, name in enumerate(names):
        needed = 20 + min(width - 22, int(font.getlength(name))) + 22
        if left + needed > width:
            rows.append([])
            left = 0
        rows[-1].append((k, left))
        left += needed
    return rows


def encode_png(picture: RGB) -> bytes:
    """A picture as PNG."""
    return _encoded(".png", picture, ())


def encode_flat(picture: NDArray[np.uint8]) -> bytes:
    """A picture (y, x, 3 or 4) of few colours as PNG with a palette, where that holds them: a third
    of the size."""
    import io

    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    packed = np.ascontiguousarray(image.convert("RGBA")).view(np.uint32)[..., 0]
    found, codes = np.unique(packed, return_inverse=True)
    options: dict[str, Any] = {}
    if len(found) <= 256:
        table = found[:, None].view(np.uint8)
        image = Image.fromarray(codes.reshape(packed.shape).astype(np.uint8)).convert("P")
        image.putpalette(table[:, :3].tobytes())
        # zlib's greatest effort takes twenty times as long and saves a twentieth.
        options = {"compress_level": 4, "transparency": table[:, 3].tobytes()}
    sink = io.BytesIO()
    image.save(sink, "PNG", **options)
    return sink.getvalue()


def encode_jpeg(picture: RGB, quality: int = 85) -> bytes:
    """A picture as JPEG, for photos: a tenth of the size."""
    import cv2

    return _encoded(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))


def _encoded(suffix: str, picture: RGB, options: Sequence[int]) -> bytes:
    import cv2

    bgr = np.ascontiguousarray(picture[..., ::-1])
    done, data = cv2.imencode(suffix, bgr, list(options))
    if not done:
        raise ValueError(f"a picture of {picture.shape} cannot be encoded as {suffix}")
    return data.tobytes()
