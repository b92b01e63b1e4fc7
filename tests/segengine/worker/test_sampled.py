"""What a sample of pixels adds up to: NumPy's mean and spread, the same for any cut, a column a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segengine.worker.sampled import MOST, STEP, Sampled, added, is_sampled, moments, sample

KINDS = ("uint8", "int16", "uint16", "uint32", "float32", "float64")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_numpy_s_mean_and_spread(kind: str) -> None:
    rng = np.random.default_rng(1)
    pixels = (rng.random((300, 1500, 3)) * [5, 60, 120]).astype(kind)
    valid = rng.random((300, 1500)) < 0.7
    here = pixels[::STEP, ::STEP][valid[::STEP, ::STEP]].astype(np.float64)
    found = np.array(moments(sample(pixels, valid, (0, 0))))
    assert found[:, 0] == pytest.approx(here.mean(axis=0), abs=2**-16)
    assert found[:, 1] == pytest.approx(here.std(axis=0), abs=2**-16)


@given(
    st.sampled_from(KINDS).flatmap(
        lambda kind: arrays(kind, st.tuples(st.integers(1, 70), st.integers(1, 70), st.just(2)))
    ),
    st.integers(0, 70),
    st.integers(0, 70),
)
def test_it_does_not_depend_on_the_cut(pixels: Any, row: int, col: int) -> None:
    parts: Sampled = ()
    with np.errstate(invalid="ignore"):
        valid = pixels[..., 0] % 5 != 1
        for y, rows in ((0, slice(0, row)), (row, slice(row, None))):
            for x, cols in ((0, slice(0, col)), (col, slice(col, None))):
                parts = added(parts, sample(pixels[rows, cols], valid[rows, cols], (y, x)))
        assert parts == sample(pixels, valid, (0, 0))


def test_numbers_that_doubles_do_not_add_up_are_exact() -> None:
    pixels = np.full((STEP * 200, STEP * 100, 1), 2**24 - 2**-10)
    pixels[0, 0], pixels[STEP, 0], pixels[0, STEP] = np.nan, np.inf, 2**-16
    count, total, square = sample(pixels, None, (0, 0))
    each = 2**40 - 2**6
    assert count == 200 * 100 - 2
    assert (total, square) == ((count - 1) * each + 1, (count - 1) * each**2 + 1)


def test_of_very_many_shards_some_are_sampled() -> None:
    assert all(is_sampled(i, MOST) for i in range(MOST))
    assert MOST / 2 <= sum(is_sampled(i, 10 * MOST + 7) for i in range(10 * MOST + 7)) <= MOST


@pytest.mark.parametrize("cleaned", [False, True])
def test_a_run_s_row_tells_it_for_any_cut(
    new_bench: Any, noise: Any, plain_report: None, cleaned: bool
) -> None:
    pixels = noise(3, (90, 70, 3), "float32")
    pixels[:33] = np.nan
    segmenter: dict[str, Any] = {
        "kind": "threshold",
        "method": "fixed",
        "levels": [float(np.nanmean(pixels))],
    }
    if cleaned:
        segmenter["instances"] = {"kind": "components", "min_area": 2}  # decided after the drafts
    rows = []
    for shard in (128, 32):
        bench = new_bench()
        bench.put("scene.zarr", pixels)
        for levels in (segmenter["levels"], [0.0]):
            bench.run({**segmenter, "levels": levels}, store={"shard": shard})
        rows += bench.open().table("runs").to_pylist()
    names = [f"inputs.{band}{what}" for band in ("", "1.", "2.", "3.") for what in ("mean", "std")]
    assert len(rows) == 4
    assert all([row[name] for name in names] == [rows[0][name] for name in names] for row in rows)
    here = pixels[::STEP, ::STEP][~np.isnan(pixels[::STEP, ::STEP]).any(axis=-1)].astype(float)
    wanted = [here.mean(), here.std()]
    for band in range(3):
        wanted += [here[:, band].mean(), here[:, band].std()]
    assert [rows[0][name] for name in names] == pytest.approx(wanted, rel=1e-4)


def test_an_alert_tells_of_darker_inputs(bench: Any, noise: Any, plain_report: None) -> None:
    pixels = noise(4, (64, 64, 3), "float32")
    alerts = [{"figure": "inputs.mean", "shift": 0.2}]
    kind = {"kind": "threshold", "method": "mean"}
    for darker in (1.0, 1.0, 0.5):
        bench.put("scene.zarr", pixels * np.float32(darker))
        summary = bench.run(kind, alerts=alerts)
        assert [alert.figure for alert in summary.alerts] == ["inputs.mean"] * (darker < 1)
