"""SIGKILL of workers and of the driver, at any moment: the same bytes, and nobody left behind."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty import counted
from harness import Job, Process, differing, job_of, kill, write_photos

pytestmark = pytest.mark.system

SHARDS = 24
WORKERS = 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"), SHARDS // 4)


@pytest.fixture(scope="module")
def clean(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run stores."""
    folder = tmp_path_factory.mktemp("clean")
    job = Job(folder, job_of(photos, folder / "masks.zarr", {"kind": "faulty:Surveyed"}))
    job.run()
    assert job.summary()["computed"] == SHARDS
    return job.scenes()


def wait_for_more(run: Process, steps: Callable[[], int]) -> None:
    seen = steps()
    run.until(lambda: steps() > seen, "no progress")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def gated(photos: Path, make_job: Callable[..., Job], tmp_path: Path, log: Path, gate: Path) -> Job:
    """A job that cannot come to the end of a stage before the gate is opened."""
    segmenter = {"kind": "faulty:Surveyed", "log": str(log), "gate": str(gate), "pause": 0.05}
    # More retries than kills: one that hits a shard which is tried alone must not give it up.
    faults = {"retries": 12}
    job: Job = make_job({**job_of(photos, tmp_path / "m.zarr", segmenter), "faults": faults})
    return job


def test_workers_killed_at_ten_moments_change_no_byte(
    gated: Job, clean: dict[str, bytes], log: Path, gate: Path
) -> None:
    dice = random.Random(7)
    gate.write_text("3")
    run = gated.start()
    kills = 0

    def steps() -> int:
        return gated.steps("survey") + gated.steps("segment")

    while kills < 10:
        # Only after news, so that a shard that is tried alone is not shot down until it is given up.
        wait_for_more(run, steps)
        time.sleep(dice.uniform(0, 0.2))
        workers = run.workers()
        kills += bool(workers) and kill(dice.choice(workers))
        gate.write_text(str(len(counted(log)) + 3))
    gate.unlink()
    assert run.wait() == 0, run.stderr
    assert differing(gated.scenes(), clean) == []
    assert gated.summary()["failed"] == []
    run.assert_nobody_left()


def test_driver_killed_at_ten_moments_loses_and_repeats_nothing(
    gated: Job, clean: dict[str, bytes], log: Path, gate: Path
) -> None:
    dice = random.Random(11)

    def amid(stage: str) -> str:
        return f"{stage}:progress:{dice.randint(1, 4)}:{dice.uniform(0.001, 0.3):.3f}"

    moments = [
        f"plan:progress:0:{dice.uniform(0.01, 1):.3f}",
        *(amid("survey") for _ in "12"),
        "survey:write:1:0",  # the fit is found, and not yet committed
        *(amid("segment") for _ in "12"),
        *(f"stitch:progress:{dice.randint(1, 6)}:0" for _ in "12"),
        *(f"publish:write:{dice.randint(1, 4)}:0" for _ in "12"),
    ]
    kept: dict[tuple[str, str, tuple[int, int, int]], float] = {}
    for moment in moments:
        stage, kind = moment.split(":")[:2]
        gate.unlink(missing_ok=True)
        if stage in ("survey", "segment") and kind == "progress":
            gate.write_text(str(len(counted(log)) + 8))
        run = gated.start(moment)
        assert run.wait() == -9, f"{moment}: {run.stderr}"
        if stage != "plan":
            assert f"begin {stage}" in gated.events()
            assert f"end {stage}" not in gated.events()
        run.assert_nobody_left()
        records = gated.records()
        for key, finished in kept.items():
            if key in records or key[0] == "mask":  # drafts go when their scene is stitched
                assert records[key].finished == finished, f"{moment}: {key} was done again"
        kept |= {key: record.finished for key, record in records.items()}
    gated.run()
    assert differing(gated.scenes(), clean) == []
    final = gated.records()
    assert all(final[key].finished == at for key, at in kept.items() if key[0] == "mask")
    lines = counted(log)
    assert SHARDS <= lines.count("survey") <= SHARDS + 2 * WORKERS
    assert SHARDS <= lines.count("draft") <= SHARDS + 2 * WORKERS
    gated.run()
    assert gated.summary()["computed"] == 0
    assert counted(log) == lines


def test_objects_across_borders_are_the_same_after_kills(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    clean = make_job(job_of(photos, tmp_path / "clean.zarr", {"kind": "faulty:Found"}))
    clean.run(0, "--in-process")
    log = tmp_path / "log"
    segmenter = {"kind": "faulty:Found", "log": str(log), "pause": 0.05}
    job = make_job(job_of(photos, tmp_path / "m.zarr", segmenter))
    for moment in (
        *("segment:progress:3:0.01" for _ in "12"),
        *("stitch:progress:3:0" for _ in "12"),
        "publish:write:2:0",
    ):
        run = job.start(moment)
        assert run.wait() == -9, f"{moment}: {run.stderr}"
        run.assert_nobody_left()
    job.run()
    assert differing(job.scenes(), clean.scenes()) == []
    tables = [
        (tmp_path / store / "tables/instances.parquet").read_bytes()
        for store in ("clean.zarr", "m.zarr")
    ]
    assert tables[0] == tables[1]
    assert counted(log).count("segment") <= 12 + 2 * 2 * WORKERS
    assert not (tmp_path / "m.zarr/work").exists()


def test_bytes_that_were_stored_without_a_record_never_count(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    job = job_of(photos, tmp_path / "m.zarr", {"kind": "faulty:Trapped"})
    mine, other = make_job(job), make_job(job | {"segmenter": job["segmenter"] | {"level": 50}})
    mine.run(0, "--in-process")
    clean = mine.scenes()
    run = other.start("segment:unrecorded:2:0", "--in-process")
    assert run.wait() == -9
    assert len(differing(other.scenes(), clean)) == 2
    mine.run(0, "--in-process")
    assert mine.summary()["computed"] >= 2  # short shards take back their records together
    assert differing(mine.scenes(), clean) == []


@pytest.mark.parametrize("trap", ["hold", "spin"])
def test_no_worker_survives_its_driver_even_in_native_code(
    trap: str, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 2, trapped=(0, 1))
    log = tmp_path / "log"
    segmenter = {"kind": "faulty:Trapped", "trap": trap, "log": str(log)}
    job = make_job(job_of(photos, tmp_path / "m.zarr", segmenter))
    run = job.start()
    run.until(lambda: counted(log).count("trap") == WORKERS, "the workers are not stuck yet")
    run.popen.kill()
    run.popen.wait()
    run.assert_nobody_left()
