"""What is not used is not loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {
    "tensorflow", "keras", "rasterio", "pycocotools", "prefect", "torch", "av", "h5py", "matplotlib",
    "sklearn", "ruptures",
}  # fmt: skip


def modules_after(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh process has loaded after some code."""
    ask = "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\n{ask}", *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return set(json.loads(found.stdout.splitlines()[-1]))


def test_importing_segengine_loads_nothing() -> None:
    found = modules_after("import segengine")
    assert not found & (HEAVY | {"numpy", "zarr", "dask", "distributed", "cv2", "pyarrow", "scipy"})
    assert "segengine" in found


def test_every_public_name_is_there() -> None:
    import segengine

    for name in segengine.__all__:
        assert getattr(segengine, name) is not None
        assert name in dir(segengine)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        segengine.nothing  # noqa: B018


def test_a_worker_loads_what_it_uses() -> None:
    found = modules_after("import segengine.dispatch.child, segengine.worker.segment")
    assert not found & (HEAVY | {"pyarrow", "pydantic", "yaml", "zarr", "scipy", "dask", "numba"})
    assert "numpy" in found


RUN = "import json, sys, segengine; s = segengine.run(json.loads(sys.argv[1])); assert s.computed"


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "kmeans", "clusters": 2, "scope": "run"},
        {"kind": "threshold", "method": "otsu"},
        {
            "kind": "threshold",
            "method": "otsu",
            "instances": {"kind": "components", "min_area": 3, "holes": 3},
        },
    ],
    ids=["kmeans", "threshold", "components"],
)
def test_a_run_on_photos_loads_what_it_uses(spec: Any, bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.put("b.jpg", noise(2, (60, 40, 3)))
    found = modules_after(RUN, json.dumps(bench.job(spec)))
    assert not found & HEAVY
    assert not found & {"dask", "distributed", "skimage", "s3fs", "aiohttp"}
    assert "numba" not in found or spec["kind"] == "kmeans"


DRIVE = """
import json, sys
from segengine.job import Job
from segengine_tasks.session import Session
assert Session(Job.model_validate(json.loads(sys.argv[1])), in_process=True).drive().computed
loaded = [m for m in sys.modules if m.startswith("segengine.watching")]
assert loaded == [], loaded
"""


def test_a_run_that_nobody_watches_pays_nothing_for_it(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    found = modules_after(DRIVE, json.dumps(bench.job({"kind": "threshold"})))
    assert not found & (
        HEAVY | {"opentelemetry", "openlineage", "requests", "bokeh", "segengine_flows"}
    )
