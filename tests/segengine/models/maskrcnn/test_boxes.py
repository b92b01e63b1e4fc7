"""Box arithmetic and anchors, against their written definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segengine.models.maskrcnn import boxes as bx
from segengine.models.maskrcnn.anchors import anchors
from segengine.models.maskrcnn.config import preset

CORNERS = hnp.arrays(np.float32, (6, 2), elements=st.floats(-100, 100, width=32))
SIDES = hnp.arrays(np.float32, (6, 2), elements=st.floats(0.5, 200, width=32))


def boxes_of(corner: np.ndarray, side: np.ndarray) -> np.ndarray:
    return np.concatenate([corner, corner + side], axis=1)


@given(CORNERS, SIDES, CORNERS, SIDES)
def test_decoding_undoes_encoding(
    a: np.ndarray, sa: np.ndarray, b: np.ndarray, sb: np.ndarray
) -> None:
    start, end = boxes_of(a, sa), boxes_of(b, sb)
    found = bx.decode(start, bx.encode(tf.constant(start), tf.constant(end))).numpy()
    np.testing.assert_allclose(found, end, atol=2e-2, rtol=1e-4)


@given(CORNERS, SIDES, CORNERS, SIDES)
def test_iou_is_that_of_pixels_counted_one_by_one(
    a: np.ndarray, sa: np.ndarray, b: np.ndarray, sb: np.ndarray
) -> None:
    first, second = (np.floor(boxes_of(c, s + 1)) for c, s in ((a, sa), (b, sb)))
    found = bx.iou(tf.constant(first, tf.float32), tf.constant(second, tf.float32)).numpy()
    y, x = np.mgrid[-101:302, -101:302]
    one, two = (
        (y >= box[0]) & (x >= box[1]) & (y < box[2]) & (x < box[3]) for box in (first[0], second[1])
    )
    assert found[0, 1] == pytest.approx((one & two).sum() / (one | two).sum(), abs=1e-5)


@given(CORNERS, SIDES)
def test_clipped_boxes_lie_inside_and_clipping_again_changes_nothing(
    corner: np.ndarray, side: np.ndarray
) -> None:
    window = tf.constant([[10.0, -20.0, 50.0, 60.0]])
    once = bx.clip(tf.constant(boxes_of(corner, side))[None], window)
    assert (once[..., :2] >= window[:, None, :2]).numpy().all()
    assert (once[..., 2:] <= window[:, None, 2:]).numpy().all()
    assert (bx.clip(once, window) == once).numpy().all()


def test_the_log_scale_is_clipped_from_above() -> None:
    box, delta = tf.constant([[0.0, 0, 1, 1]]), tf.constant([[0.0, 0, 50, -1]])
    found = bx.decode(box, delta, math.log(1000 / 16)).numpy()[0]
    assert found[2] - found[0] == pytest.approx(62.5)
    assert found[3] - found[1] == pytest.approx(math.exp(-1))


def test_matterport_has_261888_anchors_centred_on_the_strides() -> None:
    config = preset("matterport")
    shapes = [(1024 // s, 1024 // s) for s in (4, 8, 16, 32, 64)]
    levels = [a.numpy() * 1023 + [0, 0, 1, 1] for a in anchors(config, (1024, 1024), shapes)]
    assert sum(map(len, levels)) == 261_888
    side = 64 / math.sqrt(0.5), 64 * math.sqrt(0.5)  # width / height is a half
    cell = levels[1][3 * (128 * 5 + 7)]  # row 5, column 7, first ratio
    wanted = [40 - side[0] / 2, 56 - side[1] / 2, 40 + side[0] / 2, 56 + side[1] / 2]
    np.testing.assert_allclose(cell, wanted, atol=1e-3)


def test_torchvision_rounds_base_anchors_and_takes_the_stride_from_the_map() -> None:
    # 96 // 2 = 48 pixels a cell on P6, not 64; 32 * sqrt(2) / 2 = 22.63 is rounded to 23.
    shapes = [(24, 24), (12, 12), (6, 6), (3, 3), (2, 2)]
    levels = anchors(preset("torchvision"), (96, 96), shapes)
    assert levels[0][0].numpy().tolist() == [-11.0, -23.0, 11.0, 23.0]
    last = levels[4].numpy().reshape(2, 2, 3, 4)
    assert ((last[1, 1] - last[0, 0]) == 48).all()


@pytest.mark.parametrize(
    ("name", "side", "level"),
    [
        ("torchvision", 223.9, 1),
        ("torchvision", 224.0, 2),
        ("torchvision", 448.0, 3),
        ("torchvision", 5.0, 0),
        ("matterport", 157.0, 1),  # 4 + round(log2(157 / 224)) = 3
        ("matterport", 160.0, 2),
        ("matterport", 0.0, 0),
    ],
)
def test_levels(name: str, side: float, level: int) -> None:
    box = tf.constant([[0.0, 0.0, side, side]])
    config = preset(name)
    if config.matterport:
        box = box / 1024
    assert bx.levels(config, box, (1024, 1024)).numpy().tolist() == [level]
