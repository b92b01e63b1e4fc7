"""Compiled loops: what Python gives, everywhere, also where nothing can be kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segengine.compiled import Compiled, compiled


@compiled
def shifted(a: float, b: float, c: float) -> float:
    return a * b + c


@compiled
def fill(values: NDArray[Any], out: NDArray[Any]) -> None:
    for i in range(len(values)):
        out[i] = shifted(values[i], 3.0, -1.0)


def test_a_product_and_a_sum_are_rounded_each() -> None:
    """A fused multiply-add would keep the product's last bits."""
    a = 1 + 2.0**-30
    assert shifted(a, a, -1 - 2.0**-29) == 0.0
    assert shifted.plain(a, a, -1 - 2.0**-29) == 0.0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_one_may_call_another(dtype: Any) -> None:
    values = np.arange(20).astype(dtype)
    out = np.empty(20, np.float64)
    fill(values, out)
    assert np.array_equal(out, values * 3.0 - 1.0)


def test_division_by_zero_is_as_in_numpy() -> None:
    divided = Compiled(_divided)
    assert divided(1.0, 0.0) == np.inf


def _divided(a: float, b: float) -> float:
    return a / b


ASK = "import sys; import segengine.compiled; assert 'numba' not in sys.modules"
CALL = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import loops
assert loops.twice(21) == 42
print(sum(loops.twice.ready().stats.cache_hits.values()))
"""
LOOPS = """
from segengine.compiled import compiled

@compiled
def twice(value):
    return value + value
"""


def run(code: str, folder: Path, **env: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | env,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_it_loads_nothing(tmp_path: Path) -> None:
    run(ASK, tmp_path)


def test_the_next_process_need_not_compile(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text(LOOPS)
    assert [run(CALL, tmp_path) for _ in range(2)] == ["0", "1"]


def test_it_runs_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """A read-only root without a home, as in a container: a file is where each folder would be."""
    (tmp_path / "loops.py").write_text(LOOPS)
    (tmp_path / "__pycache__").write_text("")
    home = tmp_path / "home"
    home.write_text("")
    env = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "NUMBA_CACHE_DIR": ""}
    assert [run(CALL, tmp_path, **env) for _ in range(2)] == ["0", "0"]
