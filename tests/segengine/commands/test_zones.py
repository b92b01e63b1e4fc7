"""Areas and shares in polygons: against exactextract, wherever on earth, however the mask is cut."""

from __future__ import annotations

import csv
import itertools
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from pyproj import CRS, Geod, Proj, Transformer

import segengine
from segengine.areas.placed import square_metres
from segengine.commands.zones import zones
from segengine.errors import JobError
from segengine.job import parse_job
from segengine.runs import Run

HEIGHT, WIDTH = 150, 190
NAMES = ("cluster 0", "cluster 1", "cluster 2")
PLACES = {
    "utm": ("EPSG:32633", (10, 0, 400000, 0, -10, 5200000)),
    "turned": ("EPSG:32633", (8, 6, 400000, 6, -8, 5200000)),
    "degrees": ("EPSG:4326", (0.05, 0, 10, 0, -0.05, 60)),
    "south up": ("EPSG:32733", (20, 0, 400000, 0, 20, 8200000)),
    "polar": ("EPSG:3413", (2000, 0, -100000, 0, -2000, -1500000)),
}


def image(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Blocks of gray; 0, which is nodata, in a corner and here and there."""
    coarse = np.random.default_rng(seed).integers(0, 250, (height // 6 + 1, width // 6 + 1))
    found = coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width].astype(np.uint8)
    found[:30, :40] = 0
    return found


def put(path: Path, pixels: np.ndarray, crs: str | None, transform: tuple[float, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "crs": crs}
    height, width = pixels.shape
    where = rasterio.Affine(*transform)
    with rasterio.open(path, "w", height=height, width=width, transform=where, **profile) as file:
        file.write(pixels, 1)


def run(folder: Path, shard: int = 64) -> str:
    """K-means of all rasters in `folder/in`."""
    store = str(folder / f"masks-{shard}.zarr")
    job = {
        "source": {"paths": [str(folder / "in")]},
        "segmenter": {"kind": "kmeans", "clusters": 3, "scope": "run", "space": "bands"},
        "store": {"path": store, "chunk": 32, "shard": shard},
    }
    assert segengine.run(job).failed == ()
    return store


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store of one scene, its CRS and transform."""
    crs, transform = PLACES[request.param]
    folder = tmp_path_factory.mktemp("place")
    put(folder / "in" / "a.tif", image(), crs, transform)
    return folder, run(folder), crs, transform


@pytest.fixture(scope="module")
def utm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("utm")
    put(folder / "in" / "a.tif", image(), *PLACES["utm"])
    return folder, run(folder)


def shapes(seed: int, count: int) -> list[Any]:
    """Valid polygons in columns and rows, from a part of a pixel to larger than the scene."""
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    while len(found) < count:
        centre = rng.random(2) * (WIDTH, HEIGHT)
        angles = np.sort(rng.random(rng.integers(3, 15))) * 2 * np.pi
        radius = rng.random(len(angles)) * rng.choice([0.4, 4, 40, 120]) + 0.05
        shape = shapely.Polygon(
            centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
        )
        if shape.is_valid:
            hole = shape.representative_point().buffer(math.sqrt(shape.area) / 9)
            found.append(shape.difference(hole) if len(found) % 3 == 0 else shape)
    return found


def on_earth(shape: Any, transform: tuple[float, ...]) -> Any:
    a, b, c, d, e, f = transform
    return shapely.transform(
        shape, lambda p: np.stack([a * p[:, 0] + b * p[:, 1] + c, d * p[:, 0] + e * p[:, 1] + f], 1)
    )


def pixel_metres(crs: str, transform: tuple[float, ...]) -> np.ndarray:
    """(y, x) area of each pixel: of degrees, of its four corners; else by the map's own scale."""
    a, b, c, d, e, f = transform
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    if crs == "EPSG:4326":
        geod, edges = Geod(ellps="WGS84"), f + e * np.arange(HEIGHT + 1)
        rows = []
        for north, south in itertools.pairwise(edges):
            rows.append(geod.polygon_area_perimeter([0, a, a, 0], [south, south, north, north])[0])
        return np.repeat(np.array(rows)[:, None], WIDTH, axis=1)
    projection = Proj(crs)
    lon, lat = projection(a * x + b * y + c, d * x + e * y + f, inverse=True)
    return np.asarray(abs(a * e - b * d) / projection.get_factors(lon, lat).areal_scale)


def exact(
    labels: np.ndarray, metres: np.ndarray, polygons: list[Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(polygon, class) areas and shares, and void's share, by exactextract on columns and rows."""
    extent = (0, 0, labels.shape[1], labels.shape[0])
    raster = NumPyRasterSource(labels[::-1].astype(np.int32), *extent)
    weights = NumPyRasterSource(metres[::-1], *extent)
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(p))}
        for p in polygons
    ]
    found = exact_extract(raster, features, ["values", "coverage", "weights"], weights=weights)
    areas, parts, void = np.zeros((len(polygons), 3)), np.zeros((len(polygons), 3)), []
    for i, feature in enumerate(found):
        values, cover, weight = (
            np.asarray(feature["properties"][name], np.float64)
            for name in ("values", "coverage", "weights")
        )
        for label in range(3):
            parts[i, label] = cover[values == label].sum()
            areas[i, label] = (cover * weight)[values == label].sum()
        void.append(1 - parts[i].sum() / polygons[i].area)
    total = parts.sum(axis=1, keepdims=True)
    shares = np.divide(parts, total, out=np.full_like(parts, np.nan), where=total > 0)
    return areas, shares, np.array(void)


