"""Label images: which formats are read, and how large ones; Pillow's own limit has no say."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segengine.datasets._labels import read_codes
from segengine.errors import MissingTruthError
from segengine.job import TruthSpec
from segengine.measuring.truth import LabelImages
from segengine.types import FrameRef, TruthRef

LABELS = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8) // 8
Reader = Callable[[Path, tuple[int, int]], np.ndarray]


def label(path: Path, size: tuple[int, int] = LABELS.shape) -> np.ndarray:
    spec = TruthSpec(paths=["x"], classes=[str(i) for i in range(200)])
    ref, truth = FrameRef(0, "x", "x", "f", *size), TruthRef(str(path), path.name, "")
    return LabelImages(spec).load(ref, truth, slice(0, size[0]), slice(0, size[1])).labels[0]


def label_of_a_set(path: Path, size: tuple[int, int] = LABELS.shape) -> np.ndarray:
    return read_codes(str(path), size)


def blank_png(height: int, width: int, bits: int) -> bytes:
    """Of ones; a row of zeros and ones before the first, as PNG filters them."""
    value = 1 if bits == 8 else 0xFF
    row = b"\0" + bytes([value]) * (width * bits // 8)
    packer = zlib.compressobj(9)
    rows = row * 64
    packed = b"".join(packer.compress(rows) for _ in range(height // 64))
    packed += packer.compress(row * (height % 64)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    )


@pytest.mark.parametrize("name", ["PNG", "BMP", "DIB", "GIF", "TIFF"])
def test_formats_of_photos_that_keep_values_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"  # bytes tell, not the name
    Image.fromarray(LABELS).save(path, name)
    np.testing.assert_array_equal(label(path), LABELS)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("EPS", "a PostScript file"),
        ("JPEG2000", "a JPEG 2000 image"),
        ("MSP", "an MSP image"),
        ("PCX", "a PCX image"),
        ("PDF", "a PDF"),
        ("PPM", "a Netpbm image"),
        ("SGI", "an SGI image"),
        ("SPIDER", "a SPIDER image"),
        ("TGA", "a TGA image"),
        ("XBM", "an XBM image"),
    ],
)
def test_another_format_is_named_with_what_helps(name: str, what: str, tmp_path: Path) -> None:
    path, file = tmp_path / "a.png", io.BytesIO()
    mode = {"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(name, "L")
    Image.fromarray(LABELS).convert(mode).save(file, name)
    path.write_bytes(file.getvalue())
    with pytest.raises(MissingTruthError) as error:
        label(path)
    assert f"{path}: cannot be read: {what}, which is not read; " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bits", [1, 8])
@pytest.mark.parametrize("read", [label, label_of_a_set])
def test_200_megapixels_are_read(bits: int, read: Reader, tmp_path: Path) -> None:
    path, size = tmp_path / "a.png", (12_500, 16_000)
    path.write_bytes(blank_png(*size, bits))
    assert path.stat().st_size < 1 << 18
    found = read(path, size)
    assert found.shape == size
    assert found.min() == found.max() == 1


@pytest.mark.parametrize("read", [label, label_of_a_set])
def test_more_than_is_decoded_whole_is_refused_by_its_limit(read: Reader, tmp_path: Path) -> None:
    path, size = tmp_path / "a.png", (40_000, 40_000)
    head = blank_png(64, 64, 8)
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    path.write_bytes(head[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + head[33:])
    with pytest.raises(MissingTruthError, match=r"claims 40000 x 40000 pixels, above 2\^30"):
        read(path, size)


@pytest.mark.parametrize("read", [label, label_of_a_set])
def test_more_than_its_bytes_hold_is_refused_with_both(read: Reader, tmp_path: Path) -> None:
    path, size = tmp_path / "a.png", (12_500, 16_000)
    head = blank_png(64, 64, 8)
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", *reversed(size), 8, 0, 0, 0, 0)
    path.write_bytes(head[:12] + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + head[33:])
    with pytest.raises(MissingTruthError, match=r"claims 16000 x 12500 pixels in [\d,]+ bytes, wh"):
        read(path, size)
