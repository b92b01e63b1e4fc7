"""One run at a time on a store: `run.lock`, created exclusively, renewed, taken over when stale.

The lock names the run, host, pid and process start, and is written anew every 10 s. What another run
that finds it does is decided by its renewals first; no wall clock is ever asked, so clocks that step
or disagree change nothing.

- Written in this place (the same boot, pid namespace and time namespace; a host name tells nothing, for
  containers share one): its pid means something here, and so does its monotonic time of renewal.
  Its process is gone, or that pid is another's by now: taken over at once. It is there and has
  renewed within 60 s: refused at once. It is there and has not: it stands still, and is taken over.
- Written elsewhere, by an older release, torn, empty or garbage: watched by this process's own clock.
  It changes, so somebody renews it: refused, after some 10 s. It has not changed for 60 s: taken
  over.

To take over is to swap exactly the bytes that were seen (under a file lock, or `If-Match` on S3), so one
of many does. A renewal is such a swap too, and never overwrites who took over. A run that lost its
lock is refused by its own handle on the store, on the driver and on every worker, with the next
write that comes more than a second after the lock was last seen (`segengine.store.fence`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import psutil

from segengine.errors import StoreAccessError, StoreLockedError
from segengine.store.blobs import Objects
from segengine.store.fence import lock_fields, require_lock
from segengine.store.keys import LOCK
from segengine.store.local import LocalObjects

RENEW = 10.0
"""Seconds between renewals."""
STALE = 60.0
"""Seconds without renewal after which another run may take over."""
POLL = 1.0
"""Seconds between looks at a lock that is watched."""
SETTLE = 1.0
"""Seconds after which a takeover is looked at again where a store may not know conditions."""
_LOG = logging.getLogger(__name__)
_HELD: dict[str, Objects] = {}
"""Of each run of this process, from before its lock is taken until it is given back: its store."""


@dataclass(slots=True)
class HeldLock:
    """A lock that is held, as long as nobody has taken it over."""

    run: str
    """The run's id."""
    objects: Objects
    """The store for this run to write to: refuses once the lock is no longer the run's."""

    def check(self) -> None:
        """Raise StoreLockedError where the lock is no longer ours."""
        require_lock(self.objects)


@contextlib.contextmanager
def run_lock(objects: Objects) -> Iterator[HeldLock]:
    """Hold the store's lock. Raises StoreLockedError, which says who has it, StoreAccessError."""
    run = uuid.uuid4().hex[:12]
    mine = {
        "run": run,
        "host": platform.node(),
        "pid": os.getpid(),
        "process_start": _unix_start(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "place": _place(),
        "started": _start_of(os.getpid()),
    }
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(objects, mine, stop), daemon=True)
    # A signal may interrupt any line: who ends the process then finds the lock here.
    _HELD[run] = objects
    try:
        _acquire(objects, mine)
    except Exception:
        del _HELD[run]
        raise
    try:
        keeper.start()
        yield HeldLock(run, objects.by(replace(objects.writer, run=run)))
    finally:
        stop.set()
        if keeper.ident is not None:
            keeper.join(timeout=5)
        _give_back(objects, run)


def give_back_locks() -> None:
    """Give back what this process holds, before it ends without closing it."""
    for run, objects in tuple(_HELD.items()):
        with contextlib.suppress(Exception):
            _give_back(objects, run)


def _bytes(mine: dict[str, Any]) -> bytes:
    """The lock as it is now: no two renewals are the same."""
    return json.dumps({**mine, "renewed": time.time(), "beat": time.monotonic()}).encode()


# ------------------------------------------------------------------------------------------ taking


def _acquire(objects: Objects, mine: dict[str, Any]) -> None:
    while not objects.create(LOCK, _bytes(mine)):
        data = objects.get(LOCK)
        if data is None:  # given back just now
            continue
        if lock_fields(data).get("run") == mine["run"]:  # written, though the answer was lost
            return
        state = _state(lock_fields(data))
        if state == "live":
            raise _refused(objects, data)
        if state == "unknown":
            changed = _watch(objects, data)
            if changed is not None:
                raise _refused(objects, changed)
        if _take_over(objects, data, mine):
            return


