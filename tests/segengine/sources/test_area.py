"""The area of interest: against shapely at each pixel's centre, and what is read for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from segengine.errors import CorruptInputError, OutsideError
from segengine.sources._area import mark_of, require_polygons
from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Tile
from tests.segengine.sources.scenes import CORNER, UTM, field, write

OUTER = [(403, -297), (5209, -918), (4311, -5603), (1507, -4691), (2393, -2614)]
HOLE = [(3008, -1797), (4013, -2011), (3491, -3213)]
ISLAND = [(297, -5911), (919, -5887), (604, -5209)]
"""Metres from the scene's corner; no side runs along centres of pixels."""


def degrees(points: list[tuple[float, float]]) -> list[list[float]]:
    xs, ys = (
        np.array(axis) + start
        for axis, start in zip(zip(*points, strict=True), CORNER, strict=True)
    )
    return [list(p) for p in zip(*transform(UTM, "OGC:CRS84", xs, ys), strict=True)]


def closed(points: Any) -> Any:
    return [*points, points[0]]


def geojson(path: Path, polygons: Any, **more: Any) -> str:
    rings = [[closed(ring) for ring in rings] for rings in polygons]
    shape = {"type": "MultiPolygon", "coordinates": rings}
    path.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": shape} | more))
    return str(path)


@pytest.fixture(scope="module")
def raster(tmp_path_factory: Any) -> str:
    path = tmp_path_factory.mktemp("area") / "a.tif"
    return write(path, field(10, 6000), 10, tiled=True, blockxsize=64, blockysize=64)


@pytest.fixture(scope="module")
def area(tmp_path_factory: Any) -> str:
    path = tmp_path_factory.mktemp("polygons") / "area.geojson"
    return geojson(path, [[degrees(OUTER), degrees(HOLE)], [degrees(ISLAND)]])


def read(
    uri: str, rows: slice = slice(0, 600), cols: slice = slice(0, 600), **options: Any
) -> Tile:
    source = RasterSource(**options)
    probe = source.probe(Entry("a", uri, "mark"))
    ref = FrameRef(0, "a", uri, "mark", probe.height, probe.width)
    (item,) = source.read([ref], rows, cols)
    assert isinstance(item, Tile), item
    return item


def centres_in(polygon: Any, crs: str) -> Any:
    """(600, 600) whether the centre of a pixel of the raster, in another CRS, lies in a polygon."""
    at = (np.arange(600) + 0.5) * 10
    xs, ys = np.meshgrid(CORNER[0] + at, CORNER[1] - at)
    moved = transform(UTM, crs, xs.ravel(), ys.ravel())
    return shapely.contains_xy(polygon, *moved).reshape(600, 600)


def test_valid_are_the_pixels_whose_centre_lies_inside(raster: str, area: str) -> None:
    found = read(raster, area=area)
    shape = shapely.union_all(
        [shapely.Polygon(degrees(OUTER), [degrees(HOLE)]), shapely.Polygon(degrees(ISLAND))]
    )
    wanted = centres_in(shape, "OGC:CRS84")
    assert found.valid is not None
    # within a hundredth of a pixel of the border either is right
    assert (found.valid != wanted).sum() <= 3
    np.testing.assert_array_equal(found.pixels[found.valid], read(raster).pixels[found.valid])
    assert not found.pixels[~found.valid].any()


def test_a_box_of_degrees_follows_its_parallels(raster: str) -> None:
    box = (16.29, 45.11, 16.33, 45.13)
    found = read(raster, area=box).valid
    assert found is not None
    wanted = centres_in(shapely.box(*box), "OGC:CRS84")
    assert 0.1 < wanted.mean() < 0.9
    assert (found != wanted).sum() <= 3


def test_an_area_in_its_own_crs(raster: str, tmp_path: Path) -> None:
    import geopandas

    outer = [(x + CORNER[0], y + CORNER[1]) for x, y in OUTER]
    frame = geopandas.GeoDataFrame(geometry=[shapely.Polygon(outer)], crs=UTM).to_crs("EPSG:3857")
    wanted = centres_in(frame.geometry[0], "EPSG:3857")
    for name in ("a.gpkg", "a.fgb", "a.shp", "a.parquet"):
        save = frame.to_parquet if name == "a.parquet" else frame.to_file
        save(tmp_path / name)
        found = read(raster, area=str(tmp_path / name)).valid
        assert found is not None
        assert (found != wanted).sum() <= 3
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}
    ring = [list(p) for p in frame.geometry[0].exterior.coords][:-1]
    old = geojson(tmp_path / "old.geojson", [[ring]], crs=crs)
    found = read(raster, area=old).valid
    assert found is not None
    assert (found != wanted).sum() <= 3


