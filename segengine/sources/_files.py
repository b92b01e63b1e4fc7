"""Opening inputs, local or behind a URL, and saying in one line why that failed."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from io import BytesIO
from typing import Any, BinaryIO, Self, cast

from segengine.errors import (
    CorruptInputError,
    DeniedInputError,
    MissingInputError,
    TransientInputError,
)
from segengine.guards.schemes import filesystem
from segengine.sources._ranges import open_ranged
from segengine.types import FrameRef, Unreadable

_SAFE = 2**20
"""Bytes that are asked for as they are."""
LATER = "try again later"
"""What to do where a server cannot answer now."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(uri: str) -> bool:
    """Whether a uri is a URL; all else is a local path."""
    return _URL.match(uri) is not None


def is_web(uri: str) -> bool:
    """Whether a uri is of a web server, where `?` starts a query."""
    return uri.lower().startswith(("http://", "https://"))


def one_line(error: BaseException | str) -> str:
    """The first line of a message that has words in it, else the error's type."""
    lines = (" ".join(line.split()) for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def open_failure(uri: str, error: BaseException) -> CorruptInputError | TransientInputError:
    """What it means that an input could not be opened or read, as the error to raise."""
    if isinstance(error, CorruptInputError | TransientInputError):
        return error
    status = _status(error)
    if status in (401, 403):
        return DeniedInputError(f"access denied ({status}): check credentials or the signature")
    if status in (404, 410):
        return MissingInputError(f"no such file (HTTP {status})")
    if status is not None:
        return TransientInputError(f"{_told(status)}; {LATER}")
    unreached = error.__cause__ if is_web(uri) and isinstance(error, FileNotFoundError) else None
    if unreached is not None and not isinstance(unreached, FileNotFoundError):
        return TransientInputError(f"cannot be reached: {one_line(unreached)}; {LATER}")
    if isinstance(error, IsADirectoryError):
        return CorruptInputError("is a directory")
    if isinstance(error, FileNotFoundError):
        dangling = not is_url(uri) and os.path.islink(uri)
        return MissingInputError("dangling symbolic link" if dangling else "no such file")
    if isinstance(error, PermissionError):
        return TransientInputError("permission denied")
    if isinstance(error, OSError) and error.strerror:
        return TransientInputError(f"cannot be read: {one_line(error.strerror)}")
    return TransientInputError(f"cannot be read: {one_line(error)}")


def with_remedy(said: str) -> str:
    """A line on what cannot be reached now, which ends in what to do."""
    return said if said.endswith(LATER) else f"{said}; {LATER}"


def _status(error: BaseException | None) -> int | None:
    """The status with which a web server answered; None: something else went wrong.

    fsspec says of all that goes wrong that there is no such file, and keeps the reason as the cause.
    """
    while error is not None:
        found = getattr(error, "status", None)  # no class is known for it
        if type(found) is int and found >= 400:
            return found
        error = error.__cause__
    return None


def _told(status: int) -> str:
    """A status with its words, as RFC 9110 has them.

    >>> _told(503), _told(599)
    ('HTTP 503 (Service Unavailable)', 'HTTP 599')
    """
    try:
        return f"HTTP {status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return f"HTTP {status}"


@contextmanager
def open_input(uri: str) -> Iterator[BinaryIO]:
    """A seekable binary file; remote ones fetch only the ranges that are read.

    Opening and reading raise CorruptInputError (a directory, a device) or TransientInputError,
    never OSError, so that whatever a decoder itself raises speaks of the content.
    """
    file = GuardedFile(uri)
    try:
        yield cast("BinaryIO", file)
    finally:
        file.close()


def read_bytes(uri: str) -> bytes:
    """The whole file; raises as `open_input`."""
    with open_input(uri) as file:
        return file.read()


def unreadable(error: CorruptInputError | TransientInputError) -> Unreadable:
    """The value that stands for an error in a record."""
    return Unreadable("corrupt" if isinstance(error, CorruptInputError) else "error", str(error))


def changed(ref: FrameRef, height: int, width: int) -> Unreadable | None:
    """Why a frame is not the one that was planned, or None where its size is as planned."""
    if (height, width) == (ref.height, ref.width):
        return None
    return Unreadable(
        "error",
        f"is {width} x {height} pixels, was {ref.width} x {ref.height} when planned; run again",
    )


_ARCHIVES = {
    b"PK\3\4": "ZIP", b"PK\5\6": "ZIP", b"\x1f\x8b": "gzip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR",
}  # fmt: skip


def require_unpacked(head: bytes) -> None:
    """Raise CorruptInputError for the first bytes of an archive."""
    name = next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), "")
    if name:
        raise CorruptInputError(
            f"a {name} archive, which is not read as it stands; unpack it, and name what "
            "is in it in source.paths"
        )


class GuardedFile:
    """A file whose reads raise our errors: libraries swallow or rename OSError, but not these."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file = _open(uri)
        self.closed = False
        self.far = is_url(uri)
        """Each place that is read may cost a request."""
        self._end = None if self.far else os.fstat(self._file.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        if size > _SAFE and self._end is not None:
            # A damaged header may ask for gigabytes, and the memory is set aside first.
            size = min(size, max(0, self._end - self._file.tell()))
        try:
            try:
                return cast("bytes", self._file.read(size))
            except ValueError:
                if not is_web(self._uri):
                    raise
                # fsspec's word for a web server without ranges: then the whole file is fetched.
                self._file = _whole(self._uri, self._file.tell())
                return cast("bytes", self._file.read(size))
        except Exception as error:
            raise open_failure(self._uri, error) from error

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset < 0:
            raise ValueError(f"an offset of {offset}")  # from a damaged header
        try:
            return cast("int", self._file.seek(offset, whence))
        except OSError as error:
            if error.errno == errno.EINVAL:
                # From a damaged header: no file is that long, and nothing is to be read there.
                return cast("int", self._file.seek(0, os.SEEK_END))
            raise open_failure(self._uri, error) from error

    def tell(self) -> int:
        return cast("int", self._file.tell())

    def close(self) -> None:
        self.closed = True
        self._file.close()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(uri: str) -> Any:
    try:
        if is_url(uri):
            return open_ranged(*filesystem(uri)) or _whole(uri, 0)
        # A FIFO or a device would block for ever, or never end.
        mode = os.stat(uri).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise CorruptInputError("is not a regular file")
        return open(uri, "rb")
    except Exception as error:
        raise open_failure(uri, error) from error


def _whole(uri: str, position: int) -> BytesIO:
    system, path = filesystem(uri)
    file = BytesIO(system.cat_file(path))
    file.seek(position)
    return file
