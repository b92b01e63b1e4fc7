"""What the geographic formats write: a store's instances, or the regions of its classes.

A store whose segmenter finds instances gives those. Of another, each 4-connected region of a class is
an object: the same pieces of rows, whose outlines are known already.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.export import _instances
from segengine.export._instances import ROWS, Piece
from segengine.export._parts import Parts
from segengine.export._probability import shares
from segengine.export._regions import Region, regions
from segengine.export._shaping import Shaping, kept_of, simplified
from segengine.outputs import Output
from segengine.reader import SceneStore, Store
from segengine.store.keys import CONFIDENCE, INSTANCE_TABLE, MASK, PROBABILITIES
from segengine.types import Labels


class Objects:
    """The objects of a store."""

    def __init__(self, store: Store, shaping: Shaping) -> None:
        """Raises JobError where instances are still to be found."""
        self.store, self.shaping = store, shaping
        self._found = _finds_instances(store)
        self.scenes = _instances.scenes(store) if self._found else list(store.scenes)
        """Those that have a file each."""

    def by_scene(self) -> Iterator[tuple[SceneStore, Iterator[Piece]]]:
        """Each scene with its objects, as they are to be written."""
        if self._found:
            kept = kept_of(self.store, self.shaping)
            for name, pieces in _instances.by_scene(self.store):
                own = (replace(piece, kept=kept) for piece in pieces)
                yield self.store[name], simplified(self.store[name], own, self.shaping)
        else:
            for scene in self.store.scenes.values():
                yield scene, simplified(scene, _pieces(scene), self.shaping)

    def parts(self, output: Output, kind: str, version: int) -> Parts:
        """Parts of a file of a format `kind`, of these objects."""
        more = self.shaping if self.shaping != Shaping() else None
        if self._found:
            return _instances.open_parts(self.store, output, kind, version, more)
        digest = xxhash.xxh3_64(f"{version} {self.store.classes} {more} regions".encode())
        for name in self.scenes:
            for record in self.store.records(name):
                digest.update(f"{name} {record.shard} {record.checksum}\n".encode())
        return Parts(output, kind, digest.hexdigest())


def _finds_instances(store: Store) -> bool:
    """Whether the store has instances, or will have them when its run is finished."""
    if store.objects.exists(INSTANCE_TABLE):
        return True
    first = next(iter(store.scenes.values()), None)
    return first is None or first.instances is not None


def _pieces(scene: SceneStore) -> Iterator[Piece]:
    """The regions of a scene's classes."""
    rows = (
        _row(scene, frame, region)
        for frame in (ref.index for ref in scene.frames if not ref.pruned)
        for region in _of_frame(scene, frame)
    )
    for number in itertools.count(0, ROWS):
        some = list(itertools.islice(rows, ROWS))
        if not some:
            return
        yield Piece(scene.name, number, some)


def _of_frame(scene: SceneStore, frame: int) -> Iterator[Region]:
    ref, ground = scene.layout.frame(frame), scene.layout.placing.ground

    def labels(rows: slice) -> Labels:
        return scene.read(MASK, frame, rows, slice(0, ref.width))

    def probabilities(kind: int, rows: slice) -> NDArray[np.float32]:
        return scene.read(PROBABILITIES, frame, kind, rows, slice(0, ref.width))

    def confidence(kind: int, rows: slice) -> NDArray[np.float32]:
        return shares(scene.read(CONFIDENCE, frame, rows, slice(0, ref.width)))

    stored = None if scene.confidence is None else confidence
    stored = stored if scene.probabilities is None else probabilities
    yield from regions((ref.height, ref.width), scene.void, labels, ground, stored)


def _row(scene: SceneStore, frame: int, region: Region) -> dict[str, object]:
    return {
        "scene": scene.name,
        "frame": frame,
        "id": region.number,
        "class": region.label,
        "score": None,
        "area": region.area,
        "outline": [region.polygon],
        "metres": region.metres,
        "probability": region.probability,
    }
