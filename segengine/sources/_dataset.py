"""What an open dataset says of itself, and its pixels in a window, as NumPy wants them."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources._bounds import MOST_BYTES, require_bounded
from segengine.types import Bool

_MOST_POINTS = 1 << 16
_SLACK = 1 << 16
"""Blocks that a TIFF may leave out."""
_CV2_DTYPES = frozenset(("uint8", "int8", "uint16", "int16", "int32", "float32", "float64"))


def window_of(rows: slice, cols: slice) -> Any:
    from rasterio.windows import Window

    return Window.from_slices(rows, cols)


def dtype_of(dataset: Any, bands: tuple[int, ...]) -> str:
    dtypes = dataset.dtypes  # a list of all bands, made at each look
    names = [dtypes[band - 1] for band in bands]
    for name in names:
        if name.startswith("complex"):
            raise CorruptInputError(
                f"{name} pixels cannot be segmented; convert them to magnitudes first"
            )
    return str(np.result_type(*names))


def valid_in(dataset: Any, bands: tuple[int, ...], window: Any, pixels: Any) -> Bool | None:
    from rasterio.enums import MaskFlags

    valid = np.ones(pixels.shape[:2], np.bool_)
    flags = dataset.mask_flag_enums
    masked = [band for band in bands if MaskFlags.all_valid not in flags[band - 1]]
    if masked:
        valid &= (dataset.read_masks(masked, window=window) > 0).all(axis=0)
    alpha = alpha_of(dataset)
    if alpha is not None and alpha not in bands:
        valid &= dataset.read(alpha, window=window) > 0
    if pixels.dtype.kind == "f":
        valid &= ~np.isnan(pixels).any(axis=-1)
    return None if valid.all() else valid


def bands_last(layers: NDArray[Any]) -> NDArray[Any]:
    """(band, y, x) -> (y, x, band), in memory order; OpenCV interleaves five times as fast as NumPy."""
    import cv2

    if layers.shape[0] > 1 and layers.size and layers.dtype.name in _CV2_DTYPES:
        return np.asarray(cv2.merge(list(layers)))
    return np.ascontiguousarray(np.moveaxis(layers, 0, -1))


def require_bounded_dataset(dataset: Any, bands: int) -> None:
    """Raise CorruptInputError for what a header claims and no worker could hold."""
    height, width = dataset.shape
    require_bounded(height, width, bands)
    rows, cols = dataset.block_shapes[0]
    whole = dataset.interleaving is not None and dataset.interleaving.value == "PIXEL"
    depth = (dataset.count if whole else 1) * np.dtype(_plain(dataset.dtypes[0])).itemsize
    if rows * cols * depth >= MOST_BYTES:
        raise CorruptInputError(
            f"one block of it is {cols} x {rows} pixels, {rows * cols * depth:,} bytes; at most "
            f"{MOST_BYTES:,} are decoded at once: convert it to a tiled GeoTIFF"
        )
    if dataset.driver == "GTiff" and os.path.isfile(dataset.name):
        planes = 1 if whole else dataset.count
        blocks = -(-height // rows) * -(-width // cols) * planes
        size = os.path.getsize(dataset.name)
        if 2 * blocks > size + _SLACK:
            raise CorruptInputError(
                f"claims {blocks:,} blocks, more than a file of {size:,} bytes can list"
            )


def attributes_of(dataset: Any, bands: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if dataset.crs:
        found["crs_wkt"] = dataset.crs.to_wkt()
    place = [float(value) for value in tuple(dataset.transform)[:6]]
    if not dataset.transform.is_identity and all(map(math.isfinite, place)):
        found["transform"] = place
    found |= _points(dataset)
    nodata = dataset.nodatavals[bands[0] - 1]
    if nodata is not None:
        # JSON has no NaN or infinity; their names serve GDAL as well.
        found["nodata"] = nodata if math.isfinite(nodata) else str(nodata)
    descriptions = dataset.descriptions
    names = [descriptions[band - 1] for band in bands]
    if all(names):
        found["band_names"] = names
    return found


def _points(dataset: Any) -> dict[str, Any]:
    """What places a raster beside a transform: ground control points, rational functions (RPCs)."""
    found: dict[str, Any] = {}
    points, crs = dataset.gcps
    if len(points) > _MOST_POINTS:
        raise CorruptInputError(
            f"has {len(points):,} ground control points; at most {_MOST_POINTS:,} are read"
        )
    rows = [[float(v or 0) for v in (p.row, p.col, p.x, p.y, p.z)] for p in points]
    if rows and np.isfinite(rows).all():
        found["gcps"] = {"crs_wkt": crs.to_wkt() if crs else None, "points": rows}
    if dataset.rpcs is not None:
        found["rpcs"] = {name: str(value) for name, value in dataset.rpcs.to_gdal().items()}
    return found


def alpha_of(dataset: Any) -> int | None:
    from rasterio.enums import ColorInterp

    return next(
        (
            i
            for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True)
            if c == ColorInterp.alpha
        ),
        None,
    )


def _plain(dtype: str) -> str:
    return {"complex_int16": "int32"}.get(dtype, dtype)
