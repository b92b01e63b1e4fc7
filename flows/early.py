"""A signal before anything is loaded: there is nobody to end, and no lock to give back."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = "interrupted; the same command goes on where it ended"


def catch_early() -> None:
    """Let Ctrl-C and a polite kill end this process in one line, until better is loaded."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(signum: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"segengine: {INTERRUPTED}\n".encode())
    finally:
        os._exit(128 + signum)
