"""A store as a STAC catalog: valid by pystac's own validator against the published schemas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.control import GroundControlPoint
from rasterio.warp import transform_bounds

from segengine.errors import JobError
from segengine.export._footprint import _box
from segengine.export.stac import EXTENSIONS, _sources, _times, export
from segengine.outputs import taken_up
from segengine.sources.stac import StacSource
from tests.segengine.sources.stac_scenes import make_item, pixels, save

pytestmark = pytest.mark.usefixtures("plain_report")
SCHEMAS = Path(__file__).parents[1] / "fixtures/schemas/stac"
"""As https://stac-extensions.github.io serves them (Apache-2.0)."""
OTSU = {"kind": "threshold", "method": "otsu", "instances": "components"}


def write_scene(path: Path, pixels: np.ndarray, **about: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **about
    ) as file:
        file.write(pixels, 1)


def north_up(west: float, north: float, size: float) -> rasterio.Affine:
    return rasterio.Affine(size, 0.0, west, 0.0, -size, north)


@pytest.fixture(scope="module")
def catalog(new_bench: Any, noise: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Scenes at home, half void, across the antimeridian, by control points; a photo; truth."""
    bench, folder = new_bench(), tmp_path_factory.mktemp("stac")
    tif = bench.inputs
    write_scene(tif / "home town.tif", noise(1, (60, 80)), crs="EPSG:32613",
                transform=north_up(500_000, 4_400_000, 10))  # fmt: skip
    half = noise(2, (60, 80))
    half[:, :40] = 0
    half[:, 40:] |= 1
    write_scene(tif / "half.tif", half, crs="EPSG:32613", nodata=0,
                transform=north_up(500_000, 4_400_000, 10))  # fmt: skip
    write_scene(tif / "fiji.tif", noise(3, (50, 60)), crs="EPSG:4326",
                transform=north_up(179.7, -16, 0.01))  # fmt: skip
    points = [
        GroundControlPoint(row, col, 10 + col / 100, 50 - row / 100, 0)
        for row, col in [(0, 0), (0, 50), (40, 0), (40, 50)]
    ]
    write_scene(tif / "points.tif", noise(4, (40, 50)), gcps=points, crs="EPSG:4326")
    bench.put("photo.png", noise(5, (40, 30)))
    (bench.root / "truth").mkdir()
    for name in ("home town", "half", "fiji", "points", "photo"):
        bench.put(f"../truth/{name}.png", (noise(6, (60, 80)) > 100).astype(np.uint8))
    truth = {"paths": [str(bench.root / "truth/{stem}.png")], "classes": ["background", "object"]}
    bench.run(OTSU, truth=truth, store={"shard": 32})
    written = export(str(bench.store), str(folder))
    return bench, folder, written


@pytest.fixture(scope="module")
def items(catalog: Any) -> dict[str, pystac.Item]:
    _, folder, _ = catalog
    return {i.id: i for i in pystac.Catalog.from_file(str(folder / "catalog.json")).get_items()}


def test_every_object_is_valid_against_the_published_schemas(catalog: Any) -> None:
    bench, folder, _ = catalog
    validator = JsonSchemaSTACValidator()
    for uri in EXTENSIONS:
        name, version = uri.split("/")[-3:-1]
        validator.schema_cache[uri] = json.loads(
            (SCHEMAS / f"{name}-{version[1:]}.json").read_text()
        )
    paths = [folder / "catalog.json", *(folder / "items").iterdir()]
    assert len(paths) == 1 + len(bench.open().scenes)
    for path in paths:
        document = json.loads(path.read_text())
        checked = pystac.validation.validate_dict(document, validator=validator)
        extensions = document.get("stac_extensions", [])
        assert checked[1:] == extensions
        if extensions:
            document["properties"]["label:type"] = "sculpture"
            with pytest.raises(pystac.STACValidationError):
                pystac.validation.validate_dict(document, validator=validator)


def test_an_item_a_scene_and_every_link_leads_to_a_file(catalog: Any, items: Any) -> None:
    bench, folder, written = catalog
    assert set(items) == set(bench.open().scenes)
    found = {str(p) for p in folder.rglob("*") if p.is_file()}
    assert found == set(written)
    for item in items.values():
        for asset in item.get_assets().values():
            assert not Path(asset.href).is_absolute()
            assert unquote(asset.get_absolute_href()) in found


@pytest.mark.parametrize("own", ["items", "catalog", "none"])
def test_an_export_is_no_input_of_who_looks_where_it_lies(
    own: str, catalog: Any, items: Any, tmp_path: Path
) -> None:
    """Masks would be segmented in place of scenes, under the names of these."""
    _, folder, _ = catalog
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "a").symlink_to(folder)
    if own != "none":
        item = make_item(inputs, "photo", {"red": pixels(1)})
        if own == "catalog":
            save(inputs, item)
        else:
            item.save_object(dest_href=str(inputs / "photo" / "photo.json"))
    if (
        own == "items"
    ):  # one in the folder itself: what stands in it for all others is none of theirs
        (inputs / "catalog.json").write_text((folder / "catalog.json").read_text())
    found = StacSource(paths=(str(inputs),)).list([str(inputs)])
    assert [each.name for each in found.entries] == ([] if own == "none" else ["photo"])
    assert not found.unlisted
    count = {"items": len(items) + 2, "catalog": 0, "none": len(items) + 1}[own]
    assert [line.split(" of an export")[0] for line in found.notices] == (
        [f"source.paths: {count} STAC documents"] if count else []
    )
    files = [str(inputs / "a" / "items" / "photo.json"), str(inputs / "a" / "masks" / "photo.tif")]
    (inputs / "a").unlink()
    store: Any = SimpleNamespace(job={"source": {"kind": "stac", "paths": [str(inputs)]}})
    assert taken_up(store, files) == ((1, str(inputs)) if count else (0, ""))
    named = str(folder / "catalog.json")
    assert len(StacSource(paths=(named,)).list([named]).unlisted) < len(items)


def test_footprint_and_projection_are_rasterios(catalog: Any, items: Any) -> None:
    bench, _, _ = catalog
    name = next(n for n in items if n.startswith("home"))
    with rasterio.open(bench.inputs / "home town.tif") as file:
        bounds = transform_bounds(file.crs, "OGC:CRS84", *file.bounds, densify_pts=100)
        expected = list(file.transform)[:6]
    np.testing.assert_allclose(items[name].bbox, bounds, atol=1e-6)
    assert items[name].properties["proj:code"] == "EPSG:32613"
    assert items[name].properties["proj:transform"] == expected
    assert items[name].properties["proj:shape"] == [60, 80]
    area = shapely.geometry.shape(items[name].geometry).area
    half = shapely.geometry.shape(items["half"].geometry)
    assert half.area == pytest.approx(area / 2, rel=1e-4)  # where there are data
    assert half.bounds[0] == pytest.approx(-105 + 400 / 85_390, abs=1e-4)


def test_at_the_antimeridian_it_is_cut_and_the_box_goes_across(items: Any) -> None:
    fiji = items["fiji"]
    assert fiji.geometry["type"] == "MultiPolygon"
    np.testing.assert_allclose(fiji.bbox, [179.7, -16.5, -179.7, -16.0], atol=1e-6)
    shape = shapely.geometry.shape(fiji.geometry)
    assert shape.is_valid
    assert shape.area == pytest.approx(0.6 * 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(10, 20)], [10, 20]),
        ([(170, 180), (-180, -170)], [170, -170]),
        ([(-180, -170), (0, 10), (175, 180)], [0, -170]),
        ([(-180, 180)], [-180, 180]),
    ],
)
def test_boxes_of_several_parts(spans: Any, expected: list[float]) -> None:
    rings = [np.array([(a, 0), (b, 0), (b, 1), (a, 1), (a, 0)], float) for a, b in spans]
    assert [_box(rings)[i] for i in (0, 2)] == expected


def test_control_points_place_a_scene_and_a_photo_lies_nowhere(items: Any) -> None:
    np.testing.assert_allclose(items["points"].bbox, [10, 49.6, 10.5, 50], atol=1e-6)
    (photo,) = (i for name, i in items.items() if name.startswith("256x256"))
    assert photo.geometry is None
    assert photo.bbox is None
    assert photo.properties["proj:code"] is None


def test_classes_figures_and_assets(catalog: Any, items: Any) -> None:
    bench, folder, _ = catalog
    store, item = bench.open(), items["half"]
    classes = item.assets["labels"].extra_fields["classification:classes"]
    assert [c["name"] for c in classes] == ["background", "object", "void"]
    assert (classes[-1]["value"], classes[-1]["nodata"]) == (255, True)
    assert [bytes.fromhex(c["color_hint"]) for c in classes[:2]] == [
        bytes(color) for color in store["half"].colors().tolist()
    ]
    with rasterio.open(folder / "masks/half.tif") as file:
        labels = file.read(1)
        assert file.nodata == item.assets["labels"].extra_fields["nodata"] == 255
    np.testing.assert_array_equal(labels, store["half"].mask[0])
    counts = {c["name"]: c["count"] for c in item.properties["label:overviews"][0]["counts"]}
    assert counts == {
        "background": (labels == 0).sum(),
        "object": (labels == 1).sum(),
        "void": 60 * 40,
    }
    figures = item.properties["segengine:figures"]
    assert figures["mean_iou"] == store.metrics["scenes"]["half"]["mean_iou"]
    assert item.datetime is not None
    with (folder / "objects/half.geojson").open() as file:
        assert json.load(file)["features"]


def test_inputs_behind_a_url_are_linked_without_credentials(catalog: Any) -> None:
    bench, _, _ = catalog
    scene = bench.open()["half"]
    urls = ("https://me:secret@example.org/half.tif?sig=secret",)
    away = replace(scene, layout=replace(scene.layout, uris=urls))
    assert list(_sources(away)) == [
        {"rel": "via", "href": "https://example.org/half.tif", "title": "half.tif"}
    ]
    assert list(_sources(scene)) == []  # a path of this machine


def test_the_datetime_is_the_inputs_where_it_says_one(catalog: Any) -> None:
    bench, _, _ = catalog
    scene = bench.open()["half"]
    item = {"id": "a", "datetime": "2026-05-01T10:00:00Z"}
    told = {**scene.layout.attributes, "stac": item}
    dated = replace(scene, layout=replace(scene.layout, attributes=told))
    assert _times(dated)["datetime"] == "2026-05-01T10:00:00Z"
    assert _times(scene)["datetime"] == _times(scene)["created"]


def test_twice_is_the_same_and_no_input_is_replaced(
    catalog: Any, tree: Any, tmp_path: Path
) -> None:
    bench, folder, _ = catalog
    export(str(bench.store), str(tmp_path / "again"))
    assert tree(tmp_path / "again") == tree(folder)
    export(str(bench.store), str(folder))  # over its own files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/catalog.json").write_text("{}")
    with pytest.raises(JobError, match=r"catalog\.json: is there, and not as an export wrote it"):
        export(str(bench.store), str(tmp_path / "mine"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["catalog.json"]
    (tmp_path / "link").mkdir()
    (tmp_path / "link/masks").symlink_to(bench.inputs)
    with pytest.raises(JobError, match="is an input of the store"):
        export(str(bench.store), str(tmp_path / "link"))
