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
    pixels: str = "",
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
        if pixels or codec == "mjpeg":
            stream.pix_fmt = pixels or "yuvj420p"
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


HEIGHT, WIDTH = 120, 320
CAR, TRUCK = 1, 2
_LANES = ((14, 5.5), (38, 3.2), (66, -4.1), (92, -6.3))
"""Centre in rows, and pixels a frame."""
_BRIDGES = ((90, 140), (208, 248))
"""Columns that hide what passes below."""


def road(frames: int, seed: int = 0) -> tuple[list[np.ndarray], list[dict[int, Any]]]:
    """A road of four lanes below two bridges: pictures (y, x, 3), and by frame the visible mask (y, x)
    of each vehicle with its class, by number.

    Trucks are tall: they hide parts of what drives in the lane behind them.
    """
    rng = np.random.default_rng(seed)
    vehicles = []
    for lane, (row, speed) in enumerate(_LANES):
        at = 0.0
        while at < WIDTH + abs(speed) * frames:
            kind = TRUCK if rng.random() < 0.25 else CAR
            long, high = (38, 26) if kind == TRUCK else (int(rng.integers(22, 32)), 13)
            vehicles.append((lane, row, speed, at, kind, long, high, int(rng.integers(-12, 13))))
            at += long + rng.uniform(16, 90)
    pictures, truth = [], []
    for t in range(frames):
        gray = (60 + rng.integers(-8, 9, (HEIGHT, WIDTH))).astype(np.int64)
        owner = np.zeros((HEIGHT, WIDTH), np.int64)
        for number, (_, row, speed, at, kind, long, high, tone) in enumerate(vehicles, 1):
            x = round(-at + speed * t) if speed > 0 else round(WIDTH + at + speed * t)
            x = x + WIDTH // 2 if speed > 0 else x - WIDTH // 2  # some are there from the beginning
            box = slice(row + 7 - high, row + 7), slice(max(0, x), max(0, x + long))
            gray[box] = (220 if kind == TRUCK else 145) + tone
            owner[box] = number
        for left, right in _BRIDGES:
            gray[:, left:right] = 25
            owner[:, left:right] = 0
        pictures.append(gray.astype(np.uint8)[..., None].repeat(3, axis=2))
        kinds = {number: vehicles[number - 1][4] for number in np.unique(owner).tolist() if number}
        truth.append({number: (kind, owner == number) for number, kind in kinds.items()})
    return pictures, truth


def yard(
    frames: int, height: int = 96, width: int = 160, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """What a fixed camera sees of a yard: pictures (y, x, 3), truth (frame, y, x) and shadows of it.

    Textured ground whose light drifts and whose sensor is noisy; from frame 30 on chequered boxes of
    14 x 14 pixels, white and blue, walk through, each with a shadow of six tenths of the light below it.
    """
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.normal(110, 90, (height, width, 3)), (0, 0), 3)
    side, pictures = 14, []
    truth, shade = (np.zeros((frames, height, width), np.bool_) for _ in range(2))
    for t in range(frames):
        picture = ground * (1 + 0.04 * np.sin(t / 60))
        for i, (row, speed) in enumerate(((10, 2.6), (40, -1.9), (66, 3.4))):
            x = round(speed * (t - 30 - 17 * i)) % (width + 90) - side
            if t < 30 or not -side < x < width:
                continue
            box = slice(row, row + side), slice(max(0, x), max(0, x + side))
            below = slice(row + side, row + side + 6), box[1]
            picture[below] *= 0.6
            cells = np.indices((side, side)).sum(axis=0) // 4 % 2
            part: Any = picture[box]
            tones = (215 + 40 * cells)[..., None] - np.array([190, 150, 0]) * (i == 1)
            part[:] = tones[:, : part.shape[1]]
            truth[t][box], shade[t][below] = True, True
        noisy = picture + rng.normal(0, 3, picture.shape)
        pictures.append(noisy.clip(0, 255).astype(np.uint8))
    return pictures, truth, shade


def idf1(truth: Sequence[dict[int, Any]], found: Sequence[dict[int, Any]]) -> float:
    """Identity F1 of masks by frame, each {track: (class, mask)}, at an IoU of one half.

    Ristani et al. 2016, "Performance measures and a data set for multi-target, multi-camera tracking":
    true and found tracks are assigned so that as many detections as can be are of the pair.
    """
    from scipy.optimize import linear_sum_assignment

    ours = {track: i for i, track in enumerate(sorted({t for frame in found for t in frame}))}
    true = {track: i for i, track in enumerate(sorted({t for frame in truth for t in frame}))}
    same = np.zeros((len(true), len(ours)))
    for real, seen in zip(truth, found, strict=True):
        for a, (_, mask) in real.items():
            for b, (_, other) in seen.items():
                both = np.count_nonzero(mask & other)
                if both and 2 * both >= np.count_nonzero(mask | other):
                    same[true[a], ours[b]] += 1
    matched = same[linear_sum_assignment(same, maximize=True)].sum()
    return float(2 * matched / (sum(map(len, truth)) + sum(map(len, found))))