def read(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {
        name: table[name].to_numpy()
        for name in table.column_names
        if name.endswith(("area", "share"))
    }


def columns(found: dict[str, np.ndarray], what: str) -> np.ndarray:
    return np.stack([found[f"{name}_{what}"] for name in NAMES], axis=1)


def test_figures_are_those_of_exactextract_to_a_millionth(place: Any, tmp_path: Path) -> None:
    _, store, crs, transform = place
    polygons = shapes(1, 80)
    frame = geopandas.GeoDataFrame(
        {"name": [f"p{i}" for i in range(80)]},
        geometry=[on_earth(shape, transform) for shape in polygons],
        crs=crs,
    )
    frame.to_parquet(tmp_path / "polygons.parquet")
    out = tmp_path / "zones.parquet"
    report = zones(store, str(tmp_path / "polygons.parquet"), str(out))
    found = read(out)
    labels = segengine.open_store(store)["a"].mask[0]
    areas, shares, void = exact(labels, pixel_metres(crs, transform), polygons)
    whole = areas.sum(axis=1, keepdims=True)
    own = columns(found, "area")
    assert np.array_equal(own == 0, areas == 0)
    assert (np.abs(own - areas) <= 1e-6 * whole).all()
    assert np.allclose(columns(found, "share"), shares, rtol=0, atol=1e-6, equal_nan=True)
    assert np.allclose(found["void_share"], void, rtol=0, atol=1e-6)
    assert report.polygons == 80
    assert sum(report.areas.values()) == pytest.approx(own.sum())


def test_a_table_does_not_depend_on_the_cuts(utm: tuple[Path, str], tmp_path: Path) -> None:
    folder, small = utm
    frame = geopandas.GeoDataFrame(
        geometry=[on_earth(s, PLACES["utm"][1]) for s in shapes(2, 60)], crs="EPSG:32633"
    )
    frame.to_parquet(tmp_path / "polygons.parquet")
    tables = []
    for store in (small, run(folder, 256), run(folder, 32)):
        out = tmp_path / f"{Path(store).stem}.csv"
        zones(store, str(tmp_path / "polygons.parquet"), str(out))
        tables.append(out.read_bytes())
    assert tables[0] == tables[1] == tables[2]


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    ".geojson": lambda frame, path: frame.to_file(path, COORDINATE_PRECISION=12),
    ".gpkg": lambda frame, path: frame.to_file(path),
    ".fgb": lambda frame, path: frame.to_file(path, SPATIAL_INDEX="NO"),
    ".shp": lambda frame, path: frame.to_file(path),
    ".parquet": lambda frame, path: frame.to_parquet(path),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_is_read_and_its_columns_are_kept(
    utm: tuple[Path, str], tmp_path: Path, suffix: str
) -> None:
    _, store = utm
    frame = geopandas.GeoDataFrame(
        {"name": ["küste", None, "c"], "number": [3, 1, 2], "size": [0.5, 2.0, 1.0]},
        geometry=[on_earth(s, PLACES["utm"][1]) for s in shapes(3, 3)],
        crs="EPSG:32633",
    )
    path = tmp_path / f"polygons{suffix}"
    WRITERS[suffix](frame, path)
    for out in ("zones.csv", "zones.geoparquet"):
        zones(store, str(path), str(tmp_path / out))
    with (tmp_path / "zones.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["küste", "", "c"]
    assert [float(row["size"]) for row in rows] == [0.5, 2.0, 1.0]
    again = geopandas.read_parquet(tmp_path / "zones.geoparquet")
    assert again["number"].tolist() == [3, 1, 2]
    assert again.crs == frame.crs
    same = again.normalize().geom_equals_exact(frame.normalize(), 1e-5, align=False)
    assert same.all()
    assert list(again.columns)[-8:] == [
        *(f"{name}_{what}" for name in NAMES for what in ("area", "share")),
        "void_share",
        "geometry",
    ]
    for row, one in zip(rows, again.to_dict("records"), strict=True):
        assert float(row["cluster 1_area"]) == one["cluster 1_area"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_polygons_behind_a_url_are_those_of_the_file(
    utm: tuple[Path, str], tmp_path: Path, suffix: str
) -> None:
    _, store = utm
    (tmp_path / "served").mkdir()
    path = tmp_path / "served" / f"p{suffix}"
    frame = geopandas.GeoDataFrame(
        geometry=[on_earth(s, PLACES["utm"][1]) for s in shapes(3, 3)], crs="EPSG:32633"
    )
    WRITERS[suffix](frame, path)
    zones(store, str(path), str(tmp_path / "here.csv"))
    with served(tmp_path / "served") as url:
        given = f"{url}/p{suffix}?sig=secret"
        if suffix == ".shp":
            with pytest.raises(JobError, match="copy them here") as caught:
                zones(store, given, str(tmp_path / "there.csv"))
            assert "secret" not in str(caught.value)
            return
        zones(store, given, str(tmp_path / "there.csv"))
        with pytest.raises(JobError, match=r"^http://127\.0\.0\.1:\d+/none\.gpkg: no such file"):
            zones(store, f"{url}/none.gpkg?sig=secret", str(tmp_path / "there.csv"))
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a folder, which answers without ranges."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_polygons_in_another_crs_keep_their_straight_edges(
    utm: tuple[Path, str], tmp_path: Path
) -> None:
    """Edges that are straight in degrees, long enough to bend by pixels in UTM."""
    _, store = utm
    to = Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True).transform
    corners = [(400100, 5198600), (401800, 5198700), (401700, 5199900), (400050, 5199950)]
    far = [(300000, 5200000), (500000, 5200000), (500000, 5230000), (300000, 5230000)]
    shapes_ = [shapely.Polygon(np.stack(to(*np.transpose(c)), axis=1)) for c in (corners, far)]
    frame = geopandas.GeoDataFrame(geometry=shapes_, crs="OGC:CRS84")
    frame.to_parquet(tmp_path / "polygons.parquet")
    zones(store, str(tmp_path / "polygons.parquet"), str(tmp_path / "zones.parquet"))
    found = read(tmp_path / "zones.parquet")
    back = Transformer.from_crs("OGC:CRS84", "EPSG:32633", always_xy=True).transform
    a, _, c, _, e, f = PLACES["utm"][1]

    def pixels(points: np.ndarray) -> np.ndarray:
        x, y = back(*points.T)
        return np.stack([(x - c) / a, (y - f) / e], axis=1)

    dense = [shapely.transform(shapely.segmentize(s, 1e-3), pixels) for s in shapes_]
    sparse = [shapely.transform(s, pixels) for s in shapes_]
    labels = segengine.open_store(store)["a"].mask[0]
    metres = pixel_metres(*PLACES["utm"])
    areas, shares, void = exact(labels, metres, dense)
    bent, _, _ = exact(labels, metres, sparse)
    assert (np.abs(areas[1] - bent[1]) > 0.1 * areas[1]).any()  # edges that are straight in UTM
    assert columns(found, "area") == pytest.approx(areas, rel=2e-4)
    assert columns(found, "share") == pytest.approx(shares, rel=2e-4)
    assert found["void_share"] == pytest.approx(void, abs=1e-5)


@pytest.mark.parametrize(
    ("crs", "side", "south"),
    [("EPSG:3857", 2 * 20037508.342789244 / WIDTH, -90), ("EPSG:3413", 40000, -90)],
)
def test_the_whole_earth_on_a_map_that_has_no_place_for_a_pole(
    tmp_path: Path, crs: str, side: float, south: float
) -> None:
    place = (side, 0, -side * WIDTH / 2, 0, -side, side * HEIGHT / 2)
    put(tmp_path / "in" / "a.tif", np.full((HEIGHT, WIDTH), 9, np.uint8), crs, place)
    job = {
        "source": {"paths": [str(tmp_path / "in")]},
        "segmenter": {"kind": "threshold"},
        "store": {"path": str(tmp_path / "m.zarr"), "chunk": 32, "shard": 64},
    }
    segengine.run(job)
    earth = shapely.box(-180, south, 180, 90)
    geopandas.GeoDataFrame(geometry=[earth], crs="OGC:CRS84").to_parquet(tmp_path / "p.parquet")
    zones(str(tmp_path / "m.zarr"), str(tmp_path / "p.parquet"), str(tmp_path / "z.parquet"))
    found = pq.read_table(tmp_path / "z.parquet")
    area = sum(found[n].to_pylist()[0] for n in found.column_names if n.endswith("_area"))
    areas = segengine.open_store(tmp_path / "m.zarr").metrics["areas"]
    assert area == pytest.approx(sum(one["square_metres"] or 0 for one in areas.values()), rel=1e-3)
    if crs == "EPSG:3413":  # whose pixels up to the south pole cannot be counted
        whole = square_metres(earth, CRS.from_user_input("OGC:CRS84"))
        assert 1 - found["void_share"].to_pylist()[0] == pytest.approx(area / whole, rel=1e-9)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32660", (2000, 0, 600000, 0, -2000, 300000)),  # 176 E to 180 and beyond
        ("EPSG:4326", (0.05, 0, 176, 0, -0.05, 5)),  # longitudes of up to 185.5
        ("EPSG:4326", (0.05, 0, -184, 0, -0.05, 5)),
        ("EPSG:3832", (5000, 0, 2.9e6, 0, -5000, 4e5)),
    ],
)
def test_both_sides_of_the_antimeridian(tmp_path: Path, crs: str, transform: Any) -> None:
    put(tmp_path / "in" / "a.tif", np.full((HEIGHT, WIDTH), 9, np.uint8), crs, transform)
    job = {
        "source": {"paths": [str(tmp_path / "in")]},
        "segmenter": {"kind": "threshold"},
        "store": {"path": str(tmp_path / "m.zarr"), "chunk": 32, "shard": 64},
    }
    segengine.run(job)
    east, west = shapely.box(179, 1, 180, 2), shapely.box(-180, 1, -179.5, 2)
    both = shapely.MultiPolygon([east, west])
    shifted = shapely.box(179, 1, 180.5, 2)
    frame = geopandas.GeoDataFrame(geometry=[east, west, both, shifted], crs="OGC:CRS84")
    frame.to_parquet(tmp_path / "polygons.parquet")
    zones(str(tmp_path / "m.zarr"), str(tmp_path / "polygons.parquet"), str(tmp_path / "z.parquet"))
    table = pq.read_table(tmp_path / "z.parquet")
    area = np.nansum(
        [table[n].to_numpy() for n in table.column_names if n.endswith("_area")], axis=0
    )
    geod = Geod(ellps="WGS84")
    whole = [
        abs(geod.geometry_area_perimeter(shapely.segmentize(s, 0.01))[0]) for s in (east, west)
    ]
    assert area == pytest.approx([*whole, sum(whole), sum(whole)], rel=1e-4)
    assert table["void_share"].to_numpy() == pytest.approx(0, abs=1e-4)


