"""Who follows a run: what its command line and its environment ask for."""

from __future__ import annotations

from segengine.watching.tally import Watcher


def watchers(name: str, run: str, metrics_file: str | None, telemetry: bool) -> tuple[Watcher, ...]:
    """Those of a run by its job's name and its id. Raises SegengineError where one cannot do what
    it is asked."""
    found: list[Watcher] = []
    if metrics_file:
        from segengine.watching.textfile import TextFile

        found.append(TextFile(metrics_file, name))
    if telemetry:
        from segengine.watching.otel import Telemetry

        found.append(Telemetry(name, run))
    return tuple(found)
