"""The instances of a store, a piece of `tables/instances.parquet` at a time."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from segengine.errors import DamagedStoreError, JobError
from segengine.export._holes import Kept
from segengine.export._parts import Parts
from segengine.outputs import Output
from segengine.reader import Store
from segengine.store.keys import INSTANCE_TABLE
from segengine.store.local import LocalObjects
from segengine.store.sealbook import CHANGED

ROWS = 4096
"""Instances of a piece: what is in memory, and what is done again after a kill."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one scene."""

    scene: str
    first: int
    """Number of its first row in the table."""
    rows: list[dict[str, Any]]
    kept: Kept | None = None
    """Which instances of the store are written; None: rows are regions, or all."""


def open_parts(store: Store, output: Output, kind: str, version: int, more: object = None) -> Parts:
    """Parts of an export of the instances, in the format `kind`; `more`: what else decides its bytes.

    Raises as `stamp`.
    """
    return Parts(output, kind, stamp(store, version, more))


def stamp(store: Store, version: int, more: object = None) -> str:
    """Digest of the instances and of what else decides an export's bytes.

    Raises JobError where the store has no instances, DamagedStoreError where their table is damaged.
    """
    digest = xxhash.xxh3_64(f"{version} {store.classes} {more}".encode("utf-8", "surrogateescape"))
    whole = xxhash.xxh3_128()
    with _open(store) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            whole.update(block)
    seal = store.objects.book.seals.get(INSTANCE_TABLE)
    if seal is not None and seal.digest != whole.hexdigest():
        raise DamagedStoreError(f"{store.path}/{INSTANCE_TABLE}", CHANGED)
    return digest.hexdigest()


def pieces(store: Store) -> Iterator[Piece]:
    """All instances, by scene, frame and id."""
    import pyarrow.parquet as pq

    number = 0
    with _open(store) as file:
        batches = pq.ParquetFile(file).iter_batches(ROWS, use_threads=False)
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
        for scene, own in itertools.groupby(rows, lambda row: str(row["scene"])):
            while some := list(itertools.islice(own, ROWS)):
                yield Piece(scene, number, some)
                number += len(some)


def by_scene(store: Store) -> Iterator[tuple[str, Iterator[Piece]]]:
    """The pieces of each scene that has instances."""
    return itertools.groupby(pieces(store), lambda piece: piece.scene)


def scenes(store: Store) -> list[str]:
    """The scenes that have instances, in order. Raises JobError where the store has none at all."""
    import pyarrow.parquet as pq

    with _open(store) as file:
        batches = pq.ParquetFile(file).iter_batches(1 << 20, columns=["scene"], use_threads=False)
        names = (name for batch in batches for name in batch.column(0).unique().to_pylist())
        return list(dict.fromkeys(map(str, names)))


def _open(store: Store) -> Any:
    objects = store.objects
    if isinstance(objects.base, LocalObjects):
        path = Path(objects.root, INSTANCE_TABLE)
        if path.is_file():
            return path.open("rb")
    elif (data := objects.get(INSTANCE_TABLE)) is not None:
        return io.BytesIO(data)
    raise JobError(
        f"{store.path}: has no instances to export; let the segmenter find them, or set "
        "segmenter.instances: components, and finish the run"
    )
