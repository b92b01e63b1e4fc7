"""What holds for every metric: a fold that no cut, order or grouping changes, in JSON and in bytes."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from segengine import metrics, registry
from segengine.instances.rows import objects_of
from segengine.store.values import decode, encode
from segengine.types import Prediction, Truth

CLASSES = ("sky", "tree", "car")
TRUTHS = ("car", "sky", "tree")
NAMES = metrics.names()
SIZE = (14, 17)


def blocks(rng, void):
    coarse = rng.integers(0, len(CLASSES), (5, 6)).astype(np.uint8)
    labels = coarse.repeat(3, 0).repeat(3, 1)[: SIZE[0], : SIZE[1]].copy()
    labels[rng.random(SIZE) < void] = 255
    return labels


def instances_of(labels):
    """Ids of the pieces of all classes but the first."""
    things = np.where((labels == 0) | (labels == 255), 0, labels)
    return label(things, connectivity=2).astype(np.uint32)


def frame(seed):
    """A frame's prediction and truth, with all that a metric may need."""
    rng = np.random.default_rng(seed)
    labels, true = blocks(rng, 0.05), blocks(rng, 0.05)
    if seed % 3 == 0:
        true[:9] = labels[:9]
    probabilities = rng.random((*SIZE, len(CLASSES))).astype(np.float32)
    probabilities /= probabilities.sum(-1, keepdims=True)
    probabilities[labels == 255] = np.nan
    ids, true_ids = instances_of(labels), instances_of(true)
    objects, true_objects = objects_of(ids, labels), objects_of(true_ids, true)
    scores = rng.integers(0, 4, objects.num_rows) / 4  # many ties
    objects = objects.set_column(2, "score", pa.array(scores, pa.float32()))
    crowd = pa.array(rng.random(true_objects.num_rows) < 0.2, pa.bool_())
    true_objects = true_objects.drop_columns("score").append_column("crowd", crowd)
    return (
        Prediction(labels[None], probabilities[None], ids[None], objects),
        Truth(true[None], true_ids[None], true_objects),
    )


def of_several(pairs):
    """Several frames as the n windows of one call."""

    def tables(found):
        return pa.concat_tables(
            t.append_column("frame", pa.array([i] * t.num_rows, pa.int64()))
            for i, t in enumerate(found)
        )

    ours, theirs = zip(*pairs, strict=True)
    return (
        Prediction(
            np.concatenate([p.labels for p in ours]),
            np.concatenate([p.probabilities for p in ours]),
            np.concatenate([p.instances for p in ours]),
            tables([p.objects for p in ours]),
        ),
        Truth(
            np.concatenate([t.labels for t in theirs]),
            np.concatenate([t.instances for t in theirs]),
            tables([t.objects for t in theirs]),
        ),
    )


def create(name):
    return metrics.create(name, classes=list(CLASSES), truth_classes=list(TRUTHS))


def measured(metric, pair, scene="s", index=0):
    state = metric.update(metric.empty(), *pair)
    return metric.locate(state, scene, index) if hasattr(metric, "locate") else state


def same(metric, a, b):
    figures = [json.dumps(metric.compute(s), allow_nan=False) for s in (a, b)]
    return encode(a) == encode(b) and figures[0] == figures[1]


