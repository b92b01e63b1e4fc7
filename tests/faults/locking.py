"""`driver.py` with other times of the lock: `python locking.py RENEW STALE JOB EVENTS ...`.

Where CLOCK names a file, the wall clock of this process is off by the seconds that stand there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from driver import main

from segengine.store import lock

if __name__ == "__main__":
    lock.RENEW, lock.STALE = float(sys.argv[1]), float(sys.argv[2])
    lock.POLL = lock.RENEW / 4
    if "CLOCK" in os.environ:
        clock, real = Path(os.environ["CLOCK"]), time.time
        time.time = lambda: real() + float(clock.read_text() or "0")
    sys.exit(main(*sys.argv[3:]))
