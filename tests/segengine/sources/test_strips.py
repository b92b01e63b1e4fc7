"""Windows of rasters, read in strips, against rasterio's own reading of all at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from segengine.sources import _strips

SIDE = 150


def raster(path: Path, kind: str, tiled: bool, dtype: str) -> Path:
    rng = np.random.default_rng(0)
    shape = {"tiled": True, "blockxsize": 32, "blockysize": 16} if tiled else {"blockysize": 7}
    count = 4 if kind == "alpha" else 3
    values = rng.integers(0, 200, (count, SIDE, SIDE)).astype(dtype)
    if dtype == "float32":
        values[1, 20:40, 30:31] = np.nan
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": SIDE, "height": SIDE, "count": count, "dtype": dtype,
        "crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        "nodata": 7 if kind == "nodata" else None, **shape,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as out:
        out.write(values)
        if kind == "alpha":
            out.colorinterp = (
                ColorInterp.red,
                ColorInterp.green,
                ColorInterp.blue,
                ColorInterp.alpha,
            )
        if kind == "mask":
            out.write_mask(values[0] > 50)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint32"])
@pytest.mark.parametrize("tiled", [True, False], ids=["tiles", "rows"])
@pytest.mark.parametrize("kind", ["plain", "nodata", "alpha", "mask"])
def test_strips_are_the_window(kind: str, tiled: bool, dtype: str, tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", kind, tiled, dtype)

    @given(st.data(), st.sampled_from((1, 1 << 12, 1 << 22)))
    @settings(max_examples=15, deadline=None)
    def holds(data: st.DataObject, size: int) -> None:
        y, x = (data.draw(st.integers(0, SIDE - 1)) for _ in range(2))
        h, w = (data.draw(st.integers(1, SIDE - a)) for a in (y, x))
        bands = data.draw(st.sampled_from(((1, 2, 3), (3, 1), (2,))))
        with pytest.MonkeyPatch.context() as patch, rasterio.open(path) as dataset:
            patch.setattr(_strips, "_BYTES", size)
            rows, cols = slice(y, y + h), slice(x, x + w)
            pixels, valid = _strips.read_window(dataset, bands, dtype, rows, cols)
            window = Window(x, y, w, h)
            want = np.moveaxis(dataset.read(bands, window=window), 0, -1)
            seen = (dataset.read_masks(bands, window=window) > 0).all(axis=0)
            if kind == "alpha":
                seen = dataset.read(4, window=window) > 0
        if dtype == "float32":
            seen &= ~np.isnan(want).any(axis=-1)
        np.testing.assert_array_equal(pixels, want)
        assert pixels.dtype == dtype
        np.testing.assert_array_equal(np.ones_like(seen) if valid is None else valid, seen)

    holds()


def test_a_part_ends_where_blocks_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raster(tmp_path / "a.tif", "plain", True, "uint8")
    monkeypatch.setattr(_strips, "_BYTES", 3 * 2 * 32 * 2 * 16)  # four blocks of three bands
    with rasterio.open(path) as dataset:
        found = list(_strips._few(dataset, slice(5, 40), slice(40, 150)))
    rows = [slice(5, 16), slice(16, 32), slice(32, 40)]
    cols = [slice(40, 128), slice(128, 150)]
    assert found == [(down, across) for down in rows for across in cols]


def test_what_lies_beyond_a_raster_is_left_out(tmp_path: Path) -> None:
    with rasterio.open(raster(tmp_path / "a.tif", "plain", True, "uint8")) as dataset:
        pixels, _ = _strips.read_window(dataset, (1, 2, 3), "uint8", slice(140, 170), slice(0, 200))
        want = np.moveaxis(dataset.read(), 0, -1)[140:]
    np.testing.assert_array_equal(pixels, want)