def test_of_several_scenes_the_sum_counts(tmp_path: Path) -> None:
    """Two beside each other, as one; a third over the first: its part counts twice."""
    pixels, (crs, (a, b, c, d, e, f)) = image(3), PLACES["utm"]
    put(tmp_path / "in" / "left.tif", pixels[:, :100], crs, (a, b, c, d, e, f))
    put(tmp_path / "in" / "right.tif", pixels[:, 100:], crs, (a, b, c + 1000, d, e, f))
    apart = run(tmp_path)
    polygons = [s for s in shapes(5, 40) if s.area > 1]
    frame = geopandas.GeoDataFrame(
        geometry=[on_earth(s, (a, b, c, d, e, f)) for s in polygons], crs=crs
    )
    frame.to_parquet(tmp_path / "polygons.parquet")
    given = str(tmp_path / "polygons.parquet")
    report = zones(apart, given, str(tmp_path / "z.parquet"))
    assert report.scenes == ("left", "right")
    found = read(tmp_path / "z.parquet")
    store = segengine.open_store(apart)
    labels = np.concatenate([store[name].mask[0] for name in ("left", "right")], axis=1)
    areas, shares, void = exact(labels, pixel_metres(*PLACES["utm"]), polygons)
    assert columns(found, "area") == pytest.approx(areas, rel=1e-6, abs=1e-4)
    assert np.allclose(columns(found, "share"), shares, rtol=0, atol=1e-6, equal_nan=True)
    assert np.allclose(found["void_share"], void, rtol=0, atol=1e-6)

    put(tmp_path / "in" / "over.tif", pixels[:, :100], crs, (a, b, c, d, e, f))
    inside = shapely.box(c + 500, f - 1400, c + 900, f - 400)
    geopandas.GeoDataFrame(geometry=[inside], crs=crs).to_parquet(tmp_path / "one.parquet")
    once, twice = tmp_path / "once.parquet", tmp_path / "twice.parquet"
    zones(apart, str(tmp_path / "one.parquet"), str(once))
    zones(run(tmp_path), str(tmp_path / "one.parquet"), str(twice))
    one, two = read(once), read(twice)
    assert columns(two, "area") == pytest.approx(2 * columns(one, "area"))
    assert columns(two, "share") == pytest.approx(columns(one, "share"))
    assert two["void_share"] == pytest.approx(one["void_share"])


