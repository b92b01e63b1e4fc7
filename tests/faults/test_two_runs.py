"""One run at a time on a store, local or on S3; a dead run holds nobody up."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import counted
from harness import Job, job_of, kill, write_photos
from psutil import Process as AnyProcess

from segengine.errors import StoreLockedError
from segengine.lock import KEY, run_lock
from segengine.objects import open_objects

pytestmark = pytest.mark.system


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be."""
    if request.param == "local":
        return str(tmp_path / "m.zarr")
    bucket: str = request.getfixturevalue("bucket")
    return f"{bucket}/m.zarr"


def test_a_second_run_is_refused_and_a_killed_one_is_taken_over(
    place: str, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    log = tmp_path / "log"
    gate = tmp_path / "gate"
    gate.write_text("1")
    segmenter = {"kind": "faulty:Trapped", "log": str(log), "gate": str(gate)}
    first = make_job(job_of(photos, place, segmenter))
    second = make_job(job_of(photos, place, {"kind": "faulty:Trapped"}))
    running = first.start()
    running.until(lambda: counted(log), "no shard has begun")
    held = json.loads(open_objects(place).get(KEY) or b"{}")
    (line,) = second.run(1).stderr.splitlines()
    assert f"run {held['run']} on {held['host']} (pid {running.popen.pid})" in line
    assert f"since {held['since']}" in line
    assert running.popen.poll() is None
    kill(AnyProcess(running.popen.pid))
    running.wait()
    began = time.monotonic()
    second.run(0)
    assert time.monotonic() - began < 55  # at once, not after a minute
    assert open_objects(place).get(KEY) is None


def lock_of(place: str, **changed: Any) -> None:
    """A lock of another host's run."""
    lock = {
        "run": "elsewhere",
        "host": "another-host",
        "pid": 1,
        "process_start": 0.0,
        "since": "2026-01-01T00:00:00+00:00",
        "renewed": time.time(),
    }
    open_objects(place).put(KEY, json.dumps(lock | changed).encode())


def test_another_hosts_lock_holds_for_a_minute_without_renewal(place: str) -> None:
    lock_of(place, renewed=time.time() - 30)
    said = re.escape("run elsewhere on another-host (pid 1) has worked on it since 2026-01-01")
    with pytest.raises(StoreLockedError, match=said), run_lock(open_objects(place)):
        pass
    lock_of(place, renewed=time.time() - 61)
    with run_lock(open_objects(place)) as lock:
        held = json.loads(open_objects(place).get(KEY) or b"{}")
        assert held["run"] == lock.run
    assert open_objects(place).get(KEY) is None
