"""Rasters: windows, bands, nodata, alpha and georeference, against the arrays that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from segengine.errors import CorruptInputError, TransientInputError
from segengine.registry import reader
from segengine.sources import raster
from segengine.sources._grid import wkt_of
from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

PLACE = Affine(2.0, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0)


def write(path: Path, layers: Any, mask: Any = None, **profile: Any) -> Path:
    """layers (band, y, x)"""
    bands, height, width = layers.shape
    options = {"crs": "EPSG:32613", "transform": PLACE, "dtype": layers.dtype} | profile
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, **options
    ) as dataset:
        dataset.write(layers)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def layers(dtype: str = "uint16", bands: int = 4) -> Any:
    return np.random.default_rng(1).integers(1, 120, (bands, 83, 101)).astype(dtype)


def probe(path: Path, **options: Any) -> Probe:
    return RasterSource(**options).probe(Entry(path.name, str(path), ""))


def read(
    path: Path, rows: slice = slice(0, 83), cols: slice = slice(0, 101), **options: Any
) -> Tile | Unreadable:
    ref = FrameRef(0, path.name, str(path), "", 83, 101)
    (item,) = RasterSource(**options).read([ref], rows, cols)
    return item


def tile(*args: Any, **options: Any) -> Tile:
    item = read(*args, **options)
    assert isinstance(item, Tile), item
    return item


def test_conforms() -> None:
    assert isinstance(RasterSource(), Source)


@pytest.mark.parametrize("bands", [(), (0,), (1.5,), "12", (True,)])
def test_wrong_bands_name_the_option(bands: Any) -> None:
    with pytest.raises(ValueError, match=r"^bands: is"):
        RasterSource(bands)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_any_dtype(tmp_path: Path, dtype: str) -> None:
    values = layers(dtype)
    path = write(tmp_path / "a.tif", values, photometric="minisblack")
    found = probe(path)
    assert (found.height, found.width, found.bands, found.dtype) == (83, 101, 4, dtype)
    assert found.windowed
    assert not found.stacked
    ours = tile(path)
    assert ours.pixels.dtype == dtype
    np.testing.assert_array_equal(ours.pixels, np.moveaxis(values, 0, -1))
    assert ours.valid is None


def test_georeference_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", layers(), nodata=7)
    attributes = probe(path).attributes
    assert attributes["transform"] == [2.0, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0]
    assert rasterio.CRS.from_wkt(attributes["crs_wkt"]) == rasterio.CRS.from_epsg(32613)
    assert attributes["nodata"] == 7


def test_a_crs_without_x_and_y_is_none(tmp_path: Path) -> None:
    assert wkt_of(rasterio.CRS.from_epsg(5714)) == ""
    path = write(tmp_path / "a.tif", layers(), crs="EPSG:4978")
    attributes = probe(path).attributes
    assert attributes["transform"] == [2.0, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0]
    assert "crs_wkt" not in attributes
    with pytest.raises(CorruptInputError, match=r"has no CRS, which source\.crs could be reached"):
        probe(path, crs="EPSG:4326")


def test_without_georeference_no_attributes_and_no_warning(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(layers("uint8", 1)[0]).save(tmp_path / "a.tif")
    assert probe(tmp_path / "a.tif").attributes == {}


@given(
    st.integers(0, 82), st.integers(1, 83), st.integers(0, 100), st.integers(1, 101),
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.booleans(),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_windows_and_bands(
    tmp_path_factory: Any, y: int, h: int, x: int, w: int, bands: Any, tiled: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"windows-{tiled}.tif"
    values = layers()
    if not path.exists():
        blocks = {"blockxsize": 32, "blockysize": 32} if tiled else {}
        write(path, values, tiled=tiled, compress="deflate", **blocks)
    rows, cols = slice(y, min(y + h, 83)), slice(x, min(x + w, 101))
    expected = np.moveaxis(values[[band - 1 for band in bands]], 0, -1)[rows, cols]
    np.testing.assert_array_equal(tile(path, rows, cols, bands=bands).pixels, expected)


def test_a_band_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", layers(bands=3))
    with pytest.raises(CorruptInputError, match=r"^band 5 asked, 3 present; set source\.bands$"):
        probe(path, bands=(1, 5))


def test_nodata_of_any_chosen_band_is_void(tmp_path: Path) -> None:
    values = layers()
    path = write(tmp_path / "a.tif", values, nodata=50)
    for bands in ((1, 2, 3, 4), (2,), (4, 1)):
        expected = (values[[band - 1 for band in bands]] != 50).all(0)
        np.testing.assert_array_equal(tile(path, bands=bands).valid, expected)


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0])
def test_nan_is_nodata(tmp_path: Path, nodata: float | None) -> None:
    values = layers("float32")
    values[1, :5] = np.nan
    values[2, 70:] = -9999
    path = write(tmp_path / "a.tif", values, nodata=nodata)
    expected = ~np.isnan(values).any(0)
    if nodata == -9999:
        expected &= (values != -9999).all(0)
    np.testing.assert_array_equal(tile(path).valid, expected)
    assert probe(path).attributes.get("nodata") == {None: None, -9999.0: -9999.0}.get(nodata, "nan")


def test_all_nan_is_all_invalid(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.full((2, 83, 101), np.nan, np.float32))
    valid = tile(path).valid
    assert valid is not None
    assert not valid.any()


def test_internal_mask(tmp_path: Path) -> None:
    mask = layers("uint8", 1)[0] > 60
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "a.tif", layers(), mask=mask)
    found = tile(path, slice(10, 60), slice(20, 90))
    np.testing.assert_array_equal(found.valid, mask[10:60, 20:90])


@pytest.mark.parametrize("kind", ["nodata", "mask"])
def test_what_lies_beside_a_tiff_counts(tmp_path: Path, kind: str) -> None:
    """GDAL's own reader of the whole file is the authority."""
    path = write(tmp_path / "a.tif", layers("uint8", 1))
    if kind == "nodata":
        band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
        path.with_name("a.tif.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
            file.write_mask(np.arange(file.width) > np.arange(file.height)[:, None])
        assert path.with_name("a.tif.msk").exists()
    with rasterio.open(path) as file:
        wanted = file.read_masks(1) > 0
    assert not wanted.all()
    found = tile(path).valid
    assert found is not None
    np.testing.assert_array_equal(found, wanted)


def test_alpha_is_a_mask_and_no_band(tmp_path: Path) -> None:
    values = layers("uint8")
    values[3] = np.where(values[3] > 60, values[3], 0)
    path = write(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")
    assert probe(path).bands == 3
    found = tile(path)
    np.testing.assert_array_equal(found.pixels, np.moveaxis(values[:3], 0, -1))
    np.testing.assert_array_equal(found.valid, values[3] > 0)
    assert probe(path, bands=(4,)).bands == 1


def test_complex_pixels_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", layers("complex64"))
    with pytest.raises(CorruptInputError, match="complex64 pixels cannot be segmented"):
        probe(path)


def test_band_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", layers())
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("coastal", "blue", "green", "red")
        dataset.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * 3
    assert probe(path, bands=(4, 2)).attributes["band_names"] == ["red", "blue"]


def test_like_pages_are_frames(tmp_path: Path) -> None:
    import tifffile

    stack = layers("float32", 3)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    found = probe(tmp_path / "a.tif")
    assert found.positions is not None
    assert found.positions.tolist() == [0, 1, 2]
    refs = [FrameRef(i, "a", str(tmp_path / "a.tif"), "", 83, 101, i) for i in (2, 0)]
    items = list(RasterSource().read(refs, slice(3, 9), slice(4, 50)))
    for item, i in zip(items, (2, 0), strict=True):
        assert isinstance(item, Tile), item
        np.testing.assert_array_equal(item.pixels[..., 0], stack[i, 3:9, 4:50])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("readable", [True, False])
def test_pages_that_lie_apart_are_no_frames_of_one_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    if not readable:
        monkeypatch.setattr(raster, "_layouts", lambda uri: [])
    stack = layers("uint8", 3)
    places: dict[str, list[Affine | None]] = {
        "same": [Affine(10, 0, 5e5, 0, -10, 5e6)] * 3,
        "first": [Affine(10, 0, 5e5, 0, -10, 5e6), None, None],
        "none": [None] * 3,
        "apart": [Affine(10, 0, 5e5 + 700 * i, 0, -10, 5e6) for i in range(3)],
        "last": [None, None, Affine(10, 0, 5e5, 0, -10, 5e6)],
    }
    for name, transforms in places.items():
        for i, transform in enumerate(transforms):
            options = {} if transform is None else {"crs": "EPSG:32633", "transform": transform}
            with rasterio.open(
                tmp_path / f"{name}.tif", "w", driver="GTiff", height=83, width=101, count=1,
                dtype="uint8", APPEND_SUBDATASET="YES" if i else "NO", **options,
            ) as out:  # fmt: skip
                out.write(stack[i], 1)
    for name in ("same", "first", "none"):
        assert probe(tmp_path / f"{name}.tif").frames == 3
    assert probe(tmp_path / "same.tif").attributes["transform"][2] == 5e5
    for name in ("apart", "last"):
        with pytest.raises(CorruptInputError, match="its pages lie in different places"):
            probe(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("thumbnails", [False, True])
@pytest.mark.parametrize("kind", ["raster", "images"])
def test_pages_come_in_the_order_of_the_file(tmp_path: Path, kind: str, thumbnails: bool) -> None:
    """Also where their numbers have two digits; a nodata tag makes GDAL read photos too."""
    import tifffile

    stack = layers("uint8", 23)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in stack:
            writer.write(
                page, photometric="minisblack", metadata=None, extratags=[(42113, 2, 2, "7", False)]
            )
            if thumbnails:
                writer.write(page[::4, ::4], photometric="minisblack", subfiletype=1, metadata=None)
    source = reader(kind, {})
    places = source.probe(Entry("a", str(tmp_path / "a.tif"), "")).positions
    assert places is not None
    refs = [FrameRef(i, "a", str(tmp_path / "a.tif"), "", 83, 101, p) for i, p in enumerate(places)]
    items = list(source.read(refs, slice(0, 83), slice(0, 101)))
    assert len(items) == len(stack)
    for item, page in zip(items, stack, strict=True):
        assert isinstance(item, Tile), item
        np.testing.assert_array_equal(item.pixels[..., 0], page)
        np.testing.assert_array_equal(item.valid, page != 7)


def test_a_truncated_raster_loses_only_what_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (1, 83, 101)).astype(np.uint16)
    path = write(tmp_path / "a.tif", values, tiled=True, blockxsize=32, blockysize=32)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    probe(path)
    np.testing.assert_array_equal(
        tile(path, slice(0, 20), slice(0, 30)).pixels[..., 0], values[0, :20, :30]
    )
    item = read(path, slice(70, 80), slice(0, 30))
    assert isinstance(item, Unreadable)
    assert item.kind == "corrupt"
    assert str(tmp_path) not in item.reason
    assert capfd.readouterr() == ("", "")


def test_what_is_no_raster(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    path.write_text("hello")
    with pytest.raises(CorruptInputError, match="not recognized") as caught:
        probe(path)
    assert "a.tif" not in str(caught.value)
    for trust in (False, True):
        path.write_bytes(b"")
        with pytest.raises(CorruptInputError, match="an empty file"):
            probe(path, trust=trust)
        path.write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
        with pytest.raises(CorruptInputError, match="an HTML page, as of a sign-in"):
            probe(path, trust=trust)
    path.unlink()
    with pytest.raises(TransientInputError, match="no such file"):
        probe(path)
    path.symlink_to("nowhere")
    assert read(path) == Unreadable("error", "dangling symbolic link")
    with pytest.raises(CorruptInputError, match="is a directory"):
        probe(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_odd_names(tmp_path: Path) -> None:
    path = write(tmp_path / "%d #1?[ä].tif", layers())
    np.testing.assert_array_equal(tile(path).pixels, np.moveaxis(layers(), 0, -1))


def test_pages_are_told_from_their_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL walks through all pages before the one that it opens: once, and not once a page."""
    import tifffile

    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(40):
            page = np.full((8, 9), i, np.float32)
            writer.write(page, photometric="minisblack", contiguous=False)
    opened = []
    real = raster._open_page

    def counted(page: str) -> Any:
        opened.append(page)
        return real(page)

    monkeypatch.setattr(raster, "_open_page", counted)
    assert probe(tmp_path / "a.tif").frames == 40
    assert len(opened) == 1
    with tifffile.TiffWriter(tmp_path / "a.tif", append=True) as writer:
        writer.write(np.zeros((8, 9), np.uint16), photometric="minisblack")
    with pytest.raises(CorruptInputError, match="its pages differ in size, bands or dtype"):
        probe(tmp_path / "a.tif")


@pytest.mark.parametrize(("pages", "reason"), [(3, "differ"), (120, "120 pages have directories")])
def test_pages_whose_directories_only_gdal_reads_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int, reason: str
) -> None:
    import tifffile

    monkeypatch.setattr(raster, "_layouts", lambda uri: [])
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i in range(pages):
            dtype = np.uint16 if i == 2 else np.float32
            writer.write(np.zeros((8, 9), dtype), photometric="minisblack", contiguous=False)
    with pytest.raises(CorruptInputError, match=reason):
        probe(tmp_path / "a.tif")
