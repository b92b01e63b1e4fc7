"""Who starts Dask's worker processes on this machine, and keeps Ctrl-C from them.

A terminal sends Ctrl-C to every process that runs in it. A worker that heard it would print a
traceback, whatever it is doing, from its first import on: only who started it ends it.
"""

from __future__ import annotations

import signal
import threading
from multiprocessing import resource_tracker

from distributed import Nanny, Status

LEAVING = threading.Event()
"""Set where this process is about to end: no worker that is killed then comes back."""
_UNHEARD = {signal.SIGINT}


class DeafNanny(Nanny):  # type: ignore[misc] # Dask tells no types
    """Starts a worker that never hears SIGINT, nor do its threads and what it starts."""

    async def instantiate(self) -> Status:
        """As Dask's; in the thread of the cluster's event loop, which nothing else runs in."""
        if LEAVING.is_set():
            raise RuntimeError("this process is about to end")
        # First: where it starts its own process, it lets Ctrl-C in again.
        track()
        # Threads and processes have the mask of the thread that starts them, across `exec` as well.
        signal.pthread_sigmask(signal.SIG_BLOCK, _UNHEARD)
        return await super().instantiate()


def track() -> None:
    """Start multiprocessing's process that clears up, unless it runs: one that no hangup ends.

    It hears neither SIGINT nor SIGTERM. Where a terminal that is closed ended it, whoever starts a worker
    in that moment would start it anew, with a warning and a traceback for each lock it knows nothing of.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
