"""The paired bootstrap is SciPy's, draw by draw."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from segengine.differences import bootstrap
from segengine.differences.bootstrap import CONFIDENCE, DRAWS, draws, interval


@pytest.mark.parametrize("together", [1 << 22, 37, 1])
@pytest.mark.parametrize("seed", [0, 7])
def test_it_is_scipys(seed: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "TOGETHER", together)  # however many are drawn at a time
    chance = np.random.default_rng(3)
    a = chance.integers(1, 100, (13, 2))
    b = a + chance.integers(0, 20, (13, 2))

    def difference(rows: np.ndarray) -> float:
        rows = rows.astype(int)
        one, other = a[rows].sum(axis=0), b[rows].sum(axis=0)
        return float(other[0] / other.sum() - one[0] / one.sum())

    expected = scipy.stats.bootstrap(
        (np.arange(13),), difference, n_resamples=DRAWS, vectorized=False, method="percentile",
        confidence_level=CONFIDENCE, rng=np.random.default_rng(seed),
    )  # fmt: skip
    values = []
    for counts in draws(13, seed):
        assert counts.sum() == 13
        one, other = counts @ a, counts @ b
        values.append(other[0] / other.sum() - one[0] / one.sum())
    np.testing.assert_allclose(values, expected.bootstrap_distribution, rtol=1e-12)
    found = interval(np.array(values))
    np.testing.assert_allclose(found, expected.confidence_interval, rtol=1e-12)


def test_of_what_has_no_figure_there_is_no_interval() -> None:
    assert interval(np.array([0.1, np.nan])) is None
    assert interval(np.array([])) is None
