"""The public interface as a type checker sees it: `mypy --strict tests/typing/api.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import segengine
from segengine.progress import Summary
from segengine.reader import SceneStore, Store
from segengine.segmenters.edges import Canny, Contrast, Edges, Regions
from segengine.segmenters.kmeans import KMeans, KMeansSurveyor
from segengine.segmenters.meanshift import MeanShift
from segengine.types import Bool, Linker, Merger, Pixels, Plugin, Prediction, Segmenter, Surveyor


class Bright:
    """A segmenter as a stranger writes it: no base class."""

    classes: tuple[str, ...] = ("dark", "bright")
    halo: int | None = 0
    stride: int = 1

    def segment(self, pixels: Pixels) -> Prediction:
        return Prediction((pixels[..., 0] > 127).astype(np.uint8))


class Mean:
    """A surveyor as a stranger writes it: its state is (sum, count)."""

    classes: tuple[str, ...] = ("dark", "bright")
    scope = "run"

    def survey(self, pixels: Pixels, valid: Bool) -> tuple[int, int]:
        return int(pixels[valid].sum()), int(valid.sum())

    def merge(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return a[0] + b[0], a[1] + b[1]

    def fit(self, state: tuple[int, int]) -> Bright:
        return Bright()


segmenter: Segmenter = Bright()
segmenters: tuple[type[Segmenter], ...] = (Bright, Edges, Canny, Regions, KMeans)
linker: type[Linker] = Canny
merger: type[Merger] = MeanShift
surveyors: tuple[type[Surveyor[Any]], ...] = (KMeansSurveyor, Contrast)


def notebook(image: NDArray[np.uint8]) -> None:
    """What the README shows."""
    assert_type(segengine.segment(image, Bright()), NDArray[Any])
    assert_type(segengine.create_segmenter({"kind": "threshold"}), Plugin)
    assert_type(segengine.predict(image, {"kind": "kmeans", "clusters": 3}), Prediction)
    assert_type(segengine.run({"segmenter": {"kind": "threshold"}}), Summary)
    store = segengine.open_store("masks.zarr")
    assert_type(store, Store)
    assert_type(store.scenes, Mapping[str, SceneStore])
    assert_type(store["scene"], SceneStore)
    assert_type(store.metrics, dict[str, Any])
    assert_type(segengine.load_job("job.yaml"), segengine.Job)
    assert_type(segengine.Prediction(image).instances, NDArray[np.uint32] | None)
