"""`segengine watch`: the same run again and again, each in a process of its own.

A run that fails, or that finds no input yet, is told by itself and is not the end: the next one goes on.
Ctrl-C or SIGTERM ends the run that is under way as it would end it alone, and then the watch. Where the
watch is killed, its run ends as by SIGTERM (on Linux): the next watch would find the store locked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial

from segengine.dispatch.orphans import end_with
from segengine.errors import JobError
from segengine_flows.leaving import Interrupted, leave
from segengine_flows.terminal import say

LAST = 8.0
"""Seconds that a run gets to end after a signal; it ends within five."""


def watch(job_file: str, overrides: Sequence[str], options: Sequence[str], every: str) -> int:
    """Run a job every so often, counted from the beginning of each run, until a signal comes.

    `options` go to `segengine run`; `every` is a duration as 10m. Raises JobError for a job or a
    duration that cannot be, before the first run.
    """
    seconds = _seconds(every)
    from segengine.job import load_job

    load_job(job_file, overrides)
    changes = [word for change in overrides for word in ("--set", change)]
    command = [sys.executable, "-m", "segengine_flows.start", "run", job_file, *changes, *options]
    while True:
        begun = time.monotonic()
        _run(command)
        left = begun + seconds - time.monotonic()
        if left > 0:
            say(
                f"{job_file}: again at {time.strftime('%H:%M:%S', time.localtime(time.time() + left))}"
            )
            time.sleep(left)


def _run(command: Sequence[str]) -> None:
    # Not of the terminal's group: a Ctrl-C would reach it twice, and the second one means at once.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),  # this process has one thread
    )
    try:
        child.wait()
    except Interrupted as interrupted:
        interrupted.watchdog.cancel()
        child.send_signal(interrupted.exit_code - 128)
        try:
            child.wait(LAST)
        finally:
            leave(interrupted.exit_code)  # the run has said that it was interrupted


def _seconds(every: str) -> float:
    from segengine.terms.quantities import seconds_of

    try:
        seconds = seconds_of(every)
    except ValueError as error:
        raise JobError(f"--every: {error}, got {every!r}") from error
    if seconds <= 0:
        raise JobError(f"--every: must be more than nothing, got {every!r}")
    return seconds
