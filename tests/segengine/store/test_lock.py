"""One run at a time on a store."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

import segengine
from segengine.errors import SegengineError, StoreLockedError
from segengine.store import fence, lock
from segengine.store.keys import LOCK
from segengine.store.local import LocalObjects


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is watched is given up sooner than after a minute."""
    monkeypatch.setattr(lock, "STALE", 0.5)
    monkeypatch.setattr(lock, "POLL", 0.01)


def content(**changes: Any) -> bytes:
    """A lock as this process would write it, but for some changes; None: without the field."""
    mine = {
        "run": "abc",
        "host": platform.node(),
        "pid": os.getpid(),
        "process_start": psutil.Process().create_time(),
        "since": "2024-05-06T07:08:09+00:00",
        "place": lock._place(),
        "started": lock._start_of(os.getpid()),
        "renewed": time.time(),
        "beat": time.monotonic(),
    }
    return json.dumps({k: v for k, v in (mine | changes).items() if v is not None}).encode()


def write(objects: LocalObjects, **changes: Any) -> None:
    objects.put(LOCK, content(**changes))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def state(**changes: Any) -> str:
    return lock._state(json.loads(content(**changes)))


def test_it_is_held_and_given_back(objects: LocalObjects) -> None:
    before = time.monotonic()
    with lock.run_lock(objects) as held_lock:
        held = json.loads(objects.get(LOCK) or b"")
        assert before <= held["beat"] <= time.monotonic()
        assert held["run"] == held_lock.run
        assert held["pid"] == os.getpid()
        held_lock.check()
    assert objects.get(LOCK) is None


