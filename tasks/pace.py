"""How fast a stage is, and how long it still takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segengine.progress import Progress

SPAN = 60.0
"""Seconds of the past that tell how fast it is now."""
STEP = 0.5
"""Seconds between two looks that are kept."""


class Pace:
    """Looks at every progress, keeps a few."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted = ("", "")
        self._looks: deque[tuple[float, int]] = deque()

    def __call__(self, progress: Progress) -> str:
        """Scene, pieces a second and time left, in words; what is not known is left out."""
        now = self._clock()
        if (progress.stage, progress.unit) != self._counted:
            self._counted = progress.stage, progress.unit
            self._looks.clear()
        if not self._looks or now - self._looks[-1][0] >= STEP:
            self._looks.append((now, progress.done))
            while now - self._looks[0][0] > SPAN and len(self._looks) > 2:
                self._looks.popleft()
        words = [progress.piece.scene] if progress.piece is not None else []
        rate = self._rate(now, progress.done)
        if rate > 0 and progress.done < progress.total:
            words += [f"{rate:,.3g}/s", f"{span((progress.total - progress.done) / rate)} left"]
        return ", ".join(words)

    def _rate(self, now: float, done: int) -> float:
        before, had = self._looks[0]
        return (done - had) / (now - before) if now > before else 0.0


def span(seconds: float) -> str:
    """A time as people say it.

    >>> span(5.2), span(200), span(7300), span(200_000)
    ('5 s', '3 min', '2 h 02 min', '2 d 08 h')
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24:02} h"
