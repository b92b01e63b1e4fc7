"""In which order shards are handed out."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.worker.segment import segment_shard


@pytest.mark.usefixtures("plain_report")
def test_the_last_of_unequal_shards_end_together(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 shards on 8 workers that take as long as they have pixels, each by whoever is free."""
    rng = np.random.default_rng(5)
    for i, side in enumerate(sorted(rng.integers(16, 128, 64))):
        bench.put(f"{i:02}.zarr", rng.integers(0, 255, (side, side, 1), dtype=np.uint8))
    sizes = []

    def seen(task: Any) -> Any:
        sizes.append(math.prod(task.window.shape))
        return segment_shard(task)

    monkeypatch.setattr("segengine.stages.segment.compute_shard", seen)
    paths = {"paths": [str(bench.inputs / "*.zarr")]}
    segengine.run(bench.job({"kind": "threshold"}, source=paths, store={"shard": 128, "chunk": 16}))
    assert len(sizes) == 64

    def end(order: list[int]) -> int:
        free = [0] * 8
        for size in order:
            heapq.heapreplace(free, free[0] + size)
        return max(free)

    bound = max(sum(sizes) / 8, max(sizes))
    assert end(sizes) <= 1.1 * bound
    assert end(sizes[::-1]) > 1.1 * bound  # else the order would not matter here
