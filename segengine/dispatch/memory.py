"""Memory that a worker frees and soon needs again."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache

KEPT = 1 << 28
"""Bytes of freed memory that a worker keeps for its next shard."""


@cache
def keep_freed_memory() -> None:
    """Let glibc hand freed arrays out again instead of returning their pages to the kernel.

    Each shard needs the same few arrays of many megabytes. By default, and the more so with the
    trim threshold that Dask sets for its workers, every one of them is mapped, zeroed page by page
    and unmapped again, which cost twice as much as everything else a mean threshold does.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with suppress(AttributeError):  # a C library without it
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 1 << 25)  # the most glibc takes
        mallopt(trim_threshold, KEPT)
