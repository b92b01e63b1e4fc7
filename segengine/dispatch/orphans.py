"""No process goes on whose parent is gone: what it does, nobody would see, and the next would meet it."""

from __future__ import annotations

import os
import signal
import sys


def end_with(parent: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel end this process when its parent ends, however that does.

    `how`: the signal that it gets then; a program that this process becomes gets it too. On Linux;
    elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
    ctypes.CDLL(None).prctl(set_parent_death_signal, how)
    if os.getppid() != parent:  # it went just before
        os._exit(1)
