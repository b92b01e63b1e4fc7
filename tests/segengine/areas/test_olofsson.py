"""The paper's worked example to the printed digits, the formulas by simulation, allocations."""

from __future__ import annotations

import numpy as np
import pytest

from segengine.areas.olofsson import Z, allocated, estimate

COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
"""Table 8: deforestation, forest gain, stable forest, stable non-forest."""
PIXELS = np.array([200_000.0, 150_000, 3_200_000, 6_450_000])
HECTARES = PIXELS * 0.09


def test_the_worked_example_to_the_printed_digits() -> None:
    found = estimate(COUNTS, HECTARES)
    total = HECTARES.sum()
    assert (total * found.shares).round().tolist() == [21158, 11686, 285770, 581386]
    assert (Z * total * found.shares_se).round().tolist() == [6158, 3756, 15510, 16282]
    assert found.users.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert (Z * found.users_se).round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert round(found.accuracy, 2) == 0.95
    assert round(Z * found.accuracy_se, 2) == 0.02
    assert found.producers.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]
    assert round(Z * found.producers_se[0], 2) == 0.21
    assert found.proportions.round(4).tolist() == [  # table 9
        [0.0176, 0, 0.0013, 0.0011],
        [0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    assert round(found.shares_se[0], 4) == 0.0035


def test_the_example_of_the_year_before() -> None:
    """Olofsson et al. (2013), doi:10.1016/j.rse.2012.10.031: 45,112 ha +- 21,072 of deforestation."""
    counts = np.array([[97, 0, 3], [3, 279, 18], [2, 1, 97]])
    areas = np.array([22353.0, 1122543, 610228])
    found = estimate(counts, areas)
    assert round(areas.sum() * found.shares[0]) == 45112
    assert areas.sum() * found.shares_se[0] * Z == pytest.approx(21072, rel=1e-3)
    assert found.users.round(2).tolist() == [0.97, 0.93, 0.97]
    assert found.producers.round(2).tolist() == [0.48, 0.99, 0.90]
    assert round(found.accuracy, 2) == 0.94


def test_intervals_hold_what_they_say() -> None:
    """Of 1,000 samples of a map that is known, 93 to 97 % have each true figure in their interval."""
    rng = np.random.default_rng(7)
    joint = np.array([[0.12, 0.02, 0.01], [0.03, 0.25, 0.04], [0.02, 0.06, 0.45]])  # map, reference
    mapped = joint.sum(axis=1)
    sizes = allocated(600, mapped.tolist(), None, 2)
    draws = 1000
    held = {"shares": np.zeros(3), "users": np.zeros(3), "producers": np.zeros(3), "all": 0}
    truth = {
        "shares": joint.sum(axis=0),
        "users": np.diag(joint) / mapped,
        "producers": np.diag(joint) / joint.sum(axis=0),
    }
    sums = np.zeros(3)
    for _ in range(draws):
        counts = np.stack(
            [rng.multinomial(n, row / row.sum()) for n, row in zip(sizes, joint, strict=True)]
        )
        found = estimate(counts, mapped * 7e9)
        sums += found.shares
        for name, true in truth.items():
            value, error = getattr(found, name), getattr(found, f"{name}_se")
            held[name] += np.abs(value - true) <= Z * error
        held["all"] += abs(found.accuracy - np.trace(joint)) <= Z * found.accuracy_se
    assert sums / draws == pytest.approx(truth["shares"], rel=0.01)  # unbiased
    for name, counted in held.items():
        shares = np.atleast_1d(counted) / draws
        assert (shares >= 0.93).all(), (name, shares)
        assert (shares <= 0.97).all(), (name, shares)


def test_a_class_without_a_stratum_or_without_a_reference() -> None:
    found = estimate(np.array([[8, 2, 0], [0, 0, 0], [1, 0, 9]]), np.array([4.0, 0, 6]))
    assert np.isnan(found.users[1])
    assert found.shares[1] == pytest.approx(0.4 * 0.2)
    assert found.producers[1] == 0
    none = estimate(np.array([[9, 0], [9, 0]]), np.array([1.0, 1]))
    assert np.isnan(none.producers[1])
    assert np.isnan(none.producers_se[1])
    assert none.shares[1] == 0
    with pytest.raises(ValueError, match="two points"):
        estimate(np.array([[9, 0], [1, 0]]), np.array([1.0, 1]))


@pytest.mark.parametrize(
    ("size", "areas", "spreads", "expected"),
    [
        (100, [1, 9], None, [10, 90]),
        (640, PIXELS.tolist(), None, [13, 9, 205, 413]),
        (7, [1, 1, 1], None, [3, 2, 2]),
        (10, [1, 999, 0], None, [2, 8, 0]),
        (100, [1, 9], [0.4, 0.2], [18, 82]),
        (60, [5, 5], [0.5, 0.0], [58, 2]),
        (20, [3, 1], [0.0, 0.0], [15, 5]),
        (4, [1, 1e9], None, [2, 2]),
    ],
)
def test_allocations(
    size: int, areas: list[float], spreads: list[float] | None, expected: list[int]
) -> None:
    assert allocated(size, areas, spreads, 2) == expected


def test_neyman_is_the_best_allocation() -> None:
    """No move of a point between strata makes the overall accuracy's variance smaller."""
    areas, users = np.array([0.1, 0.3, 0.6]), np.array([0.7, 0.9, 0.95])
    spreads = np.sqrt(users * (1 - users))

    def variance(sizes: np.ndarray) -> float:
        return float((areas**2 * users * (1 - users) / sizes).sum())

    best = np.array(allocated(500, areas.tolist(), spreads.tolist(), 2))
    for give in range(3):
        for take in range(3):
            other = best.copy()
            other[give] -= 2
            other[take] += 2
            assert variance(best) <= variance(other) + 1e-12


def test_too_few_for_all_strata() -> None:
    with pytest.raises(ValueError, match="3 strata need 6 points at least"):
        allocated(5, [1, 2, 3], None, 2)
