"""One run at a time on a store, local or on S3; a dead run holds nobody up, and none writes beside another.

Runs are processes of their own: in containers, with clocks that step, stopped and let go. What would
take a minute takes seconds here: the lock's times are set by `locking.py`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import counted
from harness import HERE, Job, Process, differing, job_of, kill, until, write_photos
from psutil import Process as AnyProcess

from segengine.store.blobs import open_objects
from segengine.store.keys import LOCK as KEY

pytestmark = pytest.mark.system

RENEW, STALE = 0.5, 6.0
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Pids of its own, and the host's name."""


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be."""
    if request.param == "local":
        return str(tmp_path / "m.zarr")
    bucket: str = request.getfixturevalue("bucket")
    return f"{bucket}/m.zarr"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 2)


class Gated:
    """A run of its own job that stands at a gate in mid-work, and holds the lock."""

    def __init__(self, job: Job, log: Path, gate: Path) -> None:
        self.job, self.log, self.gate = job, log, gate

    def start(self, prefix: tuple[str, ...] = (), *flags: str) -> Process:
        self.gate.write_text("1")
        run = launch(self.job, prefix, *flags)
        run.until(lambda: len(counted(self.log)) > 1, "no shard has begun")
        return run


def launch(job: Job, prefix: tuple[str, ...] = (), *flags: str) -> Process:
    job.prefix = prefix
    job.events_file.unlink(missing_ok=True)
    times = [str(RENEW), str(STALE), str(job.file), str(job.events_file), "none:never:0:0"]
    return job.launch([str(HERE / "locking.py"), *times, *flags])


@pytest.fixture
def gated(make_job: Callable[..., Job], photos: Path, tmp_path: Path) -> Callable[[str], Gated]:
    number = iter(range(9))

    def make(store: str) -> Gated:
        name = next(number)
        log, gate = tmp_path / f"log{name}", tmp_path / f"gate{name}"
        segmenter = {"kind": "faulty:Trapped", "log": str(log), "gate": str(gate)}
        return Gated(make_job(job_of(photos, store, segmenter)), log, gate)

    return make


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clean")
    photos = write_photos(folder / "photos", 2)
    job = Job(folder, job_of(photos, folder / "clean.zarr", {"kind": "faulty:Trapped"}))
    job.run(0, "--in-process")
    return job.scenes()


def held(store: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(open_objects(store).get(KEY) or b"{}")
    return found


def stored(store: str) -> dict[str, tuple[int, bytes]]:
    """Every file of a local store with its time of change, but what the lock itself needs."""
    files = (p for p in Path(store).rglob("*") if p.is_file())
    found = {p.relative_to(store).as_posix(): p for p in files}
    skipped = (KEY, "work/lock.guard", "work/tmp")
    return {
        key: (path.stat().st_mtime_ns, path.read_bytes())
        for key, path in found.items()
        if not key.startswith(skipped)
    }


def said(run: Process) -> str:
    """The one line of the error; what it waited for is said before."""
    *_, line = run.stderr.splitlines()
    return line


def test_a_second_run_is_refused_and_a_killed_one_is_taken_over(
    place: str, make_job: Callable[..., Job], gated: Callable[[str], Gated], photos: Path
) -> None:
    first = gated(place)
    running = first.start()
    second = make_job(job_of(photos, place, {"kind": "faulty:Trapped"}))
    lock = held(place)
    (line,) = second.run(1, "--in-process").stderr.splitlines()
    assert f"run {lock['run']} on {lock['host']} (pid {running.popen.pid})" in line
    assert f"since {lock['since']}" in line
    assert running.popen.poll() is None
    kill(AnyProcess(running.popen.pid))
    running.wait()
    after = second.run(0, "--in-process")
    assert after.stderr == ""  # at once: what waits says so
    assert open_objects(place).get(KEY) is None


def test_two_containers_of_one_host_name_do_not_take_each_others_lock(
    gated: Callable[[str], Gated], clean: dict[str, bytes], tmp_path: Path
) -> None:
    store = str(tmp_path / "m.zarr")
    first, second = gated(store), gated(store)
    running = first.start(CONTAINER, "--in-process")
    lock = held(store)
    assert lock["pid"] == 1
    before = stored(store)
    for prefix in (CONTAINER, ()):  # where pid 1 is the run that asks; where it is init
        refused = launch(second.job, prefix, "--in-process")
        assert refused.wait() == 1
        assert f"run {lock['run']} on {lock['host']} (pid 1) has worked on it" in said(refused)
        assert f"to see whether run {lock['run']}" in refused.stderr
    assert stored(store) == before
    running.popen.kill()
    running.wait()
    second.gate.write_text("1000")
    after = launch(second.job, CONTAINER, "--in-process")
    assert after.wait() == 0, after.stderr
    assert differing(second.job.scenes(), clean) == []


@pytest.mark.parametrize("step", [2, -2, 86400, -86400])
def test_a_clock_that_steps_changes_nothing(
    step: int, gated: Callable[[str], Gated], clean: dict[str, bytes], tmp_path: Path
) -> None:
    store, clock = str(tmp_path / "m.zarr"), tmp_path / "clock"
    clock.write_text("0")
    stepping = ("env", f"CLOCK={clock}")
    first, second = gated(store), gated(store)
    running = first.start(stepping, "--in-process")
    lock = held(store)
    clock.write_text(str(step))
    off = lambda: held(store)["renewed"] - time.time() - step  # noqa: E731
    until(lambda: -20 * RENEW < off() <= 0, "the clock does not step")
    before = stored(store)
    for prefix in ((), stepping, CONTAINER):
        refused = launch(second.job, prefix, "--in-process")
        assert refused.wait() == 1
        assert f"run {lock['run']} on" in said(refused)
    assert stored(store) == before
    first.gate.unlink()
    assert running.wait() == 0, running.stderr
    assert differing(first.job.scenes(), clean) == []


@pytest.mark.parametrize("damage", [b"", b"junk", b'{"run": null, "pid": null, "place": null}'])
def test_a_damaged_lock_stops_its_run_and_is_taken_over(
    damage: bytes, gated: Callable[[str], Gated], clean: dict[str, bytes], tmp_path: Path
) -> None:
    store = str(tmp_path / "m.zarr")
    first, second = gated(store), gated(store)
    running = first.start((), "--in-process")
    open_objects(store).put(KEY, damage)
    second.gate.write_text("3")
    taking = launch(second.job, (), "--in-process")
    taking.until(lambda: len(counted(second.log)) > 3, "the lock is not taken over")
    assert "another run, whose lock cannot be read" in taking.stderr
    lock, before = held(store), stored(store)
    first.gate.unlink()
    assert running.wait() == 1
    assert f"the store was taken over by run {lock['run']}" in said(running)
    assert stored(store) == before
    second.gate.unlink()
    assert taking.wait() == 0, taking.stderr
    assert differing(second.job.scenes(), clean) == []
    assert open_objects(store).get(KEY) is None


def test_a_run_that_stood_still_writes_nothing_once_it_moves_again(
    gated: Callable[[str], Gated], clean: dict[str, bytes], tmp_path: Path
) -> None:
    """Nor do its workers, which stood still in the middle of a shard."""
    store = str(tmp_path / "m.zarr")
    first, second = gated(store), gated(store)
    running = first.start()
    stopped = [p for p in running.everyone() if p.pid != running.popen.pid]
    assert len(running.workers()) == 2
    for process in (AnyProcess(running.popen.pid), *stopped):
        process.send_signal(signal.SIGSTOP)
    time.sleep(STALE + 1)
    second.gate.write_text("3")
    taking = launch(second.job, (), "--in-process")
    taking.until(lambda: len(counted(second.log)) > 3, "the lock is not taken over")
    lock, before = held(store), stored(store)
    first.gate.unlink()
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    time.sleep(2)  # the workers' alone: their driver still stands
    assert stored(store) == before
    running.popen.send_signal(signal.SIGCONT)
    assert running.wait() == 1
    assert f"the store was taken over by run {lock['run']}" in said(running)
    assert stored(store) == before
    second.gate.unlink()
    assert taking.wait() == 0, taking.stderr
    assert differing(second.job.scenes(), clean) == []


CONTENDER = """
import sys, time
from segengine.store import lock
from segengine.errors import StoreLockedError
from segengine.store.blobs import open_objects
lock.RENEW, lock.STALE, lock.POLL = 0.2, 3.0, 0.05
try:
    with lock.run_lock(open_objects(sys.argv[1])) as held:
        print("held", flush=True)
        sys.stdin.read()
        held.check()
except StoreLockedError as error:
    print("refused", error, flush=True)
"""


@pytest.mark.parametrize("kind", ["dead here", "silent elsewhere"])
def test_of_many_that_find_a_stale_lock_one_gets_it(kind: str, place: str) -> None:
    lock = {"run": "gone", "host": "h", "pid": 1, "place": "another boot"}
    if kind == "dead here":
        dead = subprocess.Popen([sys.executable, "-c", "pass"])
        dead.wait()
        from segengine.store.lock import _place

        lock |= {"pid": dead.pid, "place": _place(), "started": 1, "beat": time.monotonic()}
    open_objects(place).put(KEY, json.dumps(lock).encode())
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    lines = []
    for contender in contenders:
        assert contender.stdout is not None
        lines.append(contender.stdout.readline().split()[0])
    assert sorted(lines) == ["held", "refused", "refused", "refused"]
    for contender, line in zip(contenders, lines, strict=True):
        rest, _ = contender.communicate()
        assert contender.returncode == 0
        assert rest == ""
        assert line in ("held", "refused")
    assert open_objects(place).get(KEY) is None
