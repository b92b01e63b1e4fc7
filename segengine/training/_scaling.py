"""Pixel values as the network takes them, and frames at the network's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.training.job import ScaleSpec


def scaled(pixels: NDArray[Any], spec: ScaleSpec) -> NDArray[np.float32]:
    """(..., band) of any dtype as float32: `(x / divide - mean) / std`, or lo..hi to 0..1.

    Raises ValueError where mean and std are neither one value nor one a band.
    """
    x = pixels.astype(np.float32)
    if spec.range is not None:
        low, high = spec.range
        return np.asarray((x - np.float32(low)) / np.float32(high - low), np.float32)
    if spec.divide is not None:
        x /= np.float32(spec.divide)
    if spec.mean is not None and spec.std is not None:
        mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, pixels.shape[-1]):
                raise ValueError(
                    f"{name}: has {len(values)} values for {pixels.shape[-1]} bands; give one, or "
                    "one a band"
                )
        x = (x - mean) / std
    return x


def neutral(spec: ScaleSpec) -> NDArray[np.float32]:
    """The value, one for all bands or one a band, that scaling makes 0: what stands for NaN."""
    if spec.range is not None:
        return np.array(spec.range[:1], np.float32)
    return np.array(spec.mean or [0.0], np.float32) * np.float32(spec.divide or 1)


def grey(spec: ScaleSpec) -> NDArray[np.float32]:
    """The value between black and white, as read: what lies beyond a frame's border."""
    if spec.range is not None:
        return np.array([sum(spec.range) / 2], np.float32)
    return np.array([0.5 * (spec.divide or 1.0)], np.float32)


def resized(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(y, x, band) at another size, bilinearly between pixel centres."""
    import cv2

    if pixels.shape[:2] == size:
        return pixels
    small = cv2.resize(np.ascontiguousarray(pixels), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(small.reshape(*size, pixels.shape[-1]), np.float32)


def nearest(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(y, x) at another size: the label at each new pixel's centre, never a mean of two.

    >>> nearest(np.array([[0, 9, 2, 2]]), (1, 2)).tolist()
    [[9, 2]]
    """
    rows, cols = (
        ((2 * np.arange(new) + 1) * old) // (2 * new)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, cols)]