def test_a_second_run_is_refused_at_once_and_told_who_and_since_when(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_watch", None)
    with lock.run_lock(objects) as held_lock, pytest.raises(StoreLockedError) as error:
        lock.run_lock(objects).__enter__()
    message = str(error.value)
    for part in (objects.root, held_lock.run, platform.node(), str(os.getpid()), "since 2"):
        assert part in message
    assert "\n" not in message


def test_what_a_lock_of_this_place_says_is_believed() -> None:
    assert state() == "live"
    assert state(renewed=0.0) == "live"  # the wall clock is not asked
    assert state(renewed=time.time() + 86400) == "live"
    assert state(pid=dead_pid()) == "stale"
    assert state(started=1) == "stale"  # the pid is another process's by now
    assert state(beat=time.monotonic() - lock.STALE - 1) == "stale"  # it stands still


def test_a_process_that_has_ended_is_dead_before_its_parent_asks() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mine = {"pid": process.pid, "started": lock._start_of(process.pid)}
        assert state(**mine) == "live"
        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert state(**mine) == "stale"


@pytest.mark.parametrize(
    "changes",
    [
        {"place": "another boot", "pid": 1 << 22},
        {"place": "another boot", "beat": 0.0},
        {"place": ""},
        {"place": None},  # an older release's
        {"place": 7},
        {"pid": "12"},
        {"pid": True},
        {"pid": -1},
        {"pid": 1 << 70},
        {"beat": "now"},
        {"beat": float("nan")},
        {"beat": -1.0},
    ],
)
def test_what_another_place_or_a_damaged_lock_says_is_not(changes: dict[str, Any]) -> None:
    assert state(**changes) == "unknown"


def test_every_field_may_be_missing_or_null(objects: LocalObjects) -> None:
    whole = json.loads(content(place="another boot"))
    for name in whole:
        objects.put(LOCK, json.dumps({**whole, name: None}).encode())
        with lock.run_lock(objects):
            pass
        objects.put(LOCK, json.dumps({k: whole[k] for k in whole if k != name}).encode())
        with lock.run_lock(objects):
            pass


def test_a_place_is_a_boot_and_its_namespaces_and_not_a_host_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = lock._place(), content(place="")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert here.split()[:2] == [boot, os.readlink("/proc/self/ns/pid")]
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert lock._place() == here
    monkeypatch.setattr(os, "getpid", lambda: 1 << 22)  # /proc is another namespace's
    assert lock._place() == ""
    assert lock._unix_start() == 0.0
    assert lock._state(json.loads(there)) == "unknown"


class Renewed:
    """A store whose lock somebody renews between two looks."""

    def __init__(self, objects: LocalObjects, **changes: Any) -> None:
        self.objects, self.looks, self.changes = objects, 0, changes

    def __call__(self, seconds: float) -> None:
        assert seconds == lock.POLL
        self.looks += 1
        if self.looks == 3:
            write(self.objects, place="another boot", host="elsewhere", **self.changes)


def test_another_places_lock_is_respected_as_long_as_it_changes(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE", 1000.0)
    renewed = Renewed(objects, renewed=0.0)  # its clock is another's, or stepped
    monkeypatch.setattr(lock.time, "sleep", renewed)
    write(objects, place="another boot", host="elsewhere")
    with pytest.raises(StoreLockedError, match=r"run abc on elsewhere .* since 2024-05-06"):
        lock.run_lock(objects).__enter__()
    assert renewed.looks == 3


def test_another_places_lock_is_taken_over_where_it_stays_as_it_is(
    objects: LocalObjects, caplog: pytest.LogCaptureFixture
) -> None:
    write(objects, place="another boot", host="elsewhere", renewed=time.time() + 86400)
    began = time.monotonic()
    with lock.run_lock(objects) as held_lock:
        assert time.monotonic() - began >= lock.STALE
        assert json.loads(objects.get(LOCK) or b"")["run"] == held_lock.run
    (message,) = caplog.messages
    assert "waiting up to 0.5 s to see whether run abc on elsewhere" in message


def test_a_watched_lock_that_is_given_back_is_taken_at_once(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE", 1000.0)
    write(objects, place="another boot")
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: objects.delete(LOCK))
    with lock.run_lock(objects) as held_lock:
        assert json.loads(objects.get(LOCK) or b"")["run"] == held_lock.run


def test_a_dead_process_is_taken_over_at_once(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_watch", None)
    write(objects, pid=dead_pid())
    with lock.run_lock(objects) as held_lock:
        assert json.loads(objects.get(LOCK) or b"")["run"] == held_lock.run


def test_a_stale_lock_that_another_takes_first_is_that_ones(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalObjects.swap

    def late(self: LocalObjects, key: str, old: bytes, new: bytes | None) -> bool:
        monkeypatch.setattr(LocalObjects, "swap", real)
        write(self, run="faster")
        return real(self, key, old, new)

    write(objects, pid=dead_pid())
    monkeypatch.setattr(LocalObjects, "swap", late)
    with pytest.raises(StoreLockedError, match="run faster on"):
        lock.run_lock(objects).__enter__()


def test_a_lock_whose_answer_was_lost_is_held(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalObjects.create

    def lost(self: LocalObjects, key: str, data: bytes) -> bool:
        real(self, key, data)
        return False  # as a call that was made again finds what the first one wrote

    monkeypatch.setattr(LocalObjects, "create", lost)
    with lock.run_lock(objects) as held_lock:
        assert json.loads(objects.get(LOCK) or b"")["run"] == held_lock.run
    assert objects.get(LOCK) is None


class Remote:
    """A store that may know no conditions."""

    def __init__(self, base: LocalObjects) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


@pytest.mark.parametrize("later", [True, False])
def test_where_a_store_knows_no_conditions_the_later_of_two_holds_it(
    later: bool, objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(objects, pid=dead_pid())
    looks = []

    def settle(seconds: float) -> None:
        looks.append(seconds)
        if later:
            write(objects, run="later")

    monkeypatch.setattr(lock.time, "sleep", settle)
    refused = pytest.raises(StoreLockedError, match="run later on") if later else nullcontext()
    with refused, lock.run_lock(Remote(objects)) as held_lock:  # type: ignore[arg-type]
        assert json.loads(objects.get(LOCK) or b"")["run"] == held_lock.run
    assert looks == [lock.SETTLE]


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff\x00", b"[]", b"{}", b"null", b"[" * 100_000])
def test_a_torn_lock_does_not_hold_for_ever(data: bytes, objects: LocalObjects) -> None:
    objects.put(LOCK, data)
    began = time.monotonic()
    with lock.run_lock(objects):
        assert time.monotonic() - began >= lock.STALE


def test_a_lock_that_was_lost_is_not_deleted(objects: LocalObjects) -> None:
    with lock.run_lock(objects):
        write(objects, run="other")
    assert json.loads(objects.get(LOCK) or b"")["run"] == "other"


def test_it_is_renewed(objects: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW", 0.01)
    with lock.run_lock(objects):
        first = json.loads(objects.get(LOCK) or b"")["beat"]
        deadline = time.monotonic() + 10
        while json.loads(objects.get(LOCK) or b"")["beat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("taken", [{"run": "other"}, None])
def test_a_lock_that_another_took_or_gave_back_is_not_renewed(
    taken: dict[str, Any] | None, objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where that happens after it was last looked at."""
    monkeypatch.setattr(lock, "RENEW", 0.01)
    real, calls = LocalObjects.swap, []

    def late(self: LocalObjects, key: str, old: bytes, new: bytes | None) -> bool:
        if not calls and taken is None:
            self.delete(key)
        elif not calls:
            write(self, **taken)
        calls.append(real(self, key, old, new))
        return calls[-1]

    with lock.run_lock(objects):
        monkeypatch.setattr(LocalObjects, "swap", late)
        deadline = time.monotonic() + 10
        while not calls:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        held = objects.get(LOCK)
        assert held is None if taken is None else json.loads(held or b"")["run"] == "other"
    assert calls == [False]


def test_run_and_evaluate_take_it_and_readers_do_not(bench: Any, noise: Any) -> None:
    from segengine.commands.evaluate import evaluate
    from segengine.commands.status import status
    from segengine.commands.verify import verify
    from segengine.job import TruthSpec

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


def test_a_run_that_lost_its_lock_stops_and_writes_no_more(
    bench: Any, noise: Any, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.job import parse_job
    from segengine.runs import Run

    bench.put("a.png", noise(1, (40, 40, 3)))
    job = parse_job(bench.job({"kind": "threshold"}))
    with Run(job, in_process=True) as run:
        list(run.stage("plan"))
        write(LocalObjects(str(bench.store)), run="other", host="elsewhere")
        monkeypatch.setattr(fence, "RECHECK", 0.0)
        before = tree(bench.store)
        with pytest.raises(SegengineError, match="taken over by run other on elsewhere"):
            list(run.stage("segment"))
        assert tree(bench.store) == before


def test_a_worker_whose_run_lost_its_lock_writes_no_more(
    bench: Any, noise: Any, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.job import parse_job
    from segengine.runs import Run
    from segengine.worker.segment import segment_shard
    from segengine.worker.tasks import Retry

    bench.put("a.png", noise(1, (40, 40, 3)))
    with Run(parse_job(bench.job({"kind": "threshold"})), in_process=True) as run:
        list(run.stage("plan"))
        (layout,) = run.plan.layouts.values()
        task = run.plan.task(layout, (0, 0, 0))
        write(LocalObjects(str(bench.store)), run="other", host="elsewhere")
        monkeypatch.setattr(fence, "RECHECK", 0.0)
        before = tree(bench.store)
        found = segment_shard(task)
        assert isinstance(found, Retry)
        assert found.fatal
        assert "taken over by run other on elsewhere" in found.reason
        assert tree(bench.store) == before


def _interrupt_at(step: int) -> Any:
    """A trace function that raises KeyboardInterrupt at a line of the lock's module, once."""
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != lock.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    return trace


def _interrupted(objects: LocalObjects, step: int) -> bool:
    """Whether taking a lock and giving it back gets as far as a line, where it is interrupted."""
    before = sys.gettrace()
    sys.settrace(_interrupt_at(step))
    try:
        with lock.run_lock(objects):
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file just opened
def test_an_interrupt_at_any_line_leaves_no_lock_to_a_process_that_ends(tmp_path: Path) -> None:
    left = set()
    for step in count(1):
        objects = LocalObjects(str(tmp_path / str(step)))
        if not _interrupted(objects, step):
            break
        left |= {step} if objects.get(LOCK) is not None else set()
        lock.give_back_locks()
        assert objects.get(LOCK) is None, step
    assert left, "no interrupt left a lock to be given back"
    assert step > 40
