"""On S3, where each object is a request: what a run asks for, by the scenes it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segengine.job import parse_job
from segengine.runs import Run
from segengine.store.remote import RemoteObjects

pytestmark = pytest.mark.system

LISTINGS = ("keys", "children", "delete_tree")
PUBLISHED, PACKED, CLEARED, TOLD = 1, 1, 1, 1
"""Listings of a scene's own records: where they are published, packed, cleared; and for the report,
which looks at some scenes only."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a store was asked what."""
    found: Counter[str] = Counter()

    def counted(name: str) -> Any:
        real = getattr(RemoteObjects, name)

        def ask(self: RemoteObjects, *args: Any) -> Any:
            found["list" if name in LISTINGS else name] += 1
            return real(self, *args)

        return ask

    for name in (*LISTINGS, "get", "put"):
        monkeypatch.setattr(RemoteObjects, name, counted(name))
    return found


def run(photos: Path, store: str) -> int:
    """The number of shards computed."""
    job = {"source": {"paths": [str(photos)]}, "segmenter": {"kind": "threshold"}}
    with Run(
        parse_job(job | {"store": {"path": store, "chunk": 64, "shard": 128}}), in_process=True
    ) as run:
        for stage in Run.STAGES:
            for _ in run.stage(stage):
                pass
        return run.summary().computed


def test_scenes_are_not_listed_one_by_one(bucket: str, tmp_path: Path, asked: Counter[str]) -> None:
    first, again = {}, {}
    for scenes in (2, 8):
        photos, store = tmp_path / str(scenes), f"{bucket}/{scenes}.zarr"
        photos.mkdir()
        for i in range(scenes):  # each of a size of its own, with a pyramid
            image = np.random.default_rng(i).integers(0, 255, (200, 140 + 20 * i), np.uint8)
            assert cv2.imwrite(str(photos / f"{i:02}.png"), image)
        asked.clear()
        assert run(photos, store) > scenes
        first[scenes] = Counter(asked)
        asked.clear()
        assert run(photos, store) == 0
        again[scenes] = Counter(asked)
    each = {name: (first[8][name] - first[2][name]) / 6 for name in first[8]}
    assert each["list"] <= PUBLISHED + PACKED + CLEARED + TOLD, each
    assert again[8]["list"] == again[2]["list"], "a finished run lists scenes"
    assert again[8]["get"] - again[2]["get"] <= 4 * 6
    assert again[8]["put"] == again[2]["put"]
