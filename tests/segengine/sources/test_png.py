"""Damage in a PNG's pixels that decoders pass over is found by every reader of PNGs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segengine.datasets._labels import read_png
from segengine.errors import MissingTruthError
from segengine.job import TruthSpec
from segengine.measuring.truth import LabelImages
from segengine.sources.images import ImageSource
from segengine.types import FrameRef, TruthRef, Unreadable
from tests.segengine.sources.mutations import with_stream

SIZE = (96, 96)
WHOLE = (slice(0, 96), slice(0, 96))
SMOOTH = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
Reader = Callable[[Path], "np.ndarray | None"]


def png(pixels: np.ndarray = SMOOTH) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def photo(path: Path) -> np.ndarray | None:
    ref = FrameRef(0, "x", str(path), "f", *SIZE)
    (tile,) = ImageSource().read([ref], *WHOLE)
    if isinstance(tile, Unreadable):
        assert tile.kind == "corrupt"
        return None
    return tile.pixels[..., 0]


def label(path: Path) -> np.ndarray | None:
    spec = TruthSpec(paths=["x"], classes=[str(i) for i in range(200)])
    truth = TruthRef(str(path), path.read_bytes().hex(), "")
    try:
        return LabelImages(spec).load(FrameRef(0, "x", "x", "f", *SIZE), truth, *WHOLE).labels[0]
    except MissingTruthError:
        return None


def label_of_a_set(path: Path) -> np.ndarray | None:
    try:
        return read_png(str(path), SIZE)
    except MissingTruthError:
        return None


@pytest.mark.parametrize("read", [photo, label, label_of_a_set])
def test_no_bit_of_the_pixels_changes_unnoticed(tmp_path: Path, read: Reader) -> None:
    path, whole = tmp_path / "a.png", png()
    path.write_bytes(whole)
    np.testing.assert_array_equal(read(path), SMOOTH)
    end = len(whole) - 16  # behind it: a checksum and the end chunk
    for at in range(end - 48, end):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert read(path) is None, f"bit {at % 8} of byte {at}"


def adam7(pixels: np.ndarray) -> bytes:
    """An interlaced PNG of 16-bit colours."""
    passes = (
        (0, 8, 0, 8),
        (0, 8, 4, 8),
        (4, 8, 0, 4),
        (0, 4, 2, 4),
        (2, 4, 0, 2),
        (0, 2, 1, 2),
        (1, 2, 0, 1),
    )
    parts = (pixels[y::down, x::right] for y, down, x, right in passes)
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part
    )
    header = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 16, 2, 0, 0, 1)
    start = b"".join((b"\0\0\0\rIHDR", header, struct.pack(">I", zlib.crc32(b"IHDR" + header))))
    return with_stream(
        b"".join((b"\x89PNG\r\n\x1a\n", start, b"\0\0\0\0IDAT")), zlib.compress(rows)
    )


def test_a_stream_that_is_no_picture_is_refused_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cut short, of another sum, with rows that no filter made, or of more rows; chunks are sound."""
    deep = cv2.imencode(".png", np.dstack([SMOOTH] * 3).astype(np.uint16) << 4)[1].tobytes()
    path = tmp_path / "a.png"
    for whole, row in ((png(), 97), (deep, 577)):
        rows = bytes(96 * row)
        bad = [zlib.compress(rows[: 40 * row])]
        bad.append(zlib.compress(rows[: 40 * row] + b"\x09" + rows[40 * row + 1 :]))
        if whole is deep:  # of what follows the last row, Pillow takes nothing
            bad += [zlib.compress(rows + bytes(row)), zlib.compress(rows) + b"more"]
            bad.append(zlib.compress(rows)[:-4] + b"sums")
        for stream in bad:
            path.write_bytes(with_stream(whole, stream))
            for read in (photo,) if whole is deep else (photo, label, label_of_a_set):
                assert read(path) is None
    assert capfd.readouterr().err == ""


def test_deep_colours_are_read_interlaced_and_with_odd_chunks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """libpng would comment on the chunk on the terminal."""
    pixels = np.random.default_rng(1).integers(0, 1 << 16, (96, 96, 3), np.uint16)
    data, path = adam7(pixels), tmp_path / "a.png"
    odd = b"sBIT   "
    chunk = struct.pack(">I", 3) + odd + struct.pack(">I", zlib.crc32(odd))
    path.write_bytes(data[:33] + chunk + data[33:])
    np.testing.assert_array_equal(photo(path), pixels[..., 0])
    assert capfd.readouterr().err == ""


def test_what_is_behind_the_pixels_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png()[:-12])  # no end chunk, as Pillow reads it
    for read in (photo, label, label_of_a_set):
        np.testing.assert_array_equal(read(path), SMOOTH)


def refused(path: Path, size: tuple[int, int] = SIZE) -> str:
    spec = TruthSpec(paths=["x"], classes=["a", "b"])
    ref = FrameRef(0, "x", "x", "f", *size)
    with pytest.raises(MissingTruthError) as error:
        LabelImages(spec).load(ref, TruthRef(str(path), str(path), ""), *WHOLE)
    return str(error.value)


def test_a_label_of_another_size_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(np.zeros((9000, 9000), np.uint8)))

    def load(self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    monkeypatch.setattr("cv2.imdecode", load)
    assert refused(path).endswith("is 9000 x 9000 pixels, its frame 96 x 96")


def test_no_program_is_started_on_a_label(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(SMOOTH).save(path, "EPS")
    assert refused(path).endswith(
        "a PostScript file, which is not read; convert it to PNG, JPEG or TIFF"
    )
