"""Segmenters that count what they do and misbehave on demand; workers import them by name.

A pixel of value `TRAP` in a window springs the trap. Every call appends a line to a log file:
O_APPEND keeps the lines of several processes whole.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.types import Bool, Pixels, Prediction

TRAP = 255
"""The brightest value that the other pixels have is 200."""


def count(log: str, what: str) -> None:
    """Append a line."""
    if log:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"{what}\n".encode())
        os.close(handle)


def counted(log: str | Path) -> list[str]:
    """The lines of a log."""
    path = Path(log)
    return path.read_text().splitlines() if path.exists() else []


def work(log: str, what: str, pause: float, gate: str = "") -> None:
    """Count a call and take a while; behind a closed gate, until it is opened.

    The gate is a file with a number: about so many calls pass, the others wait until it is gone.
    """
    count(log, what)
    time.sleep(pause)
    with suppress(FileNotFoundError):
        while gate and len(counted(log)) > int(Path(gate).read_text()):
            time.sleep(0.05)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hold() -> None:
    # Unlike CDLL, PyDLL keeps the interpreter's lock: no other thread of the process runs.
    ctypes.PyDLL(None).sleep(1000)


def _spin() -> None:
    # Exponential, inside one call into C, without letting the interpreter's lock go.
    re.match(r"(a+)+b", "a" * 64)


def _raise() -> None:
    raise OSError("the connection was reset")


def _kill_storing() -> None:
    """Let the worker die at its next atomic rename: the shard is computed, and not yet stored."""

    def audit(event: str, args: tuple[object, ...]) -> None:
        if event == "os.rename":
            _kill()

    sys.addaudithook(audit)


@dataclass(frozen=True, slots=True)
class Task:
    """The least that a pool hands out; here, because workers must be able to import it."""

    attempt: int = 1
    last: bool = False


def nothing(task: object) -> None:
    """For a pool: a worker that has done it has started in full."""


def hold_at_once(task: object) -> None:
    """For a pool: the worker blocks before its own event loop runs again."""
    _hold()


@dataclass(frozen=True, slots=True)
class Numbered:
    """One of many short works; `trap` names what the one of number `bad` does."""

    number: int
    bad: int = -1
    trap: str = ""
    log: str = ""
    attempt: int = 1
    last: bool = False


def numbered(task: Numbered) -> int:
    """For a pool: count it, spring its trap, give its number."""
    count(task.log, str(task.number))
    if task.number == task.bad:
        TRAPS[task.trap]()
    return task.number


def foreseen(task: Numbered) -> int:
    """For a pool: what the task was told comes next."""
    return task.bad


@dataclass(frozen=True, slots=True)
class Stored:
    """A `Later` that counts how many were finished with it."""

    task: Numbered
    nbytes: int = 8

    def finish(self) -> int:
        return self.finish_all([self])[0]

    @staticmethod
    def finish_all(works: Sequence[Stored]) -> list[int]:
        return [len(works)] * len(works)


def stored_later(task: Numbered) -> Stored:
    """For a pool: a work of which only the storing is left."""
    count(task.log, str(task.number))
    return Stored(task)


TRAPS: dict[str, Callable[[], None]] = {
    "kill": _kill,
    "sleep": lambda: time.sleep(1000),
    "hold": _hold,
    "spin": _spin,
    "raise": _raise,
    "storing": _kill_storing,
    "nap": lambda: time.sleep(0.4),
    "doze": lambda: time.sleep(12),
}


@dataclass(frozen=True, slots=True)
class Trapped:
    """Bright (above `level`) or dark; a window with a `TRAP` pixel does something else first."""

    level: int = 100
    trap: str = ""
    times: int = 1 << 30
    """How often the trap works, counted in the log."""
    pause: float = 0.0
    log: str = ""
    gate: str = ""
    classes: ClassVar = ("dark", "bright")
    halo: ClassVar = 0
    stride: ClassVar = 1
    outputs: ClassVar = ("labels",)

    def segment(self, pixels: Pixels) -> Prediction:
        work(self.log, "segment", self.pause, self.gate)
        sprung = self.trap and (pixels == TRAP).any()
        if sprung and counted(self.log).count("trap") < self.times:
            count(self.log, "trap")
            TRAPS[self.trap]()
        return Prediction((pixels[..., 0] > self.level).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class Slow(Trapped):
    """The same, as a network: shards are read and stored while others are computed."""

    slow: ClassVar = True


@dataclass(frozen=True, slots=True)
class Linked:
    """8-connected pieces above `low` that reach `high` somewhere: as Canny's hysteresis."""

    low: int = 0
    high: int = 0
    pause: float = 0.0
    log: str = ""
    gate: str = ""
    classes: ClassVar = ("rest", "piece")
    halo: ClassVar = 0
    stride: ClassVar = 1
    keep: ClassVar = 2
    outputs: ClassVar = ("labels",)

    def draft(self, pixels: Pixels) -> NDArray[np.uint8]:
        work(self.log, "draft", self.pause, self.gate)
        gray = pixels[..., 0]
        return (gray > self.low).astype(np.uint8) + (gray > self.high)

    def segment(self, pixels: Pixels) -> Prediction:
        import cv2

        labels = np.zeros(pixels.shape[:3], np.uint8)
        for i, draft in enumerate(self.draft(pixels)):
            _, ids = cv2.connectedComponents((draft > 0).astype(np.uint8), connectivity=8)
            labels[i] = np.isin(ids, np.setdiff1d(ids[draft == self.keep], [0]))
        return Prediction(labels)


@dataclass(frozen=True, slots=True)
class Found:
    """Bright blobs as instances, numbered by each window for itself."""

    level: int = 100
    pause: float = 0.0
    log: str = ""
    classes: ClassVar = ("background", "blob")
    halo: ClassVar = 8
    stride: ClassVar = 1
    outputs: ClassVar = ("labels", "instances")

    def segment(self, pixels: Pixels) -> Prediction:
        import cv2

        work(self.log, "segment", self.pause)
        labels = (pixels[..., 0] > self.level).astype(np.uint8)
        ids = [cv2.connectedComponents(frame, connectivity=8)[1] for frame in labels]
        return Prediction(labels, instances=np.stack(ids).astype(np.uint32))


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A linker whose levels follow from the mean of the run: every stage has something to do."""

    pause: float = 0.0
    log: str = ""
    gate: str = ""
    scope: ClassVar = "run"
    classes: ClassVar = Linked.classes
    segmenter: ClassVar = Linked()
    outputs: ClassVar = ("labels",)

    def survey(self, pixels: Pixels, valid: Bool) -> tuple[int, int]:
        work(self.log, "survey", self.pause, self.gate)
        return int(pixels[valid].sum(dtype=np.int64)), int(valid.sum())

    def merge(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return a[0] + b[0], a[1] + b[1]

    def fit(self, state: tuple[int, int]) -> Linked:
        count(self.log, "fit")
        mean = state[0] // max(1, state[1])
        return Linked(mean, mean + 60, self.pause, self.log, self.gate)


def prepared(log: str) -> None:
    """A line for each process that is prepared."""
    count(log, str(os.getpid()))
