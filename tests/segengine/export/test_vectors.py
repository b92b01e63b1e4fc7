"""Polygons that people keep: of classes and instances, in GDAL's formats, simplified."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
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
from geopandas.testing import assert_geodataframe_equal
from pyproj import Geod
from scipy import ndimage

from segengine import registry
from segengine.errors import JobError, SegengineError
from segengine.export import _shaping

pytestmark = pytest.mark.usefixtures("plain_report")
TRANSFORM = rasterio.Affine(10.0, 0, 500_000, 0, -10.0, 4_400_000)
WGS84 = Geod(ellps="WGS84")
SUFFIX = {
    "geojson": ".geojson",
    "geoparquet": ".parquet",
    "flatgeobuf": ".fgb",
    "geopackage": ".gpkg",
}


def export(kind: str, store: Any, to: Path, **options: Any) -> list[str]:
    found: list[str] = registry.load("exports", kind)(str(store), str(to), **options)
    return found


def read(path: str) -> Any:
    return (
        geopandas.read_parquet(path) if path.endswith(".parquet") else pyogrio.read_dataframe(path)
    )


def land(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Smooth hills in 8 bit, void at two corners."""
    hills = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 5)
    pixels = (1 + 254 * (hills - hills.min()) / np.ptp(hills)).astype(np.uint8)
    pixels[:20, :20] = 0
    pixels[-9:, -30:] = 0
    return pixels


@pytest.fixture(scope="module")
def classes(new_bench: Any) -> Any:
    """Three classes of a scene of many shards, with probabilities and without instances."""
    bench = new_bench()
    bench.inputs.mkdir()
    with rasterio.open(
        bench.inputs / "land.tif", "w", driver="GTiff", height=130, width=170, count=1,
        dtype="uint8", crs="EPSG:32613", transform=TRANSFORM, nodata=0,
    ) as file:  # fmt: skip
        file.write(land(1, (130, 170)), 1)
    segmenter = {"kind": "threshold", "method": "fixed", "levels": [100, 150]}
    bench.run(segmenter, store={"shard": 48})
    return bench


@pytest.mark.parametrize("kind", list(SUFFIX))
def test_regions_of_classes_cover_the_mask(kind: str, classes: Any, tmp_path: Path) -> None:
    (path,) = export(kind, classes.store, tmp_path)
    assert Path(path).name == f"land{SUFFIX[kind]}"
    found, labels = read(path), np.asarray(classes.open()["land"].mask[0])
    names = list(classes.open().classes)
    assert found.geometry.is_valid.all()
    shapes = found.geometry if kind != "geojson" else found.to_crs("EPSG:32613").geometry
    burned = rasterio.features.rasterize(
        zip(shapes, [names.index(c) for c in found["class"]], strict=True),
        labels.shape, fill=255, transform=TRANSFORM, dtype="uint8",
    )  # fmt: skip
    np.testing.assert_array_equal(burned, labels)
    expected = sum(
        ndimage.label(labels == value)[1]
        for value in range(len(names))  # 4-connected
    )
    assert len(found) == expected == found["id"].nunique()
    assert found["area"].sum() == (labels != 255).sum()
    on_the_ground = found.to_crs(4326).geometry
    areas = on_the_ground.map(lambda g: abs(WGS84.geometry_area_perimeter(g)[0]))
    lengths = on_the_ground.boundary.map(WGS84.geometry_length)  # holes too
    np.testing.assert_allclose(found["square_metres"], areas, rtol=1e-5)
    np.testing.assert_allclose(found["perimeter"], lengths, rtol=1e-5)
    assert found["probability"].isna().all()  # none are stored
    if kind != "geojson":
        assert found.crs.to_epsg() == 32613


@pytest.mark.parametrize("kind", ["geoparquet", "flatgeobuf", "geopackage"])
def test_no_border_of_a_shard_shows_and_twice_is_the_same(
    kind: str, classes: Any, new_bench: Any, tmp_path: Path
) -> None:
    whole = new_bench()
    whole.inputs.symlink_to(classes.inputs)
    whole.run(classes.open().job["segmenter"], store={"shard": 256})
    (one,), (other,) = (
        export(kind, bench.store, tmp_path / name)
        for bench, name in ((classes, "cut"), (whole, "whole"))
    )
    ours, theirs = read(one), read(other)
    assert_geodataframe_equal(ours, theirs)
    (again,) = export(kind, classes.store, tmp_path / "again")
    assert Path(again).read_bytes() == Path(one).read_bytes()


