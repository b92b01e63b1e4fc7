"""What a scene's metadata say, against the published schemas of the Zarr conventions and of OME-Zarr."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyproj
import pytest
import rasterio
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05.image_label import ImageLabel

from segengine.store.arrays import says, scene_arrays, scene_documents
from segengine.store.conventions import MOST

pytestmark = pytest.mark.usefixtures("plain_report")
SCHEMAS = Path(__file__).parents[1] / "fixtures/schemas/zarr"
"""Of github.com/zarr-conventions at the tag v0.1 (Apache-2.0)."""
NORTH_UP = rasterio.Affine(10.0, 0, 500_000, 0, -10.0, 4_400_000)
TURNED = rasterio.Affine.translation(500_000, 4_400_000) @ rasterio.Affine.rotation(30)
BROKEN: dict[str, dict[str, Any]] = {
    "spatial": {"spatial:transform": [1]},
    "proj": {"proj:code": 32613, "proj:wkt2": None},
    "multiscales": {"multiscales": {"layout": []}},
}
"""Attributes that each schema refuses."""
OTSU = {"kind": "threshold", "method": "otsu"}


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}-0.1.json").read_text())


def write_scene(path: Path, pixels: np.ndarray, **about: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **about
    ) as file:
        file.write(pixels, 1)


@pytest.fixture(scope="module")
def stored(new_bench: Any, noise: Any) -> Any:
    """Scenes with a pyramid: by code, turned, of a CRS without a code, without a CRS; and a photo."""
    bench = new_bench()
    odd = "+proj=laea +lat_0=51.3 +lon_0=9.7 +ellps=GRS80"
    for i, (name, about) in enumerate(
        {
            "town": {"crs": "EPSG:32613", "transform": NORTH_UP},
            "turned": {"crs": "EPSG:32613", "transform": TURNED},
            "odd": {"crs": odd, "transform": NORTH_UP},
            "bare": {"transform": NORTH_UP},
        }.items()
    ):
        write_scene(bench.inputs / f"{name}.tif", noise(i, (100, 150)), **about)
    bench.put("photo.png", noise(9, (40, 30)))
    segmenter = {**OTSU, "instances": "components"}
    bench.run(segmenter, store={"chunk": 16, "shard": 32})
    return bench


def document(bench: Any, *path: str) -> Any:
    return json.loads(bench.store.joinpath("scenes", *path, "zarr.json").read_text())


@pytest.mark.parametrize("scene", ["town", "turned", "odd", "bare"])
def test_every_node_is_valid_by_the_conventions_it_names(stored: Any, scene: str) -> None:
    folder = stored.store / "scenes" / scene
    named = {}
    for file in folder.rglob("zarr.json"):
        node = json.loads(file.read_text())
        path = file.parent.relative_to(folder).as_posix()
        named[path] = [c["name"] for c in node["attributes"].get("zarr_conventions", [])]
        for name in named[path]:
            jsonschema.validate(node, schema(name))
            # draft 7 does not look at what stands beside a $ref
            (entry,) = (c for c in node["attributes"]["zarr_conventions"] if c["name"] == name)
            jsonschema.validate(entry, schema(name)["$defs"]["conventionMetadata"])
            node["attributes"] |= BROKEN[name]
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(node, schema(name))
    place = ["spatial"] if scene == "bare" else ["spatial", "proj"]
    assert named["."] == named["mask"] == [*place, "multiscales"]
    assert named["mask/0"] == named["mask/3"] == named["instances/0"] == place


@pytest.mark.parametrize(("scene", "transform"), [("town", NORTH_UP), ("turned", TURNED)])
def test_each_level_lies_where_the_scene_lies(
    stored: Any, scene: str, transform: rasterio.Affine
) -> None:
    group = document(stored, scene)["attributes"]
    whole = rasterio.Affine(*group["spatial:transform"])
    assert whole.almost_equals(transform)
    assert group["spatial:shape"] == [100, 150]
    corners = [transform @ corner for corner in ((0, 0), (150, 0), (0, 100), (150, 100))]
    xs, ys = zip(*corners, strict=True)
    assert group["spatial:bbox"] == pytest.approx([min(xs), min(ys), max(xs), max(ys)])
    entries = group["multiscales"]["layout"]
    assert [e["asset"] for e in entries] == [f"mask/{i}" for i in range(5)]
    opened = zarr.open_group(stored.store / "scenes" / scene, mode="r")
    for level, entry in enumerate(entries):
        array = opened[entry["asset"]]
        assert isinstance(array, zarr.Array)
        assert entry["spatial:shape"] == list(array.shape[1:])
        assert entry["spatial:transform"] == array.attrs["spatial:transform"]
        own = rasterio.Affine(*entry["spatial:transform"])
        assert own @ (1, 1) == pytest.approx(whole @ (2**level, 2**level))
        assert array.metadata.dimension_names[1:] == tuple(array.attrs["spatial:dimensions"])  # type: ignore[union-attr, index, arg-type]
    inside = document(stored, scene, "mask")["attributes"]["multiscales"]["layout"]
    assert [e["asset"] for e in inside] == ["0", "1", "2", "3", "4"]
    assert [e["spatial:transform"] for e in inside] == [e["spatial:transform"] for e in entries]


def test_the_crs_is_the_inputs(stored: Any) -> None:
    town = document(stored, "town")["attributes"]
    assert town["proj:code"] == "EPSG:32613"
    odd = document(stored, "odd")["attributes"]
    assert "proj:code" not in odd
    with rasterio.open(stored.inputs / "odd.tif") as file:
        theirs = pyproj.CRS.from_wkt(file.crs.to_wkt())
    assert pyproj.CRS.from_wkt(odd["proj:wkt2"]).equals(theirs, ignore_axis_order=True)
    photo = next(n for n in stored.open().scenes if n.startswith("256x256"))
    for path in ("", "mask", "mask/0"):
        assert "zarr_conventions" not in document(stored, photo, path)["attributes"]


def test_labels_are_labels_with_colours_and_names(stored: Any) -> None:
    colors = stored.open().attributes["colors"]
    for scene in stored.open().scenes:
        folder = stored.store / "scenes" / scene
        checked = ImageLabel.from_zarr(zarr.open_group(folder / "mask", mode="r"))
        assert checked.attributes.ome.image_label is not None
        ome = document(stored, scene, "mask")["attributes"]["ome"]["image-label"]
        assert ome["properties"] == [
            {"label-value": 0, "class": "background"},
            {"label-value": 1, "class": "object"},
            {"label-value": 255, "class": "void"},
        ]
        shown = {c["label-value"]: c["rgba"] for c in ome["colors"]}
        assert shown == {0: [*colors[0], 255], 1: [*colors[1], 255], 255: [0, 0, 0, 0]}
        location = parse_url(folder / "mask")
        assert location is not None
        (node,) = list(Reader(location)())
        assert set(node.metadata["color"]) == {0, 1, 255}  # the reader takes it for labels
        assert document(stored, scene, "instances")["attributes"]["ome"]["image-label"] == {}


def test_renamed_classes_are_renamed_in_every_scene(bench: Any, noise: Any) -> None:
    write_scene(bench.inputs / "a.tif", noise(1, (40, 50)), crs="EPSG:32613", transform=NORTH_UP)
    bench.run({"kind": "threshold", "method": "fixed", "levels": 100})
    before = bench.tree()
    assert bench.run({"kind": "threshold", "method": "fixed", "levels": 100}).computed == 0
    assert bench.tree() == before
    bench.run({"kind": "threshold", "method": "fixed", "levels": [80, 160]})
    named = document(bench, "a", "mask")["attributes"]["ome"]["image-label"]["properties"]
    assert [p["class"] for p in named] == [*bench.open().classes, "void"]
    assert len(named) == 4


def test_very_many_classes_are_not_told_with_each_scene(stored: Any) -> None:
    layout = stored.open()["town"].layout
    for count, told in ((MOST, True), (MOST + 1, False)):
        names = [str(i) for i in range(count)]
        arrays = scene_arrays(layout, count, ("labels",), None)
        mask = json.loads(
            scene_documents(layout, arrays, names, [(1, 2, 3)] * count)["mask/zarr.json"]
        )
        assert bool(mask["attributes"]["ome"]["image-label"]) == told


def test_the_order_in_which_a_reader_tells_does_not_matter(stored: Any) -> None:
    layout = stored.open()["town"].layout
    arrays = scene_arrays(layout, 2, ("labels",), None)
    told = {**layout.attributes, "nodata": 0.0, "band_names": ["a"]}
    turned = dict(reversed(told.items()))
    assert list(turned) != list(told)
    one, other = (
        scene_documents(replace(layout, attributes=each), arrays, "ab", [(1, 2, 3)] * 2)
        for each in (told, turned)
    )
    assert one == other
    assert says(one["zarr.json"], json.dumps(json.loads(one["zarr.json"]), sort_keys=True).encode())
