"""What tells that a packet of a video is damaged, beyond what its decoder says of the frame.

Decoders conceal: a frame comes out, and nothing in it says that half of it was guessed. But they
write what they met to FFmpeg's log, which is listened to here, thread by thread; and some bytes
cannot be in a sound packet, whether a decoder stumbles over them or not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._files import one_line
from segengine.sources._keyframes import unit_length, units

_HARMLESS = ("mmco:", "SEI type", "number of reference frames")
"""Errors that tell nothing of the pixels: of a reference that nobody uses, of a message beside."""
_HARMFUL = ("Packet corrupt", "Packet mismatch")
"""Warnings that tell of packets that were lost."""
_ERROR = 16
"""FFmpeg's AV_LOG_ERROR; what is worse is less."""
_ROOM = 2**27
_HOLE = bytes(256)
_PADDING = 8
_HOLED = frozenset({"vp8", "vp9", "av1", "snow"})
"""Codecs whose arithmetic coder has no way to find damage, and writes no long run of zeros."""
_COPY = re.compile(rb"\0\x1b(..)\0\x1c(..)(?:....){0,16}?\0\x04\x0f\x0f", re.DOTALL)
"""What precedes the smallest copy of a plane: its width, its height, other tags, and that it begins."""
_TOO_LARGE = re.compile(r"Picture size (\d+)x(\d+) (?:exceeds|is invalid)")
_ESCAPED = re.compile(rb"\x00\x00\x03[\x04-\xff]")


def broken_test(stream: Any) -> Callable[[bytes], bool] | None:
    """Whether bytes of a packet cannot be what an encoder wrote; None: of this codec any may be."""
    name = stream.codec_context.codec.canonical_name
    if name in ("h264", "hevc"):
        length = unit_length(stream)
        return lambda data: _broken_units(data, length)
    # Black in RGB is a plane of zeros all the same.
    if name == "cfhd" and (stream.codec_context.pix_fmt or "").startswith("yuv"):
        return _has_hole_in_runs
    return _has_hole if name in _HOLED else None


def _broken_units(data: bytes, length: int | None) -> bool:
    """Bytes that ITU-T H.264 (7.4.1) and H.265 (7.4.2) forbid in a unit.

    In Annex B some zeros may stand before a start code and at the end; a few are at the end of units
    that were framed anew.
    """
    if length is None:
        return forbidden(data, start_codes=True)
    return any(forbidden(unit, start_codes=False) for unit in units(data, length))


def forbidden(data: bytes, *, start_codes: bool) -> bool:
    """Whether bytes are in a unit that are in none; `start_codes`: units may lie behind it."""
    if b"\0\0\2" in data or _ESCAPED.search(data) is not None:
        return True
    if not start_codes and b"\0\0\1" in data:
        return True
    place = data.find(b"\0\0\0")
    while place >= 0:
        rest = data[place:].lstrip(b"\0")
        if not rest:
            return len(data) - place >= (len(_HOLE) if start_codes else _PADDING)
        if rest[0] != 1 or len(data) - place - len(rest) >= len(_HOLE):
            return True
        place = data.find(b"\0\0\0", len(data) - len(rest))
    return False


def _has_hole(data: bytes) -> bool:
    place = data.find(_HOLE)
    return place >= 0 and data[place:].strip(b"\0") != b""


def _has_hole_in_runs(data: bytes) -> bool:
    """CineForm (SMPTE ST 2073-1) writes runs of zeros by their length, but for the smallest copy of each
    plane: of 16 bits a pixel, which are 0 where the picture is."""
    start = 0
    for found in _COPY.finditer(data):
        if _has_hole(data[start : found.end()]):
            return True
        start = found.end() + 2 * int.from_bytes(found[1], "big") * int.from_bytes(found[2], "big")
    return _has_hole(data[start:])


class Listener:
    """A context around calls of PyAV: hears FFmpeg's errors, and turns what is raised into ours.

    Entered again inside itself it costs next to nothing.
    """

    __slots__ = ("_capture", "_depth", "_logs", "_new_capture", "heard", "refused")

    def __init__(self) -> None:
        from av.logging import Capture

        _listen()
        self._new_capture = Capture
        self.heard = False
        """Something was said since this was last set to False."""
        self.refused: tuple[int, int] | None = None
        """Width and height of what had more pixels than FFmpeg was told to take."""
        self._capture: Any = None
        self._depth = 0
        self._logs: list[Any] = []

    def __enter__(self) -> Listener:
        self._depth += 1
        if self._depth == 1:
            self._capture = self._new_capture()  # bound to the thread that it is made in
            self._logs = self._capture.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._depth -= 1
        if not self._depth:
            self._capture.__exit__(kind, error, trace)
        if self._logs:
            self.hear()
        if isinstance(error, Exception):
            raise reason_of(error) from error

    def hear(self) -> bool:
        """Whether something was said: `heard`, up to now."""
        if self._logs:
            self._take_in()
        return self.heard

    def _take_in(self) -> None:
        for level, _, line in self._logs:
            found = _TOO_LARGE.match(line)
            if found is not None:
                self.refused = int(found[1]), int(found[2])
            if line.startswith(_HARMFUL) or (level <= _ERROR and not line.startswith(_HARMLESS)):
                self.heard = True
        self._logs.clear()


def reason_of(error: Exception) -> CorruptInputError | TransientInputError:
    """What PyAV raised, as a reason. Its errors are of the content: reading has our own."""
    if isinstance(error, CorruptInputError | TransientInputError):
        return error
    if isinstance(error, MemoryError) and not (hasattr(error, "strerror") and _has_room()):
        return TransientInputError("out of memory")
    return CorruptInputError(one_line(getattr(error, "strerror", None) or error))


def _has_room() -> bool:
    """Whether memory is there: then what FFmpeg could not allocate is a size beyond all bounds."""
    try:
        return len(bytearray(_ROOM)) == _ROOM
    except MemoryError:
        return False


def _listen() -> None:
    """Have FFmpeg's errors handed to Python, without their being printed where nobody captures."""
    import av.logging

    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.WARNING)
        logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
    av.logging.set_skip_repeated(False)
