"""Kill a run anywhere: the next one goes on, computes only what was in flight, and ends the same.

A kill is simulated at every single write or delete of a small job: that one and all that follow
raise, as in a process that is gone, and half-written litter is left behind.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.store.local import LocalObjects
from segengine.store.singles import stored
from segengine.store.values import decode
from segengine.worker.segment import segment_shard
from tests.segengine.sources import scenes

pytestmark = pytest.mark.usefixtures("plain_report")
SAID = ("kind", "shard", "status", "job", "fit", "areas")
"""What a record says but for times, hosts and attempts."""
JOBS: dict[str, dict[str, Any]] = {
    "survey": {"kind": "kmeans", "clusters": 3, "scope": "run", "attempts": 1},
    "survey-frame": {"kind": "threshold", "method": "otsu"},
    "stitch": {"kind": "edges", "operator": "canny"},
    "instances": {"kind": "edges", "output": "regions"},
    "split": {
        "kind": "threshold", "method": "fixed", "levels": 128,
        "instances": {"kind": "components", "holes": 9, "min_area": 3, "split": "watershed"},
    },
}  # fmt: skip


class Killed(BaseException):
    """Nothing catches it: the process is gone."""


@dataclass(slots=True)
class Killer:
    """Counts what changes the store; from `after` such operations on nothing works any more."""

    after: int
    done: int = 0
    keys: list[str] = field(default_factory=list)

    def step(self, key: str) -> None:
        self.done += 1
        self.keys.append(key)
        if self.done > self.after:
            raise Killed(key)


@contextmanager
def killed(after: int) -> Iterator[Killer]:
    """Patch the store's writes: the first `after` go through."""
    killer = Killer(after)

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: LocalObjects, key: str, *data: bytes) -> Any:
            if key != "run.lock":
                try:
                    killer.step(key)
                except Killed:
                    if data:  # half an object, never renamed into place
                        litter = Path(self.root, "work/tmp/half")
                        litter.parent.mkdir(parents=True, exist_ok=True)
                        litter.write_bytes(data[0][: len(data[0]) // 2])
                    raise
            return real(self, key, *data)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("put", "create", "delete", "delete_tree"):
            patch.setattr(LocalObjects, name, wrap(getattr(LocalObjects, name)))
        # One after the other, so that some are gone and some are not.
        patch.setattr(
            LocalObjects, "delete_many", lambda self, keys: [self.delete(key) for key in keys]
        )
        yield killer


def make(bench: Any, noise: Any) -> Any:
    bench.put("a.zarr", noise(1, (2, 45, 40, 3)))
    bench.put("b.zarr", noise(2, (20, 33, 3)))
    return bench


def job(bench: Any, spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bench.job(
        spec, source={"paths": [str(bench.inputs / "*.zarr")]}, store={"shard": 32}
    )
    return found


def facts(bench: Any) -> Any:
    store = bench.open()
    records = sorted(
        (r.scene, r.checksum, [stored(r)[name] for name in SAID]) for r in store.records(kind=None)
    )
    frames = store.frames.drop_columns("uri").to_pylist()
    shards = [(r["scene"], r["box"], r["status"], r["pixels"]) for r in store.shards.to_pylist()]
    return records, frames, shards, store.metrics["areas"], bench.tree()


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The shards that are worked on, as they begin."""
    found: list[tuple[str, Any]] = []

    def counted(task: Any) -> Any:
        found.append((task.scene, task.place))
        return segment_shard(task)

    monkeypatch.setattr("segengine.stages.segment.compute_shard", counted)
    return found


@pytest.mark.parametrize("name", JOBS)
def test_killed_at_every_write(name: str, new_bench: Any, noise: Any, worked: Any) -> None:
    spec = JOBS[name]
    clean = make(new_bench(), noise)
    with killed(1 << 30) as counter:
        shards = segengine.run(job(clean, spec)).shards
    wanted = facts(clean)
    told = {"survey": "+survey", "stitch": "/draft/", "survey-frame": "+fits"}
    expected = told.get(name, "/split/" if name == "split" else "mask")
    assert any(expected in key for key in counter.keys)
    # Five jobs sweep the same stages, so that a step leaves no kind of write out.
    for after in range(0, counter.done, 11 if name == "split" else 5):
        bench = make(new_bench(), noise)
        worked.clear()
        with pytest.raises(Killed), killed(after):
            segengine.run(job(bench, spec))
        (bench.store / "run.lock").unlink(missing_ok=True)  # its process is gone
        segengine.run(job(bench, spec))
        assert facts(bench) == wanted, counter.keys[after]
        assert not (bench.store / "work").exists()
        twice = len(worked) - len(set(worked))
        assert twice <= 1, (counter.keys[after], worked)
        worked.clear()
        assert segengine.run(job(bench, spec)).computed == 0
        assert worked == []
    assert shards > 4 or name == "instances"


@pytest.mark.parametrize("before", [None, {"kind": "threshold"}], ids=["first", "over another"])
@pytest.mark.parametrize("far", [False, True], ids=["very many", "far away"])
def test_killed_while_records_are_packed_before_the_last_stage(
    far: bool, before: Any, new_bench: Any, noise: Any, worked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"kind": "threshold", "object": "dark"}

    def begun() -> Any:
        bench = make(new_bench(), noise)
        if before is not None:
            segengine.run(job(bench, before))
        worked.clear()
        return bench

    clean = begun()
    segengine.run(job(clean, spec))
    wanted = facts(clean)
    if far:
        monkeypatch.setattr("segengine.stages.segment.is_far", lambda root: True)
    else:
        monkeypatch.setattr("segengine.stages.segment.PACKED_TOGETHER", 3)
    probe = begun()
    with killed(1 << 30) as counter:
        segengine.run(job(probe, spec))
    assert facts(probe) == wanted
    packs = [i for i, key in enumerate(counter.keys) if key == "records/a.parquet"]
    last = max(i for i, key in enumerate(counter.keys) if key.startswith("scenes/a/mask/0/c/"))
    assert len(packs) == (2 if far else 3)
    assert len([i for i in packs if i < last]) == (0 if far else 2)
    for after in range(packs[0] - 5, packs[0] + 16 if far else packs[1] + 8):
        bench = begun()
        with pytest.raises(Killed), killed(after):
            segengine.run(job(bench, spec))
        (bench.store / "run.lock").unlink(missing_ok=True)
        segengine.run(job(bench, spec))
        assert facts(bench) == wanted, counter.keys[after]
        assert len(worked) - len(set(worked)) <= 1, (counter.keys[after], worked)


def test_killed_again_and_again(bench: Any, new_bench: Any, noise: Any, worked: Any) -> None:
    spec = JOBS["stitch"]
    clean = make(new_bench(), noise)
    shards = segengine.run(job(clean, spec)).shards
    make(bench, noise)
    worked.clear()
    for kills in itertools.count(1):
        (bench.store / "run.lock").unlink(missing_ok=True)
        try:
            with killed(25):
                segengine.run(job(bench, spec))
            break
        except Killed:
            assert kills < 30
    assert facts(bench) == facts(clean)
    assert kills > 2
    assert len(worked) <= shards + kills


@pytest.mark.parametrize(("first", "second"), [("survey-frame", "survey"), ("stitch", "stitch")])
def test_no_foreign_byte_counts_as_done(
    first: str, second: str, new_bench: Any, noise: Any
) -> None:
    """Another job, killed anywhere over a finished store; then the first job again."""
    one = JOBS[first]
    two = JOBS[second] | ({"high": 0.4} if first == second else {})
    clean = make(new_bench(), noise)
    segengine.run(job(clean, one))
    wanted = facts(clean)
    probe = make(new_bench(), noise)
    segengine.run(job(probe, one))
    with killed(1 << 30) as counter:
        segengine.run(job(probe, two))
    for after in range(0, counter.done, 7):
        bench = make(new_bench(), noise)
        segengine.run(job(bench, one))
        with pytest.raises(Killed), killed(after):
            segengine.run(job(bench, two))
        (bench.store / "run.lock").unlink(missing_ok=True)
        segengine.run(job(bench, one))
        found = facts(bench)
        for ours, theirs in zip(found[:4], wanted[:4], strict=True):
            assert ours == theirs, counter.keys[after]
        stale = {k for k in {*found[4], *wanted[4]} if found[4].get(k) != wanted[4].get(k)}
        # Only what the other job's arrays left behind may be there besides.
        assert stale <= set(found[4]) - set(wanted[4]), counter.keys[after]


def test_a_level_of_another_job_does_not_stay(new_bench: Any, noise: Any) -> None:
    """Killed between a level's bytes and its record; then the first job again."""
    one, two = {"kind": "threshold"}, {"kind": "threshold", "object": "dark"}
    clean = make(new_bench(), noise)
    segengine.run(job(clean, one))
    with killed(1 << 30) as counter:
        segengine.run(job(clean, two))
    level = next(i for i, key in enumerate(counter.keys) if "mask/1/c/" in key)
    clean, bench = make(new_bench(), noise), make(new_bench(), noise)
    segengine.run(job(clean, one))
    segengine.run(job(bench, one))
    with pytest.raises(Killed), killed(level + 1):
        segengine.run(job(bench, two))
    (bench.store / "run.lock").unlink(missing_ok=True)
    segengine.run(job(bench, one))
    assert facts(bench) == facts(clean)


def test_a_draft_of_another_job_is_not_linked(new_bench: Any, noise: Any) -> None:
    """Killed between a draft's bytes and its record, over a draft of an earlier kill."""
    one, two = JOBS["stitch"], JOBS["stitch"] | {"sigma": 3.0}
    clean = make(new_bench(), noise)
    segengine.run(job(clean, one))
    bench = make(new_bench(), noise)
    with killed(1 << 30) as counter:
        segengine.run(job(make(new_bench(), noise), one))
    first_mask = next(i for i, k in enumerate(counter.keys) if "mask/0/c/" in k)
    with pytest.raises(Killed), killed(first_mask - 1):
        segengine.run(job(bench, one))
    assert list(bench.store.glob("work/*/draft/*"))
    for after in range(1, 40):  # somewhere in there a draft is overwritten
        (bench.store / "run.lock").unlink(missing_ok=True)
        try:
            with killed(after) as killer:
                segengine.run(job(bench, two))
        except Killed:
            if killer.keys[-2].startswith("work/") and "/draft/" in killer.keys[-1]:
                break
    else:
        pytest.fail("no draft was overwritten")
    (bench.store / "run.lock").unlink(missing_ok=True)
    segengine.run(job(bench, one))
    assert facts(bench) == facts(clean)
    mask = np.asarray(bench.open()["a"].mask)
    assert (mask == np.asarray(clean.open()["a"].mask)).all()


@pytest.mark.parametrize("back", [True, False])
def test_killed_while_scenes_are_laid_out_anew(back: bool, new_bench: Any, noise: Any) -> None:
    """Other source options leave the scenes without a use; then the first job again, or the second."""
    spec = {"kind": "threshold"}

    def filled() -> Any:
        bench = new_bench()
        bench.put("a.png", noise(1, (40, 40, 3)))
        bench.put("b.zarr", noise(2, (40, 40, 3)))
        return bench

    def made(bench: Any, second: bool) -> dict[str, Any]:
        options = {"color": "gray", "bands": [2]} if second else {}
        paths = [str(bench.inputs / "*.png"), str(bench.inputs / "*.zarr")]
        found: dict[str, Any] = bench.job(spec, source={"paths": paths, **options})
        return found

    clean = filled()
    segengine.run(made(clean, not back))
    wanted = facts(clean)
    probe = filled()
    segengine.run(made(probe, False))
    with killed(1 << 30) as counter:
        segengine.run(made(probe, True))
    assert sorted(probe.open().scenes) == ["256x256-uint8-1", "b"]
    for after in range(0, counter.done, 2):
        bench = filled()
        segengine.run(made(bench, False))
        with pytest.raises(Killed), killed(after):
            segengine.run(made(bench, True))
        (bench.store / "run.lock").unlink(missing_ok=True)
        segengine.run(made(bench, not back))
        assert facts(bench) == wanted, counter.keys[after]
        layouts = [decode(p.read_bytes()) for p in (bench.store / "records/+layouts").iterdir()]
        assert {la.scene: la.bands for la in layouts} == (
            {"256x256-uint8-3": 3, "b": 3} if back else {"256x256-uint8-1": 1, "b": 1}
        ), counter.keys[after]


def test_killed_over_a_map_that_is_coarser_the_next_time(new_bench: Any) -> None:
    """Shards of the finer one lie beyond the coarser one's last."""
    clean, probe, bench = new_bench(), new_bench(), new_bench()
    for one in (clean, probe, bench):
        scenes.write(one.inputs / "a.tif", scenes.field(10, 800), 10)

    def made(bench: Any, resolution: float) -> dict[str, Any]:
        source = {"mosaic": "path", "resolution": resolution}
        paths = [str(bench.inputs / "*.tif")]
        found: dict[str, Any] = bench.job(
            JOBS["survey-frame"], source={"paths": paths, **source}, store={"shard": 16}
        )
        return found

    with killed(1 << 30) as counter:
        segengine.run(made(probe, 10.0))
    last = counter.keys.index("records/mosaic/mask/0.4.4.json")
    with pytest.raises(Killed), killed(last + 1):
        segengine.run(made(bench, 10.0))
    (bench.store / "run.lock").unlink(missing_ok=True)
    segengine.run(made(bench, 30.0))
    segengine.run(made(clean, 30.0))
    assert facts(bench) == facts(clean)