def _take_over(objects: Objects, data: bytes, mine: dict[str, Any]) -> bool:
    """Replace a stale lock; False where it has changed, and is to be looked at again."""
    if not objects.swap(LOCK, data, _bytes(mine)):
        return False
    if not isinstance(objects, LocalObjects):
        # A store without conditions lets two that found it both write: the later one holds it.
        time.sleep(SETTLE)
        held = objects.get(LOCK)
        if lock_fields(held).get("run") != mine["run"]:
            raise _refused(objects, held or b"")
    return True


def _watch(objects: Objects, data: bytes) -> bytes | None:
    """What the lock is changed to; None where it stays as it is for as long as a lock lasts."""
    _LOG.warning(
        "%s: waiting up to %g s to see whether %s still works on it",
        objects.root,
        STALE,
        _who(lock_fields(data)),
    )
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(POLL)
        now = objects.get(LOCK)
        if now != data:
            return now
    return None


def _refused(objects: Objects, data: bytes) -> StoreLockedError:
    held = lock_fields(data)
    since = f" since {held['since']}" if held.get("since") else ""
    return StoreLockedError(
        f"{objects.root}: {_who(held)} has worked on it{since}; wait for it, or stop it"
    )


def _who(held: dict[str, Any]) -> str:
    if not held.get("run"):
        return "another run, whose lock cannot be read,"
    return f"run {held['run']} on {held.get('host')} (pid {held.get('pid')})"


def _state(held: dict[str, Any]) -> Literal["live", "stale", "unknown"]:
    """What can be told of a lock's run without waiting."""
    place, pid, beat = held.get("place"), held.get("pid"), held.get("beat")
    if not place or place != _place() or type(pid) is not int:
        return "unknown"
    if not (isinstance(beat, float) and beat >= 0):
        return "unknown"
    started = _start_of(pid)
    if started is None:
        return "unknown"
    if started != held.get("started"):
        return "stale"
    return "live" if time.monotonic() - beat < STALE else "stale"


def _place() -> str:
    """Where a pid and the monotonic clock mean what they mean here; empty where nothing tells."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        if os.readlink("/proc/self") != str(os.getpid()):  # another namespace's /proc
            return ""
        spaces = [os.readlink("/proc/self/ns/pid")]
    except OSError:
        return ""
    with contextlib.suppress(OSError):  # Linux before 5.6 has no time namespaces
        spaces.append(os.readlink("/proc/self/ns/time"))
    return " ".join([boot, *spaces])


def _unix_start() -> float:
    """What releases before ask for; 0 where another namespace's /proc is in the way."""
    try:
        return float(psutil.Process().create_time())
    except psutil.Error:
        return 0.0


def _start_of(pid: int) -> int | None:
    """Clock ticks from boot to a process's start; 0: there is no such process; None: cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except (OSError, OverflowError, ValueError):
        return None
    return None


# ----------------------------------------------------------------------------------------- keeping


def _keep(objects: Objects, mine: dict[str, Any], stop: threading.Event) -> None:
    """Renew until told to stop, or until another run has the lock."""
    while not stop.wait(RENEW):
        # A renewal that fails is tried again in time; the run itself must not fail for it.
        with contextlib.suppress(Exception):
            held = objects.get(LOCK)
            if lock_fields(held).get("run") != mine["run"]:
                return
            objects.swap(LOCK, held or b"", _bytes(mine))


def _give_back(objects: Objects, run: str) -> None:
    # A store that is away keeps the lock; nobody renews it.
    with contextlib.suppress(StoreAccessError):
        held = objects.get(LOCK)
        if held is not None and lock_fields(held).get("run") == run:
            objects.swap(LOCK, held, None)
    _HELD.pop(run, None)
