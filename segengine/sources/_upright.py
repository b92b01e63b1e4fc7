"""How a frame is turned to be shown: the display matrix that phones store beside the pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import atan2, cos, degrees, hypot, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError

Turn = Callable[[NDArray[Any]], NDArray[Any]]


def turn_of(frame: Any) -> Turn | None:
    """What shows a decoded frame upright; None: as it is. Raises CorruptInputError for other
    angles than quarters of a circle."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside a kind of side data that PyAV has no name for
        angle = radians(-frame.rotation)
        return turn([cos(angle), sin(angle), 0, -sin(angle), cos(angle)])
    return None if data is None else turn(np.frombuffer(bytes(data), np.int32)[:5].tolist())


def turned_size(frame: Any, turned: Turn | None) -> tuple[int, int]:
    """Height and width of a frame as shown."""
    shape: tuple[int, int] = frame.height, frame.width
    return shape if turned is None else turned(np.empty(shape, np.bool_)).shape[:2]


def turn(matrix: Sequence[float]) -> Turn | None:
    """The turn of a matrix (a b u, c d ...), as FFmpeg applies it.

    The four of the same angle differ by a mirror: a tells of it for a half turn, d where there is
    none, and c for a quarter.
    """
    a, b, _, c, d = matrix[:5]
    if not hypot(a, c) or not hypot(b, d):
        return None
    angle = round(degrees(atan2(b / hypot(b, d), a / hypot(a, c)))) % 360
    if angle == 0:
        return _over if d < 0 else None
    if angle == 90:
        return _transposed if c > 0 else lambda pixels: _transposed(pixels)[:, ::-1]
    if angle == 180:
        return _half(a < 0, d < 0)
    if angle == 270:
        over = _transposed if c >= 0 else lambda pixels: _transposed(pixels)[:, ::-1]
        return lambda pixels: over(pixels)[::-1]
    raise CorruptInputError(f"a display matrix that turns by {angle} degrees; quarters are applied")


def _transposed(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.swapaxes(0, 1)


def _over(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[::-1]


def _half(mirrored: bool, over: bool) -> Turn:
    return lambda pixels: pixels[:: -1 if over else 1, :: -1 if mirrored else 1]
