"""Frames that a shard was given up for: the next shards of it look once, and do not wait as well.

A large scene has thousands of shards, and each would try again and again where its server is down. A
frame that can be read again is as any other at once.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from segengine.store.kinds import FrameFailure
from segengine.worker.tasks import ShardTask

REMEMBERED = 10.0
"""Seconds."""
_MOST = 1000
_GIVEN_UP: dict[tuple[str, str], float] = {}
"""Until when, by uri and fingerprint; of this process."""


def is_worth_retry(task: ShardTask, failures: Sequence[FrameFailure]) -> bool:
    """Whether another attempt at a shard may go better than this one, in which some frames failed."""
    errors = {failure.frame for failure in failures if failure.kind == "error"}
    if not errors:
        return False
    if not task.last and not (task.cut and _are_given_up(task, errors)):
        return True
    _note(task, errors)
    return False


def _are_given_up(task: ShardTask, frames: Collection[int]) -> bool:
    now = time.monotonic()
    return all(now < _GIVEN_UP.get(key, 0.0) for key in _keys(task, frames))


def _note(task: ShardTask, frames: Collection[int]) -> None:
    for key in _keys(task, frames):
        while len(_GIVEN_UP) >= _MOST:
            _GIVEN_UP.pop(next(iter(_GIVEN_UP)), None)
        _GIVEN_UP[key] = time.monotonic() + REMEMBERED


def _keys(task: ShardTask, frames: Collection[int]) -> list[tuple[str, str]]:
    return [(ref.uri, ref.fingerprint) for ref in task.frames if ref.index in frames]
