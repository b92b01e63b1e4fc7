"""Looks at workers that are started elsewhere: how many there are to be, and whether any will come.

pool ---- works that are not done ----> Sizing ----> how many are asked for
cluster ---- what it says of itself ----> trouble ----> ends the run in one line
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from segengine.errors import SegengineError

LOOK = 5.0
"""Seconds between looks."""
IDLE = 6
"""Looks at which there must have been less to do before workers are let go."""


@dataclass
class Sizing:
    """How many workers there are to be: as many as works, at once; fewer only after a while."""

    least: int
    most: int
    size: int = 0
    """What was asked for last."""
    _wanted: deque[int] = field(default_factory=lambda: deque(maxlen=IDLE))

    def __post_init__(self) -> None:
        self.size = self.size or max(1, self.least)

    def next(self, undone: int) -> int:
        """The size at this look, where so many works are not done.

        >>> sizing = Sizing(0, 4)
        >>> [sizing.next(undone) for undone in (9, 1, 2, 1, 1, 1, 1, 1, 1)]
        [4, 4, 4, 4, 4, 4, 2, 2, 1]
        """
        self._wanted.append(max(self.least, min(undone, self.most)))
        if len(self._wanted) < IDLE:
            self.size = max(self.size, self._wanted[-1])
        else:
            self.size = max(self._wanted)
        return self.size


class Keeper:
    """A thread that looks every few seconds, until its context ends."""

    def __init__(self, look: Callable[[], str]) -> None:
        """`look` says why the run cannot go on; empty: it can. What it raises of the network is
        taken for a look that failed."""
        self._look = look
        self.trouble = ""
        """Why the run cannot go on, in one line."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="segengine-keeper", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def check(self) -> None:
        """Raise SegengineError where no worker will come, or none can do the work."""
        if self.trouble:
            raise SegengineError(self.trouble)

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                trouble = self._look()
            except (TimeoutError, RuntimeError, OSError):  # a busy place: the next look is soon
                continue
            if trouble and not self.trouble:
                self.trouble = trouble
