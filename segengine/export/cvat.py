"""CVAT's XML for images 1.1: `annotations.xml`, with polygons, or masks where one ring is no outline

Upload it to a task of these pictures whose labels have the classes' names ("CVAT 1.1").
"""

from __future__ import annotations

from pathlib import Path

from segengine.datasets.annotations.cvat import HEAD, TAIL, image
from segengine.export._drawn import pictures
from segengine.export._instances import stamp
from segengine.export._targets import targets
from segengine.outputs import claimed
from segengine.reader import open_store

VERSION = 1


def export(store_path: str, to: str, *, overwrite: bool = False) -> list[str]:
    """Write `annotations.xml` in the folder `to`; the files written.

    `overwrite`: also a file that no export wrote. Raises JobError, StoreError.
    """
    store = open_store(store_path)
    stamp(store, VERSION)
    path = Path(to, "annotations.xml")
    output = claimed(store, to, [path], overwrite=overwrite)
    with output.replacing(path) as partial, partial.open("wb") as file:
        file.write(HEAD)
        for one in pictures(store, list(targets(store, to, ""))):
            file.write(image(one.place - 1, one.name, one.size, one.found))
        file.write(TAIL)
    output.close()
    return [str(path)]
