"""Losses in the aggregate stage: the value of training, exactly, under any cut, order and grouping."""

from __future__ import annotations

import subprocess
import sys
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segengine import losses, registry
from segengine.store.values import decode, encode
from segengine.types import Framed, Prediction, Truth

CLASSES = ("water", "land", "road")
BOTH = {"losses": [{"loss": "dice", "weight": 0.5}, {"loss": "bce"}]}
FRAMED = [
    "compound",
    *(n for n in losses.groups()["region"] if n not in ("iou_balanced", "lovasz")),
]
PIXELS = [name for name in losses.groups()["distribution"] if name != "balanced_ce"]
WHOLE = sorted(set(losses.names()) - set(FRAMED) - set(PIXELS))


def loss_of(name: str, **options: Any) -> Any:
    return registry.create("losses", name, {**(BOTH if name == "compound" else {}), **options})


def drawn(
    seed: int, frames: int = 1, height: int = 9, width: int = 11, classes: int = 3
) -> tuple[Prediction, NDArray[np.uint8]]:
    """Probabilities and truth, with void on both sides."""
    random = np.random.default_rng(seed)
    exp = np.exp(2 * random.normal(size=(frames, height, width, classes)))
    p = (exp / exp.sum(-1, keepdims=True)).astype(np.float32)
    p[random.random(p.shape[:3]) < 0.05] = np.nan
    p[random.random(p.shape[:3]) < 0.05] = np.eye(classes)[0]
    truth = random.integers(0, classes, p.shape[:3]).astype(np.uint8)
    truth[random.random(truth.shape) < 0.1] = 255
    return Prediction(np.nan_to_num(p).argmax(-1).astype(np.uint8), p), truth


def cuts(data: st.DataObject, length: int) -> list[slice]:
    """A side cut anywhere."""
    at = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=3)))
    return [slice(a, b) for a, b in zip([0, *at], [*at, length], strict=True)]


def folded(data: st.DataObject, values: list[Any], merge: Any) -> Any:
    """Merged in any order and grouping."""
    values = data.draw(st.permutations(values))
    while len(values) > 1:
        i = data.draw(st.integers(0, len(values) - 2))
        values = [*values[:i], merge(values[i], values[i + 1]), *values[i + 2 :]]
    return values[0]


def update(fold: Any, prediction: Prediction, truth: Any) -> Any:
    return fold.update(fold.empty(), prediction, truth)


@pytest.mark.parametrize("name", PIXELS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_pixels_do_not_depend_on_the_cut(name: str, data: st.DataObject) -> None:
    prediction, truth = drawn(data.draw(st.integers(0, 99)), frames=2, width=21)
    fold = loss_of(name).statistic(CLASSES)
    states = [fold.empty()]
    for frame in range(2):
        for rows in cuts(data, 9):
            for columns in cuts(data, 21):
                window = slice(frame, frame + 1), rows, columns
                states.append(update(fold, prediction.crop(window), truth[window]))
    assert folded(data, states, fold.merge) == update(fold, prediction, truth)


@pytest.mark.parametrize("name", FRAMED)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_regions_do_not_depend_on_the_cut(name: str, data: st.DataObject) -> None:
    prediction, truth = drawn(data.draw(st.integers(0, 99)), frames=3, width=21)
    fold = loss_of(name).statistic(CLASSES)
    assert isinstance(fold, Framed)
    states = [fold.empty()]
    for frame in range(3):
        parts = []
        for rows in cuts(data, 9):
            for columns in cuts(data, 21):
                window = slice(frame, frame + 1), rows, columns
                parts.append(fold.part(prediction.crop(window), Truth(truth[window])))
        states.append(fold.close(folded(data, parts, fold.join)))
    assert folded(data, states, fold.merge) == update(fold, prediction, truth)


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_whole_frames_merge_in_any_order(name: str, data: st.DataObject) -> None:
    prediction, truth = drawn(data.draw(st.integers(0, 99)), frames=4)
    fold = loss_of(name).statistic(CLASSES)
    assert fold.whole
    states = [fold.empty()]
    for frame in range(4):
        window = slice(frame, frame + 1), slice(None), slice(None)
        states.append(update(fold, prediction.crop(window), truth[window]))
    assert folded(data, states, fold.merge) == update(fold, prediction, truth)


def test_only_what_must_sees_whole_frames() -> None:
    for name in losses.names():
        assert getattr(loss_of(name).statistic(CLASSES), "whole", False) == (name in WHOLE)
    assert not loss_of("balanced_ce", beta=0.3).statistic(CLASSES).whole
    mixed = loss_of("compound", losses=[{"loss": "dice"}, {"loss": "boundary"}]).statistic(CLASSES)
    assert mixed.whole
    assert not isinstance(mixed, Framed)


@pytest.mark.parametrize("name", losses.names())
def test_figure_is_the_value_of_training(name: str) -> None:
    prediction, truth = drawn(3, frames=3)
    assert prediction.probabilities is not None
    # frames of as many scored pixels each, so that the mean over pixels is that over frames
    truth = truth[:1].repeat(3, 0)
    p = np.nan_to_num(prediction.probabilities, nan=0.2)
    options = {"label_smoothing": 0.1, "class_weights": [1, 2, 3]}
    loss = loss_of(name, ignore=255, **options)
    fold = loss_of(name, **options).statistic(CLASSES)
    figures = fold.compute(update(fold, Prediction(prediction.labels, p), truth))
    assert figures["loss"] == pytest.approx(float(loss.keras()(truth, p)), rel=1e-5)
    one_by_one = [float(loss.keras()(truth[i : i + 1], p[i : i + 1])) for i in range(3)]
    assert figures["loss"] == pytest.approx(np.mean(one_by_one), rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(FRAMED) - {"compound"}))
