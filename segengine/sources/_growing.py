"""Files that are still being written: they wait for the next run, and are no failure.

A file waits where another process has it open for writing, where its size or time of change moves
while the run plans, or where it is an MP4 or MOV without its index (`moov`), which cameras write last;
so is an empty one. What nobody has touched for an hour is as it will stay; of a file that is dated ahead
the file system tells when that was. Local files only: an object store shows a whole
object or none.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import BinaryIO, cast

from segengine.sources._boxes import boxes
from segengine.sources._files import is_url
from segengine.types import Entry

SETTLED = 3600.0
"""Seconds after which a file that has not changed is whole, or never will be."""
_BOXED = frozenset((".mp4", ".mov", ".m4v", ".qt", ".3gp", ".3g2", ".f4v"))
"""Suffixes of files of boxes that need a `moov`."""
_FIRST = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"))
"""Boxes that such a file may begin with; what begins otherwise is none, whatever its name."""
_BOXES = 1000
"""Boxes of one file that are looked at."""
Seen = tuple[int, int]
"""Size and mtime_ns."""

if sys.platform == "linux":
    import fcntl

    def _is_written(path: str) -> bool:
        """True where a process has the file open for writing; of others' files the kernel says nothing."""
        # A read lease is granted only where nobody writes. O_NONBLOCK: a pipe must not hold us.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return True
        except OSError:  # another user's, or a file system without leases
            return False
        finally:
            os.close(handle)
        return False
else:

    def _is_written(path: str) -> bool:
        """Not known here."""
        return False


def fresh(entries: Iterable[Entry]) -> dict[str, dict[str, Seen]]:
    """Entries one of whose files changed within the last hour, by name: its files as they are now."""
    now, found = time.time(), {}
    for entry in entries:
        files = _look(entry)
        if any(now - _changed(status, now) < SETTLED for status in files.values()):
            found[entry.name] = {path: _seen(status) for path, status in files.items()}
    return found


def growing(entry: Entry, before: Mapping[str, Seen]) -> str:
    """Why an entry is to wait, given its files as `fresh` saw them; empty: it is whole."""
    for path, status in _look(entry).items():
        seen = _seen(status)
        with suppress(OSError):  # what cannot be opened is for its reader to tell
            if seen != before.get(path, seen):
                return "it grows"
            if _is_written(path):
                return "a process writes to it"
            if os.path.splitext(path)[1].lower() in _BOXED and _lacks_index(path):
                return "its index (moov) is not written yet"
    return ""


def _seen(status: os.stat_result) -> Seen:
    return status.st_size, status.st_mtime_ns


def _changed(status: os.stat_result, now: float) -> float:
    """When a file changed last; by a clock that is ahead, when its entry did."""
    return status.st_mtime if status.st_mtime < now + SETTLED else status.st_ctime


def _look(entry: Entry) -> dict[str, os.stat_result]:
    found = {}
    for uri in [part.uri for part in entry.parts] or [entry.uri]:
        if uri and (not is_url(uri) or uri.startswith("file://")):
            path = uri.removeprefix("file://")
            with suppress(OSError):
                status = os.stat(path)
                if stat.S_ISREG(status.st_mode):
                    found[path] = status
    return found


def _lacks_index(path: str) -> bool:
    """True where a file's boxes hold no `moov`."""
    first = True
    with open(path, "rb", buffering=0) as file:
        for box in boxes(cast("BinaryIO", file), _BOXES):
            if (first and box.kind not in _FIRST) or box.kind in (b"moov", b"moof"):
                return False
            first = False
        return not first or not file.seek(0, 2)
