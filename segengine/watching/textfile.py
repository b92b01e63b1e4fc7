"""A run's figures as a text file for the textfile collector of Prometheus' node exporter.

Replaced as a whole, every few seconds and at the run's end: the collector never reads half of one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from segengine.errors import JobError
from segengine.urls import public
from segengine.watching.tally import Tally

if TYPE_CHECKING:
    from segengine.progress import Progress, Summary

EVERY = 5.0
"""Seconds between two versions of the file."""

Sample = tuple[Mapping[str, str], float]


class TextFile:
    """Keeps the file up to date."""

    def __init__(self, path: str, name: str) -> None:
        """`name`: the job's, a label of every figure. Raises JobError where it cannot be written."""
        self._path, self._name = Path(path), name
        self._tally = Tally()
        self._written, self._begun = 0.0, time.time()
        self._summary: Summary | None = None
        self._ended = 0.0
        try:
            self._write()
        except OSError as error:
            raise JobError(
                f"--metrics-file: {path}: {error.strerror}; name a file in a folder that is there"
            ) from None

    def begin(self, stage: str) -> None:
        """As Watcher's."""
        self._tally.begin(stage)
        self._keep_up()

    def update(self, progress: Progress) -> None:
        """As Watcher's."""
        self._tally.update(progress)
        if time.monotonic() - self._written >= EVERY:
            self._keep_up()

    def end(self, stage: str) -> None:
        """As Watcher's."""
        self._tally.end(stage)

    def finish(self, summary: Summary | None, error: BaseException | None = None) -> None:
        """As Watcher's."""
        self._summary, self._ended = summary, time.time()
        self._keep_up()

    def _keep_up(self) -> None:
        with suppress(OSError):  # a full disk here costs the run nothing; the next time is soon
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        # The collector reads what ends in .prom, and nothing else.
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(self.text(), encoding="utf-8")
            partial.chmod(0o644)  # the exporter is another user
            partial.replace(self._path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def text(self) -> str:
        """The file as it is to be."""
        lines = []
        for name, meaning, samples in self._figures():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
            for labels, value in samples:
                pairs = {"name": public(self._name), **labels}
                shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in pairs.items())
                lines.append(f"{name}{{{shown}}} {value!r}")
        return "\n".join(lines) + "\n"

    def _figures(self) -> Iterator[tuple[str, str, list[Sample]]]:
        tally, summary = self._tally, self._summary
        failed = tally.quarantined if summary is None else len(summary.failed)
        states = {
            "done": tally.skipped + tally.done,
            "quarantined": tally.lost,
            "queued": tally.queue,
        }
        one = _one
        yield "segengine_shards_total", "Shards of all scenes.", one(tally.total)
        yield "segengine_shards", "Shards by state.", _by("state", states)
        yield "segengine_computed_shards", "Shards that this run has done.", one(tally.done)
        yield "segengine_quarantined_frames", "Frames in quarantine.", one(failed)
        yield "segengine_retries", "Attempts after a shard's first.", one(tally.retries)
        yield "segengine_pixels", "Pixels labelled by this run.", one(tally.pixels)
        yield "segengine_stored_bytes", "Bytes stored by this run.", one(tally.bytes)
        yield "segengine_stage_seconds", "Time of each stage.", _by("stage", tally.seconds)
        yield "segengine_run_active", "1 while the run works.", one(not self._ended)
        yield "segengine_run_start_timestamp_seconds", "When it began.", one(self._begun)
        yield "segengine_run_update_timestamp_seconds", "When this was written.", one(time.time())
        if self._ended:
            code = 1 if summary is None else summary.exit_code
            yield "segengine_run_end_timestamp_seconds", "When it ended.", one(self._ended)
            yield "segengine_run_success", "1 where it came to its end.", one(summary is not None)
            yield (
                "segengine_run_exit_code",
                "3 while frames are quarantined; 5: out of time.",
                one(code),
            )


def _one(value: float) -> list[Sample]:
    return [({}, value + 0)]


def _by(label: str, values: Mapping[str, float]) -> list[Sample]:
    return [({label: key}, value) for key, value in values.items()]


def _escaped(text: str) -> str:
    r"""A label's value.

    >>> print(_escaped('a"b\\c\nd'))
    a\"b\\c\nd
    """
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
