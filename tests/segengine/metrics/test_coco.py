"""AP and AR against pycocotools' own evaluation, bit for bit."""

import contextlib
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segengine import metrics
from segengine.types import Prediction, Truth

SIZE = (120, 150)
NAMES = ("a", "b", "c")
FIGURES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)


def thing(rng, box):
    """An ellipse in a box (y0, x0, y1, x1): its run lengths, box and area."""
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    (y0, x0, y1, x1), (ry, rx) = box, (max(1, (box[2] - box[0]) / 2), max(1, (box[3] - box[1]) / 2))
    inside = ((y - (y0 + y1) / 2) / ry) ** 2 + ((x - (x0 + x1) / 2) / rx) ** 2 <= 1
    found = masks.encode(np.asfortranarray(inside.astype(np.uint8)))
    return found["counts"].decode(), masks.toBbox(found).tolist(), int(masks.area(found))


def frame(rng, most, exact):
    """Detections and true objects: near each other, crowds among them, scores with many ties."""
    found, true = [], []
    for _ in range(rng.integers(0, most + 1)):
        corner, side = rng.integers(0, 100, 2), rng.choice([6, 20, 45, 110], 2)
        box = (*corner, *(corner + side))
        cls, rle = int(rng.integers(0, 2 if exact else 3)), thing(rng, box)
        true.append((cls, *rle, bool(rng.random() < 0.1)))
        for _ in range(rng.integers(0, 4)):
            moved = np.array(box) + (0 if rng.random() < 0.2 else rng.normal(size=4) * side[0] / 8)
            other = int(rng.integers(0, 3)) if rng.random() < 0.2 else cls
            found.append((other, *thing(rng, moved), np.float32(rng.integers(0, 8) / 7)))
    return found, true


def table(rows, last):
    types = {"score": pa.float32(), "crowd": pa.bool_()}
    return pa.table(
        {
            "id": pa.array(range(1, len(rows) + 1), pa.uint32()),
            "class": pa.array([r[0] for r in rows], pa.uint16()),
            "bbox": pa.array([r[2] for r in rows], pa.list_(pa.float32(), 4)),
            "area": pa.array([r[3] for r in rows], pa.int64()),
            "rle": pa.array([r[1] for r in rows], pa.string()),
            last: pa.array([r[4] for r in rows], types[last]),
        }
    )


def ours(frames, order=None, **options):
    metric = metrics.create("coco", classes=NAMES, **options)
    labels = np.zeros((1, *SIZE), np.uint8)
    state = metric.empty()
    for i in range(len(frames)) if order is None else order:
        found, true = frames[i]
        one = metric.update(
            metric.empty(),
            Prediction(labels, objects=table(found, "score")),
            Truth(labels, objects=table(true, "crowd")),
        )
        state = metric.merge(state, metric.locate(one, "s", i))
    return metric.compute(state)


def theirs(frames, kind, categories=True):
    true = COCO()
    annotations = [
        {
            "image_id": i,
            "category_id": cls + 1,
            "segmentation": {"size": list(SIZE), "counts": rle},
            "bbox": np.float32(box).tolist(),
            "area": area,
            "iscrowd": int(crowd),
        }
        for i, (_, rows) in enumerate(frames)
        for cls, rle, box, area, crowd in rows
    ]
    true.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(len(frames))],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
        "annotations": [a | {"id": i} for i, a in enumerate(annotations, 1)],
    }
    shape = {"mask": "segmentation", "box": "bbox"}[kind]
    results = [
        {
            "image_id": i,
            "category_id": cls + 1,
            "score": float(score),
            shape: {"size": list(SIZE), "counts": rle}
            if kind == "mask"
            else np.float32(box).tolist(),
        }
        for i, (rows, _) in enumerate(frames)
        for cls, rle, box, _, score in rows
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        true.createIndex()
        evaluation = COCOeval(true, true.loadRes(results), "segm" if kind == "mask" else "bbox")
        evaluation.params.useCats = int(categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if figure == -1 else figure for figure in evaluation.stats.tolist()]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 7), st.booleans())
@settings(max_examples=40, deadline=None)
def test_all_figures_have_the_bits_of_pycocotools(seed, count, most, exact):
    rng = np.random.default_rng(seed)
    frames = [frame(rng, most, exact) for _ in range(count)]
    if not any(found for found, _ in frames):
        return  # pycocotools cannot load no results
    result = ours(frames, rng.permutation(count))
    for kind in ("mask", "box"):
        assert [result[kind][name] for name in FIGURES] == theirs(frames, kind)


def test_more_detections_than_count():
    rng = np.random.default_rng(5)
    frames = [frame(rng, 5, True) for _ in range(3)]
    box = (10, 10, 60, 60)
    crowded = [
        (
            0,
            *thing(rng, np.array(box) + rng.normal(size=4) * 9),
            np.float32(rng.integers(0, 30) / 30),
        )
        for _ in range(130)
    ]
    frames.append((crowded, [(0, *thing(rng, box), False), (0, *thing(rng, (5, 5, 70, 50)), True)]))
    result = ours(frames)
    for kind in ("mask", "box"):
        figures = [result[kind][name] for name in FIGURES]
        assert figures == theirs(frames, kind)
        assert figures[6] < figures[7] <= figures[8]


