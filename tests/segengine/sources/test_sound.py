"""Damage in photos and label images that decoders pass over is found, whatever the format."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segengine.errors import MissingTruthError
from segengine.job import TruthSpec
from segengine.measuring.truth import LabelImages
from segengine.sources.images import ImageSource
from segengine.types import FrameRef, TruthRef, Unreadable

SIDE = 96
WHOLE = (slice(0, SIDE), slice(0, SIDE))
Y, X = np.mgrid[:SIDE, :SIDE]
GRAIN = np.random.default_rng(0).integers(0, 30, (SIDE, SIDE))
GRAY = (Y + X + GRAIN).astype(np.uint8)
COLOURS = np.dstack([GRAY, GRAY[::-1], GRAY.T])


def written(pixels: NDArray[Any], name: str, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, name, **options)
    return file.getvalue()


def photo(path: Path) -> NDArray[Any] | str:
    """Pixels, or why there are none."""
    (tile,) = ImageSource().read([FrameRef(0, "x", str(path), "", SIDE, SIDE)], *WHOLE)
    if isinstance(tile, Unreadable):
        assert tile.kind == "corrupt"
        return tile.reason
    return tile.pixels


def label(path: Path) -> NDArray[Any] | str:
    spec = TruthSpec(paths=["x"], classes=[str(i) for i in range(255)])
    truth = TruthRef(str(path), path.read_bytes().hex(), "")
    try:
        return LabelImages(spec).load(FrameRef(0, "x", "x", "f", SIDE, SIDE), truth, *WHOLE).labels
    except MissingTruthError as error:
        return str(error)


JPEGS = {
    "colours": written(COLOURS, "JPEG"),
    "gray": written(GRAY, "JPEG"),
    "inks": written(COLOURS, "JPEG", "CMYK"),
    "progressive": written(COLOURS, "JPEG", progressive=True),
    "restarts": written(COLOURS, "JPEG", restart_marker_rows=1),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_a_hole_in_a_jpeg_is_no_gray(tmp_path: Path, kind: str) -> None:
    path, whole = tmp_path / "a.jpg", JPEGS[kind]
    read = (photo, label) if kind == "gray" else (photo,)
    path.write_bytes(whole)
    assert not any(isinstance(each(path), str) for each in read)
    at = len(whole) * 2 // 3
    for damaged in (
        whole[:at] + bytes(300) + whole[at + 300 :],
        whole[:at] + whole[at + 500 :],
        whole[:at] + whole[-2:],
    ):
        path.write_bytes(damaged)
        for each in read:
            assert "damaged JPEG: " in str(each(path))


def test_what_is_behind_a_jpeg_or_little_inside_it_is_no_damage(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.jpg", JPEGS["inks"]
    for sound in (whole + bytes(5000), whole + whole, whole[:-2] + b"\1\2" + whole[-2:]):
        path.write_bytes(sound)
        assert not isinstance(photo(path), str)
