"""Every format that GDAL writes, in every layout that it takes, read as GDAL reads it.

python -m tests.segengine.sources.test_authority        the table: tried, equal, refused, wrong
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError

from segengine.errors import CorruptInputError
from segengine.sources.raster import RasterSource
from segengine.types import Entry, FrameRef, Tile

from .formats import PLACE

STEP = 7
"""Of the layouts one in so many is tried here, of all kinds; all of them where one asks for the table."""
HEIGHT, WIDTH = 37, 53
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "complex64")
COPIES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "COG": ("tif", [{"blocksize": 128}, {"blocksize": 128, "compress": "deflate"}]),
    "JP2OpenJPEG": ("jp2", [{"reversible": "yes", "quality": 100}]),
    "PNG": ("png", [{}]),
    "JPEG": ("jpg", [{}]),
    "GIF": ("gif", [{}]),
    "BMP": ("bmp", [{}]),
    "WEBP": ("webp", [{"lossless": "yes"}]),
    "HFA": ("img", [{}, {"compressed": "yes"}]),
    "netCDF": ("nc", [{}, {"format": "NC2"}, {"format": "NC4"}, {"format": "NC4C"}]),
    "AAIGrid": ("asc", [{}]),
    "ENVI": ("bin", [{}, {"interleave": "bip"}, {"interleave": "bil"}]),
    "EHdr": ("bil", [{}]),
    "VRT": ("vrt", [{}]),
}
COMPRESSIONS = ("none", "deflate", "lzw", "packbits", "zstd", "lzma", "lerc", "webp", "jpeg",
                "ccittfax4", "lerc_deflate", "lerc_zstd")  # fmt: skip


REFUSALS = (
    "complex64 pixels cannot be segmented",
    "data sets and no bands of its own",  # bands that GDAL writes as variables of a netCDF
    "GDAL cannot read it",
)


def values(bands: int, dtype: str) -> Any:
    found = np.random.default_rng(bands).integers(0, 90, (bands, HEIGHT, WIDTH)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        found[0, 3:5, 4:9] = np.nan
    return found


def tiff(path: Path, bands: int, dtype: str, nodata: float | None, **options: Any) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=HEIGHT, width=WIDTH, dtype=dtype,
        nodata=nodata, crs="EPSG:32613", transform=PLACE, **options,
    ) as dataset:  # fmt: skip
        dataset.write(values(bands, dtype))


def tiffs(folder: Path, step: int) -> Iterator[Path]:
    """As far as GDAL writes them."""
    layouts = product(
        COMPRESSIONS, DTYPES, (1, 3, 4), (None, 7.0), ({}, {"tiled": True, "interleave": "band"})
    )
    for i, (compress, dtype, bands, nodata, layout) in islice(enumerate(layouts), 0, None, step):
        path = folder / f"{i}.tif"
        blocks = {"blockxsize": 16, "blockysize": 16} if layout else {}
        bits = {"nbits": 1} if compress == "ccittfax4" else {}
        more = {"webp_lossless": True} if compress == "webp" else {}
        try:
            tiff(path, bands, dtype, nodata, compress=compress, **layout, **blocks, **bits, **more)
        except (RasterioError, ValueError, TypeError, SystemError):
            path.unlink(missing_ok=True)
            continue
        yield path


def copies(driver: str, folder: Path, step: int) -> Iterator[Path]:
    suffix, creations = COPIES[driver]
    layouts = product(DTYPES, (1, 2, 3, 4), (None, 7.0), creations)
    for i, (dtype, bands, nodata, options) in islice(enumerate(layouts), 0, None, step):
        base, path = folder / f"base{i}.tif", folder / f"{i}.{suffix}"
        tiff(base, bands, dtype, nodata)
        try:
            rasterio.shutil.copy(base, path, driver=driver, **options)
            with rasterio.open(path):
                pass
        except Exception:  # noqa: BLE001 - GDAL's, which cannot write that
            continue
        yield path


def authority(path: Path) -> tuple[Any, Any, list[float] | None, str | None]:
    """Pixels (y, x, band), which are valid, the transform and the CRS as GDAL has them."""
    with rasterio.open(path) as dataset:
        if not dataset.count:
            return np.zeros((0, 0, 0)), np.zeros((0, 0), bool), None, None
        alpha = [i for i in dataset.indexes if dataset.colorinterp[i - 1] == ColorInterp.alpha]
        bands = [i for i in dataset.indexes if i not in alpha[:1]] or [1]
        expected = np.moveaxis(dataset.read(bands), 0, -1)
        wanted = (dataset.read_masks(bands) > 0).all(axis=0)
        for band in alpha[:1]:
            wanted &= dataset.read(band) > 0
        if expected.dtype.kind == "f":
            wanted &= ~np.isnan(expected).any(axis=-1)
        place = None if dataset.transform.is_identity else list(dataset.transform)[:6]
        return expected, wanted, place, dataset.crs.to_wkt() if dataset.crs else None


def compared(path: Path) -> str:
    """Equal, refused (with the reason), or what differs."""
    try:
        reference = authority(path)
    except RasterioError:
        reference = None
    source = RasterSource()
    try:
        found = source.probe(Entry(path.name, str(path), ""))
    except CorruptInputError as error:
        return "refused: GDAL cannot read it" if reference is None else f"refused: {error}"
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    if reference is None:
        (tile,) = source.read([ref], slice(0, found.height), slice(0, found.width))
        return "read" if isinstance(tile, Tile) else "refused: GDAL cannot read it"
    expected, wanted, place, crs = reference
    for rows, cols in (((0, found.height), (0, found.width)), ((5, 30), (11, 50))):
        (tile,) = source.read([ref], slice(*rows), slice(*cols))
        if not isinstance(tile, Tile):
            return f"unreadable: {tile.reason}"
        cut = slice(*rows), slice(*cols)
        if tile.pixels.dtype != expected.dtype or tile.pixels.dtype != found.dtype:
            return "another dtype"
        if not np.array_equal(tile.pixels, expected[cut], equal_nan=tile.pixels.dtype.kind == "f"):
            return "other pixels"
        valid = np.ones(wanted[cut].shape, bool) if tile.valid is None else tile.valid
        if not np.array_equal(valid, wanted[cut]):
            return "another void"
    if (found.attributes.get("transform"), found.attributes.get("crs_wkt")) != (place, crs):
        return "another place"
    return "equal"


def tally(driver: str, folder: Path, step: int = 1) -> Counter[str]:
    """Outcomes of every so many of a driver's layouts."""
    with warnings.catch_warnings(action="ignore"):
        paths = tiffs(folder, step) if driver == "GTiff" else copies(driver, folder, step)
        return Counter(map(compared, paths))


@pytest.mark.parametrize("driver", ["GTiff", *COPIES])
def test_gdal_is_the_authority(tmp_path: Path, driver: str) -> None:
    found = tally(driver, tmp_path, STEP)
    assert found["equal"] > 0
    assert all(
        outcome == "equal" or any(reason in outcome for reason in REFUSALS) for outcome in found
    ), found


if __name__ == "__main__":
    for each in ("GTiff", *COPIES):
        with tempfile.TemporaryDirectory() as where:
            outcomes = tally(each, Path(where))
        refused = sum(n for outcome, n in outcomes.items() if outcome.startswith("refused"))
        wrong = sum(outcomes.values()) - outcomes["equal"] - refused
        sys.stdout.write(
            f"{each:12} tried {sum(outcomes.values()):5} equal {outcomes['equal']:5} "
            f"refused {refused:4} wrong {wrong}\n"
        )