def test_equal_scores_are_in_order_of_scene_and_frame():
    rng = np.random.default_rng(1)
    box = thing(rng, (10, 10, 50, 50))
    far = thing(rng, (70, 70, 110, 110))
    hit, miss = [(0, *box, np.float32(0.5))], [(0, *far, np.float32(0.5))]
    true = [(0, *box, False)]
    assert ours([(hit, true), (miss, true)])["ap"] == pytest.approx(0.5, abs=0.01)
    assert ours([(miss, true), (hit, true)])["ap"] == pytest.approx(0.25, abs=0.01)
    assert ours([(hit, true), (miss, true)], order=[1, 0])["ap"] == pytest.approx(0.5, abs=0.01)


def test_nothing_found_is_0_and_no_true_object_none():
    rng = np.random.default_rng(2)
    one = thing(rng, (10, 10, 90, 90))
    lost = ours([([], [(1, *one, False)])])
    assert lost["mask"]["ap"] == 0
    assert lost["mask"]["ar_small"] is None
    assert lost["mask"]["classes"]["b"]["truths"] == 1
    extra = ours([([(0, *one, np.float32(1))], [])])
    assert extra["ap"] is None
    assert ours([([(0, *one, np.float32(1))], [(0, *one, True)])])["box"]["ap"] is None


def test_classes_are_matched_by_name():
    rng = np.random.default_rng(3)
    one = thing(rng, (10, 10, 90, 90))
    metric = metrics.create("coco", classes=("x", "b", "a"), truth_classes=("a", "b"))
    labels = np.zeros((1, *SIZE), np.uint8)
    found = [(2, *one, np.float32(1)), (0, *one, np.float32(1))]
    state = metric.update(
        metric.empty(),
        Prediction(labels, objects=table(found, "score")),
        Truth(labels, objects=table([(0, *one, False)], "crowd")),
    )
    assert metric.compute(state)["ap"] == pytest.approx(1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_without_classes_an_object_is_an_object(seed, count):
    rng = np.random.default_rng(seed)
    frames = [frame(rng, 6, False) for _ in range(count)]
    if not any(found for found, _ in frames):
        return  # pycocotools cannot load no results
    result = ours(frames, class_agnostic=True)
    for kind in ("mask", "box"):
        assert [result[kind][name] for name in FIGURES] == theirs(frames, kind, categories=False)
        assert list(result[kind]["classes"]) == ["object"]


def test_proposals_need_no_class_of_the_truth():
    names = {"classes": ("background", "object"), "truth_classes": ("background", "car", "bus")}
    refused = metrics.create("coco", **names)
    assert refused.unmet == (
        "none of the objects' classes (background, object) is one of the truth's "
        "(background, car, bus); `class_agnostic: true` compares objects of any"
    )
    metric = metrics.create("coco", class_agnostic=True, **names)
    assert metric.unmet == ""
    rng = np.random.default_rng(1)
    cars = [
        (1 + i % 2, *thing(rng, (10 * i, 20 * i, 10 * i + 9, 20 * i + 15)), False) for i in range(4)
    ]
    cars.append((0, *thing(rng, (60, 60, 90, 90)), False))  # no object by its class
    seen = [(1, *car[1:4], np.float32(0.9)) for car in cars[:3]]
    labels = np.zeros((1, *SIZE), np.uint8)
    true = Truth(labels, objects=table(cars, "crowd"))
    state = metric.update(metric.empty(), Prediction(labels, objects=table(seen, "score")), true)
    assert metric.compute(state)["mask"]["ar_100"] == pytest.approx(3 / 4)


def test_boxes_alone_need_no_masks():
    rng = np.random.default_rng(4)
    frames = [frame(rng, 5, True) for _ in range(2)]
    both = ours(frames)
    bare = [
        ([(c, None, *r) for c, _, *r in found], [(c, None, *r) for c, _, *r in true])
        for found, true in frames
    ]
    assert ours(bare, kinds=["box"]) == {"ap": both["box"]["ap"], "box": both["box"]}


def test_what_is_missing_or_wrong_is_named():
    metric = metrics.create("coco", classes=NAMES)
    labels = np.zeros((2, *SIZE), np.uint8)
    rng = np.random.default_rng(0)
    found = table([(0, *thing(rng, (0, 0, 9, 9)), np.float32("nan"))], "score")
    truth = Truth(labels[:1], objects=table([], "crowd"))
    with pytest.raises(ValueError, match=r"^objects: the prediction has none"):
        metric.update(metric.empty(), Prediction(labels[:1]), truth)
    with pytest.raises(ValueError, match=r"^truth: it has no objects"):
        metric.update(
            metric.empty(), Prediction(labels[:1], objects=table([], "score")), labels[:1]
        )
    with pytest.raises(ValueError, match=r"^objects: a score is NaN"):
        metric.update(metric.empty(), Prediction(labels[:1], objects=found), truth)
    with pytest.raises(ValueError, match=r"^objects: those of several windows need a column"):
        metric.update(metric.empty(), Prediction(labels, objects=found), Truth(labels))
    for kinds in ([], ["mask", "mask"], ["points"]):
        with pytest.raises(Exception, match=r"^kinds: must be some of mask, box"):
            metrics.create("coco", classes=NAMES, kinds=kinds)
