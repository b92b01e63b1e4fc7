"""Who may write to stderr: libraries do so from C, past whatever Python is told.

One place holds where it leads, so that a signal that comes while nothing leads there still has its
say.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator

_STDERR = 2
LEVELS = ("debug", "info", "warning", "error")
"""Of messages, the least first."""


class _State:
    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal may come between any two lines
        self.kept: int | None = None
        """Another name of what the process began with, while descriptor 2 leads nowhere."""
        self.silences = 0
        """How many ask for silence now."""
        self.muted = False
        self.ended = False
        """Whether the last word is said."""
        self.least = "info"
        """Level below which nothing is said."""
        self.owed = ""
        self.shape: Callable[[str, str], str] = plain
        """What a message of a level looks like."""


def plain(text: str, level: str) -> str:
    """A message as people read it; its level is in its words."""
    return f"segengine: {text}"


_state = _State()


def write(text: str) -> None:
    """Write to stderr, also where nobody else may any more. Raises OSError, ValueError."""
    with _state.lock:
        if not _state.ended:
            _write(text)


def _write(text: str) -> None:
    if not _state.muted:
        sys.stderr.write(text)
        sys.stderr.flush()
    elif _state.kept is not None:
        os.write(_state.kept, text.encode(errors="backslashreplace"))


def say(text: str, level: str = "info") -> None:
    """A message on a line of its own, in the form that was asked for, where its level is said.

    Raises OSError, ValueError.
    """
    if is_said(level):
        write(f"{_state.shape(text, level)}\n")


def say_from(level: str) -> None:
    """From now on nothing below a level is said."""
    _state.least = level


def is_said(level: str) -> bool:
    """Whether messages of a level are said; one of an unknown level is."""
    return level not in LEVELS or LEVELS.index(level) >= LEVELS.index(_state.least)


def say_last(text: str, level: str = "info", patience: float = 1.0) -> None:
    """A message after which nobody else has a say. Raises OSError, ValueError.

    patience: seconds to wait for another thread's line to be out.
    """
    held = _state.lock.acquire(timeout=patience)
    try:
        if not _state.ended:
            _state.ended = True
            _write(f"{_state.shape(text, level)}\n")
    finally:
        if held:
            _state.lock.release()


def shape(form: Callable[[str, str], str]) -> None:
    """From now on a message looks as `form(text, level)` has it."""
    _state.shape = form


def mute() -> None:
    """From now on nothing gets to stderr but what `write` is given. There is no way back."""
    with _state.lock:
        _lead_nowhere()
        _state.muted = True
    with contextlib.suppress(OSError, ValueError):
        write(_state.owed)


def owe(text: str) -> None:
    """What `mute` is to write first: it undoes what is done to a terminal now."""
    _state.owed = text


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Let nothing get to stderr meanwhile."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    with _state.lock:
        _state.silences += 1
        _lead_nowhere()
    try:
        yield
    finally:
        with _state.lock:
            _state.silences -= 1
            if not _state.silences and not _state.muted:
                _lead_back()


def _lead_nowhere() -> None:
    if _state.kept is not None:
        return
    with contextlib.suppress(OSError):  # there may be no stderr at all
        _state.kept = os.dup(_STDERR)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)


def _lead_back() -> None:
    if _state.kept is not None:
        os.dup2(_state.kept, _STDERR)
        os.close(_state.kept)
        _state.kept = None