def test_scenes_of_unlike_pixels_count_by_area(tmp_path: Path) -> None:
    crs, (a, b, c, d, e, f) = PLACES["utm"]
    put(tmp_path / "in" / "fine.tif", image(3), crs, (a, b, c, d, e, f))
    put(tmp_path / "in" / "coarse.tif", image(4), crs, (3 * a, b, c + 1900, d, 3 * e, f))
    shape = shapely.box(c + 1000, f - 1400, c + 2900, f - 600)
    geopandas.GeoDataFrame(geometry=[shape], crs=crs).to_parquet(tmp_path / "p.parquet")
    zones(run(tmp_path), str(tmp_path / "p.parquet"), str(tmp_path / "z.parquet"))
    found = read(tmp_path / "z.parquet")
    area = columns(found, "area")[0]
    assert columns(found, "share")[0] == pytest.approx(area / area.sum())
    valid = area.sum() / square_metres(shape, CRS.from_user_input(crs))
    assert found["void_share"][0] == pytest.approx(1 - valid, abs=1e-9)


def test_what_lies_outside_is_void_and_what_is_empty_is_null(
    utm: tuple[Path, str], tmp_path: Path
) -> None:
    _, store = utm
    c, f = PLACES["utm"][1][2], PLACES["utm"][1][5]
    half = shapely.box(c - 500, f - 1400, c + 500, f - 1000)
    country = shapely.box(c - 5e5, f - 5e5, c + 5e5, f + 5e5)
    frame = geopandas.GeoDataFrame(
        geometry=[half, shapely.box(c + 9e4, f, c + 9.1e4, f + 1000), None, country],
        crs="EPSG:32633",
    )
    frame.to_file(tmp_path / "p.gpkg")
    report = zones(store, str(tmp_path / "p.gpkg"), str(tmp_path / "z.parquet"))
    assert report.outside == 1
    assert "1 of them meet no scene" in report.notices[-1]
    table = pq.read_table(tmp_path / "z.parquet")
    assert table["void_share"].to_pylist()[:3] == [0.5, 1.0, None]
    assert [table[f"{name}_area"].to_pylist()[1] for name in NAMES] == [0, 0, 0]
    assert [table[f"{name}_share"].to_pylist()[1:3] for name in NAMES] == [[None, None]] * 3
    total = sum(table[f"{name}_area"].to_pylist()[3] for name in NAMES)
    areas = segengine.open_store(store).metrics["areas"]
    assert total == pytest.approx(sum(areas[name]["square_metres"] for name in NAMES), rel=1e-6)
    valid = (segengine.open_store(store)["a"].mask[0] < 3).sum()
    assert 1 - table["void_share"].to_pylist()[3] == pytest.approx(valid / 1e10, rel=1e-9)


