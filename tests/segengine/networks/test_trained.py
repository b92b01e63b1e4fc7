"""What a model says of the images that it learned from is the job's default, and a mismatch is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import segengine
from segengine.errors import JobError
from segengine.job import parse_job
from segengine.networks import trained
from segengine.segmenters.model import create
from tests.segengine.sources.stac_scenes import make_item, pixels, save

DEEPNESS: dict[str, Any] = {
    "model_type": "Segmentor",
    "class_names": {"0": "_background", "1": "building"},
    "resolution": 50.0,
    "standardization_mean": [0.2, 0.3, 0.4],
    "standardization_std": [0.5, 0.25, 0.125],
    "seg_thresh": 0.7,
    "tile_size": 64,
}
SCALE = {"divide": 255, "mean": [0.2, 0.3, 0.4], "std": [0.5, 0.25, 0.125]}


def write_model(path: Path, bands: int = 3, channels: int = 2, **metadata: Any) -> str:
    """A 1 x 1 convolution; metadata as Deepness' own example writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = np.random.default_rng(7).normal(size=(channels, bands, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, bands, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, channels, None, None])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(model, path)
    return str(path)


def write_scene(path: Path, side: float, crs: str = "EPSG:32633") -> str:
    values = np.random.default_rng(1).integers(0, 255, (3, 64, 96), np.uint8)
    place = rasterio.Affine(side, 0, 500_000 if crs != "EPSG:4326" else 15, 0, -side, 50)
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=64, width=96, dtype="uint8", crs=crs, transform=place
    ) as file:  # fmt: skip
        file.write(values)
    return str(path)


def run(folder: Path, source: dict[str, Any], **segmenter: Any) -> Any:
    job = {
        "source": source,
        "segmenter": {"kind": "model", **segmenter},
        "store": {"path": str(folder), "chunk": 32, "shard": 64},
    }
    return segengine.run(job)


def test_a_deepness_model_is_run_as_it_was_trained(tmp_path: Path) -> None:
    told = write_model(tmp_path / "told.onnx", **DEEPNESS)
    bare = write_model(tmp_path / "bare.onnx")
    scene = write_scene(tmp_path / "a.tif", 0.25)
    found = run(tmp_path / "told.zarr", {"paths": [scene]}, path=told)
    assert not found.messages
    wanted = {"scale": SCALE, "classes": ["_background", "building"], "activation": "softmax"}
    run(tmp_path / "bare.zarr", {"paths": [scene], "resolution": 0.5}, path=bare, **wanted)
    stores = [segengine.open_store(tmp_path / f"{name}.zarr") for name in ("told", "bare")]
    assert stores[0].job["source"]["resolution"] == "0.5 m"
    assert stores[0].classes == stores[1].classes == ("_background", "building")
    masks = [store["a"].mask[:] for store in stores]
    assert masks[0].shape == (1, 32, 48)
    np.testing.assert_array_equal(*masks)
    assert {0, 1} == set(np.unique(masks[0]))
    again = run(tmp_path / "told.zarr", {"paths": [scene]}, path=told)
    assert (again.computed, again.skipped) == (0, 1)


def test_the_job_overrules_and_a_mismatch_is_said(tmp_path: Path) -> None:
    path = write_model(tmp_path / "told.onnx", **DEEPNESS)
    scene = write_scene(tmp_path / "a.tif", 0.25)
    own = {"paths": [scene], "resolution": 1.0}
    found = run(tmp_path / "m.zarr", own, path=path, scale={"divide": 100})
    assert segengine.open_store(tmp_path / "m.zarr")["a"].mask.shape == (1, 16, 24)
    assert found.messages == (
        "the model was trained at 0.5 m a pixel (its metadata); the job reads 1 m: scene a",
        "the model (its metadata) scales values by divide 255, mean [0.2, 0.3, 0.4], std [0.5, 0.25, "
        "0.125]; the job scales them by divide 100",
    )


def test_what_a_model_says_and_cannot_mean_is_told(tmp_path: Path) -> None:
    odd = {"model_type": "Detector", "resolution": -5, "standardization_std": [0.5, 0, 0.1],
           "class_names": {"0": "ground", "2": "roof"}, "seg_thresh": "high"}  # fmt: skip
    path = write_model(tmp_path / "told.onnx", **DEEPNESS | odd)
    found = run(tmp_path / "m.zarr", {"paths": [write_scene(tmp_path / "a.tif", 0.5)]}, path=path)
    lines = [line for line in found.messages if "which is not used" in line]
    assert [line.split(" (")[0] for line in lines] == [
        'the model says model_type "Detector"',
        "the model says resolution -5",
        "the model says standardization_mean [0.2, 0.3, 0.4]",
        "the model says standardization_std [0.5, 0, 0.1]",
        'the model says class_names {"0": "ground", "2": "roof"}',
        'the model says seg_thresh "high"',
    ]


