"""The report's charts: steps over time, as SVG paths, over round numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from segengine.report._format import moment
from segengine.store.columns import arrow_scalar, numbers_of

GAP = 900.0
"""Seconds without a shard that part one run from the next."""
_BINS = 72
WIDTH, HEIGHT = 960, 180
_LINES = 5
"""Grid lines of a chart, at most."""


def throughput(shards: Any) -> dict[str, Any] | None:
    """Pixels a second over the last run, by when shards were finished; None before the first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    done = shards.filter(pc.greater(shards.column("pixels"), arrow_scalar(0, pa.int64())))
    if not done.num_rows:
        return None
    ends, pixels, seconds = (
        numbers_of(done.column(name).combine_chunks()) for name in ("finished", "pixels", "seconds")
    )
    order = np.argsort(ends)
    ends, pixels, seconds = ends[order], pixels[order].astype(np.float64), seconds[order]
    first = int(np.flatnonzero(np.diff(ends, prepend=-np.inf) > GAP)[-1])
    earlier, ends, pixels, seconds = first, ends[first:], pixels[first:], seconds[first:]
    start, stop = float((ends - seconds).min()), float(ends[-1])
    span = max(stop - start, 1e-3)
    bins = int(min(_BINS, max(4, ends.size)))
    # a shard's pixels are spread over the time it took, else a chart of few shards is all spikes
    edges = start + span * np.arange(bins + 1) / bins
    total = np.zeros(bins)
    for a, b, n in zip(ends - np.maximum(seconds, 1e-3), ends, pixels, strict=True):
        overlap = np.minimum(edges[1:], b) - np.maximum(edges[:-1], a)
        total += n * np.clip(overlap, 0, None) / (b - a)
    rate = total / (span / bins)
    return {
        **step_chart(rate),
        "peak": float(rate.max()),
        "mean": float(pixels.sum() / span),
        "seconds": span,
        "start": moment(start, "seconds"),
        "stop": moment(stop, "seconds"),
        "shards": int(ends.size),
        "earlier": earlier,
    }


def step_chart(rate: Any) -> dict[str, Any]:
    """Line and area of a step chart, in a box of WIDTH x HEIGHT."""
    top = float(rate.max()) * 1.08 or 1.0
    y = HEIGHT - rate / top * HEIGHT
    x = np.linspace(0, WIDTH, len(rate) + 1)
    points = []
    for i, value in enumerate(y):
        points += [f"{x[i]:.1f},{value:.1f}", f"{x[i + 1]:.1f},{value:.1f}"]
    line = "M" + " L".join(points)
    return {
        "line": line,
        "area": f"{line} L{WIDTH},{HEIGHT} L0,{HEIGHT} Z",
        "width": WIDTH,
        "height": HEIGHT,
        "grid": [
            {"y": round(HEIGHT - HEIGHT * tick / top, 1), "rate": tick} for tick in ticks(top)
        ],
    }


def ticks(top: float) -> list[float]:
    """Round values above 0 and up to `top`, evenly apart: by 1, 2 or 5 times a power of ten.

    >>> ticks(27.3), ticks(0.9)
    ([10.0, 20.0], [0.2, 0.4, 0.6, 0.8])
    >>> ticks(450e3)
    [100000.0, 200000.0, 300000.0, 400000.0]
    """
    if not (top > 0 and math.isfinite(top)):
        return []
    power = math.floor(math.log10(top / _LINES))
    steps = (float(f"{digit}e{power}") for digit in (1, 2, 5, 10))
    step = next(step for step in steps if top / step <= _LINES)
    return [float(f"{step * k:.6g}") for k in range(1, int(top / step + 1e-9) + 1)]
