"""Small files of every format that a raster or Zarr source reads, as other programs write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine

SIDE = 64
NODATA = 3
PLACE = Affine(2.0, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0)
_TILED = {"tiled": True, "blockxsize": 16, "blockysize": 16}
TIFFS: dict[str, dict[str, Any]] = {
    "tiff": {},
    "tiff-tiled": _TILED,
    "tiff-deflate": {**_TILED, "compress": "deflate", "predictor": 2},
    "tiff-lzw": {**_TILED, "compress": "lzw"},
    "tiff-packbits": {"compress": "packbits"},
    "tiff-jpeg": {**_TILED, "compress": "jpeg"},
    "tiff-zstd": {"compress": "zstd"},
    "tiff-lzma": {"compress": "lzma"},
    "tiff-lerc": {"compress": "lerc"},
    "tiff-webp": {"compress": "webp", "webp_lossless": True, "bands": 3, "interleave": "pixel"},
    "tiff-fax": {"compress": "ccittfax4", "nbits": 1},
    "tiff-big": {"bigtiff": "yes", "compress": "deflate"},
    "tiff-bands": {"compress": "deflate", "bands": 5, "interleave": "band"},
}
"""GeoTIFFs, and how rasterio writes each."""
_COPIES = {
    "cog": ("COG", "tif", {"compress": "deflate", "blocksize": 128}),
    "jp2": ("JP2OpenJPEG", "jp2", {"reversible": "yes", "quality": 100}),
    "png": ("PNG", "png", {}),
    "jpeg": ("JPEG", "jpg", {}),
    "gif": ("GIF", "gif", {}),
    "bmp": ("BMP", "bmp", {}),
    "webp": ("WEBP", "webp", {"lossless": "yes"}),
    "hfa": ("HFA", "img", {}),
    "hfa-compressed": ("HFA", "img", {"compressed": "yes"}),
    "netcdf": ("netCDF", "nc", {}),
    "netcdf-64": ("netCDF", "nc", {"format": "NC2"}),
    "netcdf-4": ("netCDF", "nc", {"format": "NC4C", "compress": "DEFLATE"}),
    "aaigrid": ("AAIGrid", "asc", {}),
    "envi": ("ENVI", "bin", {}),
    "ehdr": ("EHdr", "bil", {}),
    "dted": ("DTED", "dt0", {}),
    "srtmhgt": ("SRTMHGT", "hgt", {}),
    "vrt": ("VRT", "vrt", {}),
}
"""What GDAL copies a GeoTIFF to: its driver, a suffix, creation options."""
_NO_NODATA = frozenset(("jp2", "jpeg", "webp", "gif", "bmp", "dted", "srtmhgt"))
RASTERS = (*TIFFS, *_COPIES, "hdf5")
ZARRS = ("zarr-2", "zarr-3", "zarr-3-sharded", "zarr-2-gzip", "zarr-2-lz4", "zarr-3-blosc")


def write(name: str, folder: Path) -> Path:
    """The main file of a small raster (64 x 64, bar where a format has sizes of its own)."""
    if name == "hdf5":
        return _hdf5(folder / "a.nc")
    if name in ZARRS:
        return _zarr(name, folder / "a.zarr")
    if name in TIFFS:
        return _tiff(folder / "a.tif", **({"nodata": NODATA} | TIFFS[name]))
    driver, suffix, options = _COPIES[name]
    side, place, dtype = {
        "dted": (121, _degrees(121), "int16"),
        "srtmhgt": (1201, _degrees(1201), "int16"),
        "cog": (300, PLACE, "uint8"),
    }.get(name, (SIDE, PLACE, "uint8"))
    crs = "EPSG:4326" if name in ("dted", "srtmhgt") else "EPSG:32613"
    nodata = None if name in _NO_NODATA else NODATA
    bands = 3 if name == "webp" else 1
    base = _tiff(
        folder / "base.tif", side, dtype, bands=bands, nodata=nodata, transform=place, crs=crs
    )
    path = folder / f"n40e010.{suffix}"
    rasterio.shutil.copy(base, path, driver=driver, **options)
    if name != "vrt":
        base.unlink()
    return path


def header(name: str, path: Path) -> Path:
    """The file that holds the header."""
    if name in ("envi", "ehdr"):
        return path.with_suffix(".hdr")
    if name.startswith("zarr"):
        return path / (".zarray" if name.startswith("zarr-2") else "zarr.json")
    return path


def values(side: int = SIDE, dtype: str = "uint8", bands: int = 1) -> Any:
    """(band, y, x), NODATA among them."""
    return np.random.default_rng(side).integers(0, 200, (bands, side, side)).astype(dtype)


def _degrees(side: int) -> Affine:
    step = 1 / (side - 1)
    return Affine(step, 0, 10 - step / 2, 0, -step, 41 + step / 2)


def _tiff(
    path: Path, side: int = SIDE, dtype: str = "uint8", *, bands: int = 1, **options: Any
) -> Path:
    data = values(side, dtype, bands)
    profile = {"crs": "EPSG:32613", "transform": PLACE, "dtype": dtype} | options
    if "nbits" in profile:
        data, profile["nodata"] = data & 1, None
    if profile.get("compress") == "webp":
        profile["nodata"] = None
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=side, width=side, **profile
    ) as dataset:
        dataset.write(data)
    return path


def _hdf5(path: Path) -> Path:
    """With the tables of an older HDF5, which have no checksums."""
    import h5py

    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "v", data=values()[0], chunks=(16, 16), compression="gzip", fillvalue=NODATA
        )
        for axis, name in enumerate("yx"):
            file.create_dataset(name, data=np.arange(float(SIDE))).make_scale(name)
            data.dims[axis].attach_scale(file[name])
        data.attrs["units"] = "m"
    return path


def _zarr(name: str, path: Path) -> Path:
    import zarr
    from numcodecs import LZ4, GZip

    more: dict[str, Callable[[], dict[str, Any]]] = {
        "zarr-3-sharded": lambda: {"shards": (32, 32)},
        "zarr-2-gzip": lambda: {"compressors": GZip()},
        "zarr-2-lz4": lambda: {"compressors": LZ4()},
        "zarr-3-blosc": lambda: {"compressors": zarr.codecs.BloscCodec()},
    }
    array = zarr.create_array(
        store=str(path), shape=(SIDE, SIDE), chunks=(16, 16), dtype="uint8",
        zarr_format=2 if name.startswith("zarr-2") else 3, attributes={"_FillValue": NODATA},
        **more.get(name, dict)(),
    )  # fmt: skip
    array[...] = values()[0]
    return path
