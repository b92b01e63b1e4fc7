"""Videos that tests write, and what PyAV's own loop reads of any."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

FINE = {"libx264": {"crf": "12", "bf": "2"}, "mpeg4": {"qmin": "2", "qmax": "3"}}


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    stamps: Sequence[int] | None = None,
    unit: Fraction = Fraction(1, 25),
    matrix: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """Pictures (y, x, 3) at `stamps` in `unit` seconds (0, 1, ...), with a display matrix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=FINE.get(codec, {}) | options)
        even = height % 2 == width % 2 == 0
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if even or codec != "libx264" else "yuv444p"
        if codec == "mjpeg":
            stream.pix_fmt = "yuvj420p"
        if matrix is not None:
            stream.set_display_matrix(list(matrix))
        stream.time_base = stream.codec_context.time_base = unit
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = (i if stamps is None else stamps[i]), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_video(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """Seconds and pictures (y, x, 3), as stored, of a sequential decode."""
    times, pictures = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            times.append(frame.pts * frame.time_base)
            pictures.append(frame.to_ndarray(format="rgb24"))
    return times, pictures


def passing(count: int, height: int, width: int) -> list[np.ndarray]:
    """A textured ground of 40 to 150 with a chequered bright thing that crosses it."""
    rng = np.random.default_rng(4)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 2)
    ground = 40 + (ground.astype(np.int64) - ground.min()) * 110 // int(np.ptp(ground))
    pictures = []
    for i in range(count):
        picture = ground.astype(np.uint8)
        y, x, side = height // 4, 2 + i * (width - height // 2) // count, height // 2
        cells = np.indices((side, side)).sum(axis=0) // 3 % 2
        thing = (215 + 40 * cells)[..., None].repeat(3, axis=2)
        part: Any = picture[y : y + side, x : x + side]
        part[:] = thing[:, : part.shape[1]]
        pictures.append(picture)
    return pictures