def test_the_box_column_is_what_geoparquet_1_1_says(classes: Any, tmp_path: Path) -> None:
    (path,) = export("geoparquet", classes.store, tmp_path)
    about = json.loads(pq.read_schema(path).metadata[b"geo"])["columns"]["geometry"]
    assert about["covering"] == {
        "bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
    }
    boxes = np.array([list(row.values()) for row in pq.read_table(path)["bbox"].to_pylist()])
    whole = geopandas.read_parquet(path)
    np.testing.assert_array_equal(boxes, whole.bounds.to_numpy())
    window = (500_100.0, 4_399_300.0, 500_300.0, 4_399_500.0)
    some = geopandas.read_parquet(path, bbox=window)  # by that column
    assert 0 < len(some) < len(whole)
    assert sorted(some["id"]) == sorted(whole.cx[500_100:500_300, 4_399_300:4_399_500]["id"])


def edges_of(frame: Any) -> Any:
    return shapely.line_merge(shapely.union_all(frame.geometry.boundary.values))


@pytest.mark.parametrize("kind", ["geoparquet", "geopackage"])
def test_simplified_neighbours_still_share_their_borders(
    kind: str, classes: Any, tmp_path: Path
) -> None:
    (rough,) = export(kind, classes.store, tmp_path / "rough")
    (path,) = export(kind, classes.store, tmp_path / "simple", simplify=25.0)
    before, after = read(rough), read(path)
    assert after.geometry.is_valid.all()
    assert shapely.coverage_is_valid(after.geometry.explode().values)
    assert shapely.get_num_coordinates(after.geometry.values).sum() < 0.5 * (
        shapely.get_num_coordinates(before.geometry.values).sum()
    )
    assert after.geometry.union_all().area == pytest.approx(after.geometry.area.sum())
    assert after.geometry.union_all().area == pytest.approx(before.geometry.area.sum(), rel=0.01)
    alone = before.geometry.simplify(25.0)  # each by itself leaves gaps and overlaps
    assert not shapely.coverage_is_valid(alone.explode().values)
    np.testing.assert_array_equal(after["area"], before["area"])  # of the pixels
    assert (after["perimeter"].sum() / before["perimeter"].sum()) < 0.95


def test_small_ones_are_left_out_and_holes_filled(classes: Any, tmp_path: Path) -> None:
    everything = read(export("flatgeobuf", classes.store, tmp_path / "all")[0])
    limit = 5_050.0  # square metres: 50 pixels, and not 51
    found = read(export("flatgeobuf", classes.store, tmp_path / "some", min_area=limit)[0])
    kept = everything[everything["square_metres"] >= limit]
    assert 0 < len(found) == len(kept) < len(everything)
    holes = [
        shapely.Polygon(ring).area
        for g in kept.geometry for part in getattr(g, "geoms", [g]) for ring in part.interiors
    ]  # fmt: skip
    (path,) = export("geoparquet", classes.store, tmp_path / "holes", holes=limit, min_area=limit)
    left = [
        shapely.Polygon(ring).area
        for g in read(path).geometry for part in getattr(g, "geoms", [g]) for ring in part.interiors
    ]  # fmt: skip
    assert sorted(left) == sorted(h for h in holes if h > limit)
    assert len(left) < len(holes)


@pytest.fixture(scope="module")
def blobs(new_bench: Any) -> Any:
    """Photos with instances and probabilities."""
    bench = new_bench()
    for seed in (3, 4):
        bench.put(f"{seed}.png", land(seed, (70, 90)))
    bench.run(
        {"kind": "kmeans", "clusters": 3, "attempts": 1, "instances": "components"},
        store={"shard": 256},
    )
    return bench


