"""YOLO-seg: each model against ONNX Runtime, OpenCV's suppression and resizing, and cut anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

import segengine
from segengine.errors import JobError
from segengine.networks.ultralytics import of_metadata
from segengine.segmenters._finder import Finder
from segengine.segmenters.model import create
from tests.segengine.segmenters import finders

Array = np.ndarray[Any, Any]
NAMES = {
    "names": "{0: 'car', 1: \"driver's seat\", 2: 'tree'}",
    "task": "segment",
    "stride": "32",
    "imgsz": "[64, 64]",
}


def published(path: str, frame: Array, side: int, suppressed: bool) -> list[dict[str, Any]]:
    """What Ultralytics' own steps make of a frame: letterbox, suppression, `process_mask_native`."""
    height, width = frame.shape[:2]
    gain = min(side / height, side / width)
    new = round(width * gain), round(height * gain)
    image = (
        cv2.resize(frame, new, interpolation=cv2.INTER_LINEAR) if new != (width, height) else frame
    )
    dw, dh = (side - new[0]) / 2, (side - new[1]) / 2
    top, bottom = round(dh - 0.1), round(dh + 0.1)
    left, right = round(dw - 0.1), round(dw + 0.1)
    image = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114)
    )
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(np.float32) / 255
    table, protos = (found[0] for found in finders.session(path, batch))
    m, mh, mw = protos.shape
    if suppressed:
        rows = table
    else:
        table = table.T
        scores = table[:, 4:-m]
        kind, best = scores.argmax(1), scores.max(1)
        wide = table[:, 2:4]
        xywh = np.concatenate([table[:, :2] - wide / 2, wide], 1)
        keep = cv2.dnn.NMSBoxesBatched(xywh.tolist(), best.tolist(), kind.tolist(), 0.25, 0.7)
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + wide], 1)
        rows = np.concatenate([corners, best[:, None], kind[:, None], table[:, -m:]], 1)
        rows = rows[np.asarray(keep, int).ravel()]
    found = []
    for row in rows[np.argsort(-rows[:, 4], kind="stable")]:
        x1, y1, x2, y2 = (row[:4] - [left, top, left, top]) / gain
        x1, x2 = np.clip([x1, x2], 0, width)
        y1, y2 = np.clip([y1, y2], 0, height)
        logits = np.einsum("c,cyx->yx", row[6:], protos).astype(np.float32)
        share = min(mh / height, mw / width)
        pad = (mw - width * share) / 2, (mh - height * share) / 2
        inner = logits[
            round(pad[1] - 0.1) : mh - round(pad[1] + 0.1),
            round(pad[0] - 0.1) : mw - round(pad[0] + 0.1),
        ]
        soft = cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR)
        r, c = np.mgrid[:height, :width]
        soft = np.where((r >= y1) & (r < y2) & (c >= x1) & (c < x2), soft, 0)
        found.append(
            {"box": (x1, y1, x2, y2), "score": row[4], "class": int(row[5]) + 1, "soft": soft}
        )
    return found


