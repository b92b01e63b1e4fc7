"""Who follows a run: what its command line and its environment ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segengine.watching.tally import Watcher

if TYPE_CHECKING:
    from segengine.progress import Progress, Summary


def watchers(name: str, run: str, metrics_file: str | None, telemetry: bool) -> Watchers:
    """Those of a run by its job's name and its id. Raises SegengineError where one cannot do what
    it is asked."""
    found: list[Watcher] = []
    if metrics_file:
        from segengine.watching.textfile import TextFile

        found.append(TextFile(metrics_file, name))
    if telemetry:
        from segengine.watching.otel import Telemetry

        found.append(Telemetry(name, run))
    return Watchers(found)


class Watchers:
    """Several as one."""

    def __init__(self, each: Sequence[Watcher] = ()) -> None:
        self._each = tuple(each)

    def begin(self, stage: str) -> None:
        """As Watcher's."""
        for watcher in self._each:
            watcher.begin(stage)

    def update(self, progress: Progress) -> None:
        """As Watcher's."""
        for watcher in self._each:
            watcher.update(progress)

    def end(self, stage: str) -> None:
        """As Watcher's."""
        for watcher in self._each:
            watcher.end(stage)

    def finish(self, summary: Summary | None) -> None:
        """As Watcher's."""
        for watcher in self._each:
            watcher.finish(summary)
