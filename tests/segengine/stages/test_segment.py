"""In which order shards are handed out."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import segengine
from segengine.dispatch.pool import InProcess
from segengine.stages import budget
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


def write_video(path: Path, frames: int, gop: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = gop
        for i in range(frames):
            picture = np.full((48, 64, 3), 5 * (i % 40), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize(
    ("gop", "groups"),
    [(12, [2] * 5), (60, [8, 7]), (6, [1] * 10)],
    ids=["two shards a key frame", "one key frame, for two workers", "a key frame a shard"],
)
def test_shards_between_two_key_frames_go_to_one_worker(
    gop: int, groups: list[int], bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.inputs.mkdir(parents=True, exist_ok=True)
    write_video(bench.inputs / "a.mp4", frames=60, gop=gop)
    frames = 4 if gop == 60 else 6
    works = []
    hand_out = budget.outcomes

    def seen(pool: Any, handed: Any, faults: Any) -> Any:
        handed = list(handed)
        works.extend(handed)
        return hand_out(pool, handed, faults)

    monkeypatch.setattr(budget, "outcomes", seen)
    monkeypatch.setattr("segengine.runs.InProcess", partial(InProcess, workers=2))
    source = {"kind": "video", "paths": [str(bench.inputs / "a.mp4")]}
    segengine.run(bench.job({"kind": "threshold"}, source=source, store={"frames": frames}))
    found = Counter(work.together for work in works)  # in the order in which they come
    assert list(found.values()) == groups
    assert [work.together for work in works] == sorted(work.together for work in works)