def test_where_nothing_tells_metres_pixels_are_read_as_they_are(tmp_path: Path) -> None:
    path = write_model(tmp_path / "told.onnx", **DEEPNESS)
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    degrees = write_scene(tmp_path / "degrees.tif", 1e-4, "EPSG:4326")
    pages = tmp_path / "pages.tif"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(
        pages, save_all=True, append_images=[Image.fromarray(np.ones((40, 50, 3), np.uint8))]
    )
    paths = [str(tmp_path / "photo.png"), degrees, str(pages)]
    found = run(tmp_path / "m.zarr", {"paths": paths}, path=path)
    assert not found.failed
    store = segengine.open_store(tmp_path / "m.zarr")
    assert store["degrees"].mask.shape == (1, 64, 96)
    (message,) = found.messages
    assert "nothing tells metres, and pixels are read as they are: " in message


def test_a_resolution_in_metres_is_a_users_too(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", 10)
    feet = write_scene(tmp_path / "feet.tif", 10 * 3937 / 1200, "EPSG:2225")
    model = write_model(tmp_path / "bare.onnx")
    source = {"paths": [scene, feet], "resolution": "20 m"}
    run(tmp_path / "m.zarr", source, path=model, activation="softmax")
    store = segengine.open_store(tmp_path / "m.zarr")
    assert store["a"].mask.shape == (1, 32, 48)
    assert store["feet"].mask.shape == (1, 32, 48)
    same = {"paths": [scene], "resolution": "9.99 m"}  # a hundredth is no other resolution
    run(tmp_path / "same.zarr", same, path=model, activation="softmax")
    assert segengine.open_store(tmp_path / "same.zarr")["a"].mask.shape == (1, 64, 96)
    whole = {**source, "paths": [scene], "mosaic": "path"}
    run(tmp_path / "map.zarr", whole, path=model, activation="softmax")
    (one,) = segengine.open_store(tmp_path / "map.zarr").scenes.values()
    assert one.mask.shape == (1, 32, 48)
    for wrong in ("20", "m", "0 m", "-1 m", "20 km", "1e9 m"):
        with pytest.raises(JobError, match=r"source\.resolution: .* as 10 m"):
            run(tmp_path / "n.zarr", {"paths": [scene], "resolution": wrong}, path=model)


def mlm(**changes: Any) -> dict[str, Any]:
    """An item as stac-model writes it: of two Sentinel-2 bands, with statistics."""
    taken = {
        "name": "x",
        "bands": ["B08", {"name": "B04"}],
        "input": {"shape": [-1, 2, -1, -1], "dim_order": ["batch", "channel", "height", "width"],
                  "data_type": "float32"},
        "value_scaling": [{"type": "z-score", "mean": 100, "stddev": 50},
                          {"type": "min-max", "minimum": 50, "maximum": 250}],
        "pre_processing_function": None,
    }  # fmt: skip
    bands = [
        {"name": "B04", "common_name": "red", "gsd": 10},
        {"name": "B08", "eo:common_name": "nir", "gsd": 20},
    ]
    output = {"name": "y", "classification:classes": [
        {"value": 1, "name": "field"}, {"value": 0, "name": "none"}]}  # fmt: skip
    model = {"href": "./unet.onnx", "roles": ["mlm:model"], "eo:bands": bands}
    return {
        "type": "Feature",
        "properties": {"mlm:input": [taken | changes], "mlm:output": [output]},
        "assets": {"model": model},
    }


def test_an_item_beside_a_model_chooses_resolution_and_assets(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m" / "unet.onnx", bands=2)
    beside = tmp_path / "m" / "unet.json"
    beside.write_text(json.dumps(mlm()))
    item = make_item(tmp_path, "night", {name: pixels(i) for i, name in enumerate(("red", "nir"))})
    source = {"kind": "stac", "paths": [save(tmp_path, item)]}
    own = {"activation": "softmax"}
    assert not run(tmp_path / "told.zarr", source, path=model, **own).messages
    run(tmp_path / "named.zarr", source, path=str(beside), **own)
    alone = write_model(tmp_path / "unet.onnx", bands=2)
    whole = {**source, "assets": ["nir", "red"], "resolution": 10.0}
    run(
        tmp_path / "own.zarr", whole, path=alone, classes=["none", "field"],
        scale={"mean": [100, 50], "std": [50, 200]}, **own,
    )  # fmt: skip
    stores = [segengine.open_store(tmp_path / f"{n}.zarr") for n in ("told", "named", "own")]
    assert stores[0].job["source"]["assets"] == ["nir", "red"]
    assert stores[0].job["source"]["resolution"] == "10 m"
    masks = [store["night"].mask[:] for store in stores]
    assert len(np.unique(masks[0])) == 2
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])
    assert {store.classes for store in stores} == {("none", "field")}
    other = run(tmp_path / "told.zarr", {**source, "assets": ["red", "nir"]}, path=model, **own)
    assert "trained on the bands B08, B04 (unet.json); the job reads red, nir" in other.messages[-1]
    beside.write_text(json.dumps(mlm(value_scaling=None)))
    assert run(tmp_path / "named.zarr", source, path=model, **own).computed == 1, "its mask changes"


