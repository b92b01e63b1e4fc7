"""What changed on the ground between two stores: a GeoTIFF of transitions, and polygons of them.

A pixel's value is 0 where both have the same class, else 1 + (class of A) x (number of classes) + class of
B; nodata where either has none. The metadata item `changes` names each value that occurs. A polygon has the
properties `from` and `to` (what one class loses and the other gains), `pixels` and `square_metres`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segengine.differences.frames import Classes, Matched, bands
from segengine.errors import JobError
from segengine.reader import Store

BLOCK = 512
"""Side of a tile, in pixels."""
_CACHE = 1 << 26
"""GDAL's block cache, in bytes; its default is 5 % of the machine."""
_WGS84 = "OGC:CRS84"


def write_changes(
    a: Store, b: Store, pair: Matched, classes: Classes, raster: Path, vectors: Path
) -> None:
    """Write both of a georeferenced frame; drafts lie beside them for that time. Raises OSError."""
    import rasterio
    import rasterio.shutil

    draft, changed = (raster.with_suffix(end) for end in (".draft", ".changed"))
    try:
        with _gdal():
            _write_tiled(a, b, pair, classes, draft, changed)
            with vectors.open("w", encoding="utf-8") as file:
                file.write('{"type": "FeatureCollection", "features": [')
                for i, feature in enumerate(_features(draft, changed, classes)):
                    file.write((",\n" if i else "\n") + json.dumps(feature))
                file.write("\n]}\n")
            options = {"compress": "deflate", "blocksize": BLOCK, "overview_resampling": "mode"}
            rasterio.shutil.copy(draft, raster, driver="COG", bigtiff="if_safer", **options)
    except rasterio.errors.RasterioError as error:
        raise OSError(str(error)) from error
    finally:
        for path in (draft, changed):
            path.unlink(missing_ok=True)


def _write_tiled(
    a: Store, b: Store, pair: Matched, classes: Classes, path: Path, changed: Path
) -> None:
    """Band by band: the values, and where they are those of a change."""
    import rasterio
    from rasterio.windows import Window

    layout = a[pair.scene].layout
    ref, count = layout.frame(pair.frame), len(classes.names)
    dtype = next((d for d in (np.uint8, np.uint16) if count**2 < np.iinfo(d).max), None)
    if dtype is None:
        raise JobError(f"--out: the changes of {count} classes have no numbers of 16 bit")
    void = np.iinfo(dtype).max
    options: dict[str, Any] = {
        "driver": "GTiff",
        "height": ref.height,
        "width": ref.width,
        "count": 1,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "bigtiff": "if_safer",
        "crs": rasterio.crs.CRS.from_wkt(layout.placing.wkt),
        "transform": rasterio.Affine(*layout.placing.transform),
    }
    seen: set[int] = set()
    with (
        rasterio.open(path, "w", dtype=np.dtype(dtype).name, nodata=void, **options) as values,
        rasterio.open(changed, "w", dtype="uint8", **options) as places,
    ):
        for one, other, rows in bands(a, b, pair, classes):
            found = np.where(one == other, 0, 1 + one * count + other)
            found[(one == classes.void) | (other == classes.void)] = void
            window = Window.from_slices(rows, slice(0, ref.width))
            values.write(found.astype(dtype), 1, window=window)
            places.write(((found > 0) & (found != void)).astype(np.uint8), 1, window=window)
            seen.update(np.unique(found).tolist())
        named = {str(v): " -> ".join(_named(v, classes)) for v in sorted(seen - {0, void})}
        values.update_tags(changes=json.dumps(named))
        values.set_band_description(1, "change")


def _named(value: int, classes: Classes) -> tuple[str, str]:
    a, b = divmod(value - 1, len(classes.names))
    return classes.names[a], classes.names[b]


def _features(path: Path, changed: Path, classes: Classes) -> Iterator[dict[str, Any]]:
    """GeoJSON features of the regions of each change, in longitudes and latitudes."""
    import pyproj
    import rasterio
    from rasterio.features import shapes
    from rasterio.warp import transform_geom
    from shapely.geometry import shape

    geod = pyproj.Geod(ellps="WGS84")
    with rasterio.open(path) as values, rasterio.open(changed) as places:
        pixel = abs(values.transform.determinant)
        found = shapes(
            rasterio.band(values, 1), mask=rasterio.band(places, 1), transform=values.transform
        )
        for geometry, value in found:
            placed = transform_geom(values.crs, _WGS84, geometry)
            before, after = _named(int(value), classes)
            area, _ = geod.geometry_area_perimeter(shape(placed))
            yield {
                "type": "Feature",
                "geometry": placed,
                "properties": {
                    "from": before,
                    "to": after,
                    "pixels": round(shape(geometry).area / pixel),
                    "square_metres": abs(area),
                },
            }


@contextmanager
def _gdal() -> Iterator[None]:
    import rasterio

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        yield