def test_instances_go_to_gdals_formats_in_pixels(blobs: Any, tmp_path: Path) -> None:
    for kind in ("flatgeobuf", "geopackage"):
        (path,) = export(kind, blobs.store, tmp_path, simplify=1.0)
        found = read(path)
        assert found.crs is None
        rows = blobs.open().table("instances")
        assert sorted(found["area"]) == sorted(rows.column("area").to_pylist())
        assert found["square_metres"].isna().all()
        assert found["perimeter"].isna().all()
        assert set(found["name"]) == {"3.png", "4.png"}
        (scene,) = blobs.open().scenes.values()
        for frame, own in found.groupby("frame"):
            west, south, east, north = own.total_bounds
            ref = scene.layout.frame(frame)
            assert 0 <= west < east <= ref.width
            assert 0 <= south < north <= ref.height
            assert shapely.coverage_is_valid(own.geometry.explode().values)


@pytest.mark.parametrize("least", [0.0, 12.0])
@pytest.mark.parametrize("side", [0.0, 2.0])
def test_a_hole_with_an_object_that_is_written_is_not_filled(
    least: float, side: float, blobs: Any, tmp_path: Path
) -> None:
    options = {"simplify": side, "min_area": least, "holes": 60.0}
    (path,) = export("geoparquet", blobs.store, tmp_path, **options)
    for _, own in read(path).groupby("frame"):
        assert own.area.min() > 0
        assert own["area"].min() >= least
        assert own.geometry.union_all().area == pytest.approx(own.geometry.area.sum())
    rough = read(export("geoparquet", blobs.store, tmp_path / "rough", min_area=least)[0])
    before, after = (
        sum(map(len, each.geometry.explode().interiors)) for each in (rough, read(path))
    )
    assert (after < before) == (least > 0)  # without it each hole holds something


@pytest.mark.parametrize("kind", ["flatgeobuf", "geopackage"])
def test_a_layer_is_of_the_type_that_is_there(kind: str, new_bench: Any, tmp_path: Path) -> None:
    """Polygons where each object is one; of an object in two pieces all become MultiPolygons."""
    whole, pieces = np.full((40, 40), 10, np.uint8), np.full((40, 40), 10, np.uint8)
    whole[5:20, 5:20] = whole[25:35, 8:30] = 200
    whole[10:15, 10:15] = 10  # a hole
    pieces[5:10, 5:10] = pieces[10:15, 10:15] = 200  # meet in a corner
    corners = {"kind": "components", "connectivity": 2}
    for pixels, kinds in ((whole, {"Polygon"}), (pieces, {"MultiPolygon"})):
        bench = new_bench()
        bench.put("a.png", pixels)
        bench.run({"kind": "threshold", "method": "fixed", "levels": [100], "instances": corners})
        (path,) = export(kind, bench.store, tmp_path / min(kinds))
        (wanted,) = export("geoparquet", bench.store, tmp_path / min(kinds))
        found = read(path).sort_values("id", ignore_index=True)  # FlatGeobuf has its own order
        assert pyogrio.read_info(path)["geometry_type"] == min(kinds)
        assert set(found.geometry.geom_type) == kinds
        assert found.geometry.is_valid.all()
        expected = read(wanted).sort_values("id", ignore_index=True)
        assert found.geometry.geom_equals(expected.geometry).all()


@pytest.mark.parametrize("instances", [None, "components"])
def test_probabilities_are_means_over_the_pixels(
    instances: str | None, new_bench: Any, toys: str, tmp_path: Path
) -> None:
    bench = new_bench()
    bench.put("a.png", land(5, (70, 90)))
    spec: dict[str, Any] = {"kind": f"{toys}:Blocks"}
    if instances:
        spec["instances"] = instances
    bench.run(spec, store={"shard": 32, "chunk": 16, "probabilities": True})
    (scene,) = bench.open().scenes.values()
    likely, names = scene.probabilities[0], list(bench.open().classes)
    for kind in ("geoparquet", "flatgeobuf"):
        (path,) = export(kind, bench.store, tmp_path)
        found = read(path)
        assert len(found) > 3
        for row in found.itertuples():
            inside = rasterio.features.rasterize([row.geometry], likely.shape[1:]).astype(bool)
            # `class` is a word of Python, and so a place
            mean = likely[names.index(found["class"][row.Index])][inside].mean(dtype=float)
            assert row.probability == pytest.approx(mean, abs=1e-9)