def test_bands_of_paths_are_chosen_by_name(tmp_path: Path) -> None:
    model = write_model(tmp_path / "unet.onnx", bands=2)
    (tmp_path / "unet.onnx.json").write_text(json.dumps(mlm()))
    job = parse_job(
        {
            "source": {"paths": ["/s/{scene}/{band}.jp2"]},
            "segmenter": {"kind": "model", "path": model, "activation": "softmax"},
            "store": {"path": "/m.zarr"},
        }
    )
    assert (job.source.bands, job.source.resolution) == (["B08", "B04"], "10 m")
    assert parse_job(job.model_dump()) == job, "as a flow parameter, once more"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pre_processing_function": {"format": "python", "expression": "os:system"}}, "never run"),
        ({"value_scaling": [{"type": "clip", "minimum": 1, "maximum": 0}]}, "not done here (clip)"),
        ({"value_scaling": [{"type": "processing", "expression": "A * 2"}]}, "(processing)"),
        ({"value_scaling": [{"type": "z-score", "mean": 1, "stddev": 0}]}, "(z-score)"),
        ({"value_scaling": "__import__('os')"}, "not done here (__import__('os'))"),
    ],
)
def test_what_is_not_done_is_said_unless_the_job_does_it(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = write_model(tmp_path / "unet.onnx", bands=2)
    (tmp_path / "unet.json").write_text(json.dumps(mlm(**changes)))
    with pytest.raises(ValueError, match=r"scale: unet\.json") as raised:
        create(path, activation="softmax")
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    assert create(path, activation="softmax", scale={"divide": 2}).classes == ("none", "field")


def test_statistics_of_the_first_versions_count(tmp_path: Path) -> None:
    said = {
        "value_scaling": None,
        "norm_type": "min-max",
        "statistics": [{"minimum": 5, "maximum": 9}],
    }
    assert trained.of_item(mlm(**said), "i").scale == {"mean": [5.0], "std": [4.0]}
    twice = trained.of_item(mlm(bands=["B04", "B04"]), "i")
    assert (twice.bands, twice.common) == ((), ()), "of two times: no bands of one scene"
    derived = trained.of_item(mlm(bands=[{"name": "ndvi", "format": "f", "expression": "A"}]), "i")
    assert derived.bands == ()


ODD = [None, True, -1, 0, 1e308, "x", "", [], {}, [None], ["\0"], [{}], {"a": 1}, [[1]], "9" * 400,
       float("nan"), 10**400]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_what_is_nonsense_is_left_out(odd: Any) -> None:
    """A stranger's words are never an error of ours, and never taken for more than they are."""
    text = json.dumps(odd)
    for key in trained._KNOWN:
        found = trained.of_metadata({"model_type": '"Segmentor"', key: text})
        assert found is not None
        assert found.resolution is None or 1e-4 <= found.resolution <= 1e6
        assert all(isinstance(name, str) and name.isprintable() for name in found.classes)
        assert found.scale == {"divide": 255}
    item = mlm()
    for key in item["properties"]["mlm:input"][0]:
        assert trained.of_item(mlm(**{key: odd}), "i").resolution in (None, 10.0)
    for key in ("properties", "assets"):
        trained.of_item({**item, key: odd}, "i")
    for key in item["properties"]:
        trained.of_item({**item, "properties": {**item["properties"], key: odd}}, "i")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"properties": {}}', "no STAC item of the extension mlm"),
        ("[" * 5000, "nested deeper"),
        ("\xff", "JSON"),
        (json.dumps({**mlm(), "assets": {}}), "has 0 assets with the role mlm:model"),
        (json.dumps(mlm()).replace("./unet.onnx", "../unet.onnx"), "outside the item's folder"),
        (json.dumps(mlm()).replace("./unet.onnx", "https://x/unet.onnx"), "download it"),
        (json.dumps(mlm()).replace("./unet.onnx", "./gone.onnx"), "there is no such file"),
    ],
)
def test_an_item_that_names_no_model_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "item.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"path: .*item\.json: ") as raised:
        create(str(path))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_files_beside_a_model_are_nobodys_business(tmp_path: Path) -> None:
    path = write_model(tmp_path / "unet.onnx", names="{0: 'a'}", resolution="high")
    for text in ("{", '{"bands": 3}', "[1]"):
        (tmp_path / "unet.json").write_text(text)
        found = create(path, activation="softmax")
        assert found.trained is None
