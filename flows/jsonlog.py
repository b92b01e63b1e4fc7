"""`--log json`: stderr is one JSON object a line, and nothing else, for whoever collects logs.

    {"time": "2026-05-01T02:00:07.123Z", "level": "warning", "message": "done at attempt 2", "run":
     "4f1c...", "stage": "segment", "scene": "tile-7", "shard": [0, 3, 1], "attempt": 2}

What libraries would write there comes as such a line where it goes through Python, else nowhere.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from segengine import stderr
from segengine.urls import public
from segengine_flows.terminal import EVERY
from segengine_tasks.pace import Pace

if TYPE_CHECKING:
    from segengine.progress import Piece, Progress, Summary


class _State:
    json = False
    run: Callable[[], str] = staticmethod(lambda: "")


def begin() -> None:
    """From now on stderr is JSON; there is no way back."""
    if _State.json:
        return
    _State.json = True
    stderr.shape(_line)
    stderr.mute()
    # Where Python sends what nobody else takes care of: to stderr, as text.
    logging.lastResort = _Handler(logging.WARNING)
    warnings.showwarning = _show_warning


def is_on() -> bool:
    """Whether `begin` was called."""
    return _State.json


def log(message: str, level: str = "info", **about: Any) -> None:
    """A line; `about`: further keys, left out where they are None."""
    if stderr.is_said(level):
        stderr.write(f"{_line(message, level, **about)}\n")


def _line(text: str, level: str, **about: Any) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": at, "level": level, "message": public(text), "run": _State.run() or None}
    return json.dumps({k: v for k, v in (line | about).items() if v is not None})


def _words(progress: Progress, pace: str) -> str:
    """How far it is, or what else there is to say."""
    if progress.message and not progress.unit:
        return progress.message
    far = f"{progress.done:,} of {progress.total:,} {progress.unit}".rstrip()
    return ", ".join(filter(None, (far, progress.message, pace)))


class _Handler(logging.Handler):
    """Log records of libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.getMessage(), record.levelname.lower(), logger=record.name)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    log(f"{message}", "warning", logger=category.__name__)


class JsonLog:
    """What a run says while it goes on; in the place of a progress bar."""

    def __init__(self, run: Callable[[], str]) -> None:
        """`run`: the run's id, once it has one."""
        _State.run = staticmethod(run)
        self._counted, self._said = ("", ""), 0.0
        self._pace = Pace()

    def update(self, progress: Progress) -> None:
        """Say what is worth it: a stage's begin and end, how far it is, what went wrong; every shard
        where it is asked for."""
        now, piece, pace = time.monotonic(), progress.piece, self._pace(progress)
        if piece is not None:
            self._of(progress, piece)
        ended = progress.done >= progress.total
        counted = progress.stage, progress.unit
        if counted != self._counted or ended or now - self._said >= EVERY:
            self._counted, self._said = counted, now
            log(
                _words(progress, pace),
                stage=progress.stage,
                done=progress.done,
                total=progress.total,
                failed=progress.failed,
                pixels=progress.pixels,
                scene=piece.scene if piece is not None else None,
            )

    def note(self, text: str) -> None:
        """A notice of the plan."""
        log(text, "warning")

    def end(self, summary: Summary) -> None:
        """What came of it; each quarantined frame has a line."""
        for frame in summary.failed:
            log(
                f"quarantined: {frame.name}: {frame.kind}: {frame.reason}",
                "warning",
                scene=frame.scene,
                frame=frame.frame,
            )
        for alert in summary.alerts:
            log(alert.words, "warning", **alert._asdict())
        log(
            summary.ended or "finished",
            scenes=summary.scenes,
            frames=summary.frames,
            shards=summary.shards,
            computed=summary.computed,
            skipped=summary.skipped,
            left=summary.left,
            quarantined=len(summary.failed),
            pixels=summary.pixels,
            seconds=summary.seconds,
            exit_code=summary.exit_code,
        )

    def close(self) -> None:
        """Nothing is held back."""

    def _of(self, progress: Progress, piece: Piece) -> None:
        failed = piece.failed or piece.status != "done"
        words = f"{piece.status}: {piece.reason}" if failed else f"done at attempt {piece.attempts}"
        log(
            words,
            "warning" if failed or piece.attempts > 1 else "debug",
            stage=progress.stage,
            scene=piece.scene,
            shard=list(piece.shard) if piece.shard is not None else None,
            attempt=piece.attempts,
            seconds=round(piece.seconds, 3),
        )
