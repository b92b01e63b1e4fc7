"""Videos whose file ends before its container says: what is there is read, and what is not is told."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import pytest

from segengine.commands.plan import plan
from segengine.errors import CorruptInputError
from segengine.job import parse_job
from segengine.sources._boxes import boxes
from segengine.sources._cut import cut
from segengine.sources.video import VideoSource
from segengine.types import Entry, Tile
from tests.segengine.moving import passing, write_video

from .test_video import read, refs

FRAMES = 30
FILES: dict[str, tuple[str, dict[str, str]]] = {
    "fast.mp4": ("libx264", {"movflags": "faststart"}),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "dash.mp4": ("libx264", {"movflags": "empty_moov+dash+global_sidx", "frag_size": "900"}),
    "fast.mov": ("mjpeg", {"movflags": "faststart"}),
    "a.avi": ("mpeg4", {}),
    "b.avi": ("mjpeg", {}),
    "a.mkv": ("libx264", {}),
    "a.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "a.ts": ("libx264", {}),
    "a.m2ts": ("libx264", {}),
    "a.flv": ("flv", {}),
    "a.wmv": ("wmv2", {}),
    "a.mxf": ("mpeg2video", {}),
    "a.ogg": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "a.ivf": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "a.y4m": ("wrapped_avframe", {}),
}


class Pipe(BytesIO):
    """What cannot go back to say how long it became."""

    seek = None  # type: ignore[assignment]


def encoded(name: str, into: Any) -> None:
    codec, options = FILES[name]
    form = {"ts": "mpegts", "m2ts": "mpegts", "mkv": "matroska", "wmv": "asf"}
    form["y4m"] = "yuv4mpegpipe"
    kind = name.rpartition(".")[2]
    flags = {"mpegts_m2ts_mode": "1"} if kind == "m2ts" else {}
    movflags = {key: options[key] for key in ("movflags", "frag_size") if key in options}
    with av.open(into, "w", format=form.get(kind, kind), options=movflags | flags) as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.codec_context.gop_size = 64, 48, 10
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for picture in passing(FRAMES, 48, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def told(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = VideoSource().probe(Entry(path.name, str(path), "")).attributes
    return found.get("cut", {})


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_breaks_off_is_told_and_what_is_there_is_read(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    encoded(name, str(path))
    data = path.read_bytes()
    assert told(path) == {}
    frames = refs(path, VideoSource().probe(Entry(name, str(path), "")))
    whole = [item.pixels.tobytes() for item in read(frames) if isinstance(item, Tile)]
    assert len(whole) == FRAMES
    for part in (0.95, 0.8, 0.7):
        # Of transport streams nothing tells where they break off between two packets.
        # Nor of a fragmented MP4 inside the head of a box; encoders do not write the same bytes each time.
        size = int(len(data) * part) // 188 * 188 + 100
        heads = [box.start for box in boxes(BytesIO(data), 100)] if "mp4" in name else []
        size += 8 * any(0 <= size - head < 8 for head in heads)
        path.write_bytes(data[:size])
        try:
            found = told(path)
        except CorruptInputError:
            assert part < 0.95  # where nothing is left that FFmpeg can begin with
            continue
        assert ("lost" in found) == name.startswith("fast")
        assert found.get("inside") in ("packet", "tag", "stream", "frame") or (
            found.get("said", 0) > found.get("ends", 0)
            or path.stat().st_size == found["bytes"] < found["of"] <= len(data) + 1
        )
        items = read(refs(path, VideoSource().probe(Entry(name, str(path), ""))))
        assert {item.pixels.tobytes() for item in items if isinstance(item, Tile)} <= set(whole)


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith(("fast", "dash"))])
def test_what_was_written_to_a_pipe_says_no_size(name: str, tmp_path: Path) -> None:
    path, pipe = tmp_path / name, Pipe()
    encoded(name, pipe)
    path.write_bytes(pipe.getvalue())
    assert told(path) == {}


def test_an_mp4_whose_pixels_reach_the_end_whatever_that_is(tmp_path: Path) -> None:
    """Its samples alone say what it lacks."""
    path = tmp_path / "a.mp4"
    encoded("fast.mp4", str(path))
    data = path.read_bytes()
    place = data.index(b"mdat") - 4
    path.write_bytes(data[:place] + bytes(4) + data[place + 4 :])
    assert told(path) == {}
    path.write_bytes(path.read_bytes()[:-200])
    found = told(path)
    assert found.pop("lost") < found.pop("frames") == FRAMES
    assert found == {"bytes": len(data) - 200, "of": len(data)}


def test_frames_that_are_lost_are_counted(tmp_path: Path, bench: Any) -> None:
    path = bench.inputs / "b.mov"
    bench.inputs.mkdir(exist_ok=True)
    encoded("fast.mov", str(path))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    there = VideoSource().probe(Entry(path.name, str(path), "")).frames
    found = told(path)
    assert 0 < found["lost"] < found["frames"] == FRAMES
    assert there in (FRAMES - found["lost"], FRAMES - found["lost"] + 1)  # one lies at the end
    (line,) = plan(parse_job(bench.job({"kind": "threshold"}))).notices
    assert f"that it says, and {found['lost']} of 30 frames are lost; what" in line
    assert bench.run({"kind": "threshold"}).remarks == (line,)  # and so in `run --json`


def test_what_another_program_puts_behind_a_video_is_none_of_it(tmp_path: Path) -> None:
    for name in ("fast.mp4", "a.avi", "a.mkv", "a.ts", "a.ogg"):
        path = tmp_path / name
        encoded(name, str(path))
        path.write_bytes(path.read_bytes() + b"\x7f\xff\xff\xffjunk" + bytes(9))
        assert told(path) == {}, name


def riff(kind: bytes, size: int, said: int | None = None) -> bytes:
    return b"RIFF" + (size if said is None else said).to_bytes(4, "little") + kind + bytes(size - 4)


def test_lists_of_a_long_avi() -> None:
    first, second = riff(b"AVI ", 400), riff(b"AVIX", 301)
    for data, of in (
        (first + second, 0),
        (first + second + b"\0", 0),
        ((first + second)[:-40], len(first + second) + 1),
        (riff(b"AVI ", 400, 0), 0),
        (riff(b"AVI ", 400, 0xFFFFFFFF), 0),
        (riff(b"AVI ", 400, 0x7FFFFFFF), 0),
        (riff(b"AVI ", 400, 408), 0),  # its own head is counted
        (first + b"RIFF" + bytes(40), 0),
    ):
        expected = {"bytes": len(data), "of": of} if of else {}
        assert cut(BytesIO(data), {"avi"}, ()) == expected


def test_the_line(bench: Any) -> None:
    path = write_video(bench.inputs / "b.avi", passing(50, 32, 48), codec="mjpeg")
    job = parse_job(bench.job({"kind": "threshold"}))
    assert not plan(job).notices
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (line,) = plan(job).notices
    assert re.fullmatch(
        r"b: breaks off: its file has [\d,]+ bytes of the [\d,]+ that it says; "
        r"what would follow has no mask",
        line,
    ), line


@pytest.mark.parametrize(
    "pixels",
    [
        "yuv420p",
        "yuv411p",
        "yuv422p",
        "yuv444p",
        "gray",
        "gray10le",
        "yuv420p10le",
        "yuv422p12le",
        "yuv444p16le",
    ],
)
def test_frames_of_y4m_are_of_the_size_that_its_header_says(pixels: str, tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    with av.open(str(path), "w", format="yuv4mpegpipe", options={"strict": "-1"}) as container:
        stream: Any = container.add_stream("wrapped_avframe", rate=25)
        stream.width, stream.height, stream.pix_fmt = 65, 49, pixels
        frame = av.VideoFrame.from_ndarray(passing(1, 49, 65)[0], format="rgb24")
        for number in range(3):
            frame.pts = number
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert cut(BytesIO(data), {"yuv4mpegpipe"}, ()) == {}
    assert cut(BytesIO(data[:-1]), {"yuv4mpegpipe"}, ()) == {"inside": "frame"}
    for odd in (data.replace(b" W65", b" W6x"), data.replace(b" H49", b"")):
        assert cut(BytesIO(odd), {"yuv4mpegpipe"}, ()) == {}