def test_a_file_of_several_layers_is_told_what_a_job_can_do(tmp_path: Path) -> None:
    import geopandas

    frame = geopandas.GeoDataFrame(geometry=[shapely.box(16, 45, 17, 46)], crs="OGC:CRS84")
    for layer in ("a", "b"):
        frame.to_file(tmp_path / "two.gpkg", layer=layer)
    with pytest.raises(
        ValueError, match="has the layers a, b; write the one that is meant to a file"
    ):
        require_polygons(str(tmp_path / "two.gpkg"))


def test_an_area_may_reach_far_beyond_a_scene(raster: str, tmp_path: Path) -> None:
    """Where the scene's CRS does not hold: most of the world, without what lies west of a meridian."""
    world = [(16.31, -85.0), (179.0, -85.0), (179.0, 85.0), (16.31, 85.0)]
    shape = {"type": "Polygon", "coordinates": [closed(world)]}
    (tmp_path / "world.geojson").write_text(json.dumps(shape))
    found = read(raster, area=str(tmp_path / "world.geojson")).valid
    wanted = centres_in(shapely.Polygon(world), "OGC:CRS84")
    assert found is not None
    assert 0.1 < wanted.mean() < 0.9
    assert (found != wanted).sum() <= 3
    assert read(raster, area=(-180, -90, 180, 90)).valid is None


def test_across_the_date_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tif", field(1000, 200_000), 1000, corner=(100_000, 500_000), crs="EPSG:32601"
    )
    at = (np.arange(200) + 0.5) * 1000
    xs, ys = np.meshgrid(100_000 + at, 500_000 - at)
    lon, lat = (
        np.array(a).reshape(200, 200)
        for a in transform("EPSG:32601", "OGC:CRS84", xs.ravel(), ys.ravel())
    )
    wanted = ((lon > 179.5) | (lon < -179.6)) & (lat > 3) & (lat < 4)
    whole = slice(0, 200)
    found = read(path, whole, whole, area=(179.5, 3, -179.6, 4)).valid
    assert found is not None
    assert wanted.sum() > 5000
    assert (found != wanted).sum() <= 3


@pytest.mark.parametrize(
    ("west", "box", "inside"),
    [
        (179, (179.5, 8, -178.5, 9.5), 200 * 150),
        (179, (-180, 8, -178, 9), 200 * 100),
        (179, (180, 8, -179, 9), 100 * 100),
        (190, (-169.5, 8, -168, 9.5), 150 * 150),
        (-181, (179.5, 8, 180, 9), 50 * 100),
    ],
)
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4258"])
def test_degrees_that_go_on_beyond_180(
    tmp_path: Path, west: float, box: Any, inside: int, crs: str
) -> None:
    """A scene of 179 to 183 degrees, and one of 190 to 194, as climate models have them."""
    path = write(tmp_path / "a.tif", np.ones((300, 400), "uint8"), 0.01, (west, 10), crs=crs)
    probe = RasterSource().probe(Entry("a", path, "mark"))
    ref = FrameRef(0, "a", path, "mark", probe.height, probe.width)
    cut = shapely.box(*box) if box[0] < box[2] else None
    parts = [cut] if cut else [shapely.box(box[0], box[1], 180, box[3]),
                               shapely.box(-180, box[1], box[2], box[3])]  # fmt: skip
    rings = [[list(map(list, part.exterior.coords))[:-1]] for part in parts]
    for area in (box, geojson(tmp_path / "a.json", rings)):
        (item,) = RasterSource(area=area).read([ref], slice(0, 300), slice(0, 400))
        assert isinstance(item, Tile)
        assert item.valid is not None
        assert item.valid.sum() == inside


def test_windows_are_cuts_of_the_whole(raster: str, area: str) -> None:
    whole = read(
        raster,
        area=area,
        resolution=13.0,
        resampling="cubic",
        cols=slice(0, 460),
        rows=slice(0, 460),
    )
    cut = st.tuples(st.integers(0, 460), st.integers(0, 460)).map(sorted)
    cut = cut.filter(lambda e: e[0] < e[1]).map(lambda e: slice(*e))

    @given(cut, cut)
    @settings(max_examples=15, deadline=None)
    def holds(rows: slice, cols: slice) -> None:
        part = read(raster, rows, cols, area=area, resolution=13.0, resampling="cubic")
        valid = np.ones(part.pixels.shape[:2], bool) if part.valid is None else part.valid
        assert whole.valid is not None
        np.testing.assert_array_equal(valid, whole.valid[rows, cols])
        np.testing.assert_array_equal(part.pixels, whole.pixels[rows, cols])

    holds()


