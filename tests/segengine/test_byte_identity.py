"""Equal jobs give equal bytes, whatever worked on them and in which order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segengine
from segengine.dispatch.pool import InProcess, Outcome, Work
from segengine.store.singles import stored

SAID = ("kind", "shard", "status", "job", "fit", "areas")
"""What a record says but for times, hosts and attempts."""
JOBS: dict[str, dict[str, Any]] = {
    "survey-run": {"kind": "kmeans", "clusters": 3, "scope": "run", "attempts": 2},
    "survey-frame": {"kind": "threshold", "method": "otsu"},
    "stitch": {"kind": "edges", "operator": "canny", "scope": "scene"},
    "instances": {"kind": "edges", "output": "regions"},
    "split": {
        "kind": "threshold", "method": "mean", "scope": "scene",
        "instances": {"kind": "components", "smooth": 1.0, "holes": 9, "split": "hmaxima", "h": 0.5},
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shuffled:
    """A pool that works in any order, and now and then does a piece of work twice."""

    seed: int

    @property
    def workers(self) -> int:
        return 1 + self.seed % 5

    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        rng = random.Random(self.seed)
        todo = list(works)
        rng.shuffle(todo)
        for work in todo:
            if rng.random() < 0.2:
                work.run(1, False)  # its worker died after the commit
            yield from InProcess().dispatch([work], retries=retries, deadline=deadline)


def fill(bench: Any, noise: Any) -> None:
    """Photos of two buckets and a scene of its own with a pyramid."""
    for i, size in enumerate([(60, 50), (64, 64), (30, 300), (61, 40)]):
        bench.put(f"{i}.png", noise(i, (*size, 3)))
    bench.put("big.zarr", noise(9, (130, 75, 3)))


def job(bench: Any, name: str) -> dict[str, Any]:
    source = {"paths": [str(bench.inputs / "*.png"), str(bench.inputs / "*.zarr")]}
    made: dict[str, Any] = bench.job(JOBS[name], source=source, store={"shard": 128})
    return made


def facts(bench: Any) -> dict[str, Any]:
    """What the records and tables say, without times, hosts, attempts and the files' own times."""
    store = bench.open()
    volatile = ("attempts", "seconds", "finished", "bytes")
    return {
        "records": sorted(
            (r.scene, r.checksum, [stored(r)[name] for name in SAID])
            for r in store.records(kind=None)
        ),
        "frames": store.frames.drop_columns("uri").to_pylist(),
        "shards": [
            {k: v for k, v in row.items() if k not in volatile} for row in store.shards.to_pylist()
        ],
        "areas": store.metrics["areas"],
        "inertia": store.metrics["inertia"],
    }


@pytest.fixture(scope="module")
def reference(new_bench: Any, noise: Any) -> Callable[[str], Any]:
    """A job's bench, run once in this process."""

    @cache
    def run(name: str) -> Any:
        bench = new_bench()
        fill(bench, noise)
        segengine.run(job(bench, name))
        return bench

    return run


def assert_same(bench: Any, other: Any) -> None:
    assert bench.tree() == other.tree()
    assert facts(bench) == facts(other)
    left = [p for p in bench.store.rglob("*") if "partial" in p.name or p.name == "work"]
    assert left == []


@pytest.mark.system
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", JOBS)
def test_one_worker_four_and_none(
    name: str, workers: int, bench: Any, reference: Any, clients: Any, noise: Any
) -> None:
    fill(bench, noise)
    segengine.run(job(bench, name), client=clients(workers))
    assert_same(bench, reference(name))


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("name", JOBS)
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 1 << 20))
def test_any_order_and_work_done_twice(
    name: str, seed: int, reference: Any, new_bench: Any, noise: Any
) -> None:
    bench = new_bench()
    fill(bench, noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segengine.runs.InProcess", lambda: Shuffled(seed))
        segengine.run(job(bench, name))
    assert_same(bench, reference(name))


def test_nothing_under_scenes_names_the_place_or_the_time(reference: Any) -> None:
    for bench in map(reference, JOBS):
        for path, data in bench.tree().items():
            assert str(bench.root).encode() not in data, path
            assert Path(bench.root).name.encode() not in data, path


def test_the_instances_table_has_the_same_rows_in_the_same_order(
    reference: Any, bench: Any, noise: Any
) -> None:
    fill(bench, noise)
    segengine.run(job(bench, "instances"))
    path = "tables/instances.parquet"
    found = pq.read_table(bench.store / path)
    assert found.num_rows > 10
    assert found.equals(pq.read_table(reference("instances").store / path))
    order = [(r["scene"], r["frame"], r["id"]) for r in found.to_pylist()]
    assert order == sorted(order)
