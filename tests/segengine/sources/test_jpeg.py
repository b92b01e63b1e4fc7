"""Motion JPEG that FFmpeg decodes without a complaint: sound whoever wrote it, damaged where it is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from segengine.errors import CorruptInputError
from segengine.sources import _video
from segengine.sources._damage import Listener
from segengine.sources._jpeg import is_damaged
from segengine.types import Tile, Unreadable

from .test_video import assert_equal, encode, probe, read, refs, sequential

CHANCE = np.random.default_rng(11)
SOI, EOI, SCAN, TABLES = b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc4"


def texture(height: int, width: int) -> np.ndarray[Any, Any]:
    grain = CHANCE.integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(grain, (0, 0), 2)


PICTURES = {
    "texture": texture(96, 128),
    "odd": texture(77, 101),
    "noise": CHANCE.integers(0, 256, (48, 64, 3), np.uint8),
    "flat": np.full((480, 640, 3), 90, np.uint8),
    "checks": np.kron(np.indices((12, 16)).sum(0) % 2, np.ones((8, 8)))[..., None].repeat(3, 2)
    .astype(np.uint8) * 255,
    "one block": texture(5, 7),
}  # fmt: skip


def by_ffmpeg(picture: np.ndarray[Any, Any], pixels: str = "yuvj420p", **options: str) -> bytes:
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.height, context.width = picture.shape[:2]
    context.pix_fmt, context.time_base = pixels, Fraction(1, 25)
    context.thread_count, context.options = 1, options
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts = 0
    (packet,) = [*context.encode(frame), *context.encode(None)]
    return bytes(packet)


def by_pillow(picture: np.ndarray[Any, Any], mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def written(picture: np.ndarray[Any, Any]) -> Iterator[bytes]:
    for quality in (1, 50, 100):
        for chroma in ("4:4:4", "4:2:2", "4:2:0"):
            for kind in ({}, {"optimize": True}, {"progressive": True}):
                for restart in ({}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 1}):
                    yield by_pillow(picture, quality=quality, subsampling=chroma, **kind, **restart)
        yield by_pillow(picture, "L", quality=quality)
        yield by_pillow(picture, "CMYK", quality=quality)
        yield by_pillow(picture, quality=quality, keep_rgb=True)
        for factor in (0x411111, 0x121111):
            asked = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
            yield cv2.imencode(".jpg", picture, asked)[1].tobytes()
    for pixels in ("yuvj420p", "yuvj422p", "yuvj444p"):
        for huffman in ("default", "optimal"):
            for scale in ("1", "5", "31"):
                yield by_ffmpeg(picture, pixels, huffman=huffman, qmin=scale, qmax=scale)


def without_tables(image: bytes) -> bytes:
    """As many cameras write it: the Huffman tables are those of the standard, and not in it."""
    while (place := image.find(TABLES)) >= 0:
        size = int.from_bytes(image[place + 2 : place + 4], "big")
        image = image[:place] + image[place + 2 + size :]
    return image


def scan_of(image: bytes) -> tuple[int, int]:
    place = image.index(SCAN)
    end = image.rindex(EOI)
    return place + 2 + int.from_bytes(image[place + 2 : place + 4], "big"), end


CAMERAS: dict[str, Callable[[bytes], bytes]] = {
    "tables left out": without_tables,
    "padded behind": lambda image: image + bytes(512),
    "filled before the end": lambda image: image[:-2] + b"\xff" * 5 + EOI,
    "zeros before the end": lambda image: image[:-2] + bytes(300) + EOI,
    "stray bytes before the end": lambda image: image[:-2] + b"\x12\x34\x56\x78" + EOI,
    "no end": lambda image: image[:-2],
    "no end, and padded": lambda image: image[:-2] + bytes(512),
    "filled before a segment": lambda image: SOI + b"\xff\xff" + image[2:],
    "two fields": lambda image: image + image,
    "two fields, padded": lambda image: image + bytes(30) + image + bytes(30),
    "an image in a comment": lambda image: (
        SOI + b"\xff\xfe" + (len(image) + 2).to_bytes(2, "big") + image + image[2:]
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_encoders_write_is_sound(name: str) -> None:
    images = list(written(PICTURES[name]))
    assert len(images) == 114
    assert [i for i, image in enumerate(images) if is_damaged(image)] == []


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("name", PICTURES)
def test_what_cameras_write_is_sound(name: str, camera: str) -> None:
    image = by_pillow(PICTURES[name], quality=80)
    assert not is_damaged(CAMERAS[camera](image))


@pytest.mark.parametrize("camera", [None, *CAMERAS])
def test_damage_is_found_in_what_cameras_write(camera: str | None) -> None:
    image = by_pillow(PICTURES["texture"], quality=80)
    start, end = scan_of(image)
    write = CAMERAS[camera] if camera else bytes
    for place in range(start, end - 400, 97):
        for other in (
            image[:place] + bytes(400) + image[place + 400 :],
            image[:place] + image[place + 400 :],
            image[:place] + image[start : start + 400] + image[place:],
        ):
            if other != image:
                assert is_damaged(write(other)), place


def test_damage_is_found_in_the_last_blocks_and_in_either_field() -> None:
    image = by_ffmpeg(PICTURES["texture"], qmin="2", qmax="2")
    short = image[:-30] + EOI
    assert is_damaged(short)
    assert is_damaged(image + short)
    assert is_damaged(short + image)


def test_damage_is_found_between_restart_markers() -> None:
    image = by_pillow(PICTURES["texture"], quality=90, restart_marker_rows=1)
    place = image.index(b"\xff\xd1", scan_of(image)[0])
    assert is_damaged(image[: place - 40] + image[place:])
    assert is_damaged(image[:place] + image[place + 2 :])


def test_zeros_are_no_damage_where_they_are_the_code_of_flat_blocks() -> None:
    flat = by_pillow(PICTURES["flat"], quality=90, optimize=True)
    start, end = scan_of(flat)
    assert bytes(256) in flat[start:end]
    assert not is_damaged(flat)
    assert is_damaged(flat[: end - 100] + EOI)


def test_what_is_no_jpeg_is_not_judged() -> None:
    image = by_pillow(PICTURES["texture"])
    for data in (b"", b"\xff", SOI, SOI + b"\xff\xe0\xff\xff", image[:100], bytes(5000)):
        assert not is_damaged(data)


def concealed(packet: bytes) -> bytes:
    """The packet with a hole of which FFmpeg's decoder says nothing."""
    start, end = scan_of(packet)
    for place in range(start, end - 400, 10):
        holed = packet[:place] + bytes(400) + packet[place + 400 :]
        context: Any = av.CodecContext.create("mjpeg", "r")
        context.thread_count, listener = 1, Listener()
        frames: list[Any] = []
        with suppress(CorruptInputError), listener:
            frames = context.decode(av.Packet(holed))
        if not listener.heard and frames and not frames[0].is_corrupt:
            return holed
    raise AssertionError("FFmpeg tells of each")


