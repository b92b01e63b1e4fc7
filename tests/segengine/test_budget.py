"""Nights that end in time: simulated workers and clocks, real shards, records and stores."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from segengine.commands.evaluate import evaluate
from segengine.commands.status import status
from segengine.commands.verify import verify
from segengine.dispatch.pool import Outcome, Work, late, settle
from segengine.job import parse_job
from segengine.runs import Run
from segengine.stages.hours import Clock
from segengine.store.blobs import open_objects
from segengine.store.sealbook import sealed_report

MEAN = {"kind": "threshold", "method": "mean"}
HOUR = 3600.0
BERLIN = ZoneInfo("Europe/Berlin")


class Killed(BaseException):
    """The night is gone, and what it was about with it."""


@dataclass
class Sky:
    """Workers whose time is simulated, one work ahead of each, and the clock they go by."""

    now: float
    workers: int = 3
    seconds: float = 2700.0
    """A work of so many `pixels`, give or take a third."""
    pixels: float = 65536.0
    closing: float = 2.0
    """Of publishing, for each shard done; and a minute besides."""
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    works: int = 0
    kill: float = math.inf
    busy: float = 0.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now)

    def dispatch(
        self, works: Iterable[Work], *, retries: int, deadline: float
    ) -> Iterator[Outcome]:
        works = iter(works)
        free = [self.now] * self.workers
        running: list[tuple[float, int, Work]] = []
        while True:
            while len(running) < 2 * self.workers and (work := next(works, None)) is not None:
                begin = max(self.now, heapq.heappop(free))
                took = self.took(work)
                self.busy += took
                heapq.heappush(free, begin + took)
                heapq.heappush(running, (begin + took, self.works, work))
                self.works += 1
            if not running:
                return
            end, _, work = heapq.heappop(running)
            if work.left is not None and end - self.now > work.left():
                self.now += max(0.0, work.left())
                yield late(work, 1)
                continue
            self.now = end
            if self.now > self.kill:
                raise Killed
            outcome = settle(work, work.run(1, retries == 0), 1, retries == 0)
            assert outcome is not None
            yield outcome

    def took(self, work: Work) -> float:
        from segengine.stages.budget import pixels_of

        return self.seconds * pixels_of(work.task) / self.pixels * self.chance.uniform(0.67, 1.33)


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sky]:
    def make(**options: Any) -> Sky:
        found = Sky(**options)
        monkeypatch.setattr("segengine.runs.clusters.client_pool", lambda client: client)

        def build(store: str, *_: Any, runs: Any, **__: Any) -> None:
            row = runs.slice(runs.num_rows - 1).to_pylist()[0]
            found.now += 60 + found.closing * (row["shards"] - row["left"])
            open_objects(store).put("report/index.html", sealed_report("<!doctype html>"))

        monkeypatch.setattr("segengine.runs.build_report", build)
        return found

    return make


def night(sky: Sky, job: dict[str, Any]) -> Any:
    with Run(parse_job(job), client=sky, clock=sky.clock) as run:
        for name in Run.STAGES:
            for _ in run.stage(name):
                pass
    return run.summary()


def local(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize("spring", [True, False], ids=["set forward", "set back"])
def test_ten_nights(spring: bool, sky: Any, new_bench: Any, noise: Any) -> None:
    """Never late by more than 1 % of the night, one of them killed, all done in the least of nights."""
    bench, clean = new_bench(), new_bench()
    frames = 250
    for i in range(frames):
        image = noise(i, (12, 16, 3))
        bench.put(f"{i:03}.png", image)
        clean.put(f"{i:03}.png", image)
    budget = {"until": "06:00", "zone": "Europe/Berlin", "order": "path"}
    job = bench.job(MEAN, budget=budget, faults={"fsync": False})
    days = (
        [f"2026-03-{d}" for d in range(24, 32)]
        if spring
        else [f"2026-10-{d}" for d in range(20, 30)]
    )
    days += ["2026-04-01", "2026-04-02"] if spring else []
    above = sky(now=local(f"{days[0]}T22:00"))
    done, summaries = 0, []
    hours: list[float] = []  # worker seconds that a night has for shards
    for number, day in enumerate(days):
        above.now = begun = local(f"{day}T22:00")
        end = begun + {"2026-03-28": 7, "2026-10-24": 9}.get(day, 8) * HOUR
        above.kill = begun + 5 * HOUR if number == 3 else math.inf
        try:
            summary = night(above, job)
        except Killed:
            (bench.store / "run.lock").unlink(missing_ok=True)
            hours.append(5 * HOUR * above.workers)
            found = status(str(bench.store))
            assert sum(s.done for s in found.scenes) >= done  # what was done stays done
            done = sum(s.done for s in found.scenes)
            continue
        assert above.now <= end + 0.01 * (end - begun), (day, (above.now - end) / 60)
        assert summary.skipped == done
        done += summary.computed
        assert summary.left == frames - done
        found = status(str(bench.store))
        assert sum(s.done for s in found.scenes) == done
        summaries.append(summary)
        hours.append((end - begun - 60 - above.closing * done) * above.workers)
        if not summary.left:
            assert summary.exit_code == 0
            break
        assert (summary.exit_code, summary.computed > 0) == (5, True)
        summer = local("2026-03-29T05:00") < end < local("2026-10-25T03:30")
        assert summary.budget == f"at 06:00 {'CEST' if summer else 'CET'}"
        assert summary.ended.startswith(
            f"stopped by the budget {summary.budget}: {summary.left} shard"
        )
        # What is done is published, with figures and a list of what is left.
        rows = bench.open().frames.to_pylist()
        assert sum(r["status"] == "pending" for r in rows) == summary.left
        first = [r["name"] for r in rows if r["status"] == "done"]
        assert first == sorted(r["name"] for r in rows)[: len(first)]  # in the order asked for
        assert summary.metrics["areas"]["object"]["pixels"] > 0
        assert verify(str(bench.store), sample=1).problems == ()
    assert done == frames
    # The least number of nights: so many, each worked in to its end, hold all that was worked.
    least = next(n for n in range(1, 11) if sum(hours[:n]) >= above.busy)
    assert 6 <= least <= len(hours) <= least + 1, (least, len(hours), above.busy / sum(hours))
    runs = bench.open().runs.to_pylist()
    assert [r["exit_code"] for r in runs] == [5] * (len(runs) - 1) + [0]
    assert [r["left"] for r in runs] == [s.left for s in summaries]
    # The masks are those of one run without hours.
    clean.run(MEAN, faults={"fsync": False})
    assert bench.tree() == clean.tree()


STAGES: dict[str, dict[str, Any]] = {
    "survey": {"kind": "kmeans", "clusters": 3, "scope": "run", "attempts": 1},
    "survey-frame": {"kind": "threshold", "method": "otsu"},
    "stitch": {"kind": "edges", "operator": "canny"},
    "instances": {**MEAN, "instances": "components"},
}


def facts(bench: Any) -> Any:
    """What a store says, but for times and hosts."""
    store = bench.open()
    records = sorted((r.scene, r.kind, r.shard, r.checksum) for r in store.records(kind=None))
    records = [r for r in records if r[1] not in ("measure", "frame")]
    frames = store.frames.drop_columns("uri").to_pylist()
    shards = [(r["scene"], r["box"], r["status"], r["pixels"]) for r in store.shards.to_pylist()]
    return records, frames, shards, store.metrics["areas"], bench.tree()


@pytest.mark.parametrize("name", STAGES)
def test_a_night_may_end_in_any_stage(
    name: str, sky: Any, new_bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that is done is not done again, drafts and survey states among it; the end is the same."""
    spec, images = STAGES[name], {"a.zarr": (2, 45, 70, 3), "b.zarr": (40, 33, 3)}
    clean, bench = new_bench(), new_bench()
    for place in (clean, bench):
        for i, (file, shape) in enumerate(images.items()):
            place.put(file, noise(i, shape))
    blocks = {"store": {"shard": 32, "frames": 1}, "faults": {"fsync": False}}
    clean.run(spec, **blocks, source={"paths": [str(clean.inputs / "*.zarr")]})
    worked: list[tuple[str, str]] = []
    above = sky(now=0.0, workers=1, seconds=600, pixels=1024, closing=0.0)
    real = above.took

    def took(work: Work) -> float:
        if (
            work.function.__name__ == "build_level_shard"
        ):  # made anew as far as what is below is new
            return 1.0
        worked.append((work.function.__name__, work.key))
        return real(work) if work.function.__name__ != "fit_states" else 1.0

    monkeypatch.setattr(above, "took", took)
    source = {"paths": [str(bench.inputs / "*.zarr")]}
    job = bench.job(spec, **blocks, source=source, budget={"duration": "1h", "order": "smallest"})
    nights: Counter[str] = Counter()
    for _ in range(40):
        begun, before = above.now, len(worked)
        summary = night(above, job)
        nights.update({function for function, _ in worked[before:]})
        assert above.now - begun <= HOUR * 1.01 + (0 if worked else 60)
        if not summary.left:
            break
        assert summary.exit_code == 5
        assert verify(str(bench.store), sample=0).problems == ()
        if name == "instances":  # what is drafted stays so, whatever is measured meanwhile
            evaluate(str(bench.store), evaluate={"metrics": ["regions"]})
        above.now = begun + 24 * HOUR
    assert summary.exit_code == 0
    assert facts(bench) == facts(clean)
    assert not (bench.store / "work").exists()
    assert len(worked) == len(set(worked)), "twice"
    expected = {
        "survey": {"survey_batch", "compute_shard"},
        "survey-frame": {"survey_batch", "compute_shard"},
        "stitch": {"compute_shard", "finish_shard"},
        "instances": {"compute_shard", "finish_shard"},
    }
    assert all(nights[function] > 1 for function in expected[name]), nights


