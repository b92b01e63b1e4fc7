"""Cloud Optimized GeoTIFFs, one a frame, for GDAL and QGIS: labels, CRS, colour table, overviews.

Pixel values are the labels, nodata is void. A frame without georeference becomes a COG without
one; rational functions go with it, and ground control points where it has no transform. Up to 255
classes have a colour table (void transparent); more make 16-bit labels, which have none. Overviews
are by mode. Class names are in the metadata item `classes`, as JSON; and as GDAL's category names,
which QGIS shows in its legend, in a file `.tif.aux.xml` beside it, for a TIFF has no place for them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from segengine import tiling
from segengine.export._targets import Target, targets
from segengine.outputs import Output, claimed
from segengine.placing import Placing
from segengine.reader import Store, open_store
from segengine.stages.metrics_json import text
from segengine.store.keys import MASK

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ufffe\uffff]")
"""What XML cannot hold."""
BLOCK = 512
"""Side of a tile, in pixels."""
_WINDOW = 2048
"""Side of the windows that are read: a scene is never in memory as a whole."""
_CACHE = 1 << 26
"""GDAL's block cache, in bytes; its default is 5 % of the machine."""


def export(
    store_path: str, to: str, *, compress: str = "deflate", overwrite: bool = False
) -> list[str]:
    """Write every frame of a store as COG below the folder `to`; the files written.

    `compress`: deflate, lzw or zstd. `overwrite`: also files that no export wrote. Raises JobError,
    StoreError.
    """
    if compress not in ("deflate", "lzw", "zstd"):
        raise ValueError(f"compress: {compress!r} is not one of deflate, lzw, zstd")
    store = open_store(store_path)
    paths = (path for target in targets(store, to, ".tif") for path in files(target.path))
    output = claimed(store, to, paths, overwrite=overwrite)
    written = write(store, to, output, compress)
    output.close()
    return written


def write(store: Store, to: str, output: Output, compress: str = "deflate") -> list[str]:
    """Write the files below `to`, which `output` has claimed."""
    categories, written = _categories(store.classes), []
    for target in targets(store, to, ".tif"):
        path, beside = files(target.path)
        with output.replacing(beside) as partial:
            partial.write_text(categories, encoding="utf-8")
        with output.replacing(path) as partial:
            _write(partial, target, store.classes, compress)
        written += [str(path), str(beside)]
    return written


def files(path: Path) -> tuple[Path, Path]:
    """What a frame becomes: its GeoTIFF, and the category names beside it."""
    return path, path.with_name(f"{path.name}.aux.xml")


def _categories(classes: tuple[str, ...]) -> str:
    """Class names as GDAL's persistent auxiliary metadata have them."""
    names = (escape(_UNPRINTABLE.sub("", text(name))) for name in classes)
    rows = "".join(f"      <Category>{name}</Category>\n" for name in names)
    return (
        f'<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n{rows}'
        "    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )


def _write(path: Path, target: Target, classes: tuple[str, ...], compress: str) -> None:
    """Window by window into a tiled GeoTIFF, which GDAL's driver then puts in a COG's order."""
    import rasterio.shutil

    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)  # never through a link that has this name
    try:
        with _gdal():
            _write_tiled(draft, target, classes)
            rasterio.shutil.copy(
                draft,
                path,
                driver="COG",
                compress=compress,
                blocksize=BLOCK,
                overview_resampling="mode",
                bigtiff="if_safer",
            )
    except rasterio.errors.RasterioError as error:
        raise OSError(str(error)) from error
    finally:
        draft.unlink(missing_ok=True)


def _write_tiled(path: Path, target: Target, classes: tuple[str, ...]) -> None:
    import rasterio
    from rasterio.windows import Window

    scene, ref = target.scene, target.scene.layout.frame(target.frame)
    placing = scene.layout.placing
    options = {
        "driver": "GTiff",
        "height": ref.height,
        "width": ref.width,
        "count": 1,
        "dtype": scene.mask.dtype.name,
        "nodata": scene.void,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",  # GDAL has it always; at this level it is quicker than LZW
        "zlevel": 1,
        "bigtiff": "if_safer",
        **_georeference(placing),
    }
    with rasterio.open(path, "w", **options) as dataset:
        _place(dataset, placing)
        dataset.update_tags(classes=json.dumps(list(classes)))
        dataset.set_band_description(1, "class")
        if scene.mask.dtype == np.uint8:
            dataset.write_colormap(1, _color_table(scene.colors(target.frame)))
        shape, side = (1, ref.height, ref.width), (1, _WINDOW, _WINDOW)
        for place in tiling.shard_indices(tiling.shard_grid(shape, side)):
            _, rows, cols = tiling.shard_window(place, shape, side).slices
            labels = scene.read(MASK, target.frame, rows, cols)
            dataset.write(labels, 1, window=Window.from_slices(rows, cols))


def _georeference(placing: Placing) -> dict[str, Any]:
    from rasterio.crs import CRS
    from rasterio.transform import Affine

    found: dict[str, Any] = {}
    if placing.wkt:
        found["crs"] = CRS.from_wkt(placing.wkt)
    if placing.transform:
        found["transform"] = Affine(*placing.transform)
    return found


def _place(dataset: Any, placing: Placing) -> None:
    """What places a frame beside a transform, or in its place."""
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS
    from rasterio.rpc import RPC

    if placing.gcps and not placing.transform:
        wkt = placing.gcps.wkt
        points = [
            GroundControlPoint(row, col, x, y, z, id=str(i), info="")
            for i, (row, col, x, y, z) in enumerate(placing.gcps.points, 1)
        ]
        dataset.gcps = points, CRS.from_wkt(wkt) if wkt else CRS()
    if placing.rpcs:
        dataset.rpcs = RPC.from_gdal(placing.rpcs)


def _color_table(colors: Any) -> dict[int, tuple[int, int, int, int]]:
    """GDAL's colour table: every value has an entry, void is transparent."""
    table = dict.fromkeys(range(256), (0, 0, 0, 0))
    for value, (r, g, b) in enumerate(colors.tolist()):
        table[value] = (r, g, b, 255)
    return table


@contextmanager
def _gdal() -> Iterator[None]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
