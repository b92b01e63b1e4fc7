"""Decoders that leave pixels of a damaged frame as they lay in memory: no such pixel is given."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec import Codec

from segengine.sources import _sure
from segengine.sources._video import open_video
from segengine.types import Unreadable

from .test_video import encode, probe, read, refs
from .test_video_damage import outcome

FRAMES, VICTIM = 12, 6
UNSURE: dict[str, dict[str, Any]] = {
    "cfhd.avi": {"codec": "cfhd", "pixels": "yuv422p10le"},
    "jpegls.avi": {"codec": "jpegls", "pixels": "rgb24"},
    "speedhq.avi": {"codec": "speedhq", "pixels": "yuv422p"},
    "magicyuv.avi": {"codec": "magicyuv", "pixels": "gbrp"},
    "utvideo.nut": {"codec": "utvideo", "pixels": "gbrp"},
    "exr.mov": {"codec": "exr", "pixels": "gbrpf32le"},
    "exr-gray.mov": {"codec": "exr", "pixels": "grayf32le"},
}


def made(folder: Path, name: str) -> Path:
    path = folder / name
    return encode(path, frames=FRAMES, size=(96, 128), grain=30, strict="-2", **UNSURE[name])


def holed(path: Path) -> Path:
    """Zeros in the middle of one packet."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
    data, body = path.read_bytes(), bytes(packets[VICTIM])
    middle = len(body) // 2
    place = data.index(body[middle : middle + 64])
    other = path.with_stem("holed")
    other.write_bytes(data[:place] + bytes(400) + data[place + 400 :])
    return other


@pytest.mark.parametrize("name", UNSURE)
def test_a_sound_file_is_sure(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    with open_video(str(path)) as video:
        assert video.doubles is not None
    form = "gray" if probe(path).bands == 1 else "rgb24"
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format=form) for frame in container.decode(video=0)]
    items = [outcome(item) for item in read(refs(path, probe(path)))]
    assert items == [zlib.crc32(np.ascontiguousarray(picture)) for picture in pictures]


@pytest.mark.parametrize("name", UNSURE)
def test_no_pixel_of_before_is_given(name: str, tmp_path: Path) -> None:
    path = made(tmp_path, name)
    sound = [outcome(item) for item in read(refs(path, probe(path)))]
    other = holed(path)
    frames = refs(other, probe(other))
    found = [outcome(item) for item in read(frames)]
    assert [outcome(*read([ref])) for ref in frames] == found
    assert [outcome(item) for item in read(frames[::-1])] == found[::-1]
    assert found[:VICTIM] == sound[:VICTIM]
    assert set(found[VICTIM + 1 :]) <= {*sound, "damaged frame: it, or one that it builds on"}


@pytest.mark.parametrize("name", ["speedhq.avi", "exr-gray.mov"])
def test_a_decoder_that_leaves_pixels_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = holed(made(tmp_path, name))
    frames = refs(path, probe(path))
    (item,) = read([frames[VICTIM]])
    assert item == Unreadable("corrupt", "damaged frame: its packet does not fill it")
    monkeypatch.setattr(_sure.Doubles, "agree", lambda *_: True)
    (item,) = read([frames[VICTIM]])
    assert not isinstance(item, Unreadable)


def test_which_codecs_are_asked_twice() -> None:
    sure = {n: _sure.is_sure(Codec(n, "r")) for n in ("h264", "mjpeg", "rawvideo", "exr", "cfhd")}
    assert sure == {"h264": True, "mjpeg": True, "rawvideo": True, "exr": False, "cfhd": False}
