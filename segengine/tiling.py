"""Window arithmetic: buckets, shards, halo, stride. Pure; the only place where a halo is added.

frame      0 ............................ size
write            |-------------|                  what a shard stores
read         |---+-------------+---|              write + halo, clipped at the real border,
                                                  moved out to the stride's grid
pad                             beyond size       only where the stride asks for more than there is
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from segengine.types import Pixels, Place, Window

BUCKET = 256
"""Photos are stacked by height and width rounded up to a multiple of this, in pixels."""


def round_up(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `value`.

    >>> round_up(257, 256)
    512
    """
    return -(-value // multiple) * multiple


def bucket(height: int, width: int) -> tuple[int, int]:
    """Size of the bucket a photo is stacked in."""
    return round_up(height, BUCKET), round_up(width, BUCKET)


def frames_per_shard(shard: int, height: int, width: int) -> int:
    """Frames that share a shard of `shard` x `shard` pixels, when one of them fits in it; else 1.

    >>> frames_per_shard(2048, 512, 512), frames_per_shard(2048, 4096, 512)
    (16, 1)
    """
    if height > shard or width > shard:
        return 1
    return max(1, shard * shard // (height * width))


def video_frames_per_shard(base: int, gop: int, every: int, frame_bytes: int) -> int:
    """Frames of a video shard: `base` rounded up to the key-frame distance, at most 256 MiB decoded.

    `gop` is the greatest distance between key frames in frames of the file; a shard holds every
    `every`-th of them.
    """
    distance = max(1, gop // every)
    limit = max(1, (256 << 20) // max(1, frame_bytes))
    return max(1, min(round_up(base, distance), limit))


def shard_grid(shape: tuple[int, int, int], shard: tuple[int, int, int]) -> tuple[int, int, int]:
    """Number of shards along (frame, y, x)."""
    f, y, x = (-(-n // s) for n, s in zip(shape, shard, strict=True))
    return f, y, x


def shard_window(index: Place, shape: tuple[int, int, int], shard: tuple[int, int, int]) -> Window:
    """The box of the shard at a place in the grid, clipped to the scene."""
    start = tuple(i * s for i, s in zip(index, shard, strict=True))
    stop = tuple(min(a + s, n) for a, s, n in zip(start, shard, shape, strict=True))
    return Window(start, stop)  # type: ignore[arg-type]


def shard_indices(grid: tuple[int, int, int]) -> Iterator[Place]:
    """Every place in a grid once, in raster order; frames outermost."""
    for f in range(grid[0]):
        for y in range(grid[1]):
            for x in range(grid[2]):
                yield f, y, x


@dataclass(frozen=True, slots=True)
class Span:
    """How one axis of a window is read: [start, stop) of the frame, then `pad` pixels by reflection."""

    start: int
    stop: int
    pad: int

    def inside(self, start: int, stop: int) -> slice:
        """[start, stop) of the frame as a slice into what was read."""
        return slice(start - self.start, stop - self.start)


def pad_to(pixels: Pixels, stride: int) -> Pixels:
    """Whole frames (n, y, x, band), reflected at the bottom and right up to the stride's grid."""
    _, height, width, _ = pixels.shape
    pad = (0, -height % stride), (0, -width % stride)
    return pixels if pad == ((0, 0), (0, 0)) else np.pad(pixels, ((0, 0), *pad, (0, 0)), "reflect")


def span(start: int, stop: int, size: int, halo: int | None, stride: int = 1) -> Span:
    """What to read so that [start, stop) of an axis of `size` pixels comes out as from the whole frame.

    >>> span(100, 200, 500, halo=10, stride=16)
    Span(start=80, stop=224, pad=0)
    >>> span(400, 500, 500, halo=10, stride=16)
    Span(start=384, stop=500, pad=12)
    >>> span(400, 500, 500, halo=None)
    Span(start=0, stop=500, pad=0)
    """
    if halo is None:
        low, high = 0, size
    else:
        low, high = max(0, start - halo), min(size, stop + halo)
    high = round_up(high, stride)
    pad = max(0, high - size)
    if pad:  # what is reflected must be there: the whole frame reflects it too
        low = max(0, min(low, size - 1 - pad))
    low -= low % stride
    return Span(low, min(high, size), pad)
