"""What is read at most: a header of a hundred bytes may claim anything, and memory is taken later."""

from __future__ import annotations

from segengine.errors import CorruptInputError

MOST_PIXELS = 1 << 44
MOST_BANDS = 4096
"""Of those that are read."""
MOST_SAMPLES = 1 << 48
"""Pixels times bands of a frame."""
MOST_FRAMES = 1 << 24
MOST_BYTES = 1 << 30
"""Of a block or a chunk, which is decoded whole."""


def require_bounded(height: int, width: int, bands: int, frames: int = 1) -> None:
    """Raise CorruptInputError for a size that no worker could hold; `bands`: those that are read."""
    pixels = height * width
    if pixels > MOST_PIXELS:
        raise CorruptInputError(
            f"is {width} x {height} pixels; at most {MOST_PIXELS:,} in all are read"
        )
    if bands > MOST_BANDS:
        raise CorruptInputError(
            f"has {bands:,} bands; at most {MOST_BANDS:,} are read: set source.bands"
        )
    if pixels * bands > MOST_SAMPLES:
        raise CorruptInputError(
            f"is {width} x {height} pixels of {bands:,} bands; at most {MOST_SAMPLES:,} values are "
            "read: set source.bands"
        )
    if frames > MOST_FRAMES:
        raise CorruptInputError(f"has {frames:,} frames; at most {MOST_FRAMES:,} are read")
