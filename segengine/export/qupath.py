"""QuPath's GeoJSON, one file a frame: outlines along the pixels' edges, with holes and several parts

`sub/a.tif` becomes `sub/a.geojson`, which QuPath takes dropped on the picture. Coordinates are pixels.
"""

from __future__ import annotations

from segengine.datasets.annotations.qupath import document
from segengine.export._drawn import Pictured, write_each

VERSION = 1


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write a file a frame below the folder `to`; the files written.

    `overwrite`: also files that no export wrote. Raises JobError, StoreError.
    """
    return write_each(store_path, to, ".geojson", VERSION, _document, overwrite=overwrite)


def _document(one: Pictured) -> bytes:
    return document(one.found, _colors(one), one.name)


def _colors(one: Pictured) -> dict[str, list[int]]:
    """Red, green, blue of each class."""
    classes = one.target.scene.store.classes
    return dict(zip(classes, one.target.scene.colors(one.target.frame).tolist(), strict=False))
