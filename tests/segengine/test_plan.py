"""What is done, what is stale and what may not start at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import segengine
from segengine import plan as planning
from segengine.errors import SegengineError
from segengine.job import parse_job
from segengine.objects import open_objects
from segengine.plan import make_plan
from segengine.stages import Run
from segengine.values import decode

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}
SHARED = {"shard": 512}  # 4 frames of a 256 x 256 bucket share a shard
BUCKET = "256x256-uint8-3"


def plan_of(bench: Any, segmenter: Any, **blocks: Any) -> Any:
    return make_plan(parse_job(bench.job(segmenter, **blocks)), open_objects(str(bench.store)))


def planned_only(bench: Any, segmenter: Any, **blocks: Any) -> None:
    """A run that is killed when its plan is committed."""
    with Run(parse_job(bench.job(segmenter, **blocks)), in_process=True) as run:
        list(run.stage("plan"))


def test_a_raised_version_makes_every_shard_stale(
    bench: Any, noise: Any, toys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.put("b.png", noise(2, (40, 40, 3)))
    blocks = {"kind": f"{toys}:Blocks"}
    assert bench.run(blocks, store={"frames": 1}).computed == 2
    assert bench.run(blocks, store={"frames": 1}).computed == 0
    kind = type(segengine.create_segmenter(blocks))
    monkeypatch.setattr(kind, "version", 2)
    again = bench.run(blocks, store={"frames": 1})
    assert (again.computed, again.skipped) == (2, 0)
    assert any("2 of 2 shards are stale" in m and "version: 1 -> 2" in m for m in again.messages)
    assert [r.version for r in bench.open().records()] == [2, 2]


def test_the_vanished_do_not_make_their_shard_stale(bench: Any, noise: Any) -> None:
    """Not even where their fingerprint had changed before, in a run that was killed."""
    for i, name in enumerate("abc"):
        bench.put(f"{name}.png", noise(i, (40, 40, 3)))
    bench.run(MEAN, store=SHARED)
    bench.put("b.png", noise(7, (44, 40, 3)))
    planned_only(bench, MEAN, store=SHARED)
    assert plan_of(bench, MEAN, store=SHARED).pending == 1
    (bench.inputs / "b.png").unlink()
    assert plan_of(bench, MEAN, store=SHARED).pending == 0
    bench.put("c.png", noise(8, (44, 40, 3)))  # one beside it that has not vanished
    plan = plan_of(bench, MEAN, store=SHARED)
    assert (plan.pending, plan.states[BUCKET].stale) == (1, 1)


def test_a_scenes_fit_lasts_while_any_frame_it_saw_is_unchanged(bench: Any, noise: Any) -> None:
    segmenter = {"kind": "kmeans", "clusters": 2, "scope": "scene", "attempts": 1}

    def fitted() -> Any:
        return decode((bench.store / f"records/+fits/scene-{BUCKET}").read_bytes())["about"]

    for i, name in enumerate("ab"):
        bench.put(f"{name}.png", noise(i, (40, 40, 3)))
    bench.run(segmenter, store=SHARED)
    first = fitted()
    bench.put("a.png", noise(5, (40, 40, 3)))
    assert bench.run(segmenter, store=SHARED).computed == 1
    assert fitted() == first
    bench.put("b.png", noise(6, (40, 40, 3)))
    assert bench.run(segmenter, store=SHARED).computed == 1
    second = fitted()
    assert second["inputs"].keys() == first["inputs"].keys()
    assert not second["inputs"].items() & first["inputs"].items()
    for i, name in enumerate("ab"):
        bench.put(f"{name}.png", noise(20 + i, (40, 40, 3)))
    planned_only(bench, segmenter, store=SHARED)  # killed: nothing is fitted on what is new
    for name in "ab":
        (bench.inputs / f"{name}.png").unlink()
    bench.put("other.tif", noise(1, (300, 300, 3)))
    assert f"scene-{BUCKET}" in plan_of(bench, segmenter, store=SHARED).fits
    bench.run(segmenter, store=SHARED)
    assert fitted() == second  # nobody is left to fit again on: the masks stay as they are


@pytest.mark.parametrize(
    ("dtype", "bytes_"), [("uint8", 60 * 50 * (3 + 64)), ("uint16", 60 * 50 * (6 + 64))]
)
def test_a_whole_frame_must_fit_a_worker(
    dtype: str, bytes_: int, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rasterio

    bench.inputs.mkdir()
    with rasterio.open(
        bench.inputs / "s.tif", "w", driver="GTiff", height=60, width=50, count=3, dtype=dtype,
        crs="EPSG:32613", transform=rasterio.Affine(1, 0, 5e5, 0, -1, 44e5),
    ) as data:  # fmt: skip
        data.write(np.moveaxis(noise(1, (60, 50, 3), dtype), -1, 0))
    whole = {"kind": "threshold", "method": "fixed", "levels": 99}
    kind = type(segengine.create_segmenter(whole))
    monkeypatch.setattr(kind, "halo", None)
    monkeypatch.setattr(planning, "_worker_memory", lambda _: float(bytes_))
    assert plan_of(bench, whole).pending == 1
    monkeypatch.setattr(planning, "_worker_memory", lambda _: bytes_ - 0.5)
    with pytest.raises(SegengineError, match="scene s: threshold needs the whole frame of 60 x 50"):
        plan_of(bench, whole)
