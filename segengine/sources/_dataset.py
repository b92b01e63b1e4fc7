"""What an open dataset says of itself, and its pixels in a window, as NumPy wants them."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from segengine.errors import CorruptInputError
from segengine.sources._bounds import MOST_BYTES, require_bounded
from segengine.sources._grid import wkt_of

_MOST_POINTS = 1 << 16
_SLACK = 1 << 16
"""Blocks that a TIFF may leave out."""


def window_of(rows: slice, cols: slice) -> Any:
    from rasterio.windows import Window

    return Window.from_slices(rows, cols)


def itemsize(dtype: str) -> int:
    """Bytes of a pixel of one band, by rasterio's name of its dtype."""
    return np.dtype({"complex_int16": "int32"}.get(dtype, dtype)).itemsize


def dtype_of(dataset: Any, bands: tuple[int, ...]) -> str:
    dtypes = dataset.dtypes  # a list of all bands, made at each look
    names = [dtypes[band - 1] for band in bands]
    for name in names:
        if name.startswith("complex"):
            raise CorruptInputError(
                f"{name} pixels cannot be segmented; convert them to magnitudes first"
            )
    return str(np.result_type(*names))


def require_bounded_dataset(dataset: Any, bands: int) -> None:
    """Raise CorruptInputError for what a header claims and no worker could hold."""
    height, width = dataset.shape
    require_bounded(height, width, bands)
    rows, cols = dataset.block_shapes[0]
    whole = dataset.interleaving is not None and dataset.interleaving.value == "PIXEL"
    depth = (dataset.count if whole else 1) * itemsize(dataset.dtypes[0])
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
    if wkt := wkt_of(dataset.crs):
        found["crs_wkt"] = wkt
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
        found["gcps"] = {"crs_wkt": wkt_of(crs) or None, "points": rows}
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