HOLE = shapely.box(4.1e5, 5.01e6, 4.2e5, 5.02e6)


@pytest.mark.parametrize(
    ("shape", "crs", "expected"),
    [
        (shapely.box(-180, -90, 180, 90), "OGC:CRS84", 510_065_621_724_088.5),
        (shapely.box(10, 40, 30, 50), "OGC:CRS84", None),
        (shapely.box(-1e6, -1e6, 2e6, 1e6), "EPSG:3413", None),  # around the pole
        (shapely.box(4e5, 5e6, 5e5, 5.1e6).difference(HOLE), "EPSG:32633", None),
    ],
)
def test_areas_of_polygons_are_those_of_geodesics(shape: Any, crs: str, expected: Any) -> None:
    found = square_metres(shape, CRS.from_user_input(crs))
    if expected is None:
        own = CRS.from_user_input(crs)
        to = Transformer.from_crs(own, own.geodetic_crs, always_xy=True)
        dense = shapely.segmentize(shape, max(shape.bounds[2] - shape.bounds[0], 1) / 3000)
        lonlat = shapely.transform(dense, lambda p: np.stack(to.transform(*p.T), axis=1))
        rings = [lonlat.exterior, *lonlat.interiors]
        areas = [abs(Geod(ellps="WGS84").geometry_area_perimeter(ring)[0]) for ring in rings]
        expected = 2 * areas[0] - sum(areas)
    assert found == pytest.approx(expected, rel=1e-7)


