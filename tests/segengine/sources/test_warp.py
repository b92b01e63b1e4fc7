"""Rasters on a grid that the job asks for: against GDAL's WarpedVRT, and however they are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from scipy import ndimage

from segengine.errors import CorruptInputError
from segengine.sources import _mesh, _warp
from segengine.sources._grid import Grid
from segengine.sources._mesh import centres
from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Probe, Tile
from tests.segengine.sources.scenes import CORNER, UTM, field, write

POLAR = "EPSG:3413"
NEXT = (0, 0), (1, 0), (0, 1)
ASKED = [
    (None, 15.0, "nearest"),
    (None, 20.0, "nearest"),
    (None, 15.0, "cubic"),
    (None, 33.3, "average"),
    (None, 6.0, "bilinear"),
    ("EPSG:32634", None, "nearest"),
    ("EPSG:32634", 12.0, "bilinear"),
    ("EPSG:4326", 0.0002, "cubic"),
    ("EPSG:3857", 25.0, "average"),
]


@pytest.fixture(scope="module")
def raster(tmp_path_factory: Any) -> str:
    """600 x 600 pixels of 10 m with a hole, in blocks."""
    values = field(10, 6000)
    values[100:160, 200:260] = 0
    path = tmp_path_factory.mktemp("warp") / "a.tif"
    return write(path, values, 10, nodata=0, tiled=True, blockxsize=128, blockysize=128)


def probed(uri: str, **options: Any) -> tuple[RasterSource, Probe, FrameRef]:
    source = RasterSource(**options)
    entry = Entry("a", uri, "mark")
    probe = source.probe(entry)
    return source, probe, FrameRef(0, "a", uri, "mark", probe.height, probe.width)


def read(source: RasterSource, ref: FrameRef, rows: slice, cols: slice) -> tuple[Any, Any]:
    (item,) = source.read([ref], rows, cols)
    assert isinstance(item, Tile), item
    valid = np.ones(item.pixels.shape[:2], bool) if item.valid is None else item.valid
    return item.pixels, valid


def widths(probe: Probe, dataset: Any, crs: str) -> dict[str, str]:
    """The kernel's, for GDAL, which takes it from the rectangle around what lies turned."""
    place = Affine(*probe.attributes["transform"])
    move = Transformer.from_crs(crs, dataset.crs, always_xy=True).transform
    x, y = probe.width // 2, probe.height // 2
    at = np.array([~dataset.transform @ move(*(place @ (x + i, y + j))) for i, j in NEXT])
    steps = np.hypot(at[1] - at[0], at[2] - at[0])
    return {"XSCALE": f"{1 / steps[0]}", "YSCALE": f"{1 / steps[1]}"}


@pytest.mark.parametrize(("crs", "resolution", "resampling"), ASKED)
def test_labels_are_those_of_gdal(
    raster: str, crs: str | None, resolution: float | None, resampling: Any
) -> None:
    source, probe, ref = probed(raster, crs=crs, resolution=resolution, resampling=resampling)
    pixels, valid = read(source, ref, slice(0, probe.height), slice(0, probe.width))
    with (
        rasterio.open(raster) as dataset,
        WarpedVRT(
            dataset,
            crs=CRS.from_wkt(probe.attributes["crs_wkt"]),
            transform=Affine(*probe.attributes["transform"]),
            height=probe.height,
            width=probe.width,
            resampling=Resampling[resampling],
            tolerance=1e-6,  # by default GDAL may miss a place by an eighth of a pixel
            **({} if crs != "EPSG:32634" else widths(probe, dataset, crs)),
        ) as theirs,
    ):
        values, there = theirs.read(1), theirs.dataset_mask() > 0
    assert (valid == there).mean() >= 0.9995
    both = valid & there
    assert both.mean() > 0.8
    levels = np.quantile(values[both], [0.2, 0.4, 0.6, 0.8])
    ours = np.digitize(pixels[..., 0][both], levels)
    assert (ours == np.digitize(values[both], levels)).mean() >= 0.999


