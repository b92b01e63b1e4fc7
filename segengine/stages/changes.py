"""Change points of a figure: where the level it has had from run to run becomes another.

    values of the last runs --> their noise --> ruptures (PELT) --> a change among the last few, or none

PELT (Killick, Fearnhead and Eckley, 2012, doi:10.1080/01621459.2012.737745) finds the levels that fit
best where each further one costs a penalty. Here that is what noise alone hardly ever gains: the
squared quantile of Student's t for as many values as tell of the noise, times its variance.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from segengine.errors import JobError
from segengine.terms.nights import AlertSpec

MOST = 60
"""Runs that are looked at, this one among them."""
ENOUGH = 12
"""Of fewer nothing is said: they do not tell noise from change."""
NEW = 3
"""A change is told that began in one of so many last runs."""
CHANCE = 4e-5
"""How often noise alone is taken for a change that lies at a given run."""
FLOOR = 1e-3
"""Noise, to the figure, that one has at least which hardly moves: less is no change to tell of."""


class Change(NamedTuple):
    """From one level to another."""

    runs: int
    """Ago: 0 where the last value is the first of the new level."""
    before: float
    """The level that it was."""


def require_library(specs: Iterable[AlertSpec]) -> None:
    """Raise JobError where alerts ask for change points, and what finds them is not installed."""
    wanted = any(spec.change for spec in specs)
    if wanted and importlib.util.find_spec("ruptures") is None:
        raise JobError(
            "alerts: change: ruptures is not installed; pip install 'segengine[alerts]', or use shift, "
            "below or above"
        )


def new_change(values: Sequence[float]) -> Change | None:
    """The change that began in one of the last few runs, if any; `values`: the oldest first."""
    found = np.asarray(values[-MOST:], np.float64)
    if len(found) < ENOUGH or np.ptp(found) == 0:
        return None
    from ruptures import KernelCPD
    from scipy.special import stdtrit

    scaled = (found - np.median(found)) / _noise(found)
    penalty = stdtrit(len(found) - NEW - 1, 1 - CHANCE / 2) ** 2
    # Cut in two: a linear kernel's cost is the sum of squares about each level.
    cuts = KernelCPD(kernel="linear", min_size=1).fit(scaled).predict(pen=penalty)[:-1]
    new = [cut for cut in cuts if len(found) - cut <= NEW]
    if not new:
        return None
    first = max((cut for cut in cuts if cut < new[0]), default=0)
    return Change(len(found) - 1 - new[-1], float(found[first : new[0]].mean()))


def _noise(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Its standard deviation, by all but what may be new.

    Of the values, or of the steps between them, which a change before tells of once only.
    """
    old = values[:-NEW]
    variance = min(old.var(ddof=1), np.square(np.diff(old)).mean() / 2)
    least = max(FLOOR * abs(np.median(values)), 1e-9 * np.abs(values).max())
    return float(max(np.sqrt(variance), least))
