"""What is carried over of vanished inputs, and what is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.runs import Run, parse_job
from segengine.store.blobs import open_objects
from segengine.store.kinds import MaskRecord, given_up
from segengine.store.records import RecordLog
from segengine.store.shardcodec import encode_shard

pytestmark = pytest.mark.usefixtures("plain_report")
OBJECTS = {"kind": "threshold", "method": "mean", "instances": "components"}
BUCKET = "256x256-uint8-3"


SHARED = {"shard": 512}  # 4 frames of a 256 x 256 bucket share a shard


def record_of(bench: Any, shard: int = 0) -> MaskRecord:
    (found,) = (r for r in bench.open().records() if r.shard[0] == shard)
    return found


def shard_of(bench: Any) -> Path:
    (path,) = (p for p in (bench.store / f"scenes/{BUCKET}/mask/0/c").rglob("*") if p.is_file())
    return path


def objects_of(bench: Any, frame: int) -> list[dict[str, Any]]:
    rows = bench.open().table("instances").to_pylist()
    return [row for row in rows if row["frame"] == frame]


@pytest.mark.parametrize("damage", ["none", "other labels", "lost"])
def test_only_bytes_that_the_record_vouches_for_are_carried(
    damage: str, bench: Any, noise: Any
) -> None:
    for i, name in enumerate("ab"):
        bench.put(f"{name}.png", noise(i, (40, 40, 3)))
    bench.run(OBJECTS, store={"shard": 512})
    before = np.asarray(bench.open()[BUCKET].mask[1])
    assert set(np.unique(before)) == {0, 1, 255}
    rows = objects_of(bench, 1)
    assert rows
    (bench.inputs / "b.png").unlink()
    path = shard_of(bench)
    if damage == "other labels":  # bytes that can be read, and are not those that were committed
        shape = (2, 256, 256)
        path.write_bytes(encode_shard(np.zeros(shape, np.uint8), shape, (1, 16, 16), 255))
    elif damage == "lost":
        path.unlink()
    bench.put("a.png", noise(5, (40, 40, 3)))
    summary = bench.run(OBJECTS, store={"shard": 512})
    assert summary.computed == 1
    assert [(f.name, f.kind) for f in summary.failed] == [("b.png", "lost")] * (damage != "none")
    after = np.asarray(bench.open()[BUCKET].mask[1])
    assert objects_of(bench, 1) == (rows if damage == "none" else [])
    assert objects_of(bench, 0)
    np.testing.assert_array_equal(after, before if damage == "none" else np.full_like(before, 255))


def test_a_lost_mask_is_said_until_its_input_is_back(bench: Any, noise: Any) -> None:
    """Also where its shard is written again for another frame; it is tried again only then."""
    for i, name in enumerate("ab"):
        bench.put(f"{name}.png", noise(i, (40, 40, 3)))
    bench.run(OBJECTS, store=SHARED)
    clean = bench.tree()
    first = (bench.inputs / "a.png").rename(bench.root / "a.png")
    shutil.copy2(first, bench.inputs / "a.png")
    aside = (bench.inputs / "b.png").rename(bench.root / "b.png")
    shard_of(bench).unlink()
    for seed in (5, 6):
        bench.put("a.png", noise(seed, (40, 40, 3)))
        for computed in (1, 0):
            summary = bench.run(OBJECTS, store=SHARED)
            assert (summary.computed, summary.exit_code) == (computed, 3)
            (lost,) = summary.failed
            assert (lost.name, lost.kind) == ("b.png", "lost")
            assert "put the input back" in lost.reason
    aside.rename(bench.inputs / "b.png")
    first.rename(bench.inputs / "a.png")
    assert bench.run(OBJECTS, store=SHARED).exit_code == 0
    assert bench.tree() == clean


def test_the_lost_mask_of_a_scene_of_its_own_is_said(bench: Any, noise: Any) -> None:
    """Its many frames have one input."""
    bench.put("v.zarr", np.stack([noise(i, (40, 40, 3)) for i in range(4)]))
    bench.put("w.zarr", noise(9, (40, 40, 3)))
    source = {"paths": [str(bench.inputs / "*.zarr")]}
    given = bench.job({"kind": "threshold"}, source=source, store=SHARED)
    segengine.run(given)
    clean = bench.tree()
    (path,) = (p for p in (bench.store / "scenes/v/mask/0/c").rglob("*") if p.is_file())
    path.write_bytes(b"torn")
    aside = (bench.inputs / "v.zarr").rename(bench.root / "v.zarr")
    for computed in (1, 0):
        with Run(parse_job(given), repair=True, in_process=True) as run:
            for name in Run.STAGES:
                for _ in run.stage(name):
                    pass
        assert run.summary().computed == computed
        assert {f.kind for f in run.summary().failed} == {"lost"}
        assert len(run.summary().failed) == 4
    aside.rename(bench.inputs / "v.zarr")
    assert segengine.run(given).exit_code == 0
    assert bench.tree() == clean


def test_what_a_frame_keeps_is_its_own(bench: Any, noise: Any) -> None:
    """Also where its shard is not the scene's first."""
    spec = {"kind": "kmeans", "clusters": 2, "attempts": 1}
    for i in range(6):
        bench.put(f"{i}.png", noise(i, (40, 40, 3)))
    bench.run(spec, store=SHARED)
    before = record_of(bench, 1)
    assert before.colors[0] != before.colors[1]
    assert before.inertia[0] != before.inertia[1]
    mask = np.asarray(bench.open()[BUCKET].mask[5])
    (bench.inputs / "5.png").unlink()
    bench.put("4.png", noise(9, (40, 40, 3)))
    assert bench.run(spec, store=SHARED).computed == 1
    after = record_of(bench, 1)
    assert after.colors[0] != before.colors[0]
    assert (after.colors[1], after.inertia[1]) == (before.colors[1], before.inertia[1])
    np.testing.assert_array_equal(np.asarray(bench.open()[BUCKET].mask[5]), mask)