def test_a_tenth_of_a_scene_reads_little_more_than_a_tenth_of_it(tmp_path: Path) -> None:
    """Bytes that are asked of the file, shard by shard of 256 pixels, as the system counts them."""
    bands = np.stack([field(10, 20_480)] * 4)
    path = write(tmp_path / "a.tif", bands, 10, tiled=True, blockxsize=128, blockysize=128)
    first, last = (
        1280 + 20,
        1280 + 6400 - 20,
    )  # in 25 of the 256 blocks; sides are straight in degrees
    square = [(first, -first), (last, -first), (last, -last), (first, -last)]
    options: Any = {"area": geojson(tmp_path / "a.geojson", [[degrees(square)]])}
    source = RasterSource(**options)
    probe = source.probe(Entry("a", path, "mark"))
    ref = FrameRef(0, "a", path, "mark", probe.height, probe.width)
    for at in (slice(0, 64), slice(600, 664)):  # what is imported and looked up once
        list(source.read([ref], at, at))
    before = asked()
    for y in range(0, 2048, 256):
        for x in range(0, 2048, 256):
            (item,) = source.read([ref], slice(y, y + 256), slice(x, x + 256))
            assert isinstance(item, Tile)
    share = (asked() - before) / os.path.getsize(path)
    assert 25 / 256 < share <= 0.12


def asked() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def test_a_window_outside_opens_no_file(raster: str, area: str, monkeypatch: Any) -> None:
    source = RasterSource(area=area)
    source.probe(Entry("a", raster, "mark"))
    ref = FrameRef(0, "a", raster, "mark", 600, 600)
    (first,) = source.read([ref], slice(0, 600), slice(0, 600))
    assert isinstance(first, Tile)

    def opens(*_: Any, **__: Any) -> Any:
        raise AssertionError("opened")

    monkeypatch.setattr(RasterSource, "open", opens)
    (item,) = source.read([ref], slice(560, 600), slice(500, 600))
    assert isinstance(item, Tile)
    assert item.valid is not None
    assert not item.valid.any()
    with pytest.raises(AssertionError):
        list(source.read([ref], slice(100, 200), slice(100, 200)))


def test_a_scene_outside_is_told_apart_from_a_bad_one(raster: str, tmp_path: Path) -> None:
    for box in ((10, 50, 11, 51), (-120, 45.11, -119, 45.13), (16.29, -45.2, 16.33, -45.1)):
        with pytest.raises(OutsideError, match="outside"):
            read(raster, area=box)
    # between the centres of pixels
    sliver = [(1001, -1001), (1003, -1001), (1003, -1003)]
    with pytest.raises(OutsideError, match=r"source\.area holds no centre of a pixel"):
        read(raster, area=geojson(tmp_path / "a.geojson", [[degrees(sliver)]]))


def test_a_raster_without_a_place_has_no_area(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((9, 9), "uint8")).save(tmp_path / "a.png")
    with pytest.raises(CorruptInputError, match="no CRS or no transform"):
        read(str(tmp_path / "a.png"), area=(0, 0, 1, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no file of polygons"),
        ("[1, 2]", "is no file of polygons"),
        ("{1, 2]", "is no GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ('{"type": "Point", "coordinates": [1, 2]}', "feature 1 is a Point"),
        (
            '{"type": "Polygon", "coordinates": [[[1, 2], [3, "x"], [4, 5]]]}',
            "no polygon of GeoJSON",
        ),
        ('{"type": "Polygon", "coordinates": [[[1, 2]]]}', "at least three points"),
        ('{"type": "Polygon", "coordinates": [[[1, 2], [3, 1e999], [4, 5]]]}', "finite"),
        (
            '{"type": "Polygon", "coordinates": [[[6e5, 5e6], [7e5, 5e6], [6e5, 4e6]]]}',
            "no degrees",
        ),
        (
            '{"type": "Polygon", "coordinates": [[[1, 2], [3, 2], [3, 4]]], '
            '"crs": {"type": "name", "properties": {"name": "EPSG:5714"}}}',
            "says a vertical CRS",
        ),
        ('{"a":' + "[" * 100_000, "is no GeoJSON"),
        ("fgb\x03fgb\0" + "x" * 100, "holds no polygon"),
    ],
)
def test_a_file_that_is_no_area_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        require_polygons(str(path))
    assert str(caught.value).startswith(f"area: {path}: ")
    assert "\n" not in str(caught.value)


def test_a_shapefile_is_all_of_its_files(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "a.shp"
    for crs in (UTM, "EPSG:32634"):
        geopandas.GeoDataFrame(geometry=[shapely.box(4e5, 5e6, 5e5, 6e6)], crs=crs).to_file(path)
        marks = [mark_of(str(path)), mark_of(str(path))]
        assert marks[0] == marks[1]
        if crs == UTM:
            first, before = marks[0], path.read_bytes()
    assert path.read_bytes() == before
    assert marks[0] != first
    (tmp_path / "a.prj").unlink()
    with pytest.raises(ValueError, match="does not say its CRS"):
        require_polygons(str(path))


@pytest.mark.parametrize(
    "area", [[1, 2, 3], [1, 2, 3, "4"], [0, 10, 1, 5], [0, 0, 200, 1], [5, 0, 5, 1], "", 7, True]
)
def test_wrong_boxes_name_the_key(area: Any) -> None:
    with pytest.raises(ValueError, match=r"^area: "):
        RasterSource(area=area)
