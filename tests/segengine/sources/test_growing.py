"""Files that are still being written wait for the next run: no failure, and nothing is lost of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

import segengine
from segengine.commands.plan import plan
from segengine.commands.status import status
from segengine.job import parse_job
from segengine.sources._growing import SETTLED, fresh, growing
from segengine.types import Entry

WRITES = "import sys; file = open(sys.argv[1], 'ab'); print(flush=True); sys.stdin.read()"


def photo(path: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


def video(path: Path) -> bytes:
    """A video of six frames, and its bytes without the index at its end."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for value in range(0, 240, 40):
            picture = np.full((48, 64, 3), value, np.uint8)
            picture[:20, :30] = 255 - value
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    data = path.read_bytes()
    return data[: data.index(b"moov") - 4]


@contextmanager
def writer(path: Path) -> Iterator[None]:
    """Another process has the file open for writing."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITES, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.communicate()


def job(folder: Path) -> dict[str, Any]:
    return {
        "name": "night",
        "source": {"paths": [str(folder / "in/*")]},
        "segmenter": {"kind": "threshold", "method": "otsu"},
        "store": {"path": str(folder / "out")},
    }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells who writes to a file")
def test_what_is_being_written_waits_and_comes_with_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        photo(tmp_path / f"in/{i}.png", i)
    early = video(tmp_path / "in/v.mp4")
    whole = (tmp_path / "in/v.mp4").read_bytes()
    (tmp_path / "in/v.mp4").write_bytes(early)
    asked = job(tmp_path)
    with writer(tmp_path / "in/1.png"):
        planned = plan(parse_job(asked)).as_json()
        assert (planned["waiting"], planned["quarantined"]) == (["1.png", "v.mp4"], [])
        summary = segengine.run(asked)
    assert (summary.frames, summary.failed) == (2, ())
    assert [line for line in summary.messages if "waits" in line] == [
        "1.png waits for the next run: a process writes to it",
        "v.mp4 waits for the next run: its index (moov) is not written yet",
    ]
    told = status(str(tmp_path / "out"))
    assert told.as_json()["waiting"] == ["1.png", "v.mp4"]
    assert (told.exit_code, told.as_json()["quarantine"]) == (0, [])
    assert "1.png waits for the next run: a process writes to it" in told.lines()
    names = segengine.open_store(tmp_path / "out").frames.column("name").to_pylist()
    assert names == ["0.png", "2.png"]

    (tmp_path / "in/v.mp4").write_bytes(whole)
    summary = segengine.run(asked)
    assert (summary.frames, summary.failed) == (2 + 1 + 6, ())
    assert status(str(tmp_path / "out")).as_json()["waiting"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells who writes to a file")
def test_what_is_written_anew_keeps_its_mask_until_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(2):
        photo(tmp_path / f"in/{i}.png", i)
    asked = job(tmp_path)
    segengine.run(asked)
    before = scenes(tmp_path / "out")
    photo(tmp_path / "in/1.png", 5)
    with writer(tmp_path / "in/1.png"):
        summary = segengine.run(asked)
    assert (summary.computed, summary.frames) == (0, 2)
    assert scenes(tmp_path / "out") == before
    assert status(str(tmp_path / "out")).as_json()["waiting"] == ["1.png"]
    assert segengine.run(asked).computed == 1
    assert scenes(tmp_path / "out") != before


def scenes(store: Path) -> dict[str, bytes]:
    found = sorted(p for p in store.glob("scenes/**/*") if p.is_file())
    return {str(p.relative_to(store)): p.read_bytes() for p in found}


def test_a_video_that_stays_without_its_index_is_corrupt_after_an_hour(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in/0.png")
    early = video(tmp_path / "in/v.mp4")
    (tmp_path / "in/v.mp4").write_bytes(early)
    long_ago = time.time() - SETTLED - 10
    os.utime(tmp_path / "in/v.mp4", (long_ago, long_ago))
    summary = segengine.run(job(tmp_path))
    assert [(f.name, f.kind) for f in summary.failed] == [("v.mp4", "corrupt")]
    assert status(str(tmp_path / "out")).as_json()["waiting"] == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.avif", b"\0\0\0\x10ftypavif\0\0\0\0" + b"\0\0\0\x08meta"),  # boxes, and no video
        ("a.mp4", b"RIFF....AVI LIST"),  # a video of another kind by a wrong name
        ("a.mp4", b"\0\0\0\x08ftyp\0\0\0\x08moof\0\0\0\x08mdat"),  # in fragments
        ("a.mp4", b"\0\0\0\x08ftyp\0\0\0\x01mdat\0\0\0\0\0\0\0\x10\0\0\0\x08moov"),  # 64 bits
        ("a.png", b""),  # no camera writes so: what is empty is corrupt
    ],
)
def test_what_needs_no_index_or_has_it_does_not_wait(
    tmp_path: Path, name: str, data: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    entry = Entry(name, str(path), "")
    assert growing(entry, fresh([entry])[name]) == ""


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0\x08ftyp", b"\0\0\0\x08ftyp\0\0\0\0mdat1234567812345678"]
)
def test_what_lacks_its_index_waits(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.MP4"
    path.write_bytes(data)
    entry = Entry("a.MP4", str(path), "")
    assert "moov" in growing(entry, fresh([entry])["a.MP4"])


def test_what_is_dated_ahead_counts_by_when_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x08ftyp")
    ahead = time.time() + 70 * 365 * 86400
    os.utime(path, (ahead, ahead))
    entry = Entry("a.mp4", str(path), "")
    assert "moov" in growing(entry, fresh([entry])["a.mp4"])
    now = time.time()
    monkeypatch.setattr("segengine.sources._growing.time.time", lambda: now + SETTLED + 10)
    assert fresh([entry]) == {}


def test_what_moves_while_the_run_plans_waits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo(path)
    entry = Entry("a.png", str(path), "")
    before = fresh([entry])
    with open(path, "ab") as file:
        file.write(b"more")
    assert growing(entry, before["a.png"]) == "it grows"
    os.utime(path, (0, 0))
    assert fresh([entry]) == {}
    assert fresh([Entry("b", "s3://bucket/b.mp4", "")]) == {}
