"""What starts workers survives the signals that a terminal sends to all that run in it."""

from __future__ import annotations

import subprocess
import sys

HANGUP = """
import os, signal, time
from multiprocessing import resource_tracker
from segengine.dispatch.nannies import track

track()
assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
tracker = resource_tracker._resource_tracker
first = tracker._pid
os.kill(first, signal.SIGHUP)
time.sleep(0.5)
track()
print(tracker._pid == first)
"""


def test_a_hangup_does_not_end_who_clears_up() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HANGUP], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
