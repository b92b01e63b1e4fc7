"""Detectors of torchvision's layout: against their own outputs and `paste_masks_in_image` by OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

import segengine
from segengine.segmenters._finder import Finder
from segengine.segmenters.model import create
from tests.segengine.segmenters import finders

Array = np.ndarray[Any, Any]
SIZE = (70, 90)


def drawn(seed: int, count: int = 12) -> tuple[Array, Array, Array]:
    """Boxes, some of them beyond the picture, labels and scores, as a detector sorts them."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-5, 60, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 40, (count, 2))], 1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, count)).astype(np.float32)[::-1].copy()
    return boxes, rng.integers(1, 4, count), scores


def pasted(mask: Array, box: Array) -> Array:
    """torchvision's `paste_mask_in_image` with `expand_masks` and `expand_boxes`, by OpenCV."""
    m = mask.shape[-1]
    scale = (m + 2) / m
    padded = np.pad(mask, 1)
    half = (box[2:] - box[:2]) * 0.5 * scale
    centre = (box[2:] + box[:2]) * 0.5
    x0, y0 = (int(v) for v in centre - half)
    x1, y1 = (int(v) for v in centre + half)
    w, h = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    soft = cv2.resize(padded, (w, h), interpolation=cv2.INTER_LINEAR)
    whole = np.zeros((SIZE[0] + 400, SIZE[1] + 400), np.float32)
    whole[200 + y0 : 200 + y0 + h, 200 + x0 : 200 + x0 + w] = soft
    return whole[200 : 200 + SIZE[0], 200 : 200 + SIZE[1]]


