"""One run at a time on a store: `run.lock`, created exclusively, renewed, taken over when stale.

It names the run, host, pid and process start. A lock whose process is gone on this host is taken
over at once, any other after 60 s without renewal.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

from segengine.errors import StoreLockedError
from segengine.objects import LocalObjects, Objects

KEY = "run.lock"
RENEW = 10.0
"""Seconds between renewals."""
STALE = 60.0
"""Seconds without renewal after which another host may take over."""


@dataclass(slots=True)
class HeldLock:
    """A lock that is held, as long as nobody has taken it over."""

    run: str
    """The run's id."""
    lost_to: str = ""
    """Who holds it now: this process was suspended for longer than a lock lasts."""

    def check(self) -> None:
        """Raise StoreLockedError where the lock is no longer ours."""
        if self.lost_to:
            raise StoreLockedError(
                f"the store was taken over by {self.lost_to} while this run stood still; "
                "wait for it, then run the same command again"
            )


@contextlib.contextmanager
def run_lock(objects: Objects) -> Iterator[HeldLock]:
    """Hold the store's lock. Raises StoreLockedError, which says who has it."""
    run = uuid.uuid4().hex[:12]
    started = datetime.now(UTC).isoformat(timespec="seconds")
    mine = {
        "run": run,
        "host": platform.node(),
        "pid": os.getpid(),
        "process_start": psutil.Process().create_time(),
        "since": started,
    }
    _acquire(objects, mine)
    stop, lock = threading.Event(), HeldLock(run)
    keeper = threading.Thread(target=_renew, args=(objects, mine, stop, lock), daemon=True)
    keeper.start()
    try:
        yield lock
    finally:
        stop.set()
        keeper.join(timeout=5)
        if (_read(objects) or {}).get("run") == run:
            objects.delete(KEY)


def _bytes(lock: dict[str, Any]) -> bytes:
    return json.dumps({**lock, "renewed": time.time()}).encode()


def _read(objects: Objects) -> dict[str, Any] | None:
    data = objects.get(KEY)
    if data is None:
        return None
    try:
        found = json.loads(data)
        return found if isinstance(found, dict) else {}
    except ValueError:
        return {}


def _acquire(objects: Objects, mine: dict[str, Any]) -> None:
    if objects.create(KEY, _bytes(mine)):
        return
    with _takeover_guard(objects):
        held = _read(objects)
        if held is None:
            if objects.create(KEY, _bytes(mine)):
                return
            held = _read(objects) or {}
        if not _is_stale(held):
            raise StoreLockedError(
                f"{objects.root}: run {held.get('run')} on {held.get('host')} "
                f"(pid {held.get('pid')}) has worked on it since {held.get('since')}; "
                "wait for it, or stop it"
            )
        objects.put(KEY, _bytes(mine))
    if not isinstance(objects, LocalObjects):
        # Two that found the same stale lock both wrote: the later one holds it.
        time.sleep(1.0)
        held = _read(objects) or {}
        if held.get("run") != mine["run"]:
            raise StoreLockedError(
                f"{objects.root}: run {held.get('run')} on {held.get('host')} was faster to take "
                "over a stale lock; wait for it"
            )


def _is_stale(lock: dict[str, Any]) -> bool:
    if lock.get("host") == platform.node() and "pid" in lock:
        try:
            process = psutil.Process(int(lock["pid"]))
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            return bool(abs(process.create_time() - float(lock.get("process_start", 0))) > 1.0)
        except (psutil.NoSuchProcess, ValueError):
            return True
        except psutil.AccessDenied:
            pass
    return time.time() - float(lock.get("renewed", 0)) > STALE


@contextlib.contextmanager
def _takeover_guard(objects: Objects) -> Iterator[None]:
    """Local stores: one process at a time looks at a stale lock."""
    if not isinstance(objects, LocalObjects):
        yield
        return
    import fcntl

    os.makedirs(os.path.join(objects.root, "work"), exist_ok=True)
    with open(os.path.join(objects.root, "work", "lock.guard"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _renew(objects: Objects, mine: dict[str, Any], stop: threading.Event, lock: HeldLock) -> None:
    while not stop.wait(RENEW):
        # A renewal that fails is tried again in time; the run itself must not fail for it.
        with contextlib.suppress(Exception):
            held = _read(objects)
            if held is None or held.get("run") == mine["run"]:
                objects.put(KEY, _bytes(mine))
            elif held.get("run"):
                lock.lost_to = f"run {held['run']} on {held.get('host')}"
                return
