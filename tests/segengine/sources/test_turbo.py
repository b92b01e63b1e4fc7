"""JPEG straight from libjpeg-turbo: what Pillow decodes, or nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from segengine.sources import _turbo
from segengine.sources.images import ImageSource
from segengine.types import Entry, FrameRef, Tile, Unreadable

GRAIN = cv2.GaussianBlur(
    np.random.default_rng(3).integers(0, 256, (150, 150, 3), np.uint8), (0, 0), 1.2
)
SCAN, END = b"\xff\xda", b"\xff\xd9"
SAMPLING = ("444", "422", "420", "411", "440")


def by_pillow(pixels: NDArray[Any], mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def by_opencv(pixels: NDArray[Any], sampling: str, quality: int, progressive: bool) -> bytes:
    options = (
        (cv2.IMWRITE_JPEG_QUALITY, quality),
        (cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)),
        (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"),
        ),
    )
    return cv2.imencode(".jpg", pixels, [each for pair in options for each in pair])[1].tobytes()


@st.composite
def photos(draw: st.DrawFn) -> bytes:
    """Every subsampling, progressive or not, gray, with restart markers, stored as RGB, CMYK."""
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    y, x = draw(st.integers(0, 80)), draw(st.integers(0, 80))
    pixels = np.ascontiguousarray(GRAIN[y : y + height, x : x + width])
    quality = draw(st.integers(1, 100))
    progressive = draw(st.booleans())
    match draw(st.sampled_from(("opencv", "rgb", "gray", "cmyk", "restarts"))):
        case "opencv":
            return by_opencv(pixels, draw(st.sampled_from(SAMPLING)), quality, progressive)
        case "rgb":
            return by_pillow(pixels, keep_rgb=True, subsampling=0)
        case "gray":
            return by_pillow(pixels, "L", quality=quality, progressive=progressive)
        case "cmyk":
            return by_pillow(pixels, "CMYK", quality=quality)
        case _:
            blocks = draw(st.integers(1, 8))
            return by_pillow(pixels, quality=quality, restart_marker_blocks=blocks)


@st.composite
def hurt(draw: st.DrawFn) -> bytes:
    """Those, or what is left of them."""
    data = draw(photos())
    at = draw(st.integers(4, len(data) - 1))
    few = draw(st.binary(min_size=1, max_size=20))
    match draw(st.sampled_from(("no", "cut", "ended", "other", "more", "behind", "scans", "less"))):
        case "cut":
            return data[:at]
        case "ended":
            return data[:at] + END
        case "other":
            return data[:at] + few[:1] + data[at + 1 :]
        case "more":
            return data[:-2] + few + END
        case "behind":
            return data + few
        case "scans":  # of a progressive one: a sound file, of coarse pixels
            first, *rest = data.split(SCAN)
            return first + SCAN + SCAN.join(rest[: at % len(rest) + 1]).removesuffix(END) + END
        case "less":
            return data[:at] + data[at + len(few) :]
        case _:
            return data


def pillows(data: bytes) -> NDArray[Any] | str:
    """What it decodes, or its complaint."""
    try:
        image = JpegImageFile(io.BytesIO(data))
        pixels = np.asarray(image)
    except Exception as error:  # noqa: BLE001 - Pillow raises a zoo
        return str(error)
    return pixels if pixels.ndim == 3 else pixels[..., None]


@given(hurt())
def test_what_is_decoded_is_what_pillow_decodes(data: bytes) -> None:
    try:
        image = JpegImageFile(io.BytesIO(data))
    except Exception:  # noqa: BLE001 - nothing is opened
        return
    found = _turbo.decoded(data, image)
    if found is not None:
        np.testing.assert_array_equal(found, pillows(data), strict=True)


@given(photos())
def test_what_is_sound_is_decoded(data: bytes) -> None:
    image = JpegImageFile(io.BytesIO(data))
    found = _turbo.decoded(data, image)
    assert (found is None) == (image.mode == "CMYK")


def read(path: Path, size: tuple[int, int]) -> Tile | Unreadable:
    (tile,) = ImageSource().read(
        [FrameRef(0, "a", str(path), "", *size)], slice(0, size[0]), slice(0, size[1])
    )
    return tile


@pytest.mark.parametrize("orientation", [None, 3, 6, 7])
@pytest.mark.parametrize(
    "damage", [lambda d: d, lambda d: d[: len(d) // 2], lambda d: d[:-2], lambda d: d[:-40] + END]
)
def test_a_photo_reads_as_it_does_by_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int | None, damage: Any
) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(damage(by_pillow(GRAIN[:90, :140], exif=exif.tobytes())))
    probe = ImageSource().probe(Entry("a.jpg", str(path), ""))
    found = read(path, (probe.height, probe.width))
    monkeypatch.setattr(_turbo, "_COLOURS", {})
    expected = read(path, (probe.height, probe.width))
    if isinstance(expected, Unreadable):
        assert found == expected
        assert expected.kind == "corrupt"
    else:
        assert isinstance(found, Tile)
        assert found.valid is expected.valid is None
        np.testing.assert_array_equal(found.pixels, expected.pixels, strict=True)


def test_where_pillow_has_another_library_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_pillow(GRAIN)
    monkeypatch.setattr(_turbo, "_is_pillows", lambda: False)
    assert _turbo.decoded(data, JpegImageFile(io.BytesIO(data))) is None
