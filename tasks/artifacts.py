"""What a run leaves in Prefect: progress, metrics, quarantine and a summary with links.

Publishing is best effort: after the first failure a run's publisher is silent, and the run goes on.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from segengine.urls import public, public_values
from segengine_tasks.links import link, mistakes
from segengine_tasks.words import count

if TYPE_CHECKING:
    from segengine.progress import FailedFrame, Progress, Summary

T = TypeVar("T")

EVERY = 5.0
"""Seconds between two updates of a progress artifact."""
ALERT = "segengine.alert"
"""Name of the event that an alert is."""
ROWS = 1000
"""Rows of a table artifact; the store holds the rest."""


class Publisher:
    """Calls Prefect while it answers."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        """Why it gave up; None while it has not."""

    def __call__(self, send: Callable[..., T], /, *args: Any, **options: Any) -> T | None:
        """`send(*args, **options)`, or None once Prefect has failed."""
        if self.trouble is not None:
            return None
        try:
            return send(*public_values(args), **public_values(options))
        except Exception as error:  # noqa: BLE001 - whatever Prefect has, the run goes on
            self.trouble = public(f"{type(error).__name__}: {error}").partition("\n")[0]
            return None


class StageProgress:
    """The progress artifact of one stage: made at its first progress, updated at most every 5 s."""

    def __init__(self, publish: Publisher, stage: str) -> None:
        self._publish, self._stage = publish, stage
        self._artifact: Any = None
        self._sent, self._shown = float("-inf"), -1.0
        self._latest: Progress | None = None

    def update(self, progress: Progress, pace: str = "") -> None:
        """Show a progress, now or later; `pace`: how fast it is, in words."""
        self._latest = progress
        if time.monotonic() - self._sent >= EVERY:
            self._send(progress, pace)

    def close(self) -> None:
        """Show the last progress, whenever the one before was sent."""
        if self._latest is not None and percent(self._latest) != self._shown:
            self._send(self._latest)

    def _send(self, progress: Progress, pace: str = "") -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        shown = percent(progress)
        text = f"{self._stage}: {progress.done:,} of {progress.total:,} {progress.unit}".rstrip()
        if progress.failed:
            text += f", {progress.failed:,} failed"
        text += "".join(f", {words}" for words in (progress.message, pace) if words)
        if self._artifact is None:
            self._artifact = self._publish(create_progress_artifact, shown, description=text)
        else:
            self._publish(update_progress_artifact, self._artifact, shown, description=text)
        self._sent, self._shown = time.monotonic(), shown


def percent(progress: Progress) -> float:
    """Share done, 0 to 100; a stage with nothing to do is done, and a plan that counts its shards.

    >>> from segengine.progress import Progress
    >>> percent(Progress("segment", 1, 3)), percent(Progress("survey", 0, 0))
    (33.3, 100.0)
    >>> percent(Progress("plan", 1, 4, unit="inputs")), percent(Progress("plan", 0, 40))
    (25.0, 100.0)
    """
    if progress.total <= 0 or (progress.stage == "plan" and not progress.unit):
        return 100.0
    return round(100.0 * min(progress.done, progress.total) / progress.total, 1)


def publish_results(publish: Publisher, summary: Summary) -> None:
    """Metrics table, quarantine table (where there is one) and summary of a finished run."""
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    key = slug(summary.name)
    publish(
        create_table_artifact,
        metric_rows(summary.metrics)[:ROWS],
        key=f"{key}-metrics",
        description=f"Metrics of {summary.name}",
    )
    if summary.failed:
        publish(
            create_table_artifact,
            quarantine_rows(summary.failed)[:ROWS],
            key=f"{key}-quarantine",
            description=f"Quarantined frames of {summary.name}",
        )
    publish(
        create_markdown_artifact,
        markdown(summary),
        key=f"{key}-summary",
        description=f"Summary of {summary.name}",
    )


def publish_alerts(publish: Publisher, summary: Summary) -> None:
    """An event for each alert: `segengine.alert`, which an automation of Prefect can wait for."""
    from prefect.events import emit_event

    for alert in summary.alerts:
        publish(
            emit_event,
            event=ALERT,
            resource={
                "prefect.resource.id": f"segengine.job.{slug(summary.name)}",
                "prefect.resource.name": summary.name,
                "segengine.store": summary.store,
                "segengine.figure": alert.figure,
            },
            payload={**alert._asdict(), "words": alert.words, "report": summary.report},
        )


def slug(name: str) -> str:
    """A name as an artifact's key: lower case letters, digits and dashes.

    >>> slug("Longmont 2024/03"), slug("...")
    ('longmont-2024-03', 'segengine')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "segengine"


def metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a figure, nested keys joined by dots; those of single scenes last.

    >>> metric_rows({"overall": {"iou": 0.5, "classes": ["a"]}})
    [{'metric': 'overall.iou', 'value': 0.5}, {'metric': 'overall.classes.0', 'value': 'a'}]
    """
    rows = [{"metric": name, "value": value} for name, value in _leaves("", metrics)]
    return sorted(rows, key=lambda row: row["metric"].startswith("scenes."))


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        yield prefix, value
        return
    for name, child in items:
        yield from _leaves(f"{prefix}.{name}" if prefix else name, child)


def quarantine_rows(failed: tuple[FailedFrame, ...]) -> list[dict[str, Any]]:
    """One row a quarantined frame: name, scene, frame, kind, reason."""
    return [
        {"name": f.name, "scene": f.scene, "frame": f.frame, "kind": f.kind, "reason": f.reason}
        for f in failed
    ]


def markdown(summary: Summary) -> str:
    """A run's summary as markdown, with links to store and report; names are escaped."""
    rows = [
        ("scenes", f"{summary.scenes:,}"),
        ("frames", f"{summary.frames:,}"),
        ("frames quarantined", f"{len(summary.failed):,}"),
        ("shards computed", f"{summary.computed:,}"),
        ("shards done before", f"{summary.skipped:,}"),
        ("pixels", f"{summary.pixels:,}"),
        ("seconds", f"{summary.seconds:,.1f}"),
    ]
    lines = [
        f"# {_escaped(summary.name)}",
        "",
        _state(summary),
        "",
        "| what | figure |",
        "| --- | ---: |",
    ]
    lines += [f"| {what} | {figure} |" for what, figure in rows]
    lines += [
        "",
        f"- masks: {_link(summary.store)}",
        f"- report: {_link(summary.report)}",
        *(f"- {_escaped(message)}" for message in (*mistakes(), *summary.messages)),
    ]
    if summary.alerts:
        lines += ["", "## Alerts", ""]
        lines += [f"- {_escaped(alert.words)}" for alert in summary.alerts]
    if summary.failed:
        lines += ["", "## Quarantined", ""]
        lines += [
            f"- {_escaped(f.name)}: {_escaped(f.kind)}: {_escaped(f.reason)}"
            for f in summary.failed[:ROWS]
        ]
    return "\n".join(lines)


def _state(summary: Summary) -> str:
    """How a run ended, as the name of its state does."""
    if summary.budget:
        return f"**Partial: {_escaped(summary.ended)}.**"
    if not summary.failed:
        return "**Completed: every frame has its mask.**"
    bad, frames = len(summary.failed), count(summary.frames, "frame")
    return f"**Quarantined: {bad:,} of {frames} could not be segmented.**"


def _escaped(text: str) -> str:
    """Text that markdown shows as it is."""
    safe = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", safe)


def _link(place: str) -> str:
    """A markdown link to a local path or a URL; its text alone where a browser would not open it."""
    url = link(place)
    if url is None:
        return _escaped(place)
    return f"[{_escaped(place)}]({url.replace('(', '%28').replace(')', '%29')})"
