"""Proposals and detections: what is chosen, against greedy suppression written out."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.models.mask_rcnn import build
from segengine.models.maskrcnn.anchors import anchors
from segengine.models.maskrcnn.config import preset
from segengine.models.maskrcnn.detections import Detections
from segengine.models.maskrcnn.proposals import Proposals

SMALL = {
    "backbone": "resnet14",
    "pyramid_channels": 16,
    "rpn_channels": 16,
    "box_channels": 32,
    "mask_channels": 16,
    "post_nms": 40,
    "pre_nms": 60,
    "classes": 5,
}


def kept(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Greedy non-maximum suppression, in float64."""
    found: list[int] = []
    boxes = boxes.astype(np.float64)
    for i in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[i], boxes[j]) <= threshold for j in found):
            found.append(int(i))
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    h, w = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = max(h, 0) * max(w, 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return float(common / union) if union > 0 and common > 0 else 0.0


def likely(logit: np.float32) -> np.float32:
    """The probability, rounded to float32 as often as torchvision does."""
    return np.float32(1) / (np.float32(1) + np.float32(np.exp(-np.float64(logit))))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 60.0]))
def test_torchvision_proposals_suppress_within_each_level(seed: int, sure: float) -> None:
    """Also where a network is so `sure` that half of the probabilities are 1.0 in float32.

    Equal ones of two levels are in order of level, as in torchvision's own proposals.
    """
    config = preset("torchvision", **SMALL)
    rng = np.random.default_rng(seed)
    shapes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    scores = [sure * rng.standard_normal((1, h, w, 3)).astype(np.float32) for h, w in shapes]
    scores = [level.astype(np.float32) for level in scores]
    deltas = [np.zeros((1, h, w, 12), np.float32) for h, w in shapes]
    image, window = np.zeros((1, 64, 96, 3), np.float32), np.array([[0, 0, 60, 90]], np.float32)
    found = Proposals(config)([image, window, *scores, *deltas])
    wanted = []
    for level, prior in zip(scores, anchors(config, (64, 96), shapes), strict=True):
        flat = level.reshape(-1)
        best = np.argsort(-flat, kind="stable")[:60]
        boxes = np.clip(prior.numpy()[best], 0, [60, 90, 60, 90]).astype(np.float32)
        wanted += [(flat[best][i], boxes[i]) for i in kept(boxes, flat[best], 0.7)]
    wanted = sorted(wanted, key=lambda pair: -likely(pair[0]))[:40]
    count = int((found["scores"] > -0.5).numpy().sum())
    assert count == len(wanted)
    np.testing.assert_allclose(found["regions"][0, :count], [box for _, box in wanted], atol=1e-4)
    assert not found["regions"][0, count:].numpy().any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 60.0]))
def test_matterport_proposals_suppress_across_levels(seed: int, sure: float) -> None:
    """By the difference of two logits; where softmaxes differ, that is their order too."""
    config = preset("matterport", **SMALL)
    rng = np.random.default_rng(seed)
    shapes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    scores = [(sure * rng.standard_normal((1, h, w, 6))).astype(np.float32) for h, w in shapes]
    deltas = [np.zeros((1, h, w, 12), np.float32) for h, w in shapes]
    image, window = np.zeros((1, 64, 96, 3), np.float32), np.array([[0, 0, 64, 96]], np.float32)
    found = Proposals(config)([image, window, *scores, *deltas])
    both = np.concatenate([level.reshape(-1, 2) for level in scores]).astype(np.float64)
    logits = both[:, 1] - both[:, 0]
    softmax = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert (softmax == 1).sum() > (60 if sure > 1 else -1)  # more than are looked at
    best = np.argsort(-logits, kind="stable")[:60]
    assert (np.diff(softmax[best]) <= 0).all()
    priors = np.concatenate([prior.numpy() for prior in anchors(config, (64, 96), shapes)])
    boxes = np.clip(priors[best], 0, 1)
    wanted = kept(boxes, logits[best], 0.7)[:40]
    count = int((found["scores"] > -0.5).numpy().sum())
    assert count == len(wanted)
    np.testing.assert_allclose(found["regions"][0, :count], boxes[wanted], atol=1e-6)
    np.testing.assert_allclose(found["scores"][0, :count], softmax[best[wanted]], atol=1e-6)
    assert not found["regions"][0, count:].numpy().any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["matterport", "torchvision"]))
