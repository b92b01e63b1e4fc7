"""What strangers' video files are: no seeking, covers, turned, resized, absurd; each has its reason."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from segengine.commands.status import status
from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources import _video
from segengine.sources._damage import Listener, reason_of
from segengine.sources._upright import turn
from segengine.sources.video import VideoSource
from segengine.types import Entry, FrameRef, Tile, Unreadable

from .test_video import HEIGHT, WIDTH, assert_equal, encode, probe, read, refs, sequential
from .video_sweep import edited

X265 = {"x265-params": "log-level=none"}
MEAN = {"kind": "threshold", "method": "mean"}


# Seeking


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "h264", {}),
        ("libx265", "hevc", X265),
        ("mjpeg", "mjpeg", {"pixels": "yuvj420p"}),
    ],
)
def test_a_stream_that_cannot_seek_decodes_from_its_start(
    codec: str, container: str, options: dict[str, Any], tmp_path: Path
) -> None:
    path = encode(tmp_path / "raw.mp4", codec, container_format=container, **options)
    expected = sequential(path)
    frames = refs(path, probe(path))
    assert len(frames) == len(expected) == 40
    assert_equal(read(frames), expected)
    assert_equal(read([frames[i] for i in (30, 3, 3, 39)]), [expected[i] for i in (30, 3, 3, 39)])


def test_a_run_with_a_stream_that_cannot_seek_goes_on(bench: Any) -> None:
    bench.inputs.mkdir()
    encode(bench.inputs / "a.mp4", "libx264", frames=6, container_format="h264")
    encode(bench.inputs / "b.mp4", "libx264", frames=6)
    summary = bench.run(MEAN)
    assert (summary.frames, summary.computed, summary.failed) == (12, summary.shards, ())
    assert [scene.scene for scene in status(bench.store).scenes] == ["a", "b"]


# Edit lists

ONE = 1 << 16
EDITS = {
    "the first second shows nothing": (40, [(1000, -1, ONE), (1600, 0, ONE)]),
    "the start is cut, inside a group": (20, [(800, 15, ONE)]),
    "the start is shown twice": (20, [(400, 0, ONE), (400, 0, ONE)]),
    "the end comes before the start": (20, [(400, 20, ONE), (400, 0, ONE)]),
    "one frame stands still": (30, [(400, 5, 0), (800, 10, ONE)]),
    "more is asked for than there is": (5, [(9000, 35, ONE)]),
    "half as fast": (40, [(1600, 0, ONE // 2)]),
    "nothing is left": (0, [(0, 0, ONE)]),
}
"""Frames that are left of 40; durations in milliseconds, starts in frames, -1: nothing is shown."""


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {"bf": "3"}),
        ("mpeg4", "mov", {}),
        ("mjpeg", "mov", {"pixels": "yuvj420p"}),
    ],
)
def test_an_edit_list_is_followed(
    codec: str, container: str, options: dict[str, Any], edit: str, tmp_path: Path
) -> None:
    path = encode(tmp_path / f"a.{container}", codec, container_format=container, **options)
    plain = sequential(path)
    left, entries = EDITS[edit]
    delay = 1024 if codec == "libx264" else 0  # of its B-frames, in the media's units: 512 a frame
    units = [
        (length, start if start < 0 else delay + 512 * start, rate)
        for length, start, rate in entries
    ]
    path.write_bytes(edited(path.read_bytes(), units))
    expected = sequential(path)
    assert len(expected) == left
    if not left:
        with pytest.raises(
            CorruptInputError, match=r"^a video without a frame that can be decoded"
        ):
            probe(path)
        return
    frames = refs(path, probe(path))
    assert_equal(read(frames), expected)
    turned = frames[::-1]
    assert_equal([item for frame in turned for item in read([frame])], expected[::-1])
    assert all(any(np.array_equal(one, other) for other in plain) for one in expected)


# Which stream


def covered(path: Path, *, video: bool = True) -> Path:
    """An mp4 with a cover as its first stream."""
    picture = np.full((32, 32, 3), 200, np.uint8)
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        if video:
            stream = container.add_stream("mjpeg", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(cover.encode())
        for i in range(5 * video):
            shown = np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        if video:
            container.mux(stream.encode())
    data = path.read_bytes()
    moov = data.index(b"moov") + 4  # behind the pixels, so that no offset changes
    boxes, place = [], moov
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        boxes.append(data[place : place + size])
        place += size
    boxes.sort(key=lambda box: box[4:8] == b"trak")
    path.write_bytes(data[:moov] + b"".join(boxes))
    return path


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    path = covered(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        kinds = [bool(s.disposition & Disposition.attached_pic) for s in container.streams.video]
    assert kinds == [True, False]
    found = probe(path)
    assert (found.height, found.width, found.frames) == (HEIGHT, WIDTH, 5)
    items = read(refs(path, found))
    assert [int(item.pixels.mean()) for item in items if isinstance(item, Tile)] == pytest.approx(
        [0, 40, 80, 120, 160], abs=2
    )


def test_a_cover_alone_is_no_video(tmp_path: Path) -> None:
    path = covered(tmp_path / "a.mp4", video=False)
    with pytest.raises(CorruptInputError, match="without a video stream, but with a cover"):
        probe(path)


# Sizes


def test_a_change_of_size_in_mid_stream(tmp_path: Path) -> None:
    small = encode(tmp_path / "a.h264", "libx264", frames=6)
    large = encode(tmp_path / "b.h264", "libx264", frames=4, size=(64, 96))
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    found = probe(path)
    assert (found.height, found.width, found.frames) == (HEIGHT, WIDTH, 10)
    items = read(refs(path, found))
    assert_equal(items[:6], sequential(path)[:6])
    said = "changes its size in mid-stream: 96 x 64 pixels, 64 x 48 at the start"
    assert items[6:] == [Unreadable("corrupt", said)] * 4


def test_a_file_that_became_another_is_read_in_the_next_run(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", frames=4)
    frames = refs(path, probe(path))
    encode(path, "libx264", frames=4, size=(64, 96))
    assert [item.kind for item in read(frames) if isinstance(item, Unreadable)] == ["error"] * 4


def test_absurd_sizes_are_named_before_anything_is_allocated(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", "rawvideo", frames=2)
    data = path.read_bytes()
    header = WIDTH.to_bytes(4, "little") + HEIGHT.to_bytes(4, "little")
    assert data.count(header) == 2  # of the file, and of the stream
    side = (30_000).to_bytes(4, "little")
    path.write_bytes(data.replace(header, side + side))
    with pytest.raises(CorruptInputError, match=r"30000 x 30000 pixels, 900,000,000 in all; the "):
        probe(path)


@pytest.mark.parametrize(
    ("name", "limit", "said"),
    [
        ("MOST_STREAMS", 1, "2 streams; the limit is 1"),
        ("MOST_PIXELS", 3071, "64 x 48 pixels, 3,072 in all; the limit is 3,071"),
        ("MOST_FRAMES", 4, "more than 4 frames"),
    ],
)
def test_bounds(
    name: str, limit: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = covered(tmp_path / "a.mp4")
    assert probe(path).frames == 5
    monkeypatch.setattr(_video, name, limit)
    monkeypatch.setattr("segengine.sources.video.MOST_FRAMES", _video.MOST_FRAMES)
    with pytest.raises(CorruptInputError, match=said):
        probe(path)


# Turned


ONE = 1 << 16
MATRICES = [
    (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    for a, b, c, d in product((-1, 0, 1), repeat=4)
    if abs(a) + abs(b) == 1 and abs(c) + abs(d) == 1 and abs(a) + abs(c) == 1
]


def placed(pixels: Any, matrix: tuple[int, ...]) -> Any:
    """By the definition: pixel (p, q) is shown at (a p + c q, b p + d q), moved into view."""
    a, b, _, c, d = (value // ONE for value in matrix[:5])
    q, p = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    x, y = a * p + c * q, b * p + d * q
    x, y = x - x.min(), y - y.min()
    out = np.empty((y.max() + 1, x.max() + 1, 3), np.uint8)
    out[y, x] = pixels
    return out


@pytest.mark.parametrize("matrix", MATRICES)
def test_display_matrices(matrix: tuple[int, ...], tmp_path: Path) -> None:
    path = encode(tmp_path / "phone.mov", "png", frames=3, pixels="rgb24", matrix=matrix)
    expected = [placed(picture, matrix) for picture in sequential(path)]
    found = probe(path)
    assert (found.height, found.width) == expected[0].shape[:2]
    frames = refs(path, found)
    assert_equal(read(frames), expected)
    (window,) = VideoSource().read(frames[:1], slice(3, 20), slice(10, 30))
    assert_equal([window], [expected[0][3:20, 10:30]])


def test_there_are_eight_of_them_and_no_other_is_guessed() -> None:
    assert len(set(MATRICES)) == 8
    assert turn((0, 0, 0, 0, 0)) is None
    with pytest.raises(CorruptInputError, match="turns by 45 degrees"):
        turn((ONE, ONE, 0, -ONE, ONE))


# Whatever PyAV raises


def every_error() -> list[type[BaseException]]:
    errors = [value for value in vars(av.error).values() if isinstance(value, type)]
    return [error for error in errors if issubclass(error, av.error.FFmpegError)]


@pytest.mark.parametrize("error", every_error())
def test_what_pyav_raises_is_a_reason(error: type[Exception]) -> None:
    with pytest.raises((CorruptInputError, TransientInputError), match="it is broken"), Listener():
        raise error(1, "it is broken\nin many ways")  # type: ignore[call-arg]


def test_want_of_memory_is_not_damage() -> None:
    assert isinstance(reason_of(MemoryError()), TransientInputError)
    assert isinstance(reason_of(OverflowError("too large")), CorruptInputError)


def test_two_files_read_in_turn(tmp_path: Path) -> None:
    """A decoder must not take a packet of another for one of its own."""
    paths = [encode(tmp_path / f"{i}.mkv", "libx264", bf="3") for i in range(2)]
    expected = sequential(paths[0])
    sources = [iter(VideoSource().read(refs(p, probe(p)), slice(None), slice(None))) for p in paths]
    for k, picture in enumerate(expected):
        for source in sources[: 1 + (k % 3 > 0)]:
            assert_equal(
                [next(source)], [picture] if source is sources[0] else [expected[k - k // 3 - 1]]
            )


# Mutated headers

KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {"codec": "libx264", "bf": "2"},
    "a.mkv": {"codec": "libx265", **X265},
    "a.avi": {"codec": "mpeg4"},
    "a.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
    "a.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "a.ts": {"codec": "mpeg2video"},
    "a.mpg": {"codec": "mpeg1video"},
    "a.flv": {"codec": "flv"},
    "a.asf": {"codec": "wmv2"},
    "a.nut": {"codec": "ffv1"},
}
MUTANTS = 12
ROOM = 1 << 30


def mutated(data: bytes, seed: str) -> bytes:
    random_ = random.Random(seed)
    found = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 4, 8))):
        near = min(len(found), random_.choice((64, 512, 2048)))
        place = random_.randrange(near)
        if random_.random() < 0.3:  # where mp4 has its index
            place = len(found) - 1 - place
        what = random_.choice(
            (b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\x80\0\0\0", bytes(4), b"\xff\xff")
        )
        kind = random_.randrange(4)
        if kind == 0:
            found[place] ^= 1 << random_.randrange(8)
        elif kind == 1:
            del found[place : place + random_.randrange(1, 64)]
        else:
            found[place : place + len(what)] = what if kind == 2 else random_.randbytes(len(what))
    return bytes(found)


def plan_and_read(path: Path) -> str:
    """What comes of a file: planned, then its first, middle and last frame read."""
    try:
        found = VideoSource().probe(Entry(path.name, str(path), ""))
    except (CorruptInputError, TransientInputError) as error:
        return f"{type(error).__name__}: {error}"
    frames = refs(path, found)
    some: list[FrameRef] = [frames[i] for i in sorted({0, len(frames) // 2, len(frames) - 1})]
    return " ".join(type(item).__name__ for item in read(some))


def main(folder: Path) -> None:
    """In a process of its own: each file that lies there, under a limit of memory and of time."""
    probe(folder / "a.mp4")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    for name in KINDS:
        data = (folder / name).read_bytes()
        for i in range(MUTANTS):
            path = folder / f"mutant{Path(name).suffix}"
            path.write_bytes(mutated(data, f"{name} {i}"))
            sys.stdout.write(f"{name} {i} {plan_and_read(path)}\n")
            sys.stdout.flush()


@pytest.mark.system
def test_mutated_headers_neither_abort_nor_hang_nor_fill_the_memory(tmp_path: Path) -> None:
    for name, options in KINDS.items():
        encode(tmp_path / name, frames=12, gop=6, **options)
    code = f"from pathlib import Path; from {__name__} import main; main(Path({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] or done.stdout[-200:]
    lines = done.stdout.splitlines()
    assert len(lines) == MUTANTS * len(KINDS)
    assert not [line for line in lines if "out of memory" in line]
    assert len({line.split(" ", 2)[2] for line in lines}) > 5
