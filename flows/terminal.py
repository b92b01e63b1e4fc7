"""What a person sees while a run goes on: a progress bar on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from segengine import stderr
from segengine.urls import printable
from segengine_tasks.pace import Pace
from segengine_tasks.words import count

if TYPE_CHECKING:
    from segengine.progress import FailedFrame, Progress, Summary
    from segengine_flows.jsonlog import JsonLog

EVERY = 30.0
"""Seconds between two lines about one stage where no terminal shows a bar."""

UNSCORED = 20
"""Frames without usable truth that are named; no error, unlike those in quarantine."""

SHOW_CURSOR = "\x1b[?25h"
"""What undoes what a bar does to a terminal."""


def say(text: str, level: str = "info") -> None:
    """One line on stderr, as every message of the command: `segengine: ...`, or JSON."""
    stderr.say(printable(text), level)


def write(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def write_json(found: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    from segengine.urls import public_values

    sys.stdout.write(json.dumps(public_values(found), allow_nan=False) + "\n")
    sys.stdout.flush()


def display(run: Callable[[], str]) -> Display | JsonLog:
    """What shows a run's progress: JSON where that was asked for; `run`: its id, once it has one."""
    jsonlog = sys.modules.get("segengine_flows.jsonlog")
    return jsonlog.JsonLog(run) if jsonlog is not None and jsonlog.is_on() else Display()


class Display:
    """Shows progress on stderr: a bar where it is a terminal, else a line now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._counted, self._said = ("", ""), 0.0
        self._latest: Progress | None = None
        self._pace = Pace()
        self._bar: Any = None
        self._task: Any = None
        self._quiet = not stderr.is_said("info")
        if self._stream.isatty() and not self._quiet:
            self._bar = _bar(self._stream)

    def update(self, progress: Progress) -> None:
        """Show how far a stage is."""
        if progress.piece is not None and stderr.is_said("debug"):
            self.note(_piece(progress))
        if self._quiet:
            return
        if self._bar is not None:
            self._update_bar(progress)
            return
        now, pace = time.monotonic(), self._pace(progress)
        if (progress.stage, progress.unit) != self._counted:
            self._counted, self._said = (progress.stage, progress.unit), now
        elif now - self._said >= EVERY:
            self._said = now
            self._line(", ".join(filter(None, (describe(progress), pace))))
        ended = progress.total and progress.done >= progress.total and not progress.unit
        if ended and progress != self._latest:
            self._line(describe(progress))
        self._latest = progress

    def note(self, text: str) -> None:
        """A line that stays."""
        if not stderr.is_said("warning"):
            return
        if self._bar is not None:
            self._bar.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        else:
            self._line(text)

    def end(self, summary: Summary) -> None:
        """Nothing: what came of a run is on stdout."""

    def close(self) -> None:
        """End the bar; what it showed stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            stderr.owe("")

    def _line(self, text: str) -> None:
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()

    def _update_bar(self, progress: Progress) -> None:
        if (progress.stage, progress.unit) != self._counted:
            self._counted = progress.stage, progress.unit
            if self._task is not None:
                self._bar.stop_task(self._task)
            stderr.owe(f"\n{SHOW_CURSOR}")
            self._bar.start()
            self._task = self._bar.add_task(progress.stage, total=progress.total, note="")
        notes = [progress.unit] if progress.unit else []
        notes += [f"{progress.failed:,} failed"] if progress.failed else []
        notes += [printable(word) for word in (progress.message, self._pace(progress)) if word]
        self._bar.update(
            self._task, completed=progress.done, total=progress.total, note=", ".join(notes)
        )


def _bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        TextColumn("{task.description:<9}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
    )


def _piece(progress: Progress) -> str:
    """One line about the shard, or the batch, whose work has just ended."""
    piece = progress.piece
    assert piece is not None
    place = "" if piece.shard is None else f" {'.'.join(map(str, piece.shard))}"
    words = [f"{progress.stage}: {piece.scene}{place}: {piece.status}", f"{piece.seconds:.3f} s"]
    words += [f"attempt {piece.attempts}"] * (piece.attempts > 1) + [piece.reason] * bool(
        piece.reason
    )
    return ", ".join(words)