def check(found: Any, boxes: Array, labels: Array, scores: Array, soft: list[Array]) -> None:
    kept = [i for i in range(len(boxes)) if scores[i] >= 0.5 and (soft[i] >= 0.5).any()]
    rows = sorted(found.objects.to_pylist(), key=lambda row: -row["score"])
    assert len(rows) == len(kept) > 2
    top = np.zeros(SIZE, int)
    for row, i in zip(rows, kept, strict=True):
        assert row["class"] == labels[i]
        assert row["score"] == pytest.approx(float(scores[i]))
        x1, y1, x2, y2 = boxes[i]
        np.testing.assert_allclose(row["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=1e-4)
        mask = coco.decode({"size": list(SIZE), "counts": row["rle"].encode()}) == 1
        unsure = np.abs(soft[i] - 0.5) < 1e-4
        np.testing.assert_array_equal(mask[~unsure], (soft[i] >= 0.5)[~unsure])
        top[mask & (top == 0)] = row["class"]
    np.testing.assert_array_equal(found.labels, top)


@pytest.mark.parametrize("rank", [3, 4])
def test_masks_of_whole_pictures_are_cut_at_one_half(tmp_path: Path, rank: int) -> None:
    boxes, labels, scores = drawn(1)
    rng = np.random.default_rng(2)
    small = rng.random((len(boxes), 28, 28)).astype(np.float32)
    soft = [
        pasted(cv2.GaussianBlur(m, (9, 9), 3) + 0.1, b) for m, b in zip(small, boxes, strict=True)
    ]
    masks = np.stack(soft)[:, None]
    path = finders.detector(tmp_path / "d.onnx", boxes, labels, scores, masks, rank=rank)
    segmenter = create(path, classes=["cat", "dog", "bird"])
    assert isinstance(segmenter, Finder)
    assert segmenter.classes == ("background", "cat", "dog", "bird")
    found = segengine.predict(np.zeros((*SIZE, 3), np.uint8), segmenter)
    check(found, boxes, labels, scores, soft)


def test_masks_of_boxes_are_pasted_as_torchvision_does(tmp_path: Path) -> None:
    """And outputs by other names, as in ONNX' model zoo."""
    boxes, labels, scores = drawn(3)
    rng = np.random.default_rng(4)
    small = rng.random((len(boxes), 1, 28, 28)).astype(np.float32)
    soft = [pasted(m[0], b) for m, b in zip(small, boxes, strict=True)]
    names = ("6568", "6570", "6572", "6887")
    path = finders.detector(tmp_path / "d.onnx", boxes, labels, scores, small, names=names)
    said = dict(zip(("boxes", "labels", "scores", "masks"), names, strict=True))
    segmenter = create(path, head="detections", outputs=said, classes=["a", "b", "c"])
    found = segengine.predict(np.zeros((*SIZE, 3), np.uint8), segmenter)
    check(found, boxes, labels, scores, soft)
    with pytest.raises(ValueError, match=r"^head: detections needs outputs named.* 6568, 6570"):
        create(path, head="detections", classes=["a"])


def test_without_masks_boxes_are_drawn_and_duplicates_go(tmp_path: Path) -> None:
    boxes = np.array(
        [[10, 12, 30, 40], [11, 12, 30, 40], [50, 5, 80, 25], [2, 2, 9, 9]], np.float32
    )
    scores = np.array([0.9, 0.8, 0.7, 0.4], np.float32)
    path = finders.detector(tmp_path / "d.onnx", boxes, np.array([1, 1, 2, 1]), scores, None)
    picture = np.zeros((*SIZE, 3), np.uint8)
    found = segengine.predict(picture, create(path, classes=["a", "b"], duplicates=0.7))
    wanted = np.zeros(SIZE, int)
    wanted[12:40, 10:30] = 1
    wanted[5:25, 50:80] = 2
    np.testing.assert_array_equal(found.labels, wanted)
    assert found.objects.num_rows == 2
    every = segengine.predict(picture, create(path, classes=["a", "b"], min_score=0.3))
    assert every.objects.num_rows == 4
    one = segengine.predict(
        picture, create(path, classes=["a"])
    )  # of labels that have no name, none
    assert set(one.objects.column("class").to_pylist()) == {1}


def test_a_network_of_one_size_sees_the_frame_resized(tmp_path: Path) -> None:
    boxes = np.array([[10, 20, 30, 40]], np.float32)
    soft = np.zeros((1, 1, 60, 80), np.float32)
    soft[0, 0, 20:40, 10:30] = 1
    path = finders.detector(
        tmp_path / "d.onnx", boxes, np.array([1]), np.float32([0.9]), soft, sides=(60, 80)
    )
    made = create(path, classes=["a"])
    found = segengine.predict(np.zeros((120, 240, 3), np.uint8), made)
    wanted = cv2.resize(soft[0, 0], (240, 120), interpolation=cv2.INTER_LINEAR)
    sure = np.abs(wanted - 0.5) > 1e-4
    np.testing.assert_array_equal(found.labels[sure], (wanted >= 0.5)[sure])
    np.testing.assert_allclose(found.objects.to_pylist()[0]["bbox"], [30, 40, 60, 40])


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    boxes, labels, scores = drawn(1)
    path = finders.detector(tmp_path / "d.onnx", boxes, labels, scores, None)
    for options, said in (
        ({}, r"^classes: a detector's file has no names"),
        ({"classes": ["a"], "window": 64, "resize": [64, 64]}, r"^resize: windows are seen at"),
        ({"classes": ["a"], "temperature": 2}, r"^temperature: head detections finds objects"),
        ({"classes": ["a"], "head": "yolo-seg"}, r"^head: yolo-seg takes \(1, band"),
        (
            {"classes": ["a"], "outputs": {"boxes": "nn"}},
            r"^outputs\.boxes: the model has no output",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            create(path, **options)  # type: ignore[arg-type]


def test_values_that_are_none_are_left_out(tmp_path: Path) -> None:
    """A stranger's network may give anything: no index, no memory is taken from it."""
    boxes = np.array([[0, 0, np.inf, 9], [0, 0, 1e12, 1e12], [5, 5, 9, 9]], np.float32)
    path = finders.detector(
        tmp_path / "d.onnx",
        boxes,
        np.array([1, 2**40, 1]),
        np.float32([0.9, 0.8, np.float32(0.7)]),
        np.ones((3, 1, 28, 28), np.float32),
    )
    found = segengine.predict(np.zeros((*SIZE, 3), np.uint8), create(path, classes=["a"]))
    assert found.objects.num_rows == 1
