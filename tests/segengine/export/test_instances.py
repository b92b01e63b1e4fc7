"""Instances in other tools' formats, each read back by that format's own reader."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pyproj import Geod
from scipy import ndimage

from segengine import registry
from segengine.datasets.coco import CocoSource
from segengine.errors import JobError
from segengine.export import _instances, _parts, geoparquet
from segengine.export._features import features, to_lonlat
from segengine.export._shaping import Shaping
from segengine.instances.rle import encode_rle
from segengine.instances.rows import objects_of
from segengine.types import FrameRef

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
UTM = "EPSG:32613"
WGS84 = Geod(ellps="WGS84")
TRANSFORM = rasterio.Affine(10.0, 0, 500_000, 0, -10.0, 4_400_000)
COMPONENTS = {"kind": "threshold", "method": "fixed", "levels": 128, "instances": "components"}


def export(kind: str, store: Any, to: Path) -> list[str]:
    found: list[str] = registry.load("exports", kind)(str(store), str(to))
    return found


def blobs(seed: int, height: int, width: int) -> np.ndarray:
    """Bright regions with holes and corners that touch, 0 or 255."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(height, width)), 3)
    image = np.where(smooth > 0.02, 255, 0).astype(np.uint8)
    image[20:60, 20:60], image[30:50, 30:50], image[38:42, 38:42] = (
        255,
        0,
        255,
    )  # a ring and its core
    return image


@pytest.fixture(scope="module")
def scene(new_bench: Any) -> Any:
    """A georeferenced scene cut in shards of 32 pixels."""
    bench = new_bench()
    bench.inputs.mkdir()
    image = blobs(1, 150, 190)
    with rasterio.open(
        bench.inputs / "town.tif", "w", driver="GTiff", height=150, width=190, count=1,
        dtype="uint8", crs=UTM, transform=TRANSFORM,
    ) as file:  # fmt: skip
        file.write(image, 1)
    bench.run(COMPONENTS, store={"shard": 32})
    return bench


@pytest.fixture(scope="module")
def photos(new_bench: Any) -> Any:
    """Photos of two sizes, one of them without an object."""
    bench = new_bench()
    for i, size in enumerate([(70, 90), (90, 60), (64, 64)]):
        bench.put(f"set/{i + 4}.png", blobs(i, *size))
    bench.put("set/9.png", np.zeros((50, 50), np.uint8))
    bench.run(COMPONENTS, store={"shard": 256})
    return bench


def ids_of(bench: Any, frame: int = 0, scene: str | None = None) -> np.ndarray:
    scenes = bench.open().scenes
    found = scenes[scene or next(iter(scenes))]
    ref = found.layout.frame(frame)
    return np.asarray(found.instances[frame])[: ref.height, : ref.width]


def burned(rows: Any, geometries: Any, shape: tuple[int, int], transform: Any) -> np.ndarray:
    shapes = zip(geometries, rows["id"].tolist(), strict=True)
    return rasterio.features.rasterize(shapes, shape, transform=transform, dtype="int32")


def test_geoparquet_has_each_object_once_in_the_crs_of_its_scene(
    scene: Any, tmp_path: Path
) -> None:
    (path,) = export("geoparquet", scene.store, tmp_path)
    found = geopandas.read_parquet(path)
    ids = ids_of(scene)
    assert sorted(found["id"]) == np.unique(ids[ids > 0]).tolist()
    assert found.crs.to_epsg() == 32613
    assert found.geometry.is_valid.all()
    np.testing.assert_array_equal(burned(found, found.geometry, ids.shape, TRANSFORM), ids)
    np.testing.assert_allclose(found.geometry.area, found["area"] * 100)
    on_the_ground = abs(
        found.to_crs(4326).geometry.map(lambda g: WGS84.geometry_area_perimeter(g)[0])
    )
    np.testing.assert_allclose(found["square_metres"], on_the_ground, rtol=1e-6)
    assert set(found["class"]) == {"object"}
    assert set(found["name"]) == {"town.tif"}
    ring = found[found["id"] == ids[25, 25]].geometry.iloc[0]
    assert any(shapely.Polygon(hole).contains(shapely.Point(500_340, 4_399_660)) for p in
               getattr(ring, "geoms", [ring]) for hole in p.interiors)  # fmt: skip
    about = json.loads(pq.read_schema(path).metadata[b"geo"])
    column = about["columns"][about["primary_column"]]
    assert about["version"] == "1.1.0"
    assert column["bbox"] == pytest.approx(found.total_bounds.tolist())
    assert column["orientation"] == "counterclockwise"


