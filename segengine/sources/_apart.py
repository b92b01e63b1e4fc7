"""A process of its own for what a library reads that damage can end, hang or fill with memory.

    here                                        the child, one a process
    length (8 bytes)  (what, source, ...)  ->   answers with a value, or what it raises, as values
    <- length (8 bytes)  value

HDF5 is such a library: nothing but itself can tell whether a file is sound. A request has so many
seconds of processor time and so much memory, above what its own pixels take; a child that oversteps
is ended by the operating system, also where nobody waits for it any more, and the next request gets
another one.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from segengine.errors import CorruptInputError, OutsideError, TransientInputError
from segengine.store.values import decode, encode
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

SECONDS = 3
"""Of processor time a request."""
BYTES_A_SECOND = 4 << 20
"""Of a window's pixels, which come on top: what is read more slowly is a hang."""
MEMORY = 1 << 30
"""Bytes of the child, and four times those of a window's pixels."""
_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_inside = False


def inside() -> bool:
    """Whether this process is such a child."""
    return _inside


def probe(source: Source, entry: Entry) -> Probe:
    """`source.probe(entry)` in the child; raises as that does."""
    return cast("Probe", _ask(("probe", source, entry)))


def read(source: Source, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
    """One frame's window, as `source.read` yields it, read in the child."""
    request = ("read", source, ref, (rows.start, rows.stop), (cols.start, cols.stop))
    return cast("Tile | Unreadable", _ask(request))


def allow(size: int) -> None:
    """In the child: what comes is worth the time and the memory of so many bytes of pixels."""
    if _inside:
        _limit(SECONDS + size // BYTES_A_SECOND, MEMORY + 4 * size)


# This side


class _Child:
    """Starts when it is first asked, and again after it has ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0

    def ask(self, message: bytes) -> bytes:
        """The answer; EOFError with the reason where the child ends before it has one."""
        with self.lock:
            if self.owner != os.getpid() or self.process is None or self.process.poll() is not None:
                self.close()
                self.process, self.owner = _start(), os.getpid()
            process = self.process
            try:
                _send(cast("BinaryIO", process.stdin), message)
                return _receive(cast("BinaryIO", process.stdout))
            except (EOFError, OSError):
                process.kill()
                process.communicate()
                raise EOFError(_ended(process.returncode)) from None

    def close(self) -> None:
        """End it, where it is this process's own."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.communicate()


_child = _Child()
atexit.register(_child.close)


def _start() -> subprocess.Popen[bytes]:
    # BLAS would set memory aside for each of its threads.
    environment = os.environ | dict.fromkeys(_BLAS, "1")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "segengine.sources._apart"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _ask(request: tuple[Any, ...]) -> Any:
    try:
        answer = decode(_child.ask(encode(request)))
    except EOFError as error:
        raise CorruptInputError(f"damaged raster: {error}") from None
    match answer:
        case ("outside", str(reason)):
            raise OutsideError(reason)
        case ("corrupt", str(reason)):
            raise CorruptInputError(reason)
        case ("error", str(reason)):
            raise TransientInputError(reason)
        case ("memory", _):
            raise MemoryError
    return answer


def _ended(status: int) -> str:
    if status == -signal.SIGXCPU:
        return "the library that reads it does not come to an end"
    return "it ends the library that reads it"


# The child


def _serve() -> None:
    global _inside
    _inside = True
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while True:
        try:
            what, *arguments = decode(_receive(asked))
        except EOFError:
            return
        _limit(SECONDS, MEMORY)
        _send(answers, encode(_answer(_CALLS[what], arguments)))


def _answer(call: Callable[..., Any], arguments: list[Any]) -> Any:
    try:
        return call(*arguments)
    except OutsideError as error:
        return "outside", str(error)
    except CorruptInputError as error:
        return "corrupt", str(error)
    except TransientInputError as error:
        return "error", str(error)
    except MemoryError:
        return "memory", ""


def _probe(source: Source, entry: Entry) -> Any:
    return source.probe(entry)


def _read(source: Source, ref: FrameRef, rows: tuple[int, int], cols: tuple[int, int]) -> Any:
    (item,) = source.read([ref], slice(*rows), slice(*cols))
    return item


_CALLS: dict[str, Callable[..., Any]] = {"probe": _probe, "read": _read}


def _limit(seconds: int, size: int) -> None:
    """From now on: the operating system ends who needs more time, and refuses more memory."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, most))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size, most))


# Both


def _send(file: BinaryIO, message: bytes) -> None:
    file.write(len(message).to_bytes(8, "little") + message)
    file.flush()


def _receive(file: BinaryIO) -> bytes:
    """A message; EOFError where there is none, or not all of it."""
    size = int.from_bytes(_exactly(file, 8), "little")
    return _exactly(file, size)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


if __name__ == "__main__":
    # By its name: this very module would be another one than the sources know.
    from segengine.sources import _apart

    _apart._serve()
