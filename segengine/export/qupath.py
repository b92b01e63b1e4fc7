"""QuPath's GeoJSON, one file a frame: outlines along the pixels' edges, with holes and several parts

`sub/a.tif` becomes `sub/a.geojson`, which QuPath takes dropped on the picture. Coordinates are pixels.
"""

from __future__ import annotations

from segengine.datasets.annotations.qupath import document
from segengine.export._drawn import Pictured, pictures
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
    found = list(targets(store, to, ".geojson"))
    output = claimed(store, to, (target.path for target in found), overwrite=overwrite)
    for one in pictures(store, found):
        with output.replacing(one.target.path) as partial:
            partial.write_bytes(document(one.found, _colors(one), one.name))
    output.close()
    return [str(target.path) for target in found]


def _colors(one: Pictured) -> dict[str, list[int]]:
    """Red, green, blue of each class."""
    classes = one.target.scene.store.classes
    return dict(zip(classes, one.target.scene.colors(one.target.frame).tolist(), strict=False))
