"""Label images of objects, one a frame: a number an object, 0 where there is none

PNGs of 16 bits, or where a frame of the store has more objects than these count, TIFFs of 32 bits
in the scene's place. Where objects overlap a pixel is of one of them. Such images are truth again, as
`truth.instances`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from segengine.errors import StoreError
from segengine.export._instances import pieces, stamp
from segengine.export._targets import Target, targets
from segengine.export.png import PngWriter, bands
from segengine.outputs import claimed
from segengine.reader import Store, open_store
from segengine.store.keys import INSTANCES

VERSION = 1
_MOST = (1 << 16) - 1


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write an image a frame below the folder `to`; the files written.

    `overwrite`: also files that no export wrote. Raises JobError, StoreError.
    """
    store = open_store(store_path)
    stamp(store, VERSION)
    few = _greatest(store) <= _MOST
    found = list(targets(store, to, ".png" if few else ".tif"))
    output = claimed(store, to, (target.path for target in found), overwrite=overwrite)
    for target in found:
        if target.scene.instances is None:
            raise StoreError(f"{target.scene.name}: has no map of its objects; finish the run")
        with output.replacing(target.path) as partial:
            (_png if few else _tiff)(partial, target)
    output.close()
    return [str(target.path) for target in found]


def _greatest(store: Store) -> int:
    """The greatest id."""
    return max((row["id"] for piece in pieces(store) for row in piece.rows), default=0)


def _png(path: Path, target: Target) -> None:
    ref = target.scene.layout.frame(target.frame)
    with (
        path.open("wb") as file,
        PngWriter(file, ref.height, ref.width, None, text={}, level=4) as writer,
    ):
        for rows in bands(ref.height, ref.width, target.scene.layout.chunk[1]):
            ids = target.scene.read(INSTANCES, target.frame, rows, slice(0, ref.width))
            writer.write(ids.astype(np.uint16))


def _tiff(path: Path, target: Target) -> None:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.transform import Affine
    from rasterio.windows import Window

    ref, placing = target.scene.layout.frame(target.frame), target.scene.layout.placing
    about: dict[str, Any] = {
        "driver": "GTiff", "height": ref.height, "width": ref.width, "count": 1, "dtype": "uint32",
        "compress": "deflate", "bigtiff": "if_safer",
    }  # fmt: skip
    if placing.transform:
        about |= {"transform": Affine(*placing.transform), "crs": placing.wkt or None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(path, "w", **about)
    with file:
        for rows in bands(ref.height, ref.width, target.scene.layout.chunk[1]):
            ids = target.scene.read(INSTANCES, target.frame, rows, slice(0, ref.width))
            file.write(ids, 1, window=Window(0, rows.start, ref.width, rows.stop - rows.start))
