"""Targets and losses against their definitions; `test_native` learns with them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from segengine.models.maskrcnn import boxes as bx
from segengine.models.maskrcnn import losses, targets
from segengine.models.maskrcnn.config import Config, preset
from segengine.models.maskrcnn.postprocess import instances, to_units
from segengine.models.maskrcnn.preprocess import prepare
from segengine.models.maskrcnn.targets import Truths, anchor_targets, mini_masks, region_targets

TORCHVISION = preset("torchvision", 4)
MATTERPORT = preset("matterport", 4)
FEW_REGIONS = preset("matterport", 4, train_regions=30)


def truths(boxes: list[list[float]], crowd: tuple[bool, ...] = ()) -> Truths:
    count = len(boxes)
    return Truths(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(1, count + 1, dtype=np.int32) % 3 + 1,
        np.ones((count, targets.MINI, targets.MINI), np.float32),
        np.array(crowd or (False,) * count, bool),
    )


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.random((count, 2)) * 80
    return np.concatenate([corner, corner + 5 + rng.random((count, 2)) * 40], 1).astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_anchors_are_matched_by_overlap_and_counted(seed: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    anchors = random_boxes(rng, 400)
    truth = truths(random_boxes(rng, objects).tolist())
    match, deltas = anchor_targets(TORCHVISION, anchors, truth, rng)
    assert (match == 1).sum() <= 128
    assert (match != 0).sum() <= 256
    assert not deltas[match != 1].any()
    if not objects:
        assert (match <= 0).all()
        return
    overlap = bx.iou(anchors, truth.boxes).numpy()
    assert (overlap[match == -1].max(1, initial=0) < 0.3).all()
    nearest = (overlap == overlap.max(0)).any(1)
    assert ((overlap.max(1) >= 0.7) | nearest)[match == 1].all()
    decoded = bx.decode(anchors[match == 1], deltas[match == 1]).numpy()
    own = truth.boxes[overlap[match == 1].argmax(1)]
    np.testing.assert_allclose(decoded, own, atol=1e-2)


def test_nothing_in_a_crowd_is_background() -> None:
    anchors = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    truth = truths([[0, 0, 30, 30]], (True,))
    match, _ = anchor_targets(TORCHVISION, anchors, truth, np.random.default_rng(0))
    assert match.tolist() == [0, -1]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([MATTERPORT, TORCHVISION, FEW_REGIONS]))
def test_regions_are_drawn_in_the_preset_s_shares(seed: int, config: Config) -> None:
    rng = np.random.default_rng(seed)
    truth = truths(random_boxes(rng, 3).tolist())
    near = np.repeat(truth.boxes, 100, axis=0) + rng.normal(0, 2, (300, 4)).astype(np.float32)
    regions = np.concatenate([near, random_boxes(rng, 700)]).astype(np.float32)
    found = region_targets(config, regions, np.ones(1000, bool), truth, rng)
    count, share = config.train_regions, targets.POSITIVE[config.preset]
    positive = found.classes > 0
    assert len(found.regions) == count
    assert 0 < positive.sum() <= count * share
    if config.matterport:
        assert found.used.sum() <= int(positive.sum() / share)
    assert found.used[positive].all()
    overlap = bx.iou(found.regions, truth.boxes).numpy()
    assert (overlap[positive].max(1) >= 0.5).all()
    assert (overlap[found.used & ~positive].max(1) < 0.5).all()
    own = overlap[positive].argmax(1)
    assert (found.classes[positive] == truth.classes[own]).all()
    moved = found.deltas[positive] * np.array(config.box_deviation, np.float32)
    decoded = bx.decode(found.regions[positive], moved).numpy()
    np.testing.assert_allclose(decoded, truth.boxes[own], atol=1e-2)
    assert not found.masks[~positive].any()


def test_a_region_s_mask_is_the_object_s_within_it() -> None:
    # the object fills the left half of its box, the region is the box's left three quarters
    truth = truths([[0, 0, 40, 40]])
    truth.masks[0, :, targets.MINI // 2 :] = 0
    regions = np.array([[0, 0, 40, 30]], np.float32)
    found = region_targets(MATTERPORT, regions, np.ones(1, bool), truth, np.random.default_rng(0))
    assert found.masks[0].shape == (28, 28)
    assert found.masks[0, :, :18].all()
    assert not found.masks[0, :, 19:].any()


@given(st.integers(0, 2**32 - 1))
def test_small_masks_are_skimages_resize(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = sorted(rng.choice(90, 2, replace=False)), sorted(rng.choice(70, 2, replace=False))
    mask = rng.random((90, 70)) > 0.4
    found = mini_masks(mask[None], np.array([[y[0], x[0], y[1], x[1]]]))[0]
    crop = mask[y[0] : y[1], x[0] : x[1]].astype(np.float64)
    wanted = resize(crop, (56, 56), order=1, mode="constant", anti_aliasing=False, clip=False)
    clear = np.abs(wanted - 0.5) > 1e-4
    np.testing.assert_array_equal(found[clear], wanted[clear] >= 0.5)


def test_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    match = np.array([[1, -1, 0, 1]], np.int8)
    logits = rng.standard_normal((1, 4)).astype(np.float32)
    p = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
    wanted = -(np.log(p[0]) + np.log(1 - p[1]) + np.log(p[3])) / 3
    found = losses.rpn_class_loss(TORCHVISION, match, tf.constant(logits))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    pair = np.stack([np.zeros_like(logits), logits], -1).reshape(1, 8)  # background, object
    assert float(losses.rpn_class_loss(MATTERPORT, match, tf.constant(pair))) == pytest.approx(
        wanted, rel=1e-5
    )
    truth, deltas = rng.standard_normal((2, 1, 4, 4)).astype(np.float32) * 2
    off = np.abs(truth - deltas)[0, [0, 3]]
    wanted = np.where(off < 1, off**2 / 2, off - 0.5).mean()
    found = losses.rpn_box_loss(MATTERPORT, match, truth, tf.constant(deltas.reshape(1, 16)))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    swapped = deltas[..., [1, 0, 3, 2]].reshape(1, 16)  # torchvision's come x before y
    found = losses.rpn_box_loss(TORCHVISION, match, truth, tf.constant(swapped))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    classes = np.array([0, 2], np.int32)
    masks = (rng.random((2, 3, 3)) > 0.5).astype(np.float32)
    out = rng.standard_normal((2, 3, 3, 4)).astype(np.float32)
    p = 1 / (1 + np.exp(-out[1, :, :, 2].astype(np.float64)))
    wanted = -(masks[1] * np.log(p) + (1 - masks[1]) * np.log(1 - p)).mean()
    found = losses.mask_loss(classes, masks, tf.constant(out))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    boxes = rng.standard_normal((2, 16)).astype(np.float32)
    off = np.abs(boxes[1, 8:12])
    wanted = np.where(off < 1, off**2 / 2, off - 0.5).mean()
    found = losses.box_loss(MATTERPORT, classes, np.zeros((2, 4), np.float32), tf.constant(boxes))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    score = rng.standard_normal((2, 4)).astype(np.float32)
    wanted = np.log(np.exp(score[1]).sum()) - score[1, 2]
    found = losses.class_loss(classes, np.array([False, True]), tf.constant(score))
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    none = np.zeros(2, np.int32)
    assert float(losses.mask_loss(none, masks, tf.constant(out))) == 0


@given(st.integers(0, 2**32 - 1))
def test_boxes_in_the_preset_s_units_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(30, 200)), int(rng.integers(30, 200)))
    corner = rng.integers(0, np.array(shape) - 5, (4, 2))
    far = np.minimum(corner + rng.integers(1, 60, (4, 2)), shape)
    boxes = np.concatenate([corner, far], axis=1).astype(np.float32)
    for config in (preset("matterport", max_side=128), TORCHVISION):
        prepared = prepare(config, np.zeros((*shape, 3), np.uint8))
        units = to_units(config, prepared, boxes)
        outputs = {
            "boxes": units[None],
            "classes": np.ones((1, 4), np.int32),
            "scores": np.ones((1, 4), np.float32),
            "masks": np.ones((1, 4, 28, 28), np.float32),
        }
        found = [one.box for one in instances(config, prepared, outputs)]
        np.testing.assert_allclose(found, boxes, atol=0 if config.matterport else 1e-3)
