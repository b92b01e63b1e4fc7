"""How many cores there are to work on."""

from __future__ import annotations

import contextlib
import os


def cores() -> int:
    """Cores this process may use: affinity, and the cgroup's quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            available = min(available or 1, max(1, round(int(quota) / int(period))))
    return max(1, available or 1)