@pytest.mark.parametrize("name", NAMES)
@given(st.data())
@settings(max_examples=12, deadline=None)
def test_any_order_and_grouping_gives_the_same_bits(name, data):
    metric = create(name)
    seeds = data.draw(st.lists(st.integers(0, 50), min_size=2, max_size=5))
    states = [measured(metric, frame(seed), f"s{i % 2}", i) for i, seed in enumerate(seeds)]
    straight = metric.empty()
    for state in states:
        straight = metric.merge(straight, state)
    left = data.draw(st.permutations(states))
    while len(left) > 1:
        i = data.draw(st.integers(0, len(left) - 2))
        left = [*left[:i], metric.merge(left[i], left[i + 1]), *left[i + 2 :]]
    assert same(metric, straight, left[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_empty_state_changes_nothing_and_has_figures_in_json(name):
    metric = create(name)
    state = measured(metric, frame(3))
    assert same(metric, metric.merge(metric.empty(), state), state)
    assert same(metric, metric.merge(state, metric.empty()), state)
    assert json.loads(json.dumps(metric.compute(metric.empty()), allow_nan=False)) is not None
    assert encode(decode(encode(state))) == encode(state)
    assert len(encode(state)) < 1024


@pytest.mark.parametrize("name", NAMES)
def test_several_frames_in_one_call_are_as_many_calls(name):
    metric = create(name)
    pairs = [frame(seed) for seed in (0, 4, 9)]
    one_by_one = metric.empty()
    merged = metric.empty()
    for i, pair in enumerate(pairs):
        one_by_one = metric.update(one_by_one, *pair)
        merged = metric.merge(merged, measured(metric, pair, "", i))
    assert same(metric, metric.update(metric.empty(), *of_several(pairs)), one_by_one)
    assert same(metric, merged, one_by_one)


@pytest.mark.parametrize("name", [n for n in NAMES if not getattr(create(n), "whole", False)])
@given(st.integers(0, 50), st.lists(st.integers(0, SIZE[0]), max_size=3), st.randoms())
@settings(max_examples=12, deadline=None)
def test_any_cut_of_a_frame_gives_the_same_bits(name, seed, rows, random):
    metric = create(name)
    prediction, truth = frame(seed)
    cuts = sorted({0, *rows, SIZE[0]})
    pieces = [
        (slice(None), slice(a, b), half)
        for a, b in pairwise(cuts)
        for half in (slice(0, 8), slice(8, None))
    ]
    random.shuffle(pieces)
    state = metric.empty()
    for piece in pieces:
        state = metric.update(state, prediction.crop(piece), truth.crop(piece))
    assert same(metric, state, measured(metric, (prediction, truth)))


@pytest.mark.parametrize("name", NAMES)
def test_a_view_shares_the_state_of_its_base(name):
    metric = create(name)
    base = getattr(metric, "base", metric)
    pair = frame(6)
    assert encode(base.update(base.empty(), *pair)) == encode(metric.update(metric.empty(), *pair))
    assert base == getattr(base, "base", base)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_says_what_it_is_and_needs(name):
    metric = create(name)
    assert registry.summary("metrics", name).endswith(".")
    assert set(metric.needs) <= {
        *("probabilities", "instances", "objects", "pixels"),
        *("truth", "truth_instances", "truth_objects"),
    }
    assert metric.version >= 1
    with pytest.raises(ValueError, match=r"^classes: at least one"):
        type(metric)(())


@pytest.mark.parametrize("name", [n for n in NAMES if "truth" in create(n).needs])
def test_truth_of_another_size_is_refused(name):
    prediction, truth = frame(1)
    with pytest.raises(ValueError, match=r"^truth: its shape is"):
        create(name).update(create(name).empty(), prediction, truth.crop(np.s_[:, 1:, :]))


@pytest.mark.parametrize("name", ["boundary_f1", "panoptic_quality", "coco", "calibration"])
@pytest.mark.parametrize(
    ("classes", "truths"),
    [(["cluster 0", "cluster 1"], ["a", "b"]), (["left", "right"], ["a", "b", "c"])],
)
def test_labels_whose_names_do_not_say_what_they_are_are_refused(name, classes, truths):
    metric = metrics.create(name, classes=classes, truth_classes=truths)
    assert "match by agreement" in metric.unmet
    with pytest.raises(ValueError, match=rf"^classes: .*\({', '.join(classes)} ...\) do not say"):
        metric.stands_for()
    alike = metrics.create(name, classes=classes, truth_classes=classes)
    assert alike.unmet == ""
    assert alike.stands_for() == (0, 1)
