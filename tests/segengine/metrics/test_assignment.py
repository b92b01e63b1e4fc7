"""The assignment against SciPy's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.optimize import linear_sum_assignment

from segengine.metrics._assignment import best_pairs

TABLES = arrays(
    np.int64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7),
    elements=st.integers(0, 4) | st.integers(0, 2**40),
)


@given(TABLES)
def test_no_other_pairs_agree_more(gains: np.ndarray) -> None:
    pairs = best_pairs(gains)
    assert len(pairs) == len(set(pairs.values())) == min(gains.shape)
    rows, columns = linear_sum_assignment(gains, maximize=True)
    assert sum(gains[p, t] for p, t in pairs.items()) == gains[rows, columns].sum()
