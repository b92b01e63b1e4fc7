"""Every codec in every container that FFmpeg can write here, sound and damaged, through VideoSource.

    python -m tests.segengine.sources.video_sweep                      all of them, some minutes
    python -m tests.segengine.sources.video_sweep libx264 mjpeg        encoders
    python -m tests.segengine.sources.video_sweep libx264/mp4 flv/avi  pairs

Each file is written, and each variant of it read, in a process of its own that may take so much
time and memory. Variants: sound, cut at 70 %, 400 zeros in the middle, without its index, with its
start edited away. One line a pair; frames over all variants:

    equal      what a plain sequential decode of the same file yields, bit for bit
    corrupt    given no pixels, with a reason
    wrong      neither: pixels of no sequential decode (sound: another count or order, too)
    depends    frames that come out otherwise for reads of 1, 8 and 64 frames
    untold     equal to the decode of the same damaged file, but not to that of the sound one
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat, zip_longest
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.codec import Codec

from segengine.errors import CorruptInputError
from segengine.sources.video import VideoSource
from segengine.types import Entry, FrameRef, Tile

FRAMES, GOP = 30, 10
SIZE = (48, 64)
SECONDS = 5
ROOM = 1 << 30
HOLE = 400
_NO_FILES = frozenset(
    [
        "alsa",
        "dash",
        "data",
        "fbdev",
        "fifo",
        "hds",
        "hls",
        "image2",
        "mpjpeg",
        "null",
        "oss",
        "rtp",
        "rtp_mpegts",
        "rtsp",
        "sap",
        "segment",
        "smoothstreaming",
        "stream_segment,ssegment",
        "tee",
        "video4linux2,v4l2",
        "whip",
    ]
)
"""Containers that are no file: devices, streams to others, folders."""
_FAST = {"deadline": "realtime", "cpu-used": "8"}
_STRICT = {"strict": "experimental"}


@dataclass(frozen=True)
class Encoder:
    """How an encoder is asked for."""

    name: str
    pixels: str | None = None
    size: tuple[int, int] = SIZE
    frames: int = FRAMES
    options: dict[str, str] = field(default_factory=dict)


SPECIAL: dict[str, Encoder] = {
    "libx264": Encoder("libx264", options={"bf": "3", "x264-params": "threads=1"}),
    "libx264-open": Encoder("libx264", options={"bf": "3", "x264-params": "open-gop=1:threads=1"}),
    "libx264-refresh": Encoder("libx264", options={"x264-params": "intra-refresh=1:threads=1"}),
    "libx265": Encoder(
        "libx265", options={"x265-params": "log-level=none:bframes=2:open-gop=0:pools=none"}
    ),
    "libx265-open": Encoder(
        "libx265", options={"x265-params": "log-level=none:bframes=2:open-gop=1:pools=none"}
    ),
    "libsvtav1": Encoder("libsvtav1", size=(64, 64), options={"preset": "12"}),
    "libvpx": Encoder("libvpx", options=_FAST),
    "libvpx-vp9": Encoder("libvpx-vp9", options=_FAST),
    "mpeg1video": Encoder("mpeg1video", options={"bf": "2"}),
    "mpeg2video": Encoder("mpeg2video", options={"bf": "2"}),
    "mpeg4": Encoder("mpeg4", options={"bf": "2"}),
    "dvvideo": Encoder("dvvideo", "yuv420p", (576, 720), 10),
    "dnxhd": Encoder("dnxhd", "yuv422p", (128, 256), options={"profile": "dnxhr_hq"}),
    "h261": Encoder("h261", size=(144, 176)),
    "h263": Encoder("h263", size=(96, 128)),
    "xface": Encoder("xface", size=(48, 48)),
    "roqvideo": Encoder("roqvideo", size=(128, 128)),
    "rawvideo": Encoder("rawvideo", "yuv420p"),
    "cfhd": Encoder("cfhd", size=(96, 128)),
    "cfhd-rgb": Encoder("cfhd", "gbrp12le", size=(96, 128)),
}


def encoders() -> dict[str, Encoder]:
    """By name: those whose frames can be decoded again."""
    found = {}
    for name in sorted(av.codecs_available):
        try:
            codec = Codec(name, "w")
            Codec(codec.canonical_name, "r")
        except av.codec.codec.UnknownCodecError:
            continue
        if codec.type == "video" and codec.name not in SPECIAL:
            found[codec.name] = Encoder(codec.name)
    return {**found, **SPECIAL}


def containers() -> list[str]:
    found = []
    for name in sorted(av.formats_available - _NO_FILES):
        try:
            av.ContainerFormat(name, "w")
        except ValueError:
            continue
        found.append(name)
    return found


# Files


def pictures(size: tuple[int, int], count: int) -> Iterator[Any]:
    """A moving texture with grain: no two frames are alike."""
    height, width = size
    chance = np.random.default_rng(3)
    texture = chance.integers(0, 256, (height, width + count, 3), np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 2)
    for i in range(count):
        grain = chance.integers(0, 30, (height, width, 3), np.uint8)
        yield cv2.add(np.ascontiguousarray(texture[:, i : i + width]), grain)


def write(path: Path, encoder: Encoder, container: str) -> bool:
    """Whether the pair can be written."""
    (height, width), codec = encoder.size, Codec(encoder.name, "w")
    formats = codec.video_formats or []
    try:
        with av.open(str(path), "w", format=container, container_options=_STRICT) as file:
            stream: Any = file.add_stream(
                encoder.name, rate=25, options={"b": "4M", **_STRICT, **encoder.options}
            )
            stream.width, stream.height = width, height
            stream.pix_fmt = encoder.pixels or (formats[0].name if formats else "yuv420p")
            stream.codec_context.gop_size = GOP
            stream.codec_context.thread_count = 1
            for i, picture in enumerate(pictures(encoder.size, encoder.frames)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
    except (av.error.FFmpegError, ValueError, RuntimeError, NotImplementedError):
        return False
    return path.exists() and bool(plain(path))


def plain(path: Path) -> list[int]:
    """Checksums of all frames that a sequential decode with PyAV's own loop yields."""
    found: list[int] = []
    try:
        with av.open(str(path), metadata_errors="ignore") as file:
            videos = [s for s in file.streams.video if s.codec_context is not None]
            if not videos:
                return found
            context = videos[0].codec_context
            context.thread_count = 1  # else frames of other threads are lost with a damaged one
            gray = (context.pix_fmt or "").startswith("gray")
            packets = file.demux(videos[0])
            with contextlib.suppress(av.error.FFmpegError):  # the file breaks off
                while packet := next(packets, None):
                    with contextlib.suppress(av.error.FFmpegError):
                        found += [checksum(frame, gray) for frame in packet.decode()]
            with contextlib.suppress(av.error.FFmpegError):  # what the decoder still holds
                found += [checksum(frame, gray) for frame in context.decode(None)]
    except (av.error.FFmpegError, ValueError):
        pass
    return found


