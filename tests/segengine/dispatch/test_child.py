"""Storing one shard beside the computing of the next."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from segengine.dispatch.child import _Storing


@dataclass(frozen=True)
class Shard:
    """Stored once it is let."""

    name: str
    let: threading.Event
    nbytes: int = 0

    def finish(self) -> str:
        assert self.let.wait(60)
        return f"{self.name} on {threading.current_thread().name}"

    @staticmethod
    def finish_all(works: Any) -> list[Any]:
        raise AssertionError("one thread stores one shard")


def test_the_next_is_computed_while_one_is_stored_and_waits_with_its_own_storing() -> None:
    storing, first, second = _Storing(), threading.Event(), threading.Event()
    sent: list[str] = []
    storing.start(Shard("a", first), sent.append)
    assert sent == []  # it came back before anything was stored
    begun = threading.Thread(target=storing.start, args=(Shard("b", second), sent.append))
    begun.start()
    begun.join(0.2)
    assert begun.is_alive()  # at most one is held beside the one that is computed
    first.set()
    begun.join(60)
    assert not begun.is_alive()
    assert sent == ["a on segengine-storing_0"]
    second.set()
    assert storing.before is not None
    storing.before.result(60)
    assert sent[1:] == ["b on segengine-storing_0"]


def test_a_result_that_cannot_be_sent_is_the_next_ones_to_tell() -> None:
    """The worker is lost to the driver: Dask begins its messages again elsewhere."""
    storing, open_ = _Storing(), threading.Event()
    open_.set()

    def lost(value: str) -> None:
        raise OSError("the connection was reset")

    storing.start(Shard("a", open_), lost)
    with pytest.raises(OSError, match="reset"):
        storing.start(Shard("b", open_), lost)