# ------------------------------------------------------------------------------------ wrong input


def collection(*geometries: Any, **members: Any) -> str:
    features = [{"type": "Feature", "properties": {}, "geometry": g} for g in geometries]
    return json.dumps({"type": "FeatureCollection", "features": features, **members})


def square(x: float, y: float, side: float) -> dict[str, Any]:
    return json.loads(shapely.to_geojson(shapely.box(x, y, x + side, y + side)))


BOW = {"type": "Polygon", "coordinates": [[[13, 46], [14, 47], [14, 46], [13, 47], [13, 46]]]}
FLAT = {"type": "Polygon", "coordinates": [[[13, 46], [14, 47], [13, 46], [14, 47], [13, 46]]]}
OVER = {"type": "Polygon", "coordinates": [[[179, 1], [-179, 1], [-179, 2], [179, 2], [179, 1]]]}
NAMED = {"type": "name", "properties": {"name": "+proj=utm +zone=33 +nadgrids=@/etc/passwd"}}
HEIGHTS = {"type": "name", "properties": {"name": "EPSG:5714"}}
NUL = "\0"
WRONG = {
    "no vector file": ("hello", "is no file of polygons"),
    "an image": ("\x89PNG", "is no file of polygons"),
    "half a file": ('{"type": "FeatureColl', "is no GeoJSON"),
    "too deep": ('{"a":' + "[" * 100_000, "is no GeoJSON"),
    "another object": ('{"a": 1}', "a FeatureCollection is needed"),
    "nothing in it": (collection(), "holds no polygon"),
    "points": (collection({"type": "Point", "coordinates": [1, 2]}), "feature 1 is a Point"),
    "no number": (collection(square(13, 46, 1)).replace("14.0", "NaN"), "NaN is no number"),
    "two points": (collection({"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}), "at least three"),
    "no area": (collection(FLAT), "holds no polygon: polygon 1 is not valid"),
    "the long way round": (collection(OVER), "an edge over 358 degrees of longitude; cut it"),
    "metres for degrees": (collection(square(4e5, 5e6, 9)), "a latitude of 5.0"),
    "far longitudes": (collection(square(4e5, 5, 9)), "a longitude of 40"),
    "outside of all": (collection(square(100, 10, 1)), "no polygon of it meets a scene"),
    "heights": (collection(square(13, 46, 1), crs=HEIGHTS), "says the CRS MSL height, in which no"),
    "no known CRS": (collection(square(13, 46, 1), crs=NAMED), "names no CRS that is known"),
    "a column too many": (
        collection(square(13, 46, 1)).replace('"properties": {}', '"properties": {"void_share": 1}'),
        "has a column void_share already",
    ),
    "a broken GeoPackage": (f"SQLite format 3{NUL * 53}GPKG{NUL * 400}", "cannot be read as GPKG"),
    "a broken FlatGeobuf": ("fgb\3fgb\0" + "\0" * 400, "holds no polygon"),
    "broken Parquet": ("PAR1" + "\0" * 99, "cannot be read as GeoParquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_polygons_are_one_line(utm: tuple[Path, str], tmp_path: Path, name: str) -> None:
    text, why = WRONG[name]
    path, out = tmp_path / "polygons.any", tmp_path / "zones.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(JobError) as caught:
        zones(utm[1], str(path), str(out))
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)
    assert not out.exists()


def test_what_crosses_itself_is_mended_and_told(utm: tuple[Path, str], tmp_path: Path) -> None:
    """A bow tie is its two halves, as GEOS mends it; what has no area is a row without figures."""
    _, store = utm
    x, y, s = 13.69, 46.94, 0.004
    bow = [[x, y], [x + s, y + s], [x + s, y], [x, y + s], [x, y]]
    crossed = {"type": "Polygon", "coordinates": [bow]}
    flat = {"type": "Polygon", "coordinates": [[[x, y], [x + s, y], [x, y], [x + s, y], [x, y]]]}
    halves = [
        shapely.Polygon([bow[0], bow[3], (x + s / 2, y + s / 2)]),
        shapely.Polygon([bow[1], bow[2], (x + s / 2, y + s / 2)]),
    ]
    whole = json.loads(shapely.to_geojson(shapely.MultiPolygon(halves)))
    rows = {}
    for name, shape in (("crossed", crossed), ("whole", whole)):
        path = tmp_path / f"{name}.geojson"
        path.write_text(collection(square(x, y, s), shape, flat))
        found = zones(store, str(path), str(tmp_path / f"{name}.csv"))
        mended, lost = found.notices if name == "crossed" else ("", *found.notices)
        assert lost == f"{path}: polygon 3 is not valid and of no area: no figures of it"
        if mended:
            assert mended.startswith(f"{path}: polygon 2 is not valid, and mended: Self-inter")
        with open(tmp_path / f"{name}.csv", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    assert rows["crossed"] == rows["whole"]
    first, second, third = rows["crossed"]
    assert float(second["void_share"]) <= 1
    areas = [sum(float(row[f"{c}_area"]) for c in NAMES) for row in (first, second)]
    assert 0.3 < areas[1] / areas[0] < 0.7
    assert set(third.values()) == {""}


def test_wrong_usage_is_one_line(utm: tuple[Path, str], tmp_path: Path) -> None:
    folder, store = utm
    good = tmp_path / "p.geojson"
    good.write_text(collection(square(13.69, 46.94, 0.005)))
    out = str(tmp_path / "z.csv")
    zones(store, str(good), out)
    zones(store, str(good), out)  # its own
    for polygons, table, options, why in (
        (str(good), str(tmp_path / "z.txt"), {}, "ends in none of .csv"),
        (str(tmp_path / "none.gpkg"), out, {}, "no such file"),
        (str(tmp_path), out, {}, "is a directory"),
        (str(good), out, {"layer": "a"}, "no layers to choose from"),
        (str(good), str(folder / "in" / "a.csv"), {}, ""),
        (str(good), f"{store}/z.csv", {}, "lies in the store itself"),
    ):
        if why:
            with pytest.raises(JobError, match=why):
                zones(store, polygons, table, **options)
    (tmp_path / "z.csv").write_text("mine")
    with pytest.raises(JobError, match="add --overwrite"):
        zones(store, str(good), out)
    zones(store, str(good), out, overwrite=True)
    frame = geopandas.read_file(good)
    own = tmp_path / "own.parquet"
    frame.to_parquet(own)
    with pytest.raises(JobError, match="is the file of the polygons"):
        zones(store, str(own), str(own), overwrite=True)
    for layer in ("a", "b"):
        frame.to_file(tmp_path / "two.gpkg", layer=layer)
    with pytest.raises(JobError, match="has the layers a, b; name one with --layer"):
        zones(store, str(tmp_path / "two.gpkg"), out)
    with pytest.raises(JobError, match="has no layer 'c'; there are a, b"):
        zones(store, str(tmp_path / "two.gpkg"), out, layer="c")
    zones(store, str(tmp_path / "two.gpkg"), out, layer="b")


def test_shards_that_are_still_to_come_are_void(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.tif", image(), *PLACES["utm"])
    store = str(tmp_path / "m.zarr")
    job = {
        "source": {"paths": [str(tmp_path / "in")]},
        "segmenter": {"kind": "threshold"},
        "store": {"path": store, "chunk": 32, "shard": 64},
    }
    with Run(parse_job(job), in_process=True) as planned:
        for _ in planned.stage("plan"):
            pass
    shape = on_earth(shapely.box(50, 50, 90, 90), PLACES["utm"][1])
    geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:32633").to_parquet(tmp_path / "p.parquet")
    report = zones(store, str(tmp_path / "p.parquet"), str(tmp_path / "z.parquet"))
    assert report.notices == ("scene a: 9 of 9 shards are not done: void",)
    assert pq.read_table(tmp_path / "z.parquet")["void_share"].to_pylist() == [1.0]


def test_a_map_without_georeference(bench: Any, noise: Any, tmp_path: Path) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run({"kind": "threshold"})
    (tmp_path / "p.geojson").write_text(collection(square(13.69, 46.94, 0.005)))
    with pytest.raises(JobError, match="no scene of it is georeferenced"):
        zones(str(bench.store), str(tmp_path / "p.geojson"), str(tmp_path / "z.csv"))


def test_geojson_needs_no_gdal_and_others_say_what_they_need(
    utm: tuple[Path, str], tmp_path: Path
) -> None:
    good = tmp_path / "p.geojson"
    good.write_text(collection(square(13.69, 46.94, 0.005)))
    geopandas.read_file(good).to_file(tmp_path / "p.gpkg")
    code = (
        "import sys; sys.modules['pyogrio'] = None; from segengine_flows import cli; "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    for name, expected in (("p.geojson", 0), ("p.gpkg", 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, "zones", utm[1], str(tmp_path / name), "--out", "z.csv"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == expected, done.stderr
    assert "python -m pip install 'segengine[earth]'" in done.stderr