@pytest.mark.parametrize(
    ("crs", "resolution"), [("EPSG:3857", 14.0), ("EPSG:4326", 0.00012), ("EPSG:3035", 10.0)]
)
def test_nearest_is_the_pixel_that_holds_the_centre(
    tmp_path: Path, crs: str, resolution: float
) -> None:
    """Of noise, in which a pixel that is missed by a thousandth shows; pyproj tells which it is."""
    noise = np.random.default_rng(0).integers(1, 256, (700, 700)).astype("uint8")
    path = write(tmp_path / "a.tif", noise, 10, nodata=0)
    source, probe, ref = probed(path, crs=crs, resolution=resolution)
    pixels, valid = read(source, ref, slice(0, probe.height), slice(0, probe.width))
    place = Affine(*probe.attributes["transform"])
    columns, rows = np.meshgrid(np.arange(probe.width) + 0.5, np.arange(probe.height) + 0.5)
    x, y = Transformer.from_crs(crs, UTM, always_xy=True).transform(*(place @ (columns, rows)))
    column, row = (np.floor(v).astype(int) for v in ((x - CORNER[0]) / 10, (CORNER[1] - y) / 10))
    there = (column >= 0) & (row >= 0) & (column < 700) & (row < 700)
    wanted = np.zeros(there.shape, "uint8")
    wanted[there] = noise[row[there], column[there]]
    assert (np.where(valid, pixels[..., 0], 0) == wanted).mean() >= 0.9999


