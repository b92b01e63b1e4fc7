"""Segment images at scale: masks that do not depend on the cuts, figures that merge exactly.

import segengine
summary = segengine.run({"source": {"paths": ["photos/"]}, "segmenter": {"kind": "kmeans",
                         "clusters": 3}, "store": {"path": "out/masks.zarr"}})
store = segengine.open_store("out/masks.zarr")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Before anything loads TensorFlow, which leaves oneDNN out on processors without instructions for
# networks: its own kernels give other bits for another number of threads, and no gradients of
# dilated convolutions.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if TYPE_CHECKING:
    from segengine import losses, metrics, models, testing
    from segengine.job import Job, load_job
    from segengine.reader import open_store
    from segengine.reference import create_segmenter, predict, segment
    from segengine.runs import run_job as run
    from segengine.types import Prediction

__all__ = [
    "Job",
    "Prediction",
    "create_segmenter",
    "load_job",
    "losses",
    "metrics",
    "models",
    "open_store",
    "predict",
    "run",
    "segment",
    "testing",
]

_PLACES = {
    "Job": "job:Job",
    "Prediction": "types:Prediction",
    "create_segmenter": "reference:create_segmenter",
    "load_job": "job:load_job",
    "losses": "losses",
    "metrics": "metrics",
    "models": "models",
    "open_store": "reader:open_store",
    "predict": "reference:predict",
    "run": "runs:run_job",
    "segment": "reference:segment",
    "testing": "testing",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use: importing segengine imports nothing else."""
    if name not in _PLACES:
        raise AttributeError(f"module 'segengine' has no attribute {name!r}")
    import importlib

    module, _, attribute = _PLACES[name].partition(":")
    found = importlib.import_module(f"segengine.{module}")
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