@pytest.mark.parametrize("why", ["it could not be read", "its shard was given up"])
def test_a_void_frame_is_done_once_it_is_back(why: str, bench: Any, noise: Any) -> None:
    """What was carried of it is no mask that counts as done."""
    spec = {"kind": "threshold"}
    bench.put("a.png", noise(1, (40, 40, 3)))
    second = bench.put("b.png", noise(2, (40, 40, 3)))
    if why == "it could not be read":
        second.write_bytes(second.read_bytes()[:200])
    bench.run(spec, store=SHARED)
    record = record_of(bench)
    if why == "it could not be read":
        assert [f.frame for f in record.failures] == [1]
    else:
        RecordLog(open_objects(str(bench.store))).write(given_up(record, "crash", "why", 3))
    aside = second.rename(bench.root / "aside.png")
    bench.put("a.png", noise(5, (40, 40, 3)))
    assert bench.run(spec, store=SHARED).computed == 1
    assert record_of(bench).inputs.split(" ")[1] == "-"
    aside.rename(second)
    assert bench.run(spec, store=SHARED).computed == 1
    assert record_of(bench).inputs.split(" ")[1] == record.inputs.split(" ")[1]


@pytest.mark.parametrize("after", [2, 3])
def test_probabilities_are_carried_as_long_as_they_are_of_the_job(
    after: int, toys: str, bench: Any, noise: Any
) -> None:
    job = {"store": SHARED | {"probabilities": True}}
    for i, name in enumerate("ab"):
        bench.put(f"{name}.png", noise(i, (40, 40, 3)))
    bench.run({"kind": f"{toys}:Shares", "count": 2}, **job)
    before = np.asarray(bench.open()[BUCKET].probabilities[1])
    mask = np.asarray(bench.open()[BUCKET].mask[1])
    assert set(np.unique(before[:, :40, :40])) == {0, 1}
    (bench.inputs / "b.png").unlink()
    bench.put("a.png", noise(5, (40, 40, 3)))
    assert bench.run({"kind": f"{toys}:Shares", "count": after}, **job).computed == 1
    scene = bench.open()[BUCKET]
    np.testing.assert_array_equal(np.asarray(scene.mask[1]), mask)
    found = np.asarray(scene.probabilities[1])
    if after == 2:
        np.testing.assert_array_equal(found, before)
    else:
        assert found.shape == (3, 256, 256)
        assert np.isnan(found).all()
