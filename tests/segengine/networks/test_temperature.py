"""Temperatures: the likeliest by SciPy's own search, whatever the order, and no label changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from segengine.networks.temperature import Temperature, fit, likelihood

Array = np.ndarray[Any, np.dtype[Any]]


def drawn(seed: int, classes: int = 4, count: int = 6000) -> tuple[Array, Array]:
    """Probabilities that are too sure where they are unsure, and the classes that are true."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 2
    true = np.array([rng.choice(classes, p=p) for p in softmax(logits, -1)])
    return softmax(logits * 1.8, -1).astype(np.float32), true


def by_definition(values: Array, scale: float, entropy: float) -> Array:
    exact = values.astype(np.float64)
    logs = np.log(exact)
    h = -(exact * logs).sum(-1) / np.log(values.shape[-1])
    return np.asarray(softmax(logs / (scale * h**entropy)[:, None], -1))


def test_it_is_the_formula_and_changes_no_label() -> None:
    values, _ = drawn(1)
    found = Temperature(1.7, 0.3).apply(values)
    np.testing.assert_allclose(found, by_definition(values, 1.7, 0.3), atol=1e-6)
    np.testing.assert_array_equal(found.argmax(-1), values.argmax(-1))
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    sure = np.float32([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [np.nan] * 4])
    kept = Temperature(3.0, -1.0).apply(sure)
    np.testing.assert_array_equal(kept, sure)


@pytest.mark.parametrize("seed", [2, 3])
def test_it_is_the_likeliest_in_any_order(seed: int) -> None:
    values, true = drawn(seed)
    found = fit(values, true)

    def loss(at: Array) -> float:
        chosen = by_definition(values, np.exp(at[0]), at[1])[np.arange(len(true)), true]
        return float(-np.log(chosen).mean())

    best = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    assert np.log(found.scale) == pytest.approx(best.x[0], abs=1e-4)
    assert found.entropy == pytest.approx(best.x[1], abs=1e-4)
    assert likelihood(found.apply(values), true) == pytest.approx(best.fun, abs=1e-6)
    assert likelihood(values, true) > best.fun + 0.01
    order = np.random.default_rng(0).permutation(len(true))
    assert fit(values[order], true[order]) == found


def test_what_cannot_be_fitted_is_said() -> None:
    values, _ = drawn(4)
    with pytest.raises(ValueError, match="every pixel is labelled right"):
        fit(values, values.argmax(-1))
    with pytest.raises(ValueError, match="99 pixels have a probability"):
        fit(values[:99], values[:99].argmin(-1))


def test_options_are_checked() -> None:
    assert Temperature.of(2) == Temperature(2.0)
    assert Temperature.of({"scale": 2, "entropy": 0.5}) == Temperature(2.0, 0.5)
    assert Temperature.of(None) is Temperature.of(1) is None
    for wrong in (0, -1, True, "2", [1, 2], {"scal": 1}, {"scale": 1, "entropy": 9}, float("nan")):
        with pytest.raises(ValueError, match=r"^temperature: "):
            Temperature.of(wrong)
