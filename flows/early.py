"""A signal before anything is loaded: there is nobody to end, and no lock to give back."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from types import FrameType

INTERRUPTED = "interrupted; the same command goes on where it ended"


def catch_early() -> None:
    """Let Ctrl-C and a polite kill end this process in one line, until better is loaded."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _message() -> str:
    if not asks_for_json(sys.argv):
        return f"segengine: {INTERRUPTED}"
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f'{{"time": "{at}", "level": "error", "message": "{INTERRUPTED}"}}'


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether `--log json` is among the arguments: told before they are understood."""
    return "--log=json" in arguments or ("--log", "json") in pairwise(arguments)


def _end(signum: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"{_message()}\n".encode())
    finally:
        os._exit(128 + signum)
