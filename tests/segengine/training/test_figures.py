"""The figures of an epoch are those that evaluation gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.metrics.confusion import Confusion
from segengine.training.figures import Figure
from segengine.types import Prediction


@given(st.integers(2, 5), st.integers(0, 99), st.integers(1, 3))
@settings(max_examples=15, deadline=None)  # TensorFlow's first call is slow
def test_figures_are_those_of_the_confusion_metric(classes: int, seed: int, batches: int) -> None:
    rng = np.random.default_rng(seed)
    metric = Confusion(tuple(f"class {i}" for i in range(classes)))
    state = metric.empty()
    figures = {n: Figure(n, classes) for n in ("accuracy", "mean_iou", "mean_dice")}
    for _ in range(batches):
        true = rng.choice([*range(classes - 1), 255], (2, 5, 4)).astype(np.int32)
        scores = rng.normal(size=(2, 5, 4, classes)).astype(np.float32)
        labels = scores.argmax(axis=-1).astype(np.uint8)
        state = metric.update(state, Prediction(labels), true.astype(np.uint8))
        for figure in figures.values():
            figure.update_state(true, scores)
    found = metric.compute(state)
    for name, ours in figures.items():
        wanted = found[{"accuracy": "pixel_accuracy"}.get(name, name)]
        assert float(ours.result()) == pytest.approx(wanted or 0.0, abs=1e-6)


def test_one_channel_is_the_second_class_where_its_logit_is_above_zero() -> None:
    figure = Figure("accuracy", 2)
    figure.update_state(
        np.array([[[0, 1, 1, 255]]], np.int32), np.array([[[[-1.0], [2.0], [-3.0], [9.0]]]])
    )
    assert float(figure.result()) == pytest.approx(2 / 3)
    figure.reset_state()
    assert float(figure.result()) == 0
