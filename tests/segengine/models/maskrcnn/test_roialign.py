"""RoIAlign against its definition, sample by sample."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.models.maskrcnn.config import preset
from segengine.models.maskrcnn.roialign import PyramidAlign, roi_align


def reference(features: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """torchvision's compiled kernel (csrc/ops/cpu/roi_align_kernel.cpp), written out in float64."""
    height, width, channels = features.shape
    y1, x1, y2, x2 = box.astype(np.float64)
    bin_h, bin_w = max(y2 - y1, 1.0) / side, max(x2 - x1, 1.0) / side
    out = np.zeros((side, side, channels))
    for i in range(side):
        for j in range(side):
            for p in (0.25, 0.75):
                for q in (0.25, 0.75):
                    y, x = y1 + (i + p) * bin_h, x1 + (j + q) * bin_w
                    if y < -1 or y > height or x < -1 or x > width:
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    r, c = int(y), int(x)
                    r2, c2 = min(r + 1, height - 1), min(c + 1, width - 1)
                    a, b = y - r, x - c
                    top = features[r, c] * (1 - b) + features[r, c2] * b
                    low = features[r2, c] * (1 - b) + features[r2, c2] * b
                    out[i, j] += (top * (1 - a) + low * a) / 4
    return out


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    # multiples of 1/64 of a cell are never so near the map's end that rounding decides
    st.lists(st.integers(-200, 700), min_size=4, max_size=4),
    st.sampled_from([3, 7]),
)
def test_equals_the_definition_inside_and_outside_the_map(
    seed: int, corners: list[int], side: int
) -> None:
    features = np.random.default_rng(seed).standard_normal((1, 9, 8, 2)).astype(np.float32)
    y, x = sorted(corners[:2]), sorted(corners[2:])
    box = (np.array([y[0], x[0], y[1], x[1]]) / 64 + 1 / 1024).astype(np.float32)
    found = roi_align(tf.constant(features), tf.constant(box[None]), tf.constant([0]), side)
    np.testing.assert_allclose(found[0], reference(features[0], box, side), atol=2e-4)


def test_regions_of_several_levels_and_images_keep_their_order() -> None:
    config = preset("torchvision")
    rng = np.random.default_rng(3)
    sides = [64, 32, 16, 8]
    maps = [rng.standard_normal((2, s, s, 2)).astype(np.float32) for s in sides]
    boxes = np.array(
        [
            [[10, 10, 230, 250], [5, 5, 25, 30], [0, 0, 0, 0]],
            [[100, 20, 140, 90], [0, 0, 255, 255], [30, 30, 150, 150]],
        ],
        np.float32,
    )
    valid = np.array([[True, True, False], [True, True, True]])
    layer = PyramidAlign(config, 7)
    found = layer([np.zeros((2, 256, 256, 3), np.float32), boxes, valid, *maps]).numpy()
    level = {
        at: int(np.clip(np.floor(4 + np.log2(_root(boxes[at]) / 224)), 2, 5)) - 2
        for at in zip(*np.nonzero(valid), strict=True)
    }
    assert len(set(level.values())) > 1
    for row, (at, i) in enumerate(level.items()):
        wanted = reference(maps[i][at[0]], boxes[at] / (4 << i), 7)
        np.testing.assert_allclose(found[row], wanted, atol=2e-4)


def _root(box: np.ndarray) -> float:
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))
