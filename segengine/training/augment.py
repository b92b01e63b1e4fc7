"""Random changes of a sample: flips, one affine map, colours and noise.

Rotation, crop and zoom are one map, so that pixels are interpolated once: the image bilinearly, the
mask by its nearest pixel, never between classes. What lies outside the sample is reflected in the
image and void in the mask. Colours and noise are measured in the sample's own standard deviation,
so that they mean the same for any dtype.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.training.job import AugmentSpec

Floats = NDArray[np.float32]


def augment(
    pixels: Floats, labels: NDArray[Any], spec: AugmentSpec, rng: np.random.Generator, void: int
) -> tuple[Floats, NDArray[Any]]:
    """A sample changed at random: pixels (y, x, band) float32 and labels (y, x).

    `rng` alone decides: equal generators give equal samples.
    """
    for axis, ways in ((1, ("horizontal", "both")), (0, ("vertical", "both"))):
        if spec.flip in ways and rng.random() < 0.5:
            pixels, labels = np.flip(pixels, axis), np.flip(labels, axis)
    if spec.rotate or spec.crop < 1 or spec.scale > 1:
        pixels, labels = warp(pixels, labels, _affine(labels.shape, spec, rng), void)
    if spec.color:
        pixels = _recolored(pixels, spec.color, rng)
    if spec.noise:
        noise = rng.standard_normal(pixels.shape, np.float32)
        pixels = pixels + noise * np.float32(spec.noise * pixels.std())
    return np.ascontiguousarray(pixels, np.float32), np.ascontiguousarray(labels)


def _affine(
    shape: tuple[int, ...], spec: AugmentSpec, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(2, 3): a pixel (x, y) of the changed sample to where it is taken from."""
    height, width = shape
    angle = math.radians(rng.uniform(-spec.rotate, spec.rotate))
    limit = math.log(spec.scale)
    kept = rng.uniform(spec.crop, 1.0)
    zoom = kept * math.exp(rng.uniform(-limit, limit))
    room = (1.0 - kept) / 2
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    target = middle + rng.uniform(-room, room, 2) * (width, height)
    turn = zoom * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return np.column_stack([turn, target - turn @ middle])


def warp(
    pixels: Floats, labels: NDArray[Any], affine: NDArray[np.float64], void: int
) -> tuple[Floats, NDArray[Any]]:
    """Image and mask, each pixel (x, y) taken from `affine` (2, 3) @ (x, y, 1)."""
    import cv2

    height, width = labels.shape
    moved = cv2.warpAffine(
        np.ascontiguousarray(pixels),
        affine,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    ).reshape(pixels.shape)
    y, x = np.mgrid[:height, :width]
    # Ties to even would make a half pixel's neighbour depend on where it lies.
    columns = np.floor(affine[0, 0] * x + affine[0, 1] * y + affine[0, 2] + 0.5).astype(np.int64)
    rows = np.floor(affine[1, 0] * x + affine[1, 1] * y + affine[1, 2] + 0.5).astype(np.int64)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    taken = np.full(labels.shape, void, labels.dtype)
    taken[inside] = labels[rows[inside], columns[inside]]
    return np.asarray(moved, np.float32), taken


def _recolored(pixels: Floats, strength: float, rng: np.random.Generator) -> Floats:
    """Contrast, brightness and, half as strong, the balance of the bands."""
    spread, mean = float(pixels.std()), float(pixels.mean())
    contrast = 1 + rng.uniform(-strength, strength)
    shift = rng.uniform(-strength, strength) * spread
    tint = rng.uniform(-strength, strength, pixels.shape[-1]) * spread / 2
    level = np.asarray(mean + shift + tint, np.float32)
    return np.asarray((pixels - np.float32(mean)) * np.float32(contrast) + level, np.float32)
