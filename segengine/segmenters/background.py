"""Background: what moves before a fixed camera, by a mixture of Gaussians that runs along the video.

Each pixel has up to five Gaussians of its colour, as OpenCV's MOG2 keeps them (Zivkovic 2004, Zivkovic and
van der Heijden 2006): those it has been most of the time are background, what fits none of them moves.
It is that code that runs, `cv2.createBackgroundSubtractorMOG2`, begun anew for each segment of the video.

The n-th frame that a segment sees counts by the rate that MOG2 takes by itself, 1 / min(2 n, history). As n
counts from the first frame of its warm-up, the rate, and with it every bit of the mask, is a function of
that frame and those after it. Each pixel has a mixture of its own, whose sums are made in a fixed order:
no bit depends on threads or on where frames are cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from segengine.following import Chain
from segengine.types import Color, Follows, Labels, Pixels, Prediction, Segmenter

MOST_FRAMES = 10_000
"""Of a warm-up and of a segment: a shard names each to its worker."""
MOST_HISTORY = 1_000_000
_MIXTURES = 5
_COLORS: tuple[Color, ...] = ((32, 32, 36), (242, 120, 48), (84, 112, 198))


@dataclass(frozen=True, slots=True)
class Background:
    """Background, what moves and, where asked for, the shadows that it throws."""

    history: int
    threshold: float
    shadows: bool
    warmup: int
    """Frames before a segment that it is begun with."""
    span: int
    """Frames of a segment."""
    version: ClassVar[int] = 1
    halo: ClassVar[int] = 0
    stride: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def classes(self) -> tuple[str, ...]:
        return ("background", "moving", "shadow")[: 3 if self.shadows else 2]

    @property
    def colors(self) -> tuple[Color, ...]:
        return _COLORS[: len(self.classes)]

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError for what is no video of 8 bits, gray or in colour."""
        if dtype != "uint8" or bands not in (1, 3):
            raise ValueError(
                f"kind: background takes gray or colour of 8 bits, and these are {bands} bands of {dtype}"
            )

    def describe(self) -> tuple[str, ...]:
        """How often a video is looked at."""
        times = (self.span + self.warmup) / self.span
        return (
            f"segments of {self.span} frames, each begun {self.warmup} frames before: every frame is "
            f"looked at {times:.2g} times where shards hold whole segments",
        )

    def begin(self) -> Mixtures:
        """The mixtures of a segment, which have seen no frame."""
        return Mixtures(self)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels (n, y, x) of the frames (n, y, x, band) of a video, RGB or gray, from its first on."""
        chain = Chain(self)
        chain.aim(0, len(pixels))
        found = [chain.see(i, frame) for i, frame in enumerate(pixels)]
        labels = [each for each in found if each is not None]  # none is missed
        return Prediction(np.stack(labels) if labels else np.zeros(pixels.shape[:3], np.uint8))


@dataclass(slots=True)
class Mixtures:
    """A mixture a pixel, as the frames so far have left it."""

    of: Background
    nbytes: int = 0
    """Bytes that OpenCV keeps: of each Gaussian a weight, a variance and a mean."""
    _subtractor: Any = field(init=False)

    def __post_init__(self) -> None:
        import cv2

        self._subtractor = cv2.createBackgroundSubtractorMOG2(
            self.of.history, self.of.threshold, self.of.shadows
        )

    def label(self, pixels: Pixels) -> Labels:
        """Labels (y, x) of the next frame (y, x, band), 8 bits, RGB or gray, which it learns from."""
        bands = pixels.shape[-1]
        self.nbytes = pixels[..., 0].size * (_MIXTURES * 4 * (2 + bands) + 1)
        # The order of OpenCV's loops over videos: sums over bands are made in it.
        frame = np.ascontiguousarray(pixels[..., ::-1])
        shown = self._subtractor.apply(frame)  # 0, 127 where a shadow is, 255
        found: Labels = _LABELS[shown] if self.of.shadows else (shown != 0).astype(np.uint8)
        return found


_LABELS = np.zeros(256, np.uint8)
_LABELS[255], _LABELS[127] = 1, 2


def create(
    history: int = 500,
    threshold: float = 16.0,
    shadows: bool = False,
    warmup: int = 100,
    segment: int | None = None,
) -> Background:
    """What moves before a fixed camera.

    history: frames that count; what stays for about a tenth of them becomes background. threshold: squared
    distance to a Gaussian's mean, in variances, beyond which a pixel is none of its. shadows: tell
    shadows apart, as a class of their own; otherwise they move. warmup: frames before a segment that
    it is begun with, fewer at the start of the video. segment: frames of a segment; by default twice
    the warm-up.
    """
    _require_whole("history", history, MOST_HISTORY)
    _require_whole("warmup", warmup, MOST_FRAMES)
    span = min(2 * warmup, MOST_FRAMES) if segment is None else segment
    _require_whole("segment", span, MOST_FRAMES)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ValueError(f"threshold: {threshold!r} is not a number")
    if not math.isfinite(threshold) or threshold <= 0:
        raise ValueError(f"threshold: {threshold} is not above 0")
    if not isinstance(shadows, bool):
        raise ValueError(f"shadows: {shadows!r} is neither true nor false")
    return Background(history, float(threshold), shadows, warmup, span)


def _require_whole(name: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{name}: {value!r} is not a whole number of frames from 1 to {most:,}")


_: tuple[type[Segmenter], type[Follows]] = (Background, Background)
