"""Whether a run still holds the lock of the store that it writes to."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from segengine.errors import StoreLockedError
from segengine.store.blobs import Objects
from segengine.store.keys import LOCK

RECHECK = 1.0
"""Seconds for which a process believes that its run still holds the lock."""


@dataclass(slots=True)
class Session:
    """What this process knows of one run's store."""

    confirmed: float = float("-inf")
    """When the lock was last seen to be the run's."""
    flushed: set[str] = field(default_factory=set)
    """Folders whose names, and those of all above them, are on disk."""


@lru_cache(maxsize=8)
def session_of(root: str, run: str) -> Session:
    """Anew for each run: an earlier one's folders may have been deleted since."""
    del root, run
    return Session()


def _now() -> float:
    """Seconds that a suspended machine counts too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def require_lock(objects: Objects) -> None:
    """Raise StoreLockedError where the handle's run no longer holds the store's lock."""
    run = objects.writer.run
    if not run:
        return
    session, now = session_of(objects.root, run), _now()
    if now - session.confirmed < RECHECK:
        return
    data = objects.get(LOCK)
    held = lock_fields(data)
    if held.get("run") != run:
        who = f"run {held.get('run')} on {held.get('host')}" if held.get("run") else "another run"
        gone = "" if data is not None else ", which has given it back"
        raise StoreLockedError(
            f"{objects.root}: the store was taken over by {who}{gone} while this run stood still; "
            "wait for it, then run the same command again"
        )
    session.confirmed = now


def lock_fields(data: bytes | None) -> dict[str, Any]:
    """What a lock says; nothing where it is torn or of something else."""
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