def test_tiles_for_the_web_hold_the_map(classes: Any, blobs: Any, tmp_path: Path) -> None:
    (path,) = export("pmtiles", classes.store, tmp_path / "a")
    (again,) = export("pmtiles", classes.store, tmp_path / "b")
    assert Path(path).read_bytes() == Path(again).read_bytes()
    assert Path(path).read_bytes()[:8] == b"PMTiles\x03"
    found, labels = pyogrio.read_dataframe(path), np.asarray(classes.open()["land"].mask[0])
    names = list(classes.open().classes)
    shapes = found.to_crs("EPSG:32613").geometry
    burned = rasterio.features.rasterize(
        zip(shapes, [names.index(c) for c in found["class"]], strict=True),
        labels.shape, fill=255, transform=TRANSFORM, dtype="uint8",
    )  # fmt: skip
    assert (burned == labels).mean() > 0.97  # at the finest zoom a step is about a pixel
    assert set(found["name"]) == {"land.tif"}
    with pytest.raises(JobError, match=r"--to pmtiles: .*: has no CRS, so that it lies on no map"):
        export("pmtiles", blobs.store, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_scene_that_lies_nowhere_does_not_keep_others_off_the_web(
    bench: Any, tmp_path: Path
) -> None:
    pixels = np.kron(np.arange(64).reshape(8, 8) % 2, np.ones((16, 16))).astype("uint8") * 200
    bench.inputs.mkdir(exist_ok=True)
    for name, place in (("a", {"crs": "EPSG:32613", "transform": TRANSFORM}), ("b", {})):
        with warnings.catch_warnings(action="ignore"), rasterio.open(
            bench.inputs / f"{name}.tif", "w", driver="GTiff", count=1, height=128, width=128,
            dtype="uint8", **place,
        ) as file:  # fmt: skip
            file.write(pixels[None])
    bench.run({"kind": "threshold"}, source={"kind": "raster", "paths": [str(bench.inputs)]})
    with pytest.raises(SegengineError, match=r"^1 written, and 1 left out: b: has no CRS"):
        export("pmtiles", bench.store, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.pmtiles"]


def test_a_scene_that_is_too_much_to_simplify_is_said(
    classes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shaping, "MOST", 100)
    with pytest.raises(JobError, match=r"--simplify: land: has more than 100 edges .* --min-area$"):
        export("geojson", classes.store, tmp_path, simplify=10.0)


@pytest.mark.parametrize("bad", [{"simplify": -1}, {"min_area": float("nan")}, {"holes": -0.5}])
def test_numbers_that_cannot_be(bad: Any, classes: Any, tmp_path: Path) -> None:
    (name,) = bad
    with pytest.raises(JobError, match=f"^--{name.replace('_', '-')} .*: is no number from 0 on$"):
        export("geoparquet", classes.store, tmp_path, **bad)
    assert not list(tmp_path.iterdir())


def test_the_command_takes_them_where_the_format_does(
    classes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segengine_flows import cli

    start = ["export", str(classes.store), "--out", str(tmp_path / "o"), "--to"]
    assert cli.main([*start, "geojson", "--simplify", "25", "--min-area", "4e3", "--holes=1"]) == 0
    assert len(read(str(tmp_path / "o/land.geojson"))) > 3
    assert cli.main([*start, "png", "--min-area", "4"]) == 2
    assert "--min-area: png takes no such option; leave it out" in capsys.readouterr().err


def test_without_pyogrio_one_line_says_what_to_install(classes: Any, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyogrio'] = None\nfrom segengine_flows import cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = ["export", str(classes.store), "--to", "flatgeobuf", "--out", str(tmp_path / "o")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "--to flatgeobuf: needs pyogrio, which is not installed; "
        "python -m pip install 'segengine[earth]' brings it"
    )
    assert not (tmp_path / "o").exists()
