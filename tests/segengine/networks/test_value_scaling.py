"""Values are scaled as the formulas of MLM 1.5 say, band by band; else a line says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segengine
from segengine.networks import value_scaling
from segengine.networks.scale import Scale
from segengine.segmenters.model import create
from tests.segengine.networks.test_trained import mlm, run, write_model
from tests.segengine.segmenters import finders
from tests.segengine.sources.stac_scenes import make_item, pixels, save

FORMULAS = {
    "min-max": lambda x, o: (x - o["minimum"]) / (o["maximum"] - o["minimum"]),
    "z-score": lambda x, o: (x - o["mean"]) / o["stddev"],
    "clip": lambda x, o: min(max(x, o["minimum"]), o["maximum"]),
    "clip-min": lambda x, o: max(x, o["minimum"]),
    "clip-max": lambda x, o: min(x, o["maximum"]),
    "offset": lambda x, o: x - o["value"],
    "scale": lambda x, o: x / o["value"],
    None: lambda x, o: x,
}
WHOLE = st.integers(-5000, 70_000)
OBJECTS = st.builds(
    lambda kind, low, more, value: {
        "type": kind, "minimum": low, "maximum": low + more, "mean": low, "stddev": more, "value": value
    },
    st.sampled_from(list(FORMULAS)), WHOLE, st.integers(1, 70_000), st.integers(1, 10_000),
)  # fmt: skip


@given(objects=st.lists(OBJECTS, min_size=1, max_size=5), data=st.data())
def test_each_band_is_scaled_as_the_formula_says(objects: list[Any], data: st.DataObject) -> None:
    spec, reason = value_scaling.of_input({"value_scaling": objects})
    assert reason == ""
    bands = 4 if len(objects) == 1 else len(objects)  # one object stands for all bands
    values = data.draw(st.lists(st.integers(0, 65_535), min_size=bands, max_size=bands))
    scale = Scale.of(spec)
    scale.check(bands)
    found = scale.apply(np.array([values], np.uint16))[0]
    each = objects * bands if len(objects) == 1 else objects
    wanted = [FORMULAS[o["type"]](float(v), o) for v, o in zip(values, each, strict=True)]
    np.testing.assert_allclose(found, np.float32(wanted), rtol=3e-7, atol=1e-6)
    clipped = [o["type"] in ("clip", "clip-min", "clip-max", None) for o in each]
    np.testing.assert_array_equal(found[clipped], np.float32(wanted)[clipped])


def test_what_is_not_a_number_stays_nodata() -> None:
    scale = Scale.of({"minimum": 10, "maximum": [20, None]})
    found = scale.apply(np.float32([[np.nan, np.nan], [5, 5], [25, 25]]))
    np.testing.assert_array_equal(found, np.float32([[0, 0], [10, 10], [20, 25]]))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"minimum": 3, "maximum": 2}, "scale.minimum: must not be above scale.maximum"),
        ({"minimum": "low"}, "scale.minimum: must be a number"),
        ({"maximum": [1, float("nan")]}, "scale.maximum: must be a number"),
        ({"minimum": 1, "range": [0, 2]}, "scale.range: .* stand alone"),
        ({"clip": 1}, "scale.clip: no such key; give divide, mean, std, minimum and maximum"),
        ({"minimum": [1, 2, 3]}, "scale.minimum: has 3 values and the model takes 2 bands"),
    ],
)
def test_bounds_that_are_none_are_refused(spec: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Scale.of(spec).check(2)


def test_a_model_whose_item_clips_sees_clipped_values(tmp_path: Path) -> None:
    """The same labels as those of pixels that were clipped before, by the model alone."""
    model = write_model(tmp_path / "m" / "unet.onnx", bands=2)
    clips = [{"type": "clip", "minimum": 80, "maximum": 120}, {"type": "offset", "value": 120}]
    (tmp_path / "m" / "unet.json").write_text(json.dumps(mlm(value_scaling=clips)))
    bands = {name: pixels(i) for i, name in enumerate(("nir", "red"))}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    item = save(tmp_path / "a", make_item(tmp_path / "a", "night", bands))
    cut = {"nir": np.clip(bands["nir"], 80, 120), "red": bands["red"]}
    before = save(tmp_path / "b", make_item(tmp_path / "b", "night", cut))
    found = run(
        tmp_path / "a.zarr", {"kind": "stac", "paths": [item]}, path=model, activation="softmax"
    )
    assert not found.messages
    alone = write_model(tmp_path / "unet.onnx", bands=2)
    source = {"kind": "stac", "paths": [before], "assets": ["nir", "red"], "resolution": "10 m"}
    own = {"classes": ["none", "field"], "scale": {"mean": [0, 120]}}
    run(tmp_path / "b.zarr", source, path=alone, activation="softmax", **own)
    masks = [segengine.open_store(tmp_path / f"{name}.zarr")["night"].mask[:] for name in "ab"]
    np.testing.assert_array_equal(*masks)
    assert {0, 1} == set(np.unique(masks[0]))
    again = {"minimum": [80, None], "maximum": [120, None], "mean": [0, 120], "std": [1, 1]}
    quiet = run(
        tmp_path / "a.zarr", {"kind": "stac", "paths": [item]},
        path=model, activation="softmax", scale=again,
    )  # fmt: skip
    assert not [line for line in quiet.messages if "scales" in line], "the job scales as the model"


def test_a_strangers_words_are_shortened() -> None:
    for odd in ("x" * 10_000, [{"type": "a\nb" * 5000}], [{"type": "\x1b[2J"}]):
        _, reason = value_scaling.of_input({"value_scaling": odd})
        assert reason.isprintable()
        assert len(reason) < 130


def test_a_detector_whose_scaling_cannot_be_done_says_so(tmp_path: Path) -> None:
    boxes, labels = np.float32([[1, 1, 20, 20]]), np.array([1])
    path = finders.detector(tmp_path / "d.onnx", boxes, labels, np.float32([0.9]), None)
    odd = mlm(value_scaling=[{"type": "processing", "format": "gdal-calc", "expression": "A*2"}])
    (tmp_path / "d.onnx.json").write_text(json.dumps(odd))
    with pytest.raises(
        ValueError, match=r"scale: d\.onnx\.json scales .* \(processing\); say here"
    ):
        create(str(path), classes=["ship"])
    assert create(str(path), classes=["ship"], scale={"divide": 255}).classes[1:] == ("ship",)