@pytest.mark.parametrize("container", ["avi", "mkv", "mov", "mp4", "nut", "asf", "mjpeg"])
def test_a_hole_that_ffmpeg_conceals_is_a_reason(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(
        tmp_path / f"a.{container}", "mjpeg", frames=8, pixels="yuvj420p", grain=30,
        huffman="default", qmin="2", qmax="2",
    )  # fmt: skip
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    data, victim = path.read_bytes(), packets[3]
    holed, (start, _) = concealed(victim), scan_of(victim)
    # By its scan: some containers cut packets in pieces, which are short.
    for place in range(start, len(victim), 64):
        piece = victim[place : place + 64]
        if piece != holed[place : place + 64]:
            data = data.replace(piece, holed[place : place + 64])
    path.write_bytes(data)
    pictures = sequential(path)  # FFmpeg's own
    assert len(pictures) == 8
    frames = refs(path, probe(path))
    items = read(frames)
    reason = "damaged frame: its packet holds less than the picture, or more"
    assert items[3] == Unreadable("corrupt", reason)
    assert read(frames[3:4]) == items[3:4]
    assert_equal([*items[:3], *items[4:]], [*pictures[:3], *pictures[4:]])
    monkeypatch.setattr(_video, "is_damaged", lambda _: False)
    assert isinstance(*read(frames[3:4]), Tile)
