"""Levels of a mask against a mode by brute force, and when they are made again."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import zarr
from distributed.protocol.pickle import dumps
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from segengine.worker.pyramid import build_level_shard, halve

LABELS = npst.arrays(
    st.sampled_from([np.uint8, np.uint16]),
    npst.array_shapes(min_dims=3, max_dims=3, max_side=7),
    elements=st.sampled_from([0, 1, 2, 3, 255]),
)


def mode_of_blocks(labels: np.ndarray, void: int) -> np.ndarray:
    """The commonest label of each 2 x 2 block, the lowest of equals, void only where all is void."""
    n, height, width = labels.shape
    out = np.full((n, -(-height // 2), -(-width // 2)), void, labels.dtype)
    for f, y, x in np.ndindex(*out.shape):
        block = labels[f, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
        counts = Counter(v for v in block if v != void)
        if counts:
            out[f, y, x] = min(counts, key=lambda v: (-counts[v], v))
    return out


@given(LABELS)
def test_halve_is_the_mode(labels: np.ndarray) -> None:
    void = np.iinfo(labels.dtype).max
    labels = np.where(labels == 255, void, labels).astype(labels.dtype)
    np.testing.assert_array_equal(halve(labels, void), mode_of_blocks(labels, void))


@pytest.mark.usefixtures("plain_report")
def test_what_a_task_carries_does_not_grow_with_its_scene(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def seen(task: Any) -> Any:
        sizes.append(len(dumps(task)))
        return build_level_shard(task)

    monkeypatch.setattr("segengine.stages.pyramid.build_level_shard", seen)
    bench.put("a.zarr", noise(3, (1, 500, 500, 3)))
    paths = {"paths": [str(bench.inputs / "a.zarr")]}
    bench.run({"kind": "threshold"}, source=paths, store={"shard": 16, "chunk": 16})
    assert len(sizes) > 300  # of 32 x 32 shards
    assert max(sizes) < min(sizes) + 200


@pytest.mark.usefixtures("plain_report")
def test_levels_of_a_store(bench: Any, noise: Any) -> None:
    image = noise(3, (3, 131, 75, 3))
    bench.put("a.zarr", image)
    spec = {"kind": "kmeans", "clusters": 4, "attempts": 1}
    paths = {"paths": [str(bench.inputs / "a.zarr")]}
    bench.run(spec, source=paths, store={"shard": 32})
    levels = bench.open()["a"].levels
    assert [level.shape for level in levels] == [
        (3, 131, 75),
        (3, 66, 38),
        (3, 33, 19),
        (3, 17, 10),
        (3, 9, 5),
    ]
    for below, level in pairwise(levels):
        np.testing.assert_array_equal(level[:], mode_of_blocks(below[:], 255))

    # One frame changes: its levels follow, and equal those of a store made anew.
    image[1] = noise(8, (131, 75, 3))
    before = {r.key for r in bench.open().records(kind=None) if r.kind.startswith("level")}
    zarr.open_array(bench.inputs / "a.zarr", mode="r+")[:] = image
    (bench.inputs / "a.zarr/zarr.json").touch()
    bench.run(spec, source=paths, store={"shard": 32})
    levels = bench.open()["a"].levels
    for below, level in pairwise(levels):
        np.testing.assert_array_equal(level[:], mode_of_blocks(below[:], 255))
    assert before == {r.key for r in bench.open().records(kind=None) if r.kind.startswith("level")}
    assert bench.run(spec, source=paths, store={"shard": 32}).computed == 0


def test_a_small_scene_has_no_pyramid(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run({"kind": "threshold"}, store={"shard": 256})
    assert len(bench.open()["256x256-uint8-3"].levels) == 1
