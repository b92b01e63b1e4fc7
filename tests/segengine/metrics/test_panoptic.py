import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image

from segengine import metrics
from segengine.errors import JobError
from segengine.types import Prediction, Truth

MONAI = Path(__file__).parent / "fixtures" / "monai.npz"
NAMES = ("sky", "road", "car")


def crowds(ids):
    columns = {"id": pa.array(ids, pa.uint32()), "crowd": pa.array([True] * len(ids))}
    return pa.table(columns)


@st.composite
def panoptic(draw):
    """Labels and ids of both sides, and the ids of at most one crowd a class."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = 18, 20
    coarse = rng.integers(0, 3, (5, 5))
    ids = np.arange(1, 26).reshape(5, 5)

    def side(noise, labels, ids):
        labels = np.where(
            rng.random(labels.shape) < noise, rng.integers(0, 3, labels.shape), labels
        )
        labels, ids = (a.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]] for a in (labels, ids))
        labels = np.roll(labels, rng.integers(-2, 3, 2), (0, 1)).astype(np.uint8)
        ids = np.where(labels == 0, 0, ids).astype(np.uint32)  # sky is stuff
        labels[rng.random(size) < noise / 3] = 255
        return labels, ids

    joined = np.where(rng.random((5, 5)) < 0.3, ids[:, :1], ids)
    truth = side(0.1, coarse, joined)
    found = side(draw(st.sampled_from([0.0, 0.3])), coarse, joined)
    inside = [np.unique(truth[1][truth[0] == c]) for c in (1, 2)]
    chosen = [int(rng.choice(i[i > 0])) for i in inside if (i > 0).any() and rng.random() < 0.5]
    return found, truth, chosen


def by_panopticapi(frames, things, folder):
    """What panopticapi makes of frames: PNGs of segments and their classes, evaluated in one process."""
    annotations = []
    for number, sides in enumerate(frames):
        pair = []
        for side, (labels, ids, crowd) in zip(("true", "found"), sides, strict=True):
            keys, segments, areas = np.unique(
                np.where(labels > 2, -1, labels.astype(np.int64) << 32 | ids),
                return_inverse=True,
                return_counts=True,
            )
            names = np.where(keys < 0, 0, 1 + np.arange(len(keys)))
            pixels = names[segments].reshape(labels.shape).astype(np.uint32)
            name = f"{side}{number}.png"
            Image.fromarray(id2rgb(pixels)).save(folder / name)
            own = [int(k) & 0xFFFFFFFF for k in keys]
            info = [
                {"id": n, "category_id": int(keys[n - 1]) >> 32, "area": int(areas[n - 1])}
                | {"iscrowd": int(own[n - 1] in crowd)}
                for n in names[names > 0].tolist()
            ]
            # the last crowd of a class counts: in the order of the table
            info.sort(key=lambda s, own=own: [*crowd, own[s["id"] - 1]].index(own[s["id"] - 1]))
            pair.append({"image_id": number, "file_name": name, "segments_info": info})
        annotations.append(tuple(pair))
    categories = {c: {"isthing": int(c in things)} for c in range(3)}
    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute_single_core(0, annotations, folder, folder, categories), categories


@given(st.lists(panoptic(), min_size=1, max_size=3), st.sampled_from([0, 1]))
@settings(max_examples=30, deadline=None)
def test_figures_are_those_of_panopticapi(frames, without):
    """All, things, stuff and classes; without background it is no category, but found on it is wrong."""
    names = ("background", "road", "car") if without else NAMES
    metric = metrics.create("panoptic_quality", classes=names)
    state = metric.empty()
    for found, truth, crowd in frames:
        prediction = Prediction(found[0][None], instances=found[1][None])
        state = metric.update(
            state, prediction, Truth(truth[0][None], truth[1][None], crowds(crowd))
        )
    result = metric.compute(state)
    with tempfile.TemporaryDirectory() as folder:
        sides = [((*truth, crowd), (*found, [])) for found, truth, crowd in frames]
        stat, categories = by_panopticapi(sides, {1, 2}, Path(folder))
    if without:
        del categories[0]
    assert list(result["classes"]) == list(names[without:])
    for group, isthing in (("all", None), ("things", True), ("stuff", False)):
        ours = result[group]
        try:
            theirs, classes = stat.pq_average(categories, isthing)
        except ZeroDivisionError:
            assert ours == {"pq": None, "sq": None, "rq": None, "n": 0}
            continue
        assert ours == pytest.approx(theirs, abs=1e-9)
        for c, row in classes.items():
            own = result["classes"][names[c]]
            counts = stat[c]
            assert [own[k] for k in ("tp", "fp", "fn")] == [counts.tp, counts.fp, counts.fn]
            if own["pq"] is not None:
                assert {k: own[k] for k in row} == pytest.approx(row, abs=1e-9)
    assert [result[f"mean_{k}"] for k in ("pq", "sq", "rq")] == [
        result["all"][k] for k in ("pq", "sq", "rq")
    ]


def test_who_finds_nothing_scores_nothing():
    labels, ids = np.zeros((1, 20, 20), np.uint8), np.zeros((1, 20, 20), np.uint32)
    true, true_ids = labels.copy(), ids.copy()
    true[0, :3, :3], true_ids[0, :3, :3] = 1, 1
    names = ("background", "thing")
    found = []
    for options in ({}, {"background": True}, {"things": ["background"], "background": True}):
        metric = metrics.create("panoptic_quality", classes=names, **options)
        state = metric.update(
            metric.empty(), Prediction(labels, instances=ids), Truth(true, true_ids)
        )
        found.append(metric.compute(state))
    assert found[0]["mean_pq"] == found[0]["all"]["pq"] == found[0]["things"]["pq"] == 0
    assert found[0]["stuff"] == {"pq": None, "sq": None, "rq": None, "n": 0}
    assert "background" not in found[0]["classes"]
    assert found[1]["mean_pq"] == pytest.approx((400 - 9) / 400 / 2)
    assert found[1]["stuff"]["pq"] == pytest.approx((400 - 9) / 400)
    assert found[2]["things"]["pq"] == pytest.approx((400 - 9) / 400)
    assert found[2]["stuff"]["pq"] == 0
    with pytest.raises(JobError, match="things: 'sky' is no class of the truth"):
        metrics.create("panoptic_quality", classes=names, things=["sky"])
    with pytest.raises(JobError, match="background: must be true or false"):
        metrics.create("panoptic_quality", classes=names, background=1)


def test_of_two_crowds_of_a_class_the_last_excuses():
    labels, ids = [2] * 4, [1] * 4
    assert compute(labels, ids, [2, 2, 2, 0], [7, 8, 8, 0], [7, 8])["car"] == (0, 1, 0)
    assert compute(labels, ids, [2, 2, 2, 0], [7, 7, 7, 0], [7])["car"] == (0, 0, 0)
    assert compute(labels, ids, [2, 2, 2, 0], [7, 8, 8, 0], [8, 7])["car"] == (0, 1, 0)
    assert compute(labels, ids, [2, 2, 2, 2], [8, 8, 8, 7], [7, 8])["car"] == (0, 0, 0)


def test_pq_of_instances_equals_monai():
    with np.load(MONAI) as data:
        known = dict(data)
    metric = metrics.create("panoptic_quality", classes=("background", "thing"))
    for found, true, (pq, sq, rq) in zip(
        known["found_ids"], known["ids"], known["pq"], strict=True
    ):
        prediction = Prediction((found > 0).astype(np.uint8)[None], instances=found[None])
        truth = Truth((true > 0).astype(np.uint8)[None], true[None])
        ours = metric.compute(metric.update(metric.empty(), prediction, truth))["classes"]["thing"]
        # MONAI adds 1e-6 to its divisors and takes IoU in float32
        assert [ours[k] for k in ("pq", "sq", "rq")] == pytest.approx([pq, sq, rq], abs=3e-6)


def compute(labels, ids, true, true_ids, crowd=()):
    metric = metrics.create("panoptic_quality", classes=NAMES)
    sides = [np.atleast_3d(np.array(a)).reshape(1, 1, -1) for a in (labels, ids, true, true_ids)]
    prediction = Prediction(sides[0].astype(np.uint8), instances=sides[1].astype(np.uint32))
    truth = Truth(sides[2].astype(np.uint8), sides[3].astype(np.uint32), crowds(crowd))
    found = metric.compute(metric.update(metric.empty(), prediction, truth))["classes"]
    return {name: tuple(found[name][k] for k in ("tp", "fp", "fn")) for name in NAMES}


def test_half_is_not_a_match():
    assert compute([2, 2], [1, 1], [2, 255], [1, 0])["car"] == (1, 0, 0)
    assert compute([2, 2], [1, 1], [2, 1], [1, 0])["car"] == (0, 1, 1)


def test_what_lies_in_void_or_a_crowd_is_dropped():
    assert compute([2, 2, 2], [1, 1, 1], [255, 255, 0], [0, 0, 0])["car"] == (0, 0, 0)
    assert compute([2, 2], [1, 1], [255, 0], [0, 0])["car"] == (0, 1, 0)
    assert compute([2, 2, 2], [1, 1, 1], [2, 2, 0], [7, 7, 0], [7])["car"] == (0, 0, 0)
    assert compute([1, 1, 1], [1, 1, 1], [2, 2, 0], [7, 7, 0], [7])["road"] == (0, 1, 0)


def test_a_class_without_ids_is_one_segment():
    assert compute([0, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0])["sky"] == (1, 0, 0)
    assert compute([2, 1, 2], [3, 0, 4], [2, 1, 2], [5, 0, 5])["car"] == (0, 2, 1)


def test_what_is_missing_is_named():
    metric = metrics.create("panoptic_quality", classes=NAMES)
    labels = np.zeros((1, 2, 2), np.uint8)
    ids = labels.astype(np.uint32)
    with pytest.raises(ValueError, match=r"^instances: the prediction has none"):
        metric.update(metric.empty(), Prediction(labels), Truth(labels, ids))
    with pytest.raises(ValueError, match=r"^truth: it has no instances"):
        metric.update(metric.empty(), Prediction(labels, instances=ids), labels)