@pytest.mark.parametrize("size", [(64, 64), (41, 90), (200, 133), (30, 17)])
@pytest.mark.parametrize("suppressed", [False, True])
def test_boxes_and_masks_are_those_of_the_published_steps(
    tmp_path: Path, noise: Any, size: tuple[int, int], suppressed: bool
) -> None:
    path = finders.yolo(tmp_path / "y.onnx", suppressed=suppressed, metadata=NAMES)
    segmenter = create(path)
    assert isinstance(segmenter, Finder)
    assert segmenter.classes == ("background", "car", "driver's seat", "tree")
    assert segmenter.halo is None
    frame = noise(3, (*size, 3))
    wanted = [w for w in published(path, frame, 64, suppressed) if (w["soft"] > 0).any()]
    found = segengine.predict(frame, segmenter)
    rows = sorted(found.objects.to_pylist(), key=lambda row: -row["score"])
    assert len(rows) == len(wanted) > 4
    top = np.zeros(size, int)
    for row, own in zip(rows, wanted, strict=True):
        assert row["class"] == own["class"]
        assert row["score"] == pytest.approx(own["score"], abs=1e-6)
        x1, y1, x2, y2 = own["box"]
        np.testing.assert_allclose(row["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=1e-3)
        mask = coco.decode({"size": list(size), "counts": row["rle"].encode()}) == 1
        unsure = np.abs(own["soft"]) < 1e-4
        np.testing.assert_array_equal(mask[~unsure], (own["soft"] > 0)[~unsure])
        top[mask & (top == 0)] = row["class"]
    np.testing.assert_array_equal(found.labels, top)  # the best score on top


def test_options_and_a_network_of_any_size(tmp_path: Path, noise: Any) -> None:
    path = finders.yolo(tmp_path / "y.onnx", side="n")
    frame = noise(4, (96, 96, 3))
    labelled = create(path, head="yolo-seg", classes=["a", "b", "c"])
    scores = segengine.predict(frame, labelled).objects.column("score").to_numpy()
    middle = float(np.median(scores))
    counts = {}
    for options in ({}, {"min_score": middle}, {"duplicates": 0.1}, {"resize": [96, 96]}):
        made = create(path, head="yolo-seg", classes=["a", "b", "c"], **options)  # type: ignore[arg-type]
        rows = segengine.predict(frame, made).objects.to_pylist()
        counts[str(options)] = len(rows)
        if "min_score" in options:
            assert min(row["score"] for row in rows) >= np.float32(middle)
    whole, sure, apart, large = counts.values()
    assert sure < whole
    assert apart != whole
    assert 0 < large <= 144  # cells of 8 pixels, where 640 has 6400
    first = create(
        path, outputs={"predictions": "output0", "prototypes": "output1"}, resize=[96, 96]
    )
    assert first.classes == ("background", "class 0", "class 1", "class 2")


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    path = finders.yolo(tmp_path / "y.onnx", metadata=NAMES)
    bare = finders.yolo(tmp_path / "b.onnx", suppressed=True)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"min_score": 2}, r"^min_score: must be a number from 0 to 1, not 2"),
        ({"duplicates": "no"}, r"^duplicates: must be a number from 0 to 1"),
        ({"threshold": 0.3}, r"^threshold: head yolo-seg finds objects.*; set min_score"),
        ({"augment": "flips"}, r"^augment: head yolo-seg finds objects"),
        ({"crf": True}, r"^crf: head yolo-seg finds objects"),
        ({"window": 96}, r"^window: the model takes 64 x 64 only, not 96 x 96"),
        ({"resize": [32, 64]}, r"^resize: the model takes 64 x 64 only"),
        ({"classes": ["a"]}, r"^classes: 1 are named and the model tells 3 apart"),
        ({"head": "masks"}, r"^head: must be one of auto, labels"),
        ({"head": "detections"}, r"^head: detections needs outputs named boxes, labels and scores"),
        (
            {"head": "yolo-seg", "outputs": {"predictions": "x"}},
            r"^outputs\.predictions: the model has no",
        ),
        ({"outputs": 3}, r"^outputs: must be a name"),
        ({"bands": 4}, r"^bands: 4 are named and the model takes 3"),
    ]
    for options, said in wrong:
        with pytest.raises(ValueError, match=said) as error:
            create(path, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^classes: the model does not say its classes"):
        create(bare)
    with pytest.raises(JobError, match="min_score"):
        segengine.create_segmenter({"kind": "model", "path": path, "min_score": -1})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{0: 'a', 1: 'b'}", ("a", "b")),
        ("{0: 'it\\'s'}", ("it's",)),
        ("{1: 'a'}", ()),
        ("{0: 'a', 1: 'a'}", ()),
        ("{0: __import__('os')}", ()),
        ("[" * 100_000, ()),
        ("{0: 'a\\x00'}", ("ax00",)),
        ("{0: ''}", ()),
    ],
)
def test_names_of_a_file_are_read_and_never_run(text: str, names: tuple[str, ...]) -> None:
    found = of_metadata(NAMES | {"names": text})
    assert found is not None
    assert found.classes == names
    assert found.window == 64
    assert of_metadata({"names": text}) is None
