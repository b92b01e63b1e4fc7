"""The figures of a run so far, counted from its progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from segengine.progress import Progress, Summary


class Watcher(Protocol):
    """Follows a run, in the thread that drives it: what it does must not take long, nor raise."""

    def begin(self, stage: str) -> None:
        """A stage begins."""
        ...

    def update(self, progress: Progress) -> None:
        """How far it is."""
        ...

    def end(self, stage: str) -> None:
        """It has ended."""
        ...

    def finish(self, summary: Summary | None, error: BaseException | None = None) -> None:
        """The run has ended; without a summary where an error or a signal ended it: which one."""
        ...


class Tally:
    """Sums over what has ended."""

    def __init__(self) -> None:
        self.stage = ""
        self.total = 0
        """Shards of all scenes."""
        self.skipped = 0
        """Those done before."""
        self.done = 0
        """Those that this run has done."""
        self.lost = 0
        """Those that it has given up."""
        self.quarantined = 0
        """Frames."""
        self.retries = 0
        """Attempts after the first."""
        self.pixels = 0
        self.bytes = 0
        self.seconds: dict[str, float] = {}
        """Of each stage so far."""
        self._began = time.monotonic()

    @property
    def queue(self) -> int:
        """Shards that are still to do."""
        return max(0, self.total - self.skipped - self.done - self.lost)

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self.stage, self._began = stage, time.monotonic()
        self.seconds[stage] = 0.0

    def update(self, progress: Progress) -> None:
        """Count a progress."""
        self.seconds[self.stage] = time.monotonic() - self._began
        if progress.stage == "plan" and not progress.unit:
            self.skipped, self.total = progress.done, progress.total
        self.quarantined = max(self.quarantined, progress.failed)
        self.pixels = max(self.pixels, progress.pixels if progress.stage != "survey" else 0)
        piece = progress.piece
        if piece is None:
            return
        self.retries += piece.attempts - 1
        self.bytes += piece.bytes
        if piece.final and piece.status == "done":
            self.done += 1
        elif piece.final:
            self.lost += 1

    def end(self, stage: str) -> None:
        """A stage has ended."""
        self.seconds[stage] = time.monotonic() - self._began
