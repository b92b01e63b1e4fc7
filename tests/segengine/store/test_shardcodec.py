"""What we write as a shard is what zarr-python reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.store.arrays import ArraySpec, to_bytes
from segengine.store.blobs import open_objects
from segengine.store.shardcodec import encode_shard
from segengine.store.shards import write_block

FILLS: dict[str, list[Any]] = {
    "uint8": [255, 0],
    "uint16": [65535],
    "uint32": [0],
    "float32": [float("nan"), 0.0],
}


@st.composite
def arrays(draw: st.DrawFn) -> tuple[ArraySpec, np.ndarray]:
    ndim = draw(st.sampled_from([3, 4]))
    chunk = draw(st.tuples(*[st.integers(1, 4)] * ndim))
    shard = tuple(c * draw(st.integers(1, 3)) for c in chunk)
    shape = draw(st.tuples(*[st.integers(1, 9)] * ndim))
    dtype = draw(st.sampled_from(sorted(FILLS)))
    fill = draw(st.sampled_from(FILLS[dtype]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    data = rng.integers(0, 5, shape).astype(dtype)
    empty = rng.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    data[empty] = fill
    if draw(st.booleans()):
        data[tuple(slice(0, c) for c in chunk)] = fill  # a chunk that is not stored
    return ArraySpec("a/0", shape, shard, chunk, dtype, fill, ("f", "c", "y", "x")[:ndim]), data


@settings(deadline=None)
@given(case=arrays())
def test_zarr_reads_every_shard(case: tuple[ArraySpec, np.ndarray], new_bench: Any) -> None:
    spec, data = case
    folder = new_bench().root
    objects = open_objects(str(folder))
    objects.put("scenes/s/a/0/zarr.json", to_bytes(spec.metadata()))
    grid = tuple(-(-n // s) for n, s in zip(spec.shape, spec.shard, strict=True))
    for place in np.ndindex(*grid):
        box = tuple(slice(i * s, (i + 1) * s) for i, s in zip(place, spec.shard, strict=True))
        write_block(objects, spec, "s", place, data[box])
    array = zarr.open_array(folder / "scenes/s/a/0", mode="r")
    assert (array.shape, array.dtype) == (spec.shape, np.dtype(spec.dtype))
    assert (array.chunks, array.shards) == (spec.chunk, spec.shard)
    np.testing.assert_array_equal(array[...], data)
    np.testing.assert_equal(array.fill_value, np.asarray(spec.fill, spec.dtype))


def test_zarr_writes_the_same_shape_of_file(tmp_path: Path) -> None:
    """Chunks of a shard lie where the index says, and an empty chunk takes no bytes."""
    data = np.full((1, 8, 8), 255, np.uint8)
    data[0, :4, 4:] = np.arange(16).reshape(4, 4)
    ours = encode_shard(data, (1, 8, 8), (1, 4, 4), 255)
    theirs = zarr.create_array(
        tmp_path / "a",
        data=data,
        chunks=(1, 4, 4),
        shards=(1, 8, 8),
        fill_value=255,
        compressors=zarr.codecs.ZstdCodec(level=1, checksum=True),
    )
    assert theirs.shards == (1, 8, 8)
    stored = (tmp_path / "a/c/0/0/0").read_bytes()
    index = np.frombuffer(ours[-(4 * 16 + 4) : -4], "<u8").reshape(4, 2)
    np.testing.assert_array_equal(
        index, np.frombuffer(stored[-(4 * 16 + 4) : -4], "<u8").reshape(4, 2)
    )
    metadata = json.loads((tmp_path / "a/zarr.json").read_text())
    assert metadata["codecs"][0]["name"] == "sharding_indexed"
    assert len(ours) == len(stored)


@pytest.mark.parametrize("fill", [255, 0])
def test_equal_arrays_give_equal_bytes(fill: int) -> None:
    data = np.random.default_rng(0).integers(0, 3, (2, 7, 9)).astype(np.uint8)
    assert encode_shard(data, (2, 8, 12), (1, 4, 4), fill) == encode_shard(
        np.asfortranarray(data), (2, 8, 12), (1, 4, 4), fill
    )
