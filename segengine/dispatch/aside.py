"""Asking a service that starts workers: in an event loop of its own, each answer in time.

A kind of cluster is opened in a thread that must notice when its run is to end; clients of such services
are asynchronous, and their own loops are not always closed well.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

from segengine.dispatch.patience import result_of
from segengine.errors import SegengineError, StoppedError

ANSWER = 20.0
"""Seconds in which a service answers."""
BYE = 4.0
"""Seconds in which it takes word that a cluster is to end."""
TURN = 0.5
"""Seconds between looks at what is just starting."""
_LONG = 300
"""Letters of what is said."""


class NoAnswerError(SegengineError):
    """Whom we asked was not heard: what runs there goes on without."""


class Aside:
    """An event loop in a thread."""

    def __init__(
        self,
        name: str,
        note: Callable[[asyncio.AbstractEventLoop, Mapping[str, Any]], None] | None = None,
    ) -> None:
        """`note`: is told what nobody in the loop takes care of; without it that is printed."""
        self._loop = asyncio.new_event_loop()
        if note is not None:
            self._loop.set_exception_handler(note)
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Have it done there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def answer(
        self, coroutine: Coroutine[Any, Any, Any], seconds: float, *, whole: bool = False
    ) -> Any:
        """What comes of it. Raises TimeoutError, and StoppedError where the run is ending.

        `whole`: it is waited for also then.
        """
        future = self.begin(asyncio.wait_for(coroutine, seconds))
        try:
            return future.result() if whole else result_of(future)
        except StoppedError:
            future.cancel()
            raise

    def end(self, last: Coroutine[Any, Any, Any] | None = None) -> None:
        """End the loop; `last`: what is done there before, if it does not take long."""
        if last is not None:
            with contextlib.suppress(Exception):
                self.begin(last).result(BYE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BYE)
        if not self._thread.is_alive():
            self._loop.close()


def line(error: object) -> str:
    """What an error says, in one line and not at length."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) < _LONG else f"{said[:_LONG]}..."