@pytest.mark.parametrize("wide", [8, 512])
def test_where_the_earth_bends_each_centre_is_looked_up(
    wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    polar = Grid(4096, 4096, (2000.0, 0.0, -4_096_000.0, 0.0, -2000.0, 4_096_000.0), POLAR)
    degrees = Grid(1800, 3600, (0.1, 0.0, -180.0, 0.0, -0.1, 90.0), "EPSG:4326")
    found = centres(polar, degrees, 2048 - 8, 2048 - 8, (16, wide))
    monkeypatch.setattr(_mesh, "NEAR", -1.0)
    every = centres(polar, degrees, 2048 - 8, 2048 - 8, (16, wide))
    np.testing.assert_allclose(found, every, rtol=0, atol=1e-3)


def test_bends_that_cancel_are_seen_where_angles_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 83 degrees, where the middles of a mesh lie where they should and all between do not."""
    web = Grid(512, 512, (300.0, 0.0, 0.0, 0.0, -300.0, 17_900_000.0), "EPSG:3857")
    north = Grid(4096, 4096, (100.0, 0.0, -200_000.0, 0.0, -100.0, 0.0), "EPSG:3995")
    found = centres(web, north, 0, 0, (64, 64))
    monkeypatch.setattr(_mesh, "NEAR", -1.0)
    every = centres(web, north, 0, 0, (64, 64))
    np.testing.assert_allclose(found, every, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("crs", "resolution", "resampling"), ASKED)
def test_windows_are_cuts_of_the_whole(
    raster: str, crs: str | None, resolution: float | None, resampling: Any
) -> None:
    source, probe, ref = probed(raster, crs=crs, resolution=resolution, resampling=resampling)
    whole, valid = read(source, ref, slice(0, probe.height), slice(0, probe.width))

    def cut(size: int) -> Any:
        ends = st.tuples(st.integers(0, size), st.integers(0, size))
        return ends.map(sorted).filter(lambda e: e[0] < e[1]).map(lambda e: slice(*e))

    @given(cut(probe.height), cut(probe.width))
    @settings(max_examples=12, deadline=None)
    def holds(rows: slice, cols: slice) -> None:
        pixels, there = read(source, ref, rows, cols)
        np.testing.assert_array_equal(there, valid[rows, cols])
        np.testing.assert_array_equal(pixels[there], whole[rows, cols][there])

    holds()


@pytest.mark.parametrize("resampling", ["bilinear", "cubic"])
def test_a_strip_has_the_pixels_of_the_scene_it_was_cut_from(resampling: Any) -> None:
    """Also turned by degrees, where a rectangle around a strip tells nothing of its pixels."""
    noise = np.random.default_rng(0).integers(0, 60_000, (300, 300, 1)).astype("uint16")
    from_west = CRS.from_epsg(32633).to_wkt()
    target = Grid(400, 400, (15.0, 0.0, 126_000.0, 0.0, -15.0, 5_012_000.0), "EPSG:32634")
    x, y = Transformer.from_crs(32634, 32633, always_xy=True).transform(127_500.0, 5_010_500.0)
    whole = Grid(300, 300, (10.0, 0.0, x - 1500, 0.0, -10.0, y + 1500), from_west)
    strip = Grid(40, 300, (10.0, 0.0, x - 1500, 0.0, -10.0, y + 500), from_west)
    found = []
    for grid, pixels in ((whole, noise), (strip, noise[100:140])):
        warp = _warp.Warp(target, grid, resampling)

        def cut(rows: slice, cols: slice, pixels: Any = pixels) -> tuple[Any, None]:
            return pixels[rows, cols], None

        values, valid = warp.read(cut, slice(0, 400), slice(0, 400), 1, "uint16")
        assert valid is not None
        found.append((values[..., 0], valid))
    inside = ndimage.binary_erosion(found[1][1], iterations=4)
    assert inside.sum() > 3000
    np.testing.assert_array_equal(found[1][0][inside], found[0][0][inside])


def test_the_grid_starts_at_the_upper_left_corner(raster: str) -> None:
    _, probe, _ = probed(raster, resolution=70.0)
    assert probe.attributes["transform"] == [70, 0, CORNER[0], 0, -70, CORNER[1]]
    assert (probe.height, probe.width) == (86, 86)  # 85.7
    _, probe, _ = probed(raster, crs="EPSG:4326", resolution=0.001)
    left, top = probe.attributes["transform"][2::3]
    with rasterio.open(raster) as dataset:
        bounds = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert (left, top) == pytest.approx((bounds[0], bounds[3]), abs=1e-6)


def test_a_coarse_grid_reads_the_overview_that_is_fine_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path / "a.tif", field(10, 10_240), 10, tiled=True, blockxsize=128, blockysize=128
    )
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], Resampling.average)
    seen = []
    real = RasterSource.open

    def spy(self: RasterSource, uri: str, overview: int | None = None, **settings: Any) -> Any:
        seen.append(overview)
        return real(self, uri, overview, **settings)

    monkeypatch.setattr(RasterSource, "open", spy)
    for resolution, level in ((10.0, None), (19.0, None), (20.0, 0), (50.0, 1), (200.0, 2)):
        source, probe, ref = probed(path, resolution=resolution, resampling="average")
        _warp._scale.cache_clear()
        seen.clear()
        pixels, _ = read(source, ref, slice(0, probe.height), slice(0, probe.width))
        assert seen[-1] == level, resolution
        if level == 0:  # what an overview holds is the mean of what lies below it
            means = field(10, 10_240).reshape(512, 2, 512, 2).mean(axis=(1, 3))
            assert np.abs(pixels[..., 0] - means).max() <= 0.5


def test_a_rotated_raster_is_brought_upright(tmp_path: Path) -> None:
    turned = Affine.translation(*CORNER) @ Affine.rotation(30) @ Affine.scale(10, -10)
    path = write(tmp_path / "a.tif", field(10, 2000), 10, transform=turned)
    source, probe, ref = probed(path, resolution=10.0)
    pixels, valid = read(source, ref, slice(0, probe.height), slice(0, probe.width))
    place = Affine(*probe.attributes["transform"])
    rows, cols = np.nonzero(valid)
    xs, ys = place @ (cols + 0.5, rows + 0.5)
    columns, lines = ~turned @ (xs, ys)
    at = np.floor(lines).astype(int), np.floor(columns).astype(int)
    same = pixels[rows, cols, 0] == field(10, 2000)[at]
    assert same.mean() > 0.9999
    assert valid.sum() == pytest.approx(200 * 200, rel=0.01)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "float32", "float64"])
def test_any_dtype(tmp_path: Path, dtype: str) -> None:
    values = (field(10, 1000) // 40).astype(dtype)
    path = write(tmp_path / "a.tif", values, 10)
    source, probe, ref = probed(path, resolution=30.0, resampling="average")
    pixels, valid = read(source, ref, slice(0, probe.height), slice(0, probe.width))
    assert pixels.dtype == dtype
    means = values[:99, :99].astype("float64").reshape(33, 3, 33, 3).mean(axis=(1, 3))
    assert valid[:33, :33].all()
    assert np.abs(pixels[:33, :33, 0] - means).max() <= (0.5 + 1e-6 if dtype[0] != "f" else 1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": 0}, "^resolution: is 0"),
        ({"resolution": float("nan")}, "^resolution: is nan"),
        ({"crs": "EPSG:99999999"}, "^crs: .* is no CRS"),
        ({"crs": ""}, "^crs: is ''"),
        ({"crs": "EPSG:5714"}, "^crs: 'EPSG:5714' is a vertical CRS; name a geographic or a proj"),
        ({"crs": "EPSG:4978"}, "^crs: .* is a geocentric CRS"),
        ({"crs": "EPSG:5800"}, "^crs: .* is a local CRS"),
        (
            {"crs": 'TIMECRS["t",TDATUM["x"],CS[TemporalDateTime,1],AXIS["t",future]]'},
            "is a mapless CRS",
        ),
        ({"crs": "EPSG:7415"}, "^crs: .* is a compound CRS; name the horizontal one"),
        ({"resampling": "lanczos"}, "^resampling: is 'lanczos'"),
    ],
)
def test_wrong_options_name_the_key(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RasterSource(**options)


@pytest.mark.parametrize(
    "crs",
    ["EPSG:4979", "OGC:CRS84", "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39 +type=crs",
     "+proj=utm +zone=33 +ellps=bessel +towgs84=598,73,418 +type=crs"],
)  # fmt: skip
def test_any_geographic_or_projected_crs_is_one(crs: str) -> None:
    assert RasterSource(crs=crs).crs == crs


def test_micrometres_a_pixel_of_a_slide(tmp_path: Path) -> None:
    import tifffile

    values = field(10, 2000)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, resolution=(40_000, 40_000), resolutionunit="CENTIMETER")
    source, probe, ref = probed(str(path), resolution=0.5, resampling="average")  # of 0.25
    assert probe.attributes["transform"] == [0.5, 0, 0, 0, 0.5, 0]
    pixels, _ = read(source, ref, slice(0, 100), slice(0, 100))
    means = values.reshape(100, 2, 100, 2).mean(axis=(1, 3))
    assert np.abs(pixels[..., 0] - means).max() <= 0.5


def test_what_lies_nowhere_has_no_resolution(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((9, 9), "uint8")).save(tmp_path / "a.png")
    with pytest.raises(CorruptInputError, match="lies nowhere"):
        probed(str(tmp_path / "a.png"), resolution=5.0)


@pytest.mark.parametrize(
    ("own", "corner", "crs"),
    [
        ("EPSG:3413", (-100_000, 100_000), "EPSG:3857"),  # around the north pole
        ("EPSG:32601", (100_000, 500_000), "EPSG:4326"),  # across the date line
    ],
)
def test_what_a_crs_tears_is_corrupt(tmp_path: Path, own: str, corner: Any, crs: str) -> None:
    path = write(tmp_path / "a.tif", field(1000, 200_000), 1000, corner=corner, crs=own)
    with pytest.raises(CorruptInputError, match="in one piece"):
        probed(path, crs=crs, resolution=1000.0 if crs == "EPSG:3857" else 0.01)


@pytest.mark.parametrize("left", [179.5, 187.0, -181.0])
def test_longitudes_beyond_half_a_turn_are_not_brought_elsewhere(
    tmp_path: Path, left: float
) -> None:
    """What lies beyond 180 would be void; up to it, and as it is, it is read."""
    path = write(tmp_path / "a.tif", field(0.01, 1), 0.01, corner=(left, 60.0), crs="EPSG:4326")
    with pytest.raises(
        CorruptInputError, match=r"its longitudes go from .*, beyond 180, from where"
    ):
        probed(path, crs="EPSG:32660", resolution=1000.0)
    assert probed(path)[1].width == 100
    near = write(tmp_path / "b.tif", field(0.01, 1), 0.01, corner=(179.0, 60.0), crs="EPSG:4326")
    assert probed(near, crs="EPSG:32660", resolution=1000.0)[1].attributes["crs_wkt"].count("60N")


def test_a_scale_that_is_a_mistake_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", field(10, 1000), 10)
    with pytest.raises(CorruptInputError, match="at most"):
        probed(path, resolution=1e-6)
