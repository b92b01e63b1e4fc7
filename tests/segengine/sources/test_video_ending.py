"""Raw and transport streams of HEVC that break off inside their last frame, which nothing tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import av
import pytest

from segengine.commands.plan import plan
from segengine.job import parse_job
from segengine.sources import _video
from segengine.types import Tile, Unreadable
from tests.segengine.moving import passing, write_video

from .test_video import assert_equal, encode, probe, read, refs, sequential

FRAMES = 14
X265 = "log-level=none:bframes=2:keyint=6:min-keyint=6:qp=10"


def made(path: Path, gop: str) -> Path:
    params = f"{X265}:open-gop={int(gop == 'open')}"
    return encode(path, "libx265", frames=FRAMES, gop=6, grain=30, **{"x265-params": params})


@pytest.mark.parametrize("gop", ["open", "closed"])
@pytest.mark.parametrize("container", ["hevc", "ts", "vob", "nut"])
def test_the_last_frame_of_a_whole_stream_is_read(container: str, gop: str, tmp_path: Path) -> None:
    path = made(tmp_path / f"a.{container}", gop)
    assert_equal(read(refs(path, probe(path))), sequential(path))
    path.write_bytes(path.read_bytes() + bytes(100))
    assert len(read(refs(path, probe(path)))) == FRAMES
    assert_equal(read(refs(path, probe(path))), sequential(path))


@pytest.mark.parametrize("gop", ["open", "closed"])
@pytest.mark.parametrize("last", [5, 6, 7, 8, 9, 13])
def test_a_last_frame_that_breaks_off_is_a_reason(
    last: int, gop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "a.hevc", gop)
    whole = sequential(path)
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    *before, victim = packets[: last + 1]
    start = victim.rindex(b"\0\0\1")
    path.write_bytes(b"".join(before) + victim[: (start + len(victim)) // 2])
    frames = refs(path, probe(path))
    items = read(frames)
    pictures = sequential(path)
    assert len(items) == len(pictures) > 3
    places = [i for i, item in enumerate(items) if isinstance(item, Unreadable)]
    assert len(places) == 1
    assert items[places[0]] == Unreadable("corrupt", "damaged frame: it, or one that it builds on")
    assert read([frames[places[0]]]) == [items[places[0]]]
    good = [item.pixels for item in items if isinstance(item, Tile)]
    assert all(any((a == b).all() for b in whole) for a in good)
    monkeypatch.setattr(_video, "is_cut", lambda *_: False)
    assert isinstance(read(frames)[places[0]], Tile)


def test_matroska_that_breaks_off_is_told(bench: Any) -> None:
    """Its frames are whole, and a header need not be right: no more than a notice."""
    write_video(bench.inputs / "a.mkv", passing(50, 32, 48), codec="ffv1")
    path = write_video(bench.inputs / "b.mkv", passing(50, 32, 48), codec="ffv1")
    slow = [0, 10, 300]  # what is shown last may be shown for long
    write_video(bench.inputs / "c.mkv", passing(3, 32, 48), codec="ffv1", stamps=slow)
    job = parse_job(bench.job({"kind": "threshold"}))
    assert not plan(job).notices
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (line,) = plan(job).notices
    assert re.fullmatch(
        r"b: ends after (0\.\d|1\.[0-3]) s of the 2\.0 s that its header says", line
    ), line