def test_no_border_of_a_shard_shows(scene: Any, new_bench: Any, tmp_path: Path) -> None:
    whole = new_bench()
    whole.inputs.symlink_to(scene.inputs)
    whole.run(COMPONENTS, store={"shard": 256})
    for kind in ("geoparquet", "geojson", "coco"):
        cut, uncut = tmp_path / f"{kind}-cut", tmp_path / f"{kind}-whole"
        files = [Path(p).name for p in export(kind, scene.store, cut)]
        assert [Path(p).name for p in export(kind, whole.store, uncut)] == files
        for name in files:
            assert (cut / name).read_bytes() == (uncut / name).read_bytes()


def test_geojson_is_in_longitude_and_latitude(scene: Any, tmp_path: Path) -> None:
    (path,) = export("geojson", scene.store, tmp_path)
    found = pyogrio.read_dataframe(path)
    ids = ids_of(scene)
    assert found.crs.to_epsg() == 4326
    west, south, east, north = found.total_bounds
    assert -105.001 < west < east < -104.97
    assert 39.73 < south < north < 39.75
    back = found.geometry.to_crs(UTM)
    np.testing.assert_allclose(back.area, found["area"] * 100, rtol=1e-5)
    np.testing.assert_array_equal(burned(found, back, ids.shape, TRANSFORM), ids)
    document = json.loads(Path(path).read_text())
    assert "coordinates" not in document
    for feature in document["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        for polygon in getattr(shape, "geoms", [shape]):
            assert polygon.exterior.is_ccw
            assert not any(hole.is_ccw for hole in polygon.interiors)


def test_a_polygon_across_the_antimeridian_is_cut_there() -> None:
    ring = np.array([(160e3, 1e4), (170e3, 1e4), (170e3, 2e4), (160e3, 2e4), (160e3, 1e4)])
    wkt = rasterio.crs.CRS.from_epsg(32601).to_wkt()
    ((east, west),) = to_lonlat(wkt, "fiji")([[[ring]]], 1e4)
    for (exterior,), low, high in ((east, 179.9, 180), (west, -180, -179.9)):
        assert low <= exterior[:, 0].min() < exterior[:, 0].max() <= high
    away = to_lonlat(wkt, "fiji")([[[ring + np.array([east, 0])]] for east in (3e5, 4e5)], 1e4)
    assert [len(each) for each in away] == [1, 1]


def test_without_georeference_coordinates_are_pixels(photos: Any, tmp_path: Path) -> None:
    paths = export("geojson", photos.store, tmp_path)
    tables = export("geoparquet", photos.store, tmp_path)
    store = photos.open()
    assert [Path(p).stem for p in paths] == [Path(p).stem for p in tables] == list(store.scenes)
    assert json.loads(Path(paths[0]).read_text())["coordinates"].startswith("pixels")
    count = 0
    for path, table in zip(paths, tables, strict=True):
        found, same = pyogrio.read_dataframe(path), geopandas.read_parquet(table)
        assert same.crs is None
        assert shapely.equals(found.geometry.values, same.geometry.values).all()
        assert found["id"].tolist() == same["id"].tolist()
        for (frame, name), rows in same.groupby(["frame", "name"]):
            ids = ids_of(photos, frame, Path(path).stem)
            assert store[Path(path).stem].layout.frame(frame).name == name
            pixels = burned(rows, rows.geometry, ids.shape, rasterio.Affine.identity())
            np.testing.assert_array_equal(pixels, ids)
            count += len(rows)
    assert count == store.table("instances").num_rows > 10


def test_an_object_without_a_pixel_has_no_outline(scene: Any, tmp_path: Path) -> None:
    opened = scene.open()
    (name, town), (row, *_) = (
        next(iter(opened.scenes.items())),
        opened.table("instances").to_pylist(),
    )
    empty = {**row, "rle": encode_rle(np.zeros((150, 190), bool), (0, 0), (150, 190))}
    assert [
        f.properties["id"] for f in features(town, _instances.Piece(name, 0, [empty, row]))
    ] == [row["id"]]
    assert _bounds_of(town, [empty], tmp_path) == []
    assert len(_bounds_of(town, [row], tmp_path)) == 4


def _bounds_of(town: Any, rows: list[Any], folder: Path) -> list[float]:
    part = folder / "part"
    part.write_bytes(geoparquet._encoded(town, Shaping(), _instances.Piece(town.name, 0, rows)))
    return geoparquet._bounds([part])


def scored(truth: COCO, results: Any) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        measured = COCOeval(truth, truth.loadRes(results), "segm")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    return float(measured.stats[0])


def loaded(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_coco_files_are_loaded_and_scored(photos: Any, tmp_path: Path) -> None:
    export("coco", photos.store, tmp_path)
    whole = loaded(tmp_path / "instances.json")
    assert {i["file_name"]: i["id"] for i in whole.dataset["images"]} == {
        f"set/{n}.png": n for n in (4, 5, 6, 9)
    }  # the numbers in the files' names
    assert whole.dataset["categories"] == [{"id": 1, "name": "object", "supercategory": ""}]
    assert len(whole.anns) == photos.open().table("instances").num_rows
    for image in whole.loadImgs([4, 5, 6, 9]):
        drawn = np.zeros((image["height"], image["width"]), bool)
        for annotation in whole.imgToAnns[image["id"]]:
            mask = whole.annToMask(annotation).astype(bool)
            assert annotation["area"] == mask.sum()
            assert not (drawn & mask).any()
            drawn |= mask
        pixels = np.asarray(Image.open(photos.inputs / image["file_name"]))
        np.testing.assert_array_equal(drawn, pixels > 128)
    results = json.loads((tmp_path / "results.json").read_text())
    assert scored(whole, results) == pytest.approx(1.0)
    assert scored(whole, results[::2]) < 0.8


def test_images_are_counted_where_names_are_no_numbers(scene: Any, tmp_path: Path) -> None:
    export("coco", scene.store, tmp_path)
    (image,) = json.loads((tmp_path / "instances.json").read_text())["images"]
    assert image == {"id": 1, "file_name": "town.tif", "height": 150, "width": 190}


def test_results_are_scored_by_the_truth_of_the_data_set(new_bench: Any, tmp_path: Path) -> None:
    bench = new_bench()
    image = blobs(5, 60, 80)
    bench.put("images/b.png", image)
    regions, count = ndimage.label(image, np.ones((3, 3)))
    truth = {
        "images": [{"id": 7001, "file_name": "b.png", "height": 60, "width": 80}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "object"}],
        "annotations": [
            {
                "id": i,
                "image_id": 7001,
                "category_id": 44,
                "segmentation": {
                    "size": [60, 80],
                    "counts": objects_of((regions == i).astype(np.uint32), regions)
                    .column("rle")[0]
                    .as_py(),
                },
                "area": int((regions == i).sum()),
                "bbox": [0, 0, 1, 1],
                "iscrowd": 0,
            }
            for i in range(1, count + 1)
        ],
    }
    path = bench.inputs / "annotations/instances_all.json"
    path.parent.mkdir()
    path.write_text(json.dumps(truth))
    bench.run(COMPONENTS, source={"kind": "coco", "split": "all"})
    export("coco", bench.store, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(r["image_id"], r["category_id"]) for r in results} == {(7001, 44)}
    assert scored(loaded(path), results) == pytest.approx(1.0)
    path.unlink()
    with pytest.raises(JobError, match="which numbers images and categories, cannot be read"):
        export("coco", bench.store, tmp_path)


def test_panoptic_files_say_what_the_maps_hold(photos: Any, tmp_path: Path) -> None:
    paths = export("panoptic", photos.store, tmp_path / "annotations")
    document = json.loads(Path(paths[0]).read_text())
    assert document["categories"] == [
        {"id": 1, "name": "object", "supercategory": "", "isthing": 1}
    ]
    assert len(document["annotations"]) == len(document["images"]) == 4 == len(paths) - 1
    for annotation in document["annotations"]:
        pixels = np.asarray(Image.open(tmp_path / "annotations/panoptic" / annotation["file_name"]))
        ids = pixels.astype(int) @ [1, 256, 65536]
        assert [s["id"] for s in annotation["segments_info"]] == np.unique(ids[ids > 0]).tolist()
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(rows)
            assert segment["bbox"] == [
                columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
            ]  # fmt: skip


def test_panoptic_files_are_read_as_truth(scene: Any, tmp_path: Path) -> None:
    export("panoptic", scene.store, tmp_path / "annotations")
    source = CocoSource(
        paths=(str(tmp_path),), task="panoptic", annotations="annotations/panoptic.json"
    )
    ref = FrameRef(0, "town.tif", str(tmp_path / "town.tif"), "", 150, 190)
    (found,) = source.find_truth([ref])
    truth = source.load_truth(ref, found, slice(0, 150), slice(0, 190))
    np.testing.assert_array_equal(truth.instances[0], ids_of(scene))
    np.testing.assert_array_equal(truth.labels[0] == 0, ids_of(scene) > 0)


def test_classes_without_instances_are_stuff(new_bench: Any, tmp_path: Path) -> None:
    bench = new_bench()
    bench.put("a.png", blobs(3, 70, 90))
    bench.run({"kind": "kmeans", "clusters": 2, "scope": "frame"})
    index, png = export("panoptic", bench.store, tmp_path)
    document = json.loads(Path(index).read_text())
    assert [c["isthing"] for c in document["categories"]] == [0, 0]
    ids = np.asarray(Image.open(png)).astype(int) @ [1, 256, 65536]
    np.testing.assert_array_equal(
        (1 << 24) - 1 - ids, bench.open()["256x256-uint8-1"].mask[0, :70, :90]
    )
    with pytest.raises(JobError, match=r"segmenter\.instances: components"):
        export("coco", bench.store, tmp_path / "coco")


@pytest.mark.parametrize("kind", ["coco", "geojson", "flatgeobuf", "panoptic"])
def test_a_killed_export_goes_on(
    kind: str, photos: Any, tmp_path: Path, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_instances, "ROWS", 5)
    export(kind, photos.store, tmp_path / "whole")
    wanted = tree(tmp_path / "whole")
    assert not any(".partial" in name or _parts._FOLDER in name for name in wanted)
    real, written, allowed = _parts.replacing, [], 3

    @contextlib.contextmanager
    def limited(path: Path) -> Any:
        if _parts._FOLDER in str(path) and not path.name.endswith(".done"):
            if len(written) >= allowed:
                raise KeyboardInterrupt
            written.append(path)
        with real(path) as partial:
            yield partial

    monkeypatch.setattr(_parts, "replacing", limited)
    with pytest.raises(KeyboardInterrupt):
        export(kind, photos.store, tmp_path / "killed")
    allowed = 1000
    export(kind, photos.store, tmp_path / "killed")
    assert tree(tmp_path / "killed") == wanted
    assert len(written) == len(set(written)) > 3  # no part was made again


def test_parts_of_other_instances_are_not_used(
    photos: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "out"
    stale = to / _parts._FOLDER / "coco-0123456789abcdef" / "x"
    stale.mkdir(parents=True)
    (stale / "000000").write_text("{}")
    export("coco", photos.store, to)
    assert {p.name for p in to.iterdir()} == {"instances.json", "results.json"}


def test_centroids_are_in_the_crs_of_the_scene(scene: Any, photos: Any) -> None:
    ids = ids_of(scene)
    table = scene.open().table("instances")
    numbers = table.column("id").to_pylist()
    rows, columns = np.array(ndimage.center_of_mass(ids > 0, ids, numbers)).T
    x, y = TRANSFORM @ (columns + 0.5, rows + 0.5)
    np.testing.assert_allclose(table.column("x"), x)
    np.testing.assert_allclose(table.column("y"), y)
    assert photos.open().table("instances").column("x").null_count > 10


@pytest.mark.parametrize(
    ("code", "transform"),
    [
        ("EPSG:3413", (25_000, 0, -1_250_000, 0, -25_000, 1_250_000)),
        ("EPSG:4326", (0.1, 0, 178.5, 0, -0.1, 70)),
        ("EPSG:4326", (0.1, 0, -181.5, 0, -0.1, 20)),
    ],
)
def test_geojson_across_the_antimeridian_and_a_pole(
    bench: Any, noise: Any, tmp_path: Path, code: str, transform: tuple[float, ...]
) -> None:
    """As a file, rounded, through GDAL: valid, within -180 to 180, of the figures' area."""
    bench.inputs.mkdir()
    image = (ndimage.gaussian_filter(noise(3, (100, 100, 1))[..., 0], 4) * 8).astype(np.uint8)
    with rasterio.open(
        bench.inputs / "town.tif", "w", driver="GTiff", height=100, width=100, count=1,
        dtype="uint8", crs=code, transform=rasterio.Affine(*transform),
    ) as out:  # fmt: skip
        out.write(image, 1)
    areas = bench.run(COMPONENTS, store={"shard": 48}).metrics["areas"]
    (path,) = registry.load("exports", "geojson")(str(bench.store), str(tmp_path / "out"))
    found = geopandas.read_file(path)
    assert len(found) > 3
    assert found.geometry.is_valid.all()
    west, _, east, _ = found.total_bounds
    assert -180 <= west < east <= 180
    assert east - west > 350  # it lies on both sides of it
    boxes = [shapely.box(w, s, w + 60, s + 45) for w in range(-180, 180, 60) for s in (0, 45)]
    parts = [found.geometry.intersection(box).segmentize(0.1) for box in boxes]
    drawn = sum(part.map(lambda g: abs(WGS84.geometry_area_perimeter(g)[0])) for part in parts)
    for shape in found.geometry.explode():
        assert shape.exterior.is_ccw
    np.testing.assert_allclose(drawn, found["square_metres"], rtol=2e-3)
    assert drawn.sum() == pytest.approx(areas["object"]["square_metres"], rel=1e-3)
    assert found["square_metres"].sum() == pytest.approx(areas["object"]["square_metres"])


def test_a_transform_without_a_crs_places_outlines_as_it_places_the_cog(
    bench: Any, tmp_path: Path
) -> None:
    bench.inputs.mkdir()
    image = np.zeros((60, 80), np.uint8)
    image[10:30, 20:50] = 200
    with rasterio.open(
        bench.inputs / "town.tif", "w", driver="GTiff", height=60, width=80, count=1,
        dtype="uint8", transform=rasterio.Affine(0.5, 0, 1000, 0, -0.25, 500),
    ) as out:  # fmt: skip
        out.write(image, 1)
    bench.run(COMPONENTS)
    paths = [
        registry.load("exports", kind)(str(bench.store), str(tmp_path / kind))[0]
        for kind in ("geojson", "geoparquet", "cog")
    ]
    with rasterio.open(paths[2]) as cog:
        ids = cog.read(1) == 1
        shapes = rasterio.features.shapes(ids.astype(np.uint8), ids, transform=cog.transform)
        (expected,) = (shapely.geometry.shape(shape) for shape, _ in shapes)
    document = json.loads(Path(paths[0]).read_text())
    assert document["coordinates"] == "those of the scene's transform, which says no CRS"
    (feature,) = document["features"]
    assert shapely.geometry.shape(feature["geometry"]).equals(expected)
    assert feature["properties"]["square_metres"] is None
    table = geopandas.read_parquet(paths[1])
    assert table.crs is None
    assert table.geometry.iloc[0].equals(expected)
