"""Damaged video, over codecs and containers: a frame is what a sequential decode of the sound file
yields there, or it is `corrupt`; and how many frames are read at once makes no difference."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from segengine.sources._damage import broken_test, forbidden
from segengine.sources._keyframes import key_frame_test
from segengine.types import Tile, Unreadable

from .test_video import encode, probe, read, refs, sequential

FRAMES, GOP = 30, 10
FAST = {"deadline": "realtime", "cpu-used": "8"}
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("avi mkv mp4 ts", {"codec": "libx264", "bf": "3"}),
    "h264-open": ("mkv ts", {"codec": "libx264", "bf": "3", "x264-params": "open-gop=1"}),
    "hevc": ("mkv mp4", {"codec": "libx265", "x265-params": "log-level=none:bframes=2"}),
    "mpeg4": ("avi mkv ts", {"codec": "mpeg4", "b": "9M", "bf": "2"}),
    "mpeg2": ("avi mp4 ts", {"codec": "mpeg2video", "b": "9M", "bf": "2"}),
    "msmpeg4": ("avi", {"codec": "msmpeg4", "b": "9M"}),
    "wmv2": ("avi", {"codec": "wmv2", "b": "9M"}),
    "flv": ("avi flv", {"codec": "flv", "b": "9M"}),
    "h263p": ("avi", {"codec": "h263p", "b": "9M"}),
    "svq1": ("avi", {"codec": "svq1", "pixels": "yuv410p"}),
    "snow": ("avi", {"codec": "snow", "b": "9M"}),
    "vp8": ("webm", {"codec": "libvpx", "b": "9M", **FAST}),
    "vp9": ("webm", {"codec": "libvpx-vp9", "b": "9M", **FAST}),
    "ffv1": ("avi", {"codec": "ffv1"}),
    "mjpeg": ("avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
}
FILES = [
    f"{name}.{suffix}" for name, (suffixes, _) in CODECS.items() for suffix in suffixes.split()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def sound(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        encode(path, frames=FRAMES, gop=GOP, size=(96, 128), grain=30, **CODECS[path.stem][1])
    return path


def packets(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def outcome(item: Tile | Unreadable) -> int | str:
    if isinstance(item, Tile):
        return zlib.crc32(np.ascontiguousarray(item.pixels).tobytes())
    assert item.kind == "corrupt", item
    return item.reason


def outcomes(path: Path) -> list[int | str]:
    """A checksum or a reason of each frame, the same for 64, 8 and 1 frames at once."""
    all_refs = refs(path, probe(path))
    whole = [outcome(item) for item in read(all_refs)]
    eights = [all_refs[i : i + 8] for i in range(0, len(all_refs), 8)]
    assert [outcome(item) for some in eights for item in read(some)] == whole
    assert [outcome(*read([ref])) for ref in all_refs[::4]] == whole[::4]
    return whole


def checksums(path: Path) -> list[int]:
    return [zlib.crc32(picture.tobytes()) for picture in sequential(path)]


@pytest.mark.parametrize("name", FILES)
def test_a_sound_video_and_one_that_breaks_off(name: str, folder: Path, tmp_path: Path) -> None:
    path = sound(folder, name)
    expected = checksums(path)
    assert outcomes(path) == expected
    if path.suffix in (".mp4", ".mov"):  # their index is at the end
        return
    cut = tmp_path / name
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) * 7 // 10])
    found = outcomes(cut)
    good = [value for value in found if isinstance(value, int)]
    assert good == [value for value in expected if value in good]
    assert len(good) >= GOP - 1


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".avi")])
def test_key_frames_of_a_container_without_an_index(
    name: str, folder: Path, tmp_path: Path
) -> None:
    path = sound(folder, name)
    data = path.read_bytes()
    assert b"idx1" in data
    bare = tmp_path / name
    bare.write_bytes(data.replace(b"idx1", b"JUNK")[: len(data) * 9 // 10])
    found = outcomes(bare)
    expected = checksums(path)
    assert len(found) > 2 * GOP
    # The last is cut in two, and what is shown before it may build on it.
    assert found[: 2 * GOP] == expected[: 2 * GOP]
    assert set(found[:-1]) - set(expected) <= {r for r in found if isinstance(r, str)}


@pytest.mark.parametrize("name", FILES)
def test_key_frames_are_those_of_the_encoder(name: str, folder: Path) -> None:
    path = sound(folder, name)
    with av.open(str(path)) as container:
        test = key_frame_test(container.streams.video[0])
        assert test is not None
        kinds = [
            (test(bytes(packet)), packet.is_keyframe)
            for packet in container.demux(container.streams.video[0])
            if packet.size
        ]
    assert sum(start for start, _ in kinds) >= FRAMES // GOP
    if path.stem != "h263p":  # FFmpeg calls each packet of H.263 in AVI a key frame
        assert all(start == key for start, key in kinds)
    if path.stem not in ("mjpeg",):
        assert not all(start for start, _ in kinds)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("victim", ["key", "between"])
def test_nothing_is_done_from_damage_to_the_next_key_frame(
    name: str, victim: str, folder: Path, tmp_path: Path
) -> None:
    """Zeros in the second key frame, and in the largest packet behind the first."""
    path = sound(folder, name)
    all_packets = packets(path)
    keys = [i for i, packet in enumerate(all_packets) if starts(path, packet)]
    behind = range(1, keys[1])
    bad = keys[1] if victim == "key" else max(behind, default=1, key=lambda i: all_packets[i].size)
    packet, data = all_packets[bad], path.read_bytes()
    quarter = packet.size // 4
    middle = bytes(packet)[quarter : quarter + 16]
    assert data.count(middle) == 1
    place, length = data.index(middle), min(400, packet.size * 2 // 3)
    broken = tmp_path / name
    broken.write_bytes(data[:place] + bytes(length) + data[place + length :])
    expected = checksums(path)
    found = outcomes(broken)
    good = [value for value in found if isinstance(value, int)]
    assert set(good) <= set(expected)
    assert good == [value for value in expected if value in good]
    assert len(expected) - 2 * GOP - 4 <= len(good) < len(expected)


def starts(path: Path, packet: Any) -> bool:
    with av.open(str(path)) as container:
        test = key_frame_test(container.streams.video[0])
        assert test is not None
        return test(bytes(packet))


def test_bytes_that_no_encoder_writes() -> None:
    for data, broken in (
        (b"\x65\0\0\3\1\x99", False),
        (b"\x65\0\0\3", False),
        (b"\x65\0\0\3\5\x99", True),
        (b"\x65\0\0\2", True),
        (b"\x65\x99\0\0\0\0", False),
        (b"\x65\x99\0\0\0\0\x99", True),
    ):
        assert forbidden(data, start_codes=False) is broken
        assert forbidden(data, start_codes=True) is broken
    assert forbidden(b"\x65\x99\0\0\0\1\x41", start_codes=False)
    assert not forbidden(b"\x65\x99\0\0\0\1\x41", start_codes=True)
    assert not forbidden(b"\x65\x99" + bytes(100) + b"\1\x41", start_codes=True)
    assert forbidden(b"\x65\x99" + bytes(400) + b"\1\x41", start_codes=True)


def test_what_is_shown_before_a_key_frame_builds_on_what_was_damaged(tmp_path: Path) -> None:
    """Raw HEVC has no time stamps that tell which frames those are."""
    path = encode(
        tmp_path / "a.hevc", "libx265", frames=FRAMES, gop=GOP, size=(96, 128), grain=30,
        **{"x265-params": "log-level=none:bframes=3:open-gop=1:keyint=10:min-keyint=10:qp=10"},
    )  # fmt: skip
    expected, data = checksums(path), path.read_bytes()
    victims = [packet for packet in packets(path) if not packet.is_keyframe][2:8:2]
    assert all(packet.pts is None for packet in victims)
    found = []
    for packet in victims:
        place, size = data.index(bytes(packet)) + packet.size // 4, packet.size // 2
        path.write_bytes(data[:place] + bytes(size) + data[place + size :])
        found.append(outcomes(path))
        good = [value for value in found[-1] if isinstance(value, int)]
        assert good == [value for value in expected if value in good]
        assert len(good) >= FRAMES - GOP - 4
    assert any(isinstance(value, str) for outcome in found for value in outcome)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "snow", "cfhd"])
@pytest.mark.parametrize("value", [0, 128])
def test_flat_pictures_hold_no_hole(tmp_path: Path, codec: str, value: int) -> None:
    """Also where all samples are 0, whose smallest copy CineForm writes as they are."""
    path = tmp_path / "a.mov" if codec == "cfhd" else tmp_path / "a.mkv"
    pixels = "yuv422p10le" if codec == "cfhd" else "yuv420p"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, pixels
        stream.options = {"strict": "-2"} | (FAST if "vpx" in codec else {})
        for number in range(3):
            frame: Any = av.VideoFrame(320, 240, pixels)
            for plane in frame.planes:
                plane.update(bytes([value, value % 3]) * (plane.buffer_size // 2))
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        broken = broken_test(container.streams.video[0])
        held = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    assert broken is not None
    assert len(held) == 3
    assert not any(map(broken, held))
    last = held[0]
    middle = len(last) * 9 // 10
    assert broken(last[:middle] + bytes(300) + b"\1")
