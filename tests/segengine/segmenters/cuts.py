"""Whether a window tells apart what its frame does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked, tiling
from segengine.instances.join import BAND


def blotches(seed: int, sigma: float) -> NDArray[np.uint8]:
    """Noise (130, 120, 1) behind a Gaussian, from 0 to 255."""
    import cv2

    noise = np.random.default_rng(seed).integers(0, 256, (130, 120), dtype=np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), sigma).astype(float)
    spread: NDArray[np.uint8] = ((soft - soft.min()) * 255 / np.ptp(soft)).astype(np.uint8)
    return spread[..., None]


def same_partition(segmenter: Any, frame: NDArray[Any], side: int) -> None:
    """Cut a frame (y, x, band) into shards of a side; with `BAND` around, each must have its objects.

    Those that meet only outside a shard may be apart in it.
    """
    size = frame.shape[0], frame.shape[1]
    whole = asked.placed(segmenter, (0, 0), size).segment(frame[None]).instances[0]
    for y in range(0, size[0], side):
        for x in range(0, size[1], side):
            spans = [
                tiling.span(start, min(start + side, length), length, segmenter.halo, 1)
                for start, length in zip((y, x), size, strict=True)
            ]
            window = frame[tuple(slice(s.start, s.stop) for s in spans)]
            own = asked.placed(segmenter, (spans[0].start, spans[1].start), size)
            found = own.segment(window[None]).instances[0]
            around = [
                slice(max(0, start - BAND), min(length, start + side + BAND))
                for start, length in zip((y, x), size, strict=True)
            ]
            mine = found[
                tuple(
                    slice(a.start - s.start, a.stop - s.start)
                    for a, s in zip(around, spans, strict=True)
                )
            ]
            theirs = whole[tuple(around)]
            np.testing.assert_array_equal(mine == 0, theirs == 0)
            pairs = np.unique(np.stack([mine.ravel(), theirs.ravel()], axis=1), axis=0)
            assert len(pairs) == len(np.unique(mine)), (
                "what the frame tells apart is one in a window"
            )