def test_pooled_is_the_value_of_one_great_image(name: str) -> None:
    prediction, truth = drawn(5, frames=3)
    assert prediction.probabilities is not None
    fold = loss_of(name, class_weights=[1, 2, 3]).statistic(CLASSES)
    figures = fold.compute(update(fold, prediction, truth))
    p = prediction.probabilities.reshape(1, -1, 11, 3)
    great = Prediction(prediction.labels.reshape(1, -1, 11), p)
    whole = fold.compute(update(fold, great, truth.reshape(1, -1, 11)))
    assert figures["pooled"] == whole["pooled"] == pytest.approx(whole["loss"], abs=1e-9)
    assert figures["loss"] != figures["pooled"]
    assert figures["frames"] == 3
    mean = np.dot([1, 2, 3], [figures["classes"][c]["pooled"] for c in CLASSES]) / 3
    assert figures["pooled"] == pytest.approx(mean)


@pytest.mark.parametrize("name", losses.names())
def test_void_is_not_scored_and_unpredicted_is_counted(name: str) -> None:
    prediction, truth = drawn(1, frames=2)
    assert prediction.probabilities is not None
    fold = loss_of(name).statistic(CLASSES)
    figures = fold.compute(update(fold, prediction, truth))
    lost = int((np.isnan(prediction.probabilities[..., 0]) & (truth != 255)).sum())
    shown = figures["losses"][0] if name == "compound" else figures
    assert shown["unpredicted_pixels"] == lost > 0
    if name in PIXELS:
        assert figures["pixels"] == (truth != 255).sum() - lost
    other = prediction.probabilities.copy()
    other[truth == 255] = 0.5
    again = update(fold, Prediction(prediction.labels, other), truth)
    assert fold.compute(again) == figures
    nothing = update(fold, prediction, np.full_like(truth, 255))
    assert fold.merge(nothing, again) == again
    assert fold.compute(nothing)["loss"] is None
    gone = Prediction(prediction.labels, np.full_like(other, np.nan))
    assert fold.compute(update(fold, gone, truth))["loss"] is None


@pytest.mark.parametrize("name", losses.names())
def test_state_is_kept_without_pickle(name: str) -> None:
    fold = loss_of(name).statistic(CLASSES)
    for state in (fold.empty(), update(fold, *drawn(2))):
        again = decode(encode(state))
        assert again == state
        assert fold.compute(again) == fold.compute(state)
    parts = [fold.part(*drawn(2))] if isinstance(fold, Framed) else []
    assert [decode(encode(part)) for part in parts] == parts