HALF = {"duration": "30m", "order": "path"}
HALF_AN_HOUR = HOUR / 2


def few_frames(bench: Any, noise: Any, count: int) -> None:
    for i in range(count):
        bench.put(f"{i:02}.png", noise(i, (12, 16, 3)))


def test_a_busy_night_starves_no_later_one(sky: Any, bench: Any, noise: Any) -> None:
    """What took 40 minutes then takes 4 now: an estimate that would forbid all is tried again."""
    few_frames(bench, noise, 24)
    above = sky(now=0.0, seconds=40 * 60)
    job = bench.job(MEAN, budget={"duration": "1h"}, faults={"fsync": False})
    assert night(above, job).computed == 3  # one for each worker
    above.seconds = 4 * 60
    begun = above.now
    summary = night(above, {**job, "budget": HALF})
    # 30 minutes of 3 workers hold 21 of them, had their time been known.
    assert (summary.computed >= 12, summary.remarks) == (True, ())
    assert above.now - begun <= 1.01 * HALF_AN_HOUR
    summary = night(above, {**job, "budget": HALF})
    assert (summary.left, summary.exit_code) == (0, 0)


def test_what_a_worker_does_first_tells_nothing_of_the_rest(
    sky: Any, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start is in it: 12 minutes, and 4 for what it does."""
    few_frames(bench, noise, 12)
    above = sky(now=0.0, seconds=4 * 60)
    real = above.took

    def took(work: Work) -> float:
        return real(work) + (12 * 60 if above.works < above.workers else 0)

    monkeypatch.setattr(above, "took", took)
    job = bench.job(MEAN, budget=HALF, faults={"fsync": False})
    assert night(above, job).computed > 6
    row = bench.open().runs.to_pylist()[-1]
    pixels = 256 * 256 / 1e6
    assert 0.6 * 4 * 60 < row["pace.segment"] * pixels < 1.5 * 4 * 60


def test_a_first_night_is_not_late(sky: Any, bench: Any, noise: Any) -> None:
    """What nobody knew the time of is ended, and left to do: nothing of it is in quarantine."""
    few_frames(bench, noise, 6)
    above = sky(now=0.0, seconds=3 * HOUR)
    job = bench.job(MEAN, budget=HALF, faults={"fsync": False})
    for number in range(3):
        begun = above.now
        summary = night(above, job)
        assert above.now - begun <= 1.01 * HALF_AN_HOUR
        assert (summary.computed, summary.left, summary.exit_code) == (0, 6, 5)
        assert summary.failed == ()
        (remark,) = summary.remarks
        assert "what was tried had not ended" in remark, number
        assert "more hours help" in remark
    assert verify(str(bench.store), sample=0).problems == ()
    summary = night(above, {**job, "budget": {"duration": "12h"}})
    assert (summary.left, summary.exit_code, summary.remarks) == (0, 0, ())


def test_why_nothing_began(sky: Any, bench: Any, noise: Any) -> None:
    """Where the estimate forbids all, and too little is left to try: it is told, and fades."""
    few_frames(bench, noise, 6)
    above = sky(now=0.0, seconds=40 * 60)
    job = bench.job(MEAN, budget={"duration": "1h"}, faults={"fsync": False})
    assert night(above, job).computed == 3

    def slowly_planned(minutes: float, duration: str = "1h") -> Any:
        with Run(
            parse_job({**job, "budget": {"duration": duration}}), client=above, clock=above.clock
        ) as run:
            for name in Run.STAGES:
                for _ in run.stage(name):
                    pass
                above.now += 60 * minutes if name == "plan" else 0
        return run.summary()

    paces = [bench.open().runs.to_pylist()[-1]["pace.segment"]]
    summary = slowly_planned(50)
    assert summary.computed == 0
    (remark,) = summary.remarks
    assert "the next shard takes about 2," in remark
    assert "600 of 3,600 s were left" in remark
    paces.append(bench.open().runs.to_pylist()[-1]["pace.segment"])
    assert paces[1] == pytest.approx(paces[0] / 2)
    (remark,) = slowly_planned(60).remarks
    assert "0 of 3,600 s were left" in remark
    (remark,) = slowly_planned(0.01, "0.5s").remarks
    assert "0 of 0.5 s were left" in remark
