"""One run at a time on a store."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import segengine
from segengine import lock
from segengine.errors import StoreLockedError
from segengine.objects import LocalObjects


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(str(tmp_path / "store"))


def write(objects: LocalObjects, **changes: Any) -> None:
    mine = {
        "run": "abc",
        "host": platform.node(),
        "pid": os.getpid(),
        "process_start": psutil.Process().create_time(),
        "since": "2024-05-06T07:08:09+00:00",
        "renewed": time.time(),
    }
    objects.put(lock.KEY, json.dumps({**mine, **changes}).encode())


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_held_and_given_back(objects: LocalObjects) -> None:
    with lock.run_lock(objects) as held_lock:
        held = json.loads(objects.get(lock.KEY) or b"")
        assert held["run"] == held_lock.run
        assert held["pid"] == os.getpid()
    assert objects.get(lock.KEY) is None


def test_a_second_run_is_refused_and_told_who_and_since_when(objects: LocalObjects) -> None:
    with lock.run_lock(objects) as held_lock, pytest.raises(StoreLockedError) as error:
        lock.run_lock(objects).__enter__()
    message = str(error.value)
    for part in (objects.root, held_lock.run, platform.node(), str(os.getpid()), "since 2"):
        assert part in message
    assert "\n" not in message


def test_another_hosts_lock_is_respected_for_a_minute(objects: LocalObjects) -> None:
    write(objects, host="elsewhere", renewed=time.time() - lock.STALE + 5)
    with pytest.raises(StoreLockedError, match=r"run abc on elsewhere .* since 2024-05-06"):
        lock.run_lock(objects).__enter__()
    write(objects, host="elsewhere", renewed=time.time() - lock.STALE - 1)
    with lock.run_lock(objects):
        pass


def test_a_dead_process_is_taken_over_at_once(objects: LocalObjects) -> None:
    write(objects, pid=dead_pid())
    with lock.run_lock(objects) as held_lock:
        assert json.loads(objects.get(lock.KEY) or b"")["run"] == held_lock.run


def test_a_pid_used_again_is_not_the_run(objects: LocalObjects) -> None:
    write(objects, process_start=psutil.Process().create_time() - 1000)
    with lock.run_lock(objects):
        pass


@pytest.mark.parametrize("data", [b"", b"junk", b"[]", b"{}"])
def test_a_torn_lock_does_not_hold_for_ever(objects: LocalObjects, data: bytes) -> None:
    objects.put(lock.KEY, data)
    with lock.run_lock(objects):
        pass


def test_a_lock_that_was_lost_is_not_deleted(objects: LocalObjects) -> None:
    with lock.run_lock(objects):
        write(objects, run="other")
    assert json.loads(objects.get(lock.KEY) or b"")["run"] == "other"


def test_it_is_renewed(objects: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW", 0.01)
    with lock.run_lock(objects):
        first = json.loads(objects.get(lock.KEY) or b"")["renewed"]
        deadline = time.monotonic() + 10
        while json.loads(objects.get(lock.KEY) or b"")["renewed"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_run_and_evaluate_take_it_and_readers_do_not(bench: Any, noise: Any) -> None:
    from segengine.evaluate import evaluate
    from segengine.job import TruthSpec
    from segengine.status import status
    from segengine.verify import verify

    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run({"kind": "threshold"})
    with lock.run_lock(LocalObjects(str(bench.store))):
        with pytest.raises(StoreLockedError):
            bench.run({"kind": "threshold"})
        with pytest.raises(StoreLockedError):
            evaluate(str(bench.store), TruthSpec(paths=["/nowhere/{stem}.png"]))
        assert status(str(bench.store)).exit_code == 0
        assert verify(str(bench.store)).exit_code == 0
        assert segengine.open_store(bench.store).frames.num_rows == 1


def test_a_run_that_lost_its_lock_stops(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.job import parse_job
    from segengine.stages import Run

    monkeypatch.setattr(lock, "RENEW", 0.01)
    bench.put("a.png", noise(1, (40, 40, 3)))
    job = parse_job(bench.job({"kind": "threshold"}))
    with Run(job, in_process=True) as run:
        list(run.stage("plan"))
        write(LocalObjects(str(bench.store)), run="other", host="elsewhere")
        deadline = time.monotonic() + 10
        while run._lock is not None and not run._lock.lost_to:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(StoreLockedError, match="taken over by run other on elsewhere"):
            list(run.stage("segment"))
