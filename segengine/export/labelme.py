"""labelme's JSON, one file a frame: polygons, or masks where a polygon would not hold the pixels

`sub/a.png` becomes `sub/a.json`: put the files beside the pictures and open the folder in labelme 5.3 or
later. An object is a polygon where labelme draws its very pixels from it, else a mask.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from segengine.datasets.annotations.labelme import document
from segengine.export._drawn import pictures
from segengine.export._instances import stamp
from segengine.export._targets import targets
from segengine.outputs import claimed
from segengine.reader import open_store

VERSION = 1


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write a file a frame below the folder `to`; the files written.

    `overwrite`: also files that no export wrote. Raises JobError, StoreError.
    """
    store = open_store(store_path)
    stamp(store, VERSION)
    found = list(targets(store, to, ".json"))
    output = claimed(store, to, (target.path for target in found), overwrite=overwrite)
    for one in pictures(store, found):
        with output.replacing(one.target.path) as partial:
            partial.write_bytes(document(PurePosixPath(one.name).name, one.size, one.found))
    output.close()
    return [str(target.path) for target in found]