def test_detections_suppress_within_each_class(seed: int, name: str) -> None:
    config = preset(name, **(SMALL | {"min_score": 0.3}))
    rng = np.random.default_rng(seed)
    corner = rng.random((30, 2)) * 60
    regions = np.concatenate([corner, corner + 8 + rng.random((30, 2)) * 25], axis=1)
    regions = regions.astype(np.float32) / (100 if config.matterport else 1)
    logits = (2 * rng.standard_normal((30, 5))).astype(np.float32)
    image, window = np.zeros((1, 101, 101, 3), np.float32), np.array([[0, 0, 101, 101]], np.float32)
    found = Detections(config)(
        [
            image,
            window,
            regions[None],
            np.ones((1, 30), bool),
            logits,
            np.zeros((30, 20), np.float32),
        ]
    )
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    limit = 1.0 if config.matterport else 101.0
    boxes = np.clip(regions, 0, limit)
    wanted = []
    for label in range(1, 5):
        score = prob[:, label]
        mine = score >= 0.3
        if config.matterport:
            mine &= prob.argmax(1) == label
        at = np.flatnonzero(mine)
        rows = at[kept(boxes[at], score[at], config.detection_iou)]
        wanted += [(score[i], label, boxes[i]) for i in rows]
    wanted = sorted(wanted, key=lambda row: -row[0])
    count = int(found["valid"].numpy().sum())
    assert [label for _, label, _ in wanted] == found["classes"][0, :count].numpy().tolist()
    np.testing.assert_allclose(found["scores"][0, :count], [s for s, _, _ in wanted], atol=1e-5)
    for ours, (_, _, box) in zip(found["boxes"][0, :count].numpy(), wanted, strict=True):
        np.testing.assert_allclose(ours, box, atol=1e-4)


@pytest.mark.parametrize("name", ["matterport", "torchvision"])
@pytest.mark.parametrize("size", [(64, 128), (128, 192)])
def test_a_batch_gives_each_image_what_it_gets_alone(name: str, size: tuple[int, int]) -> None:
    """To rounding: sums may be taken in another order in a batch, so that of two candidates nearer than
    that either may be chosen. Weights are those of a seed, under which none are; a segmenter gives
    each frame to the network by itself."""
    keras.utils.set_random_seed(3)
    model = build(preset=name, min_score=0.0, max_detections=10, **SMALL)
    image = np.random.default_rng(1).standard_normal((3, *size, 3)).astype(np.float32)
    window = np.tile(np.array([[0, 0, *size]], np.float32), (3, 1))
    together = model({"image": image, "window": window})
    assert (together["classes"] > 0).numpy().any()
    for i in range(3):
        # Thrice, for kernels that sum otherwise for one image.
        alone = model({"image": np.repeat(image[i : i + 1], 3, axis=0), "window": window})
        for key, value in together.items():
            np.testing.assert_allclose(alone[key][0], value[i], atol=1e-4, err_msg=key)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras on NumPy 2
def test_an_image_without_detections_gives_zeros_also_when_saved(tmp_path: Path) -> None:
    model = build(preset="torchvision", min_score=1.0, **SMALL)
    inputs = {
        "image": np.zeros((1, 64, 64, 3), np.float32),
        "window": np.array([[0, 0, 64, 64]], np.float32),
    }
    found = model(inputs)
    assert found["masks"].shape == (1, 100, 28, 28)
    assert all(not value.numpy().any() for value in found.values())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.count_params() == model.count_params()
    assert again.get_layer("detections").config == model.get_layer("detections").config
