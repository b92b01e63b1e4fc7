"""Squares without a valid pixel that are told without decoding them: never one too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Tile
from tests.segengine.sources.scenes import field, write

SIDE = 300
TILED = {"tiled": True, "blockxsize": 32, "blockysize": 32}
WRITTEN: dict[str, dict[str, Any]] = {
    "tiles": {**TILED, "nodata": 0, "compress": "deflate"},
    "sparse": {**TILED, "nodata": 0, "compress": "deflate", "sparse_ok": True},
    "strips": {"nodata": 0, "compress": "lzw", "blockysize": 16},
    "planes": {**TILED, "nodata": 0, "compress": "deflate", "interleave": "band"},
    "NaN": {**TILED, "compress": "zstd", "dtype": "float32"},
    "big": {**TILED, "nodata": 0, "compress": "deflate", "bigtiff": "yes", "endianness": "big"},
}


def scene(path: Path, islands: Any, how: str) -> str:
    """Three bands, nodata everywhere but in boxes (top, left, height, width)."""
    seen = np.zeros((SIDE, SIDE), np.bool_)
    for top, left, height, width in islands:
        seen[top : top + height, left : left + width] = True
    options = dict(WRITTEN[how])
    pixels = np.stack([field(10, 10 * SIDE, seed) for seed in range(3)])
    nothing = np.nan if how == "NaN" else 0
    pixels = np.where(seen, pixels, nothing).astype(options.get("dtype", "uint16"))
    return write(path, pixels, 10, **options)


def asked(path: str, side: int, **options: Any) -> tuple[Any, Any]:
    """What is told of squares, and what reading each tells."""
    source = RasterSource(**options)
    probe = source.probe(Entry("a", path, "mark"))
    ref = FrameRef(0, "a", path, "mark", probe.height, probe.width)
    told = source.beyond(ref, side)
    count = -(-SIDE // side)
    void = np.zeros((count, count), np.bool_)
    for y, x in np.ndindex(void.shape):
        rows, cols = (slice(i * side, min((i + 1) * side, SIDE)) for i in (y, x))
        (tile,) = source.read([ref], rows, cols)
        assert isinstance(tile, Tile)
        void[y, x] = tile.valid is not None and not tile.valid.any()
    return told, void


box = st.tuples(*[st.integers(0, SIDE - 1)] * 2, *[st.integers(1, 90)] * 2)


@pytest.mark.parametrize("how", WRITTEN)
@settings(max_examples=12, deadline=None)
@given(islands=st.lists(box, min_size=1, max_size=3), side=st.sampled_from((16, 48, 64, 128)))
def test_no_square_with_a_valid_pixel_is_told_and_most_without_are(
    tmp_path_factory: Any, how: str, islands: Any, side: int
) -> None:
    path = scene(tmp_path_factory.mktemp("hollow") / "a.tif", islands, how)
    told, void = asked(path, side)
    told = np.zeros_like(void) if told is None else told
    assert not (told & ~void).any()
    if side % 32 == 0 and how != "strips":  # else a square may share a block with what is seen
        np.testing.assert_array_equal(told, void)


def test_a_block_is_told_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred blocks of nodata are decoded once, each edge's once more."""
    path = scene(tmp_path / "a.tif", [(0, 0, 40, 40)], "tiles")
    source = RasterSource()
    probe = source.probe(Entry("a", path, "mark"))
    ref = FrameRef(0, "a", path, "mark", probe.height, probe.width)
    read = []
    real = RasterSource.tile
    monkeypatch.setattr(
        RasterSource, "tile", lambda self, *at: (read.append(at), real(self, *at))[1]
    )
    told = source.beyond(ref, 32)
    assert told is not None
    assert told.sum() == 100 - 4
    assert 1 <= len(read) <= 8


def masked(path: Path, how: str) -> str:
    pixels = np.stack([field(10, 10 * SIDE, seed, "uint8") for seed in range(3)])
    seen = np.zeros((SIDE, SIDE), np.uint8)
    seen[20:90, 130:200] = 255
    if how == "alpha":
        layers = np.concatenate([pixels * (seen > 0), seen[None]])
        return write(path, layers, 10, **TILED, compress="deflate", photometric="rgb", alpha="yes")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=how == "mask inside"):
        options = {**TILED, "compress": "deflate", "driver": "GTiff", "dtype": "uint8"}
        with rasterio.open(path, "w", count=3, height=SIDE, width=SIDE, **options) as file:
            file.write(pixels)
            file.write_mask(seen)
    return str(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("how", ["alpha", "mask inside", "mask beside"])
def test_masks_tell_too_and_one_beside_the_file_does_not(tmp_path: Path, how: str) -> None:
    told, void = asked(masked(tmp_path / "a.tif", how), 32)
    assert 60 < void.sum() < 100
    if how == "mask beside":
        assert (tmp_path / "a.tif.msk").exists()
        assert told is None
    else:
        np.testing.assert_array_equal(told, void)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_a_mask_does_not_tell_alone_is_read(tmp_path: Path) -> None:
    """Equal blocks of a mask say nothing where a value stands for nodata too."""
    path = masked(tmp_path / "a.tif", "mask inside")
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset>"
        + "".join(
            f'<PAMRasterBand band="{band}"><NoDataValue>1</NoDataValue></PAMRasterBand>'
            for band in (1, 2, 3)
        )
        + "</PAMDataset>"
    )
    assert asked(path, 32)[0] is None


def test_an_area_and_nodata_together(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", [(0, 0, 300, 100)], "tiles")
    box = (16.27, 45.128, 16.30, 45.14)
    told, void = asked(path, 32, area=box)
    within, _ = asked(path, 32, area=box)
    assert told is not None
    assert not (told & ~void).any()
    assert told[:, 4:].all()
    assert told[:, :3].any()
    np.testing.assert_array_equal(told, within)


@pytest.mark.parametrize("options", [{"resolution": 20.0}, {"crs": "EPSG:32634"}])
def test_on_another_grid_nothing_is_told(tmp_path: Path, options: Any) -> None:
    path = scene(tmp_path / "a.tif", [(0, 0, 40, 40)], "tiles")
    source = RasterSource(**options)
    ref = FrameRef(0, "a", path, "mark", SIDE, SIDE)
    assert source.beyond(ref, 32) is None


def test_a_truncated_file_is_for_who_reads_it(tmp_path: Path) -> None:
    path = Path(scene(tmp_path / "a.tif", [(0, 0, 300, 40)], "tiles"))
    source = RasterSource()
    ref = FrameRef(0, "a", str(path), "mark", SIDE, SIDE)
    whole = source.beyond(ref, 32)
    assert whole is not None
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    told = source.beyond(ref, 32)
    assert told is None or (told.sum() < whole.sum() and not (told & ~whole).any())
