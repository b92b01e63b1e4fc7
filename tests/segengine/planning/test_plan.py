"""What is done, what is stale and what may not start at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.errors import SegengineError
from segengine.job import parse_job
from segengine.planning import checks
from segengine.planning.plan import make_plan
from segengine.runs import Run
from segengine.store.blobs import open_objects
from segengine.store.keys import pack_key
from segengine.store.kinds import FrameFailure, MaskRecord, given_up
from segengine.store.records import RecordLog
from segengine.store.values import decode

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}
SHARED = {"shard": 512}  # 4 frames of a 256 x 256 bucket share a shard
BUCKET = "256x256-uint8-3"


def plan_of(bench: Any, segmenter: Any, *, flags: Any = None, **blocks: Any) -> Any:
    job = parse_job(bench.job(segmenter, **blocks))
    return make_plan(job, open_objects(str(bench.store)), **flags or {})


def log_of(bench: Any) -> RecordLog:
    return RecordLog(open_objects(str(bench.store)))


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


def test_other_weights_make_every_shard_stale(
    bench: Any, noise: Any, toys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    blocks = {"kind": f"{toys}:Blocks"}
    kind = type(segengine.create_segmenter(blocks))
    monkeypatch.setattr(kind, "weights", "one", raising=False)
    assert bench.run(blocks).computed == 1
    assert plan_of(bench, blocks).pending == 0
    monkeypatch.setattr(kind, "weights", "two")
    plan = plan_of(bench, blocks)
    assert (plan.pending, plan.states[BUCKET].stale) == (1, 1)
    assert any("the weights changed" in line for line in plan.notices)


def test_truth_that_no_frame_can_have_is_told_by_its_key(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    base = bench.inputs.parent
    for name in ("empty", "labels {0}"):
        (base / name).mkdir()
    (base / "labels {0}/a.png").write_bytes(b"any")

    def told(**truth: Any) -> list[str]:
        return list(plan_of(bench, MEAN, truth=truth).notices)

    there, other = f"{base}/labels {{{{0}}}}/{{stem}}.png", f"{base}/ids/{{parent}}/{{stem}}.png"
    assert told(paths=[there]) == []
    assert told(paths=[other, there], instances=f"{base}/{{stem}}/ids.png") == []
    assert told(paths=["s3://bucket/{stem}.png"]) == []
    assert told(paths=[there], instances=other) == [
        f"truth.instances: {base}/ids is not there; objects of no frame are scored"
    ]
    assert told(instances=f"{base}/empty/{{stem}}.png") == [
        f"truth.instances: {base}/empty is empty; objects of no frame are scored"
    ]
    assert told(paths=[other, f"{base}/a{{stem}}"], classes=["a"]) == []
    assert told(paths=[f"{base}/no.json"]) == [
        f"truth.paths: {base}/no.json is not there; no frame is scored"
    ]


def test_what_is_skipped_is_said_by_suffix(bench: Any, noise: Any) -> None:
    from segengine.commands.plan import plan

    bench.put("a.png", noise(1, (40, 40, 3)))
    for name in ("b.txt", "c.psd", "d.txt", "e"):
        (bench.inputs / name).write_text("x")
    said = "4 files are skipped, which by their suffix are no input: 2 .txt, 1 without a suffix, 1 .psd"
    report = plan(parse_job(bench.job(MEAN)))
    assert report.skipped == {"": 1, ".psd": 1, ".txt": 2}
    assert said in report.lines()
    assert said in bench.run(MEAN).messages


def test_what_the_records_say_of_a_shard_and_where_they_lie(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(MEAN)
    log, place = log_of(bench), (0, 0, 0)
    (record,) = log.read(BUCKET, MaskRecord)

    def state() -> tuple[int, int, int, str]:
        plan = plan_of(bench, MEAN)
        found = plan.states[BUCKET]
        task = plan.task(plan.layouts[BUCKET], place)
        return plan.pending, found.stale, found.retried, task.had

    assert state() == (0, 0, 0, "packed")
    log.drop("mask", BUCKET, place, packed=True)  # taken back, and killed before it was done again
    assert state() == (
        1,
        0,
        0,
        "packed",
    )  # a void record, not none: the packed one still lies there
    log.write(given_up(record, "crash", "why", 3))
    assert state() == (1, 0, 1, "packed")
    log.write(record)
    log.write(replace(record, shard=(1, 0, 0)))  # of a grid that was another
    assert state() == (0, 0, 0, "packed")
    log.objects.delete(pack_key(BUCKET))
    assert state() == (0, 0, 0, "single")
    log.drop("mask", BUCKET, place, packed=False)
    assert state() == (1, 0, 0, "")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("kind", "again"), [("corrupt", 0), ("error", 1), ("crash", 1), ("hang", 1)]
)
def test_what_may_go_better_next_time_is_tried_again(
    kind: str, again: int, packed: bool, bench: Any, noise: Any
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(MEAN)
    log = log_of(bench)
    (record,) = log.read(BUCKET, MaskRecord)
    log.write(replace(record, failures=(FrameFailure(0, kind, "a.png: why"),)))
    if packed:
        log.write_pack(BUCKET)
        log.clear(BUCKET)
    plan = plan_of(bench, MEAN)
    assert (plan.pending, plan.states[BUCKET].retried) == (again, again)


@pytest.mark.parametrize(
    ("segmenter", "again"), [(MEAN, 1), ({"kind": "edges", "operator": "canny"}, 6)]
)
def test_what_is_damaged_is_done_again_and_nothing_else(
    segmenter: Any, again: int, bench: Any, noise: Any
) -> None:
    """What is linked over the shards of a frame, with all of the frame."""
    bench.put("a.zarr", noise(1, (2, 70, 40, 3)))
    bench.put("b.zarr", noise(2, (20, 20, 3)))
    blocks = {"source": {"paths": [str(bench.inputs / "*.zarr")]}, "store": {"shard": 32}}
    bench.run(segmenter, **blocks)
    repair = {"repair": frozenset({("a", (1, 2, 1))})}
    plan = plan_of(bench, segmenter, flags=repair, **blocks)
    todo = list(plan.pending_places(plan.layouts["a"]))
    assert (1, 2, 1) in todo
    assert {f for f, _, _ in todo} == {1}
    assert (len(todo), plan.pending) == (again, again)
    shutil.rmtree(bench.inputs / "a.zarr")
    plan = plan_of(bench, segmenter, flags=repair, **blocks)
    assert plan.pending == 1  # the vanished cannot be linked again: it is said, once, of this one


def test_a_fit_of_another_job_is_not_used(bench: Any, noise: Any) -> None:
    spec = {"kind": "kmeans", "clusters": 2, "scope": "run", "attempts": 1}
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(spec)
    assert set(plan_of(bench, spec).fits) == {"run-uint8-3"}
    assert plan_of(bench, spec, flags={"refit": True}).fits == {}
    other = plan_of(bench, {**spec, "clusters": 3})
    assert (other.fits, other.pending) == ({}, 1)


def test_only_what_is_there_is_lost_where_no_fit_can_be_made(bench: Any, noise: Any) -> None:
    for i, name in enumerate("abc"):
        bench.put(f"{name}.png", noise(i, (40, 40, 3)))
    spec = {"kind": "threshold", "scope": "scene"}
    bench.run(spec, store=SHARED)
    (bench.inputs / "b.png").unlink()
    plan = plan_of(bench, spec, flags={"refit": True}, store=SHARED)
    lost = plan.task(plan.layouts[BUCKET], (0, 0, 0)).lost
    assert [(f.frame, f.kind) for f in lost] == [(0, "corrupt"), (2, "corrupt")]


def test_a_file_named_in_vain_is_read_again_where_more_can_be_reached(
    bench: Any, noise: Any
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    (bench.inputs / "bad.png").write_text("no image")
    bench.run(MEAN)
    assert plan_of(bench, MEAN).scan.probed == 0
    assert plan_of(bench, MEAN, trust=True).scan.probed == 1
    more = [str(bench.inputs), str(bench.put("../c.png", noise(2, (40, 40, 3))))]
    assert plan_of(bench, MEAN, source={"paths": more}).scan.probed == 2
    again = plan_of(bench, MEAN, source={"paths": [str(bench.inputs)] * 2})
    assert again.scan.probed == 0


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
    monkeypatch.setattr(checks, "_worker_memory", lambda _: float(bytes_))
    assert plan_of(bench, whole).pending == 1
    monkeypatch.setattr(checks, "_worker_memory", lambda _: bytes_ - 0.5)
    with pytest.raises(SegengineError, match="scene s: threshold needs the whole frame of 60 x 50"):
        plan_of(bench, whole)