def checksum(frame: Any, gray: bool) -> int:
    return zlib.crc32(np.ascontiguousarray(frame.to_ndarray(format="gray" if gray else "rgb24")))


def cut(data: bytes) -> bytes:
    return data[: len(data) * 7 // 10]


def holed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(len(data[middle : middle + HOLE])) + data[middle + HOLE :]


_INDEXES: tuple[tuple[bytes, bytes, bytes], ...] = (
    (b"RIFF", b"idx1", b"JUNK"),
    (b"\x1a\x45\xdf\xa3", b"\x1c\x53\xbb\x6b", b"\x1c\x53\xbb\x6c"),  # Cues: an unknown element
    (b"\x30\x26\xb2\x75", bytes.fromhex("90080033b1e5cf1189f400a0c90349cb"), bytes(range(16))),
    (b"nut/", bytes.fromhex("4e58dd672f23e64e"), bytes.fromhex("4e58dd672f23e64f")),
)


def without_index(data: bytes) -> bytes:
    """The file with its index called something else; as it is where it has none."""
    for start, name, other in _INDEXES:
        if data.startswith(start):
            head, found, tail = data.rpartition(name)
            return head + other + tail if found else data
    return data


def edited(data: bytes, entries: Sequence[tuple[int, int, int]] | None = None) -> bytes:
    """mov and mp4 with another edit list; as it is where it has none.

    entries: duration in the movie's units, start in the media's (-1: nothing is shown), rate as
    16.16; None: the start is moved by a quarter of what there is.
    """
    moov = data.rfind(b"moov") - 4
    lists = [found.start() - 4 for found in re.finditer(b"elst", data)]
    if moov < 0 or len(lists) != 1 or lists[0] < moov:
        return data
    place = lists[0]
    size, _, version, count = struct.unpack_from(">I4sII", data, place)
    form = ">qqi" if version >> 24 else ">iii"
    if version >> 24 == 0:
        form = ">Iii"
    width = struct.calcsize(form)
    old = [struct.unpack_from(form, data, place + 16 + width * i) for i in range(count)]
    if entries is None:
        shift = _media_duration(data, moov) // 4
        entries = [(d - d // 4, start + shift * (start >= 0), rate) for d, start, rate in old]
    body = b"".join(struct.pack(form, *entry) for entry in entries)
    table = struct.pack(">I4sII", 16 + len(body), b"elst", version, len(entries)) + body
    found = bytearray(data[:place] + table + data[place + size :])
    for name in (b"moov", b"trak", b"edts"):
        at = data.rfind(name, moov, place) - 4
        struct.pack_into(">I", found, at, struct.unpack_from(">I", data, at)[0] + len(table) - size)
    return bytes(found)


def _media_duration(data: bytes, moov: int) -> int:
    at = data.find(b"mdhd", moov) + 4
    return int(
        struct.unpack_from(">Q" if data[at] else ">I", data, at + (28 if data[at] else 16))[0]
    )


VARIANTS: dict[str, Callable[[bytes], bytes]] = {
    "sound": lambda data: data,
    "cut": cut,
    "hole": holed,
    "no index": without_index,
    "edited": edited,
}


# What comes of a file


@dataclass(frozen=True)
class Figures:
    """Frames of one variant, or of all."""

    equal: int = 0
    corrupt: int = 0
    wrong: int = 0
    depends: int = 0
    untold: int = 0
    refused: str = ""
    """Why there is no frame."""


def read(path: Path) -> tuple[list[int | str], int] | str:
    """A checksum or a reason of each frame, and how many depend on how many are read at once."""
    try:
        with timed("plan"):
            found = VideoSource().probe(Entry(path.name, str(path), ""))
    except CorruptInputError as error:
        return str(error)
    assert found.positions is not None
    seeks = found.seeks
    refs = [
        FrameRef(
            i, f"#{i}", str(path), "", found.height, found.width, int(position),
            None if seeks is None else (int(seeks[i, 0]), int(seeks[i, 1])),
        )
        for i, position in enumerate(found.positions)
    ]  # fmt: skip
    with timed("read"):
        whole = [_outcome(item) for item in _items(refs)]
    depends = set[int]()
    for size in (1, 8):
        other = [
            _outcome(it) for i in range(0, len(refs), size) for it in _items(refs[i : i + size])
        ]
        depends |= {
            i for i, pair in enumerate(zip(whole, other, strict=True)) if len(set(pair)) > 1
        }
    return whole, len(depends)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Raises TimeoutError where it took more seconds of the processor than a file may."""
    start = time.process_time()
    yield
    spent = time.process_time() - start
    if spent > SECONDS:
        raise TimeoutError(f"{spent:.1f} s to {what}")


def _items(refs: list[FrameRef]) -> Iterator[Any]:
    return VideoSource().read(refs, slice(0, refs[0].height), slice(0, refs[0].width))


def _outcome(item: Any) -> int | str:
    if isinstance(item, Tile):
        return zlib.crc32(np.ascontiguousarray(item.pixels))
    assert item.kind == "corrupt", item
    return str(item.reason)


def outside(some: Sequence[int], whole: Sequence[int]) -> int:
    """How many of some are not in the whole, in its order."""
    place, missing = 0, 0
    for value in some:
        try:
            place = whole.index(value, place) + 1
        except ValueError:
            missing += 1
    return missing


def judge(path: Path, variant: str, sound: list[int]) -> Figures:
    """sound: what the file yields that this one is a variant of."""
    found = read(path)
    expected = plain(path)
    if isinstance(found, str):
        return Figures(refused=found)
    outcomes, depends = found
    done = [value for value in outcomes if isinstance(value, int)]
    wrong = outside(done, expected)
    if variant == "sound":  # each at its place, too
        pairs = zip_longest(outcomes, expected)
        wrong = sum(ours != theirs and not isinstance(ours, str) for ours, theirs in pairs)
    return Figures(
        equal=len(done) - outside(done, expected),
        corrupt=len(outcomes) - len(done),
        wrong=wrong,
        depends=depends,
        untold=outside(done, sound) if variant in ("cut", "hole") else 0,
    )


# Processes


def apart(work: Callable[..., Any], *args: Any, seconds: float = 60) -> Any:
    """What a function returns, run in a process of its own; a text where it ended otherwise."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_inside, args=(theirs, work, args))
    process.start()
    theirs.close()
    try:
        result = ours.recv() if ours.poll(seconds) else f"longer than {seconds:g} s"
    except EOFError:
        process.join()
        result = f"ended by {process.exitcode}"
    process.kill()
    process.join()
    process.close()
    return result


def _inside(pipe: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        pipe.send(work(*args))
    except Exception as error:  # noqa: BLE001 - it is the result
        pipe.send(f"{type(error).__name__}: {error}")


@dataclass
class Row:
    """A pair of an encoder and a container."""

    encoder: str
    container: str
    variants: dict[str, Figures] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    """By variant, what became of a process that did not end well."""

    def total(self, name: str) -> int:
        return sum(getattr(figures, name) for figures in self.variants.values())

    @property
    def bad(self) -> bool:
        return bool(self.trouble or self.total("wrong") or self.total("depends"))

    def __str__(self) -> str:
        numbers = (self.total(name) for name in COLUMNS)
        refused = [f"{name}: {f.refused}" for name, f in self.variants.items() if f.refused]
        for name, f in self.variants.items():
            counts = [f"{getattr(f, what)} {what}" for what in COLUMNS[2:] if getattr(f, what)]
            if counts:
                refused.append(f"{name}: {', '.join(counts)}")
        notes = [*refused, *(f"{name}: {what}!" for name, what in self.trouble.items())]
        return " ".join(
            [f"{self.encoder:18}{self.container:16}{len(self.variants):8}"]
            + [f"{number:8}" for number in numbers]
            + ["  " + "; ".join(notes)]
        ).rstrip()


COLUMNS = ("equal", "corrupt", "wrong", "depends", "untold")


def sweep(name: str, encoder: Encoder, container: str, folder: Path) -> Row | None:
    """None: such a file cannot be written here."""
    path = folder / f"{name}.{container}".replace(",", "_")
    if apart(write, path, encoder, container) is not True:
        path.unlink(missing_ok=True)
        return None
    sound = plain_apart(path)
    data, row, seen = path.read_bytes(), Row(name, container), set[bytes]()
    for variant, change in VARIANTS.items():
        changed = change(data)
        if changed in seen:
            continue
        seen.add(changed)
        path.write_bytes(changed)
        result = apart(judge, path, variant, sound)
        if isinstance(result, Figures):
            row.variants[variant] = result
        else:
            row.trouble[variant] = result
    path.unlink()
    return row


def plain_apart(path: Path) -> list[int]:
    found = apart(plain, path)
    return found if isinstance(found, list) else []


def asked(names: Sequence[str]) -> list[tuple[str, Encoder, str]]:
    """The pairs of what was asked for: encoders, pairs, or all."""
    known, all_containers = encoders(), containers()
    found = []
    for name in names or known:
        encoder, _, container = name.partition("/")
        found += [
            (encoder, known[encoder], c) for c in ([container] if container else all_containers)
        ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", help="an encoder, or encoder/container")
    options = parser.parse_args()
    av.logging.set_level(None)
    rows, start = [], time.monotonic()
    head = "".join(f" {name:>8}" for name in COLUMNS)
    sys.stdout.write(f"{'encoder':18}{'container':16}variants{head}\n")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(os.cpu_count()) as pool:
        for row in pool.map(sweep, *zip(*asked(options.what), strict=True), repeat(Path(folder))):
            if row is not None:
                rows.append(row)
                sys.stdout.write(f"{row}\n")
                sys.stdout.flush()
    sums = "".join(f" {sum(row.total(name) for row in rows):8}" for name in COLUMNS)
    sys.stdout.write(
        f"{len(rows)} pairs, {sum(len(row.variants) for row in rows)} files, "
        f"{time.monotonic() - start:.0f} s;{sums}\n"
    )
    return int(not rows or any(row.bad for row in rows))


if __name__ == "__main__":
    sys.exit(main())
