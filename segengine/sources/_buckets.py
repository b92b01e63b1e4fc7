"""Inputs in a bucket of S3, through obstore, which takes a fifth of a processor's time a request.

    listing   page by page; of each object its size and its tag, and nothing else is kept
    opening   one request: the first bytes, of how many, and the tag; one that was open before: its tag

s3fs asks for an object's size before, or looks for it among all that it has listed of its folder, one
by one. It is asked where `store.s3` leaves a bucket to it, where it was given settings of its own, and
for what fails here: it tries again, and says why in the words that are known.
"""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from segengine.store.s3 import Bucket

FIRST = 1 << 16
"""Bytes that come with opening: the header of most photos."""
KNOWN = 4096
"""Objects that are remembered to have been open."""
PAUSES = (0.25, 1.0, 2.5)
"""Seconds before a range that failed is asked for again."""


class About(NamedTuple):
    """What a listing says of an object."""

    size: int | None
    changed: str
    """ETag, or time of change."""


def bucket_of(system: Any, path: str) -> tuple[Bucket, str] | None:
    """The bucket of a path of an fsspec filesystem, and the key in it; None: not through obstore."""
    if not hasattr(system, "call_s3") or system.storage_options or system.version_aware:
        return None
    from segengine.store.s3 import is_plain, open_bucket

    name, _, key = path.partition("/")
    if not is_plain(key):
        return None
    # With the filesystem, which whoever sets up another endpoint makes anew; none is good in a fork.
    opened = vars(system).setdefault("_segengine_buckets", {})
    mine = name, os.getpid()
    if mine not in opened:
        try:
            opened[mine] = open_bucket(f"s3://{name}")
        except Exception:  # noqa: BLE001 - s3fs meets the same, and says it
            opened[mine] = None
    return None if opened[mine] is None else (opened[mine], key)


def listed(system: Any, root: str, depth: int | None) -> dict[str, About | None] | None:
    """Objects below a path as s3fs names them, folders (None) among them where they are told of.

    None: s3fs is to be asked. Raises FileNotFoundError where there is no such bucket.
    """
    there = bucket_of(system, root) if depth in (None, 1) else None
    if there is None:
        return None
    bucket, prefix = there
    start = f"{root.partition('/')[0]}/"
    found: dict[str, About | None] = {}
    empty: list[str] = []
    try:
        for page in bucket.pages(prefix, deep=depth is None):
            for key, size, changed in page:
                found[start + key] = None if size is None else About(size, changed)
                if size == 0:
                    empty.append(key)
        # A folder that a browser has made is an object of nothing with a slash at its end.
        for key in empty:
            if not bucket.exists(key):
                found.pop(start + key, None)
    except FileNotFoundError:
        raise
    except Exception:  # noqa: BLE001 - also for keys that obstore takes for none, as a//b
        return None
    found.pop(root, None)
    return found


class _Known:
    """Objects that were open in this process, and are likely to be again."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.keys: OrderedDict[tuple[int, str], None] = OrderedDict()

    def met(self, which: tuple[int, str]) -> bool:
        """Whether one was open before; it is from now on."""
        with self.lock:
            found = which in self.keys
            self.keys[which] = None
            self.keys.move_to_end(which)
            if len(self.keys) > KNOWN:
                self.keys.popitem(last=False)
            return found


_KNOWN = _Known()


class ObjectFile:
    """An object as a file: each read is a request, for no other state than it was opened in."""

    def __init__(self, bucket: Bucket, key: str, size: int, tag: str, first: bytes) -> None:
        self._bucket, self._key, self.size, self.tag = bucket, key, size, tag
        self.first = first
        """Bytes that came with opening it."""
        self._at = 0

    def seek(self, offset: int) -> None:
        """Read from there next."""
        self._at = offset

    def read(self, size: int) -> bytes:
        """So many bytes; raises OSError."""
        start, stop = self._at, min(self._at + size, self.size)
        self._at = stop
        for pause in (*PAUSES, None):
            try:
                return self._bucket.part(self._key, start, stop, self.tag).data
            except (FileNotFoundError, PermissionError):
                raise
            except OSError as error:
                if error.errno == errno.EBUSY or pause is None:
                    raise
            time.sleep(pause)
        raise AssertionError

    def close(self) -> None:
        """Nothing is open."""
        self.first = b""


def opened(system: Any, path: str) -> ObjectFile | None:
    """An object of S3; None: s3fs is to be asked."""
    there = bucket_of(system, path)
    if there is None:
        return None
    bucket, key = there
    try:
        # Pages of what was open before are kept: only whether it is the same is asked for.
        if _KNOWN.met((id(bucket), key)):
            size, tag = bucket.told(key)
            return ObjectFile(bucket, key, size, tag, b"") if tag else None
        part = bucket.part(key, 0, FIRST)
        return ObjectFile(bucket, key, part.size, part.tag, part.data) if part.tag else None
    except Exception:  # noqa: BLE001 - also of an object of nothing, which has no first bytes
        return None


def pages_of(file: ObjectFile, length: int) -> Iterator[tuple[int, bytes]]:
    """What came with opening, cut into numbered pages of a length; the last is whole or the file's end."""
    whole = len(file.first) if len(file.first) == file.size else len(file.first) // length * length
    for start in range(0, whole, length):
        yield start // length, file.first[start : start + length]
