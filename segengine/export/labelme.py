"""labelme's JSON, one file a frame: polygons, or masks where a polygon would not hold the pixels

`sub/a.png` becomes `sub/a.json`: put the files beside the pictures and open the folder in labelme 5.3 or
later. An object is a polygon where labelme draws its very pixels from it, else a mask.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from segengine.datasets.annotations.labelme import document
from segengine.export._drawn import Pictured, write_each

VERSION = 1


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write a file a frame below the folder `to`; the files written.

    `overwrite`: also files that no export wrote. Raises JobError, StoreError.
    """
    return write_each(store_path, to, ".json", VERSION, _document, overwrite=overwrite)


def _document(one: Pictured) -> bytes:
    return document(PurePosixPath(one.name).name, one.size, one.found)
