"""Who follows a run: what its command line and its environment ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segengine.watching.tally import Watcher


def watchers(
    job: Mapping[str, Any],
    run: str,
    *,
    metrics_file: str | None,
    telemetry: bool,
    lineage: bool,
    lineage_to: str | None,
) -> tuple[Watcher, ...]:
    """Those of a run by its job, as JSON without credentials, and its id. Raises SegengineError where
    one cannot do what it is asked."""
    found: list[Watcher] = []
    if metrics_file:
        from segengine.watching.textfile import TextFile

        found.append(TextFile(metrics_file, job["name"]))
    if telemetry:
        from segengine.watching.otel import Telemetry

        found.append(Telemetry(job["name"], run))
    if lineage:
        from segengine.watching.lineage import Lineage

        found.append(Lineage(job, run, lineage_to))
    return tuple(found)
