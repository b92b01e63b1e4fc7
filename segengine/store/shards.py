"""Whole shards of arrays: written in one piece, read whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import (
    DamagedStoreError,
)
from segengine.store.arrays import ArraySpec
from segengine.store.blobs import Objects
from segengine.store.keys import array_folder, shards_folder
from segengine.store.kinds import StoredObject
from segengine.store.remote import zarr_store
from segengine.store.sealbook import MISSING, digest
from segengine.store.shardcodec import encode_shard
from segengine.types import Place

if TYPE_CHECKING:
    import zarr


checksum = digest


def write_block(
    objects: Objects, spec: ArraySpec, scene: str, place: tuple[int, ...], block: NDArray[Any]
) -> StoredObject:
    """Write one whole shard of an array; `block` fills its first corner."""
    data = encode_shard(block.astype(spec.dtype, copy=False), spec.shard, spec.chunk, spec.fill)
    objects.put(spec.shard_key(scene, place), data)
    return StoredObject(spec.path, checksum(data), len(data))


@lru_cache(maxsize=64)
def open_array(root: str, scene: str, spec: ArraySpec) -> zarr.Array[Any]:
    """An array for reading, opened once a process; `spec` tells it from one it was before.

    What the spec says is not read again: no damage to its metadata can change what is read.
    """
    return _opened(root, array_folder(scene, spec.path), spec.metadata())


def _opened(root: str, path: str, metadata: Mapping[str, Any]) -> zarr.Array[Any]:
    import zarr
    from zarr.core.metadata import ArrayV3Metadata
    from zarr.storage import LocalStore, StorePath

    store = zarr_store(root)
    if isinstance(store, str):
        store = LocalStore(store, read_only=True)
    described = ArrayV3Metadata.from_dict(dict(metadata))
    place = StorePath(store, path)
    return zarr.Array(zarr.AsyncArray(metadata=described, store_path=place))


Index = tuple[int | slice, ...]


def read_region(
    objects: Objects,
    array: zarr.Array[Any],
    index: Index,
    is_stored: Callable[[Place], bool] = lambda _: True,
) -> NDArray[Any]:
    """`array[index]` of a store, whole or not at all; slices have a step of 1.

    `is_stored`: whether a record vouches for a place of the shard grid; one that is not there reads
    as void. Raises DamagedStoreError where stored bytes cannot be decoded, or where they are gone.
    """
    key = shards_folder(array.path)
    try:
        found = np.asarray(array[index])
    except (ValueError, RuntimeError, TypeError) as error:
        raise DamagedStoreError(key, f"stored bytes cannot be decoded: {error}") from error
    spans = [
        range(i, i + 1) if isinstance(i, int) else range(*i.indices(n))
        for i, n in zip(index, array.shape, strict=False)
    ]
    spans += [range(n) for n in array.shape[len(spans) :]]
    whole = found.reshape([len(span) for span in spans])
    fill, shards = array.fill_value, array.shards or array.chunks
    for cell in product(*(_cells(a, n) for a, n in zip(spans, shards, strict=True))):
        part = whole[
            tuple(
                slice(max(0, p * n - a.start), (p + 1) * n - a.start)
                for p, n, a in zip(cell, shards, spans, strict=True)
            )
        ]
        # What is not there reads as void: seldom enough that asking for it costs nothing.
        if part.size and _is_void(part, fill):
            missing = f"{key}/{'/'.join(map(str, cell))}"
            if not objects.exists(missing) and is_stored((cell[0], cell[-2], cell[-1])):
                raise DamagedStoreError(missing, MISSING)
    return found


def _cells(span: range, size: int) -> range:
    return range(span.start // size, -(-span.stop // size)) if len(span) else range(0)


def _is_void(part: NDArray[Any], fill: Any) -> bool:
    first = part.flat[0]
    if fill != fill:
        return bool(first != first and np.isnan(part).all())
    return bool(first == fill and (part == fill).all())