def test_two_classes_are_one_question_of_the_second() -> None:
    prediction, truth = drawn(4, classes=2)
    assert prediction.probabilities is not None
    p = np.nan_to_num(prediction.probabilities[..., 1:], nan=0.2)
    both = np.concatenate([1 - p, p], axis=-1)
    for name in ("bce", "weighted_bce", "balanced_ce"):
        options = {"beta": 0.7} if name != "bce" else {}
        fold = loss_of(name, **options).statistic(("no", "yes"))
        figure = fold.compute(update(fold, Prediction(prediction.labels, both), truth))["loss"]
        trained = losses.create(name, ignore=255, **options)(truth, p)
        assert figure == pytest.approx(float(trained), rel=1e-5)


def test_windows_larger_than_a_block_are_cut_inside() -> None:
    tiny, truth = drawn(6, height=3, width=7)
    assert tiny.probabilities is not None
    p = np.tile(tiny.probabilities, (1, 100, 300, 1))
    prediction = Prediction(np.tile(tiny.labels, (1, 100, 300)), p)
    for name in ("bce", "dice"):
        fold = loss_of(name).statistic(CLASSES)
        one = update(fold, tiny, truth)
        many = update(fold, prediction, np.tile(truth, (1, 100, 300)))
        if name == "bce":
            assert many == tuple(30_000 * count for count in one)
        else:
            expected = [[30_000 * count for count in of_class] for of_class in one.pooled]
            assert [list(of_class) for of_class in many.pooled] == expected


def test_what_is_missing_is_named() -> None:
    prediction, truth = drawn(0)
    fold = loss_of("dice").statistic(CLASSES)
    with pytest.raises(ValueError, match="dice: needs probabilities, and the prediction has none"):
        fold.update(fold.empty(), Prediction(prediction.labels), truth)
    fold = loss_of("dice").statistic(CLASSES[:2])
    with pytest.raises(ValueError, match=r"dice: probabilities are \(1, 9, 11, 3\), expected"):
        fold.update(fold.empty(), prediction, truth)


def test_options_that_do_not_fit_the_classes_are_refused_before_any_pixel() -> None:
    for name in losses.names():
        with pytest.raises(ValueError, match=r"class_weights: \w+ needs 3 here, got 2"):
            loss_of(name, class_weights=[1, 2]).statistic(CLASSES)
    with pytest.raises(ValueError, match="alpha: 3 classes need as many, got 2"):
        loss_of("focal", alpha=[0.1, 0.2]).statistic(CLASSES)
    with pytest.raises(ValueError, match="categorical_ce: needs at least two classes"):
        loss_of("categorical_ce").statistic(CLASSES[:1])


def test_a_great_value_is_not_clipped() -> None:
    fold = loss_of("hausdorff", alpha=9.0).statistic(("no", "yes"))
    truth = np.zeros((1, 1, 40), np.uint8)
    truth[..., :2] = 1
    p = np.stack([truth, 1 - truth], axis=-1).astype(np.float32)
    figure = fold.compute(update(fold, Prediction(truth, p), truth))["loss"]
    distances = np.array([2, 1, *range(1, 39)], float)
    assert figure == pytest.approx((2 * distances**9).mean())
    assert figure > 2**31


ALONE = """
import sys
import numpy as np
from segengine import losses, registry
from segengine.types import Prediction
p = np.full((1, 5, 5, 3), 1 / 3, np.float32)
truth = np.arange(25, dtype=np.uint8).reshape(1, 5, 5) % 3
for name in losses.names():
    options = {"losses": [{"loss": "dice"}]} if name == "compound" else {}
    fold = registry.create("losses", name, options).statistic(("a", "b", "c"))
    fold.compute(fold.update(fold.empty(), Prediction(truth, p), truth))
heavy = {"keras", "tensorflow", "torch", "skimage"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""


def test_a_worker_needs_neither_keras_nor_tensorflow() -> None:
    found = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr


def test_merging_many_is_exact() -> None:
    fold = loss_of("focal").statistic(CLASSES)
    states = [update(fold, *drawn(seed, height=2, width=3)) for seed in range(20)]
    forwards, backwards = reduce(fold.merge, states), reduce(fold.merge, states[::-1])
    assert forwards == backwards
    assert forwards.total == sum(state.total for state in states)
