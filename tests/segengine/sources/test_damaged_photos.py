"""Damaged photos and labels: no reader ends, hangs or fills the process; a reason is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segengine.errors import CorruptInputError, MissingTruthError
from segengine.job import TruthSpec
from segengine.measuring.truth import LabelImages
from segengine.sources.images import ImageSource
from segengine.types import Entry, FrameRef, TruthRef, Unreadable

from . import photo_mutations

FILES = 40
"""Of each format; `python -m tests.segengine.sources.photo_mutations 2000` takes any number."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """By format; in a process of its own, which damage may end, and which has its limits."""
    command = [sys.executable, "-m", "tests.segengine.sources.photo_mutations", str(FILES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {found["format"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", photo_mutations.FORMATS)
def test_damage_is_read_or_a_reason(outcomes: dict[str, Any], name: str) -> None:
    found = outcomes[name]
    assert found["whole"] == "read"
    assert sum(found["outcomes"].values()) == FILES
    assert set(found["outcomes"]) <= {"read", "corrupt", "refused", "missing"}
    assert len(found["outcomes"]) > 1, "no damage was noticed, or all of it"
    assert found["seconds"] < 5
    assert found["megabytes"] < 1024


def test_the_process_is_limited() -> None:
    """More than a gigabyte is refused there: what fits was not just lucky."""
    code = (
        "from tests.segengine.sources import photo_mutations as m\nm.limit()\n"
        "bytearray(1 << 28)\ntry:\n    bytearray(5 << 28)\nexcept MemoryError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr


def test_a_photo_that_decodes_to_another_size_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an input that has changed, which would be tried in every run."""
    from segengine.sources import images

    path = tmp_path / "a.heic"
    path.write_bytes(photo_mutations.PHOTOS["heic"]())
    found = ImageSource().probe(Entry(path.name, str(path), ""))
    real = images._shallow
    monkeypatch.setattr(images, "_shallow", lambda *a: (real(*a)[0][:40], None))
    ref = FrameRef(0, "a", str(path), "", found.height, found.width)
    (item,) = ImageSource().read([ref], slice(None), slice(None))
    assert item == Unreadable(
        "corrupt", "damaged HEIC: decodes to 64 x 40 pixels, its header says 64 x 48"
    )


def test_an_offset_beyond_any_file_is_damage(tmp_path: Path) -> None:
    """The system's refusal to go there is no failure of the disk, which would be worth a retry."""
    path = tmp_path / "a.tif"
    data = bytearray(photo_mutations.PHOTOS["bigtiff"]())
    data[8:16] = (2**62).to_bytes(8, "little")
    path.write_bytes(data)
    for offset in (2**62, 2**63 - 1, 2**64 - 1):
        data[8:16] = offset.to_bytes(8, "little")
        path.write_bytes(data)
        with pytest.raises(CorruptInputError, match=r"^damaged TIFF header: "):
            ImageSource().probe(Entry(path.name, str(path), ""))


def truth(path: Path, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    spec = TruthSpec(paths=[str(path)])
    ref = FrameRef(0, "a", "a", "", *size)
    mark = str(path.stat().st_mtime_ns)
    whole = slice(0, size[0]), slice(0, size[1])
    return LabelImages(spec).load(ref, TruthRef(str(path), mark, ""), *whole).labels[0]


def test_a_label_of_another_size_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (9000, 9000)).save(path)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(MissingTruthError, match="is 9000 x 9000 pixels, its frame 48 x 64"):
        truth(path)


def test_a_damaged_label_says_nothing_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    data = bytearray(photo_mutations.LABELS["label-png"]())
    path.write_bytes(data)
    np.testing.assert_array_equal(truth(path), photo_mutations._CODES)
    data[data.index(b"IDAT") + 12] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(MissingTruthError, match="cannot be read: "):
        truth(path)
    assert capfd.readouterr().err == ""