def describe(progress: Progress) -> str:
    """One line about a progress.

    >>> from segengine.progress import Progress
    >>> describe(Progress("segment", 40, 1200, failed=3))
    'segment: 40 of 1,200, 3 frames failed'
    """
    text = f"{progress.stage}: {progress.done:,} of {progress.total:,}"
    text += f" {progress.unit}" if progress.unit else ""
    if progress.failed:
        text += f", {count(progress.failed, 'frame')} failed"
    return f"{text}, {progress.message}" if progress.message else text


def failures(failed: tuple[FailedFrame, ...]) -> list[str]:
    """Every quarantined frame, its name and reason in full."""
    if not failed:
        return []
    lines = [f"{count(len(failed), 'frame')} quarantined:"]
    lines += [f"  {f.kind}: {f.name}: {f.reason}" for f in failed]
    return lines


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """What was measured, and what was asked for and does not apply."""
    if not any(metrics.get(key) for key in ("overall", "losses", "not_measured")):
        return []
    from segengine.stages.metrics_json import lines, unmeasured

    return lines(metrics) + unmeasured(metrics)


def unscored(metrics: Mapping[str, Any]) -> list[str]:
    """Pixels and frames whose truth is missing, or does not fit."""
    lines: list[str] = []
    if metrics.get("unknown_labels"):
        from segengine.stages.metrics_json import unknown_labels

        lines = unknown_labels(metrics)
    missing = metrics.get("missing_truth", [])
    if not missing:
        return lines
    lines += [f"{count(len(missing), 'frame')} not scored, without usable truth:"]
    lines += [f"  {m['name']}: {m['reason']}" for m in missing[:UNSCORED]]
    if len(missing) > UNSCORED:
        lines.append(f"  and {len(missing) - UNSCORED:,} more; metrics.json names them all")
    return lines


def still(metrics: Mapping[str, Any]) -> list[str]:
    """How many frames of video no segmenter was asked about.

    >>> still({"still_frames": {"frames": 900, "of": 1000}})
    ['900 of 1,000 frames did not move, and have the mask of one before']
    """
    found = metrics.get("still_frames")
    if not found:
        return []
    return [
        f"{found['frames']:,} of {found['of']:,} frames did not move, and have the mask of one before"
    ]


def cut(metrics: Mapping[str, Any]) -> list[str]:
    """Instances that stayed in pieces, and what helps.

    >>> cut({"cut_instances": {"count": 2}})
    ['2 instances cut at shard borders, where windows disagree (metrics.json); more overlap helps']
    """
    told = {
        "cut_instances": "cut at shard borders, where windows disagree (metrics.json); more overlap helps",
        "unsplit_instances": "too large to be split, and left whole (metrics.json)",
    }
    found = {key: metrics.get(key, {}).get("count", 0) for key in told}
    return [f"{count(found[key], 'instance')} {text}" for key, text in told.items() if found[key]]


def show_result(summary: Summary) -> None:
    """What a run did, where things are, and what is quarantined, on stdout."""
    for line in result(summary):
        write(line)


def result(summary: Summary) -> list[str]:
    """What a run did, and where things are."""
    speed = summary.pixels / 1e6 / summary.seconds if summary.seconds > 0 else 0.0
    lines = [
        f"{summary.name}: {count(summary.frames, 'frame')} in {count(summary.scenes, 'scene')}; "
        f"{count(summary.computed, 'shard')} computed, {summary.skipped:,} done before, "
        f"{summary.seconds:.1f} s, {speed:,.1f} megapixels/s",
        f"masks:  {summary.store}",
        f"report: {summary.report}",
    ]
    metrics = summary.metrics
    lines += (
        figures(metrics)
        + still(metrics)
        + cut(metrics)
        + unscored(metrics)
        + failures(summary.failed)
    )
    lines += [*(alert.words for alert in summary.alerts), *summary.remarks]
    return lines + ([summary.ended] if summary.ended else [])
