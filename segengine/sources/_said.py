"""What GDAL and its libraries say of pixels while they decode them: of some damage they only warn.

rasterio raises GDAL's errors, and hands its warnings to a logger. Listened to is the thread that reads;
what is not of damage goes on to who set logging up, or to stderr.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segengine.errors import CorruptInputError
from segengine.sources import _jpeg

_LOGGERS = ("rasterio._env", "rasterio._err")
"""Of warnings between reads and during one."""
_DECODERS = re.compile(r"(?:Fax\dDecode\w*|PackBitsDecode):\s*(.*)")
"""libtiff's that go on with what they have. They warn of nothing else."""
_HARMLESS = re.compile(r"Try to decode \(read\) fax")
"""Lines of Group 3 that no code ends; where that is damage, more is said."""
_JPEG = re.compile(r"(?:JPEGLib|libjpeg):\s*(.*)")


class _Ear:
    """A logger's filter, and no handler: what nobody else handles is still printed by Python."""

    def __init__(self) -> None:
        self.said = threading.local()
        self.levels: dict[str, int] = {}
        """Of loggers, as they were: what these silence stays silent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether others are told: of damage a frame tells by itself."""
        heard, line = getattr(self.said, "lines", None), record.getMessage()
        if heard is not None and record.levelno >= logging.WARNING:
            heard.append(line)
            if _harm(line):
                return False
        return record.levelno >= self.levels.get(record.name, 0)


_ear = _Ear()


_DOUBTFUL = "Premature end of JPEG file"
"""All that libjpeg says of a strip that is cut short, and of one that lacks its end marker only."""


@contextmanager
def require_silence(judge: Callable[[], None] | None = None) -> Iterator[None]:
    """Raise CorruptInputError where damage is spoken of meanwhile, and nothing else is raised.

    `judge`: raises it where what is said may be damage, or not.
    """
    _listen()
    before = getattr(_ear.said, "lines", None)
    _ear.said.lines = heard = list[str]()
    try:
        yield
    finally:
        _ear.said.lines = before
    for line in heard:
        found = _harm(line)
        if found:
            raise CorruptInputError(f"damaged raster: {found}")
    if judge is not None and any(_DOUBTFUL in line for line in heard):
        judge()


def _listen() -> None:
    for name in _LOGGERS:
        log = logging.getLogger(name)
        if _ear not in log.filters:
            log.addFilter(_ear)
        if not log.isEnabledFor(logging.WARNING):
            _ear.levels[name] = log.getEffectiveLevel()
            log.setLevel(logging.WARNING)


def _harm(line: str) -> str:
    """What is wrong with pixels, where a line says so; else empty."""
    found = _DECODERS.search(line)
    if found is not None:
        return "" if _HARMLESS.match(found[1]) else found[1]
    found = _JPEG.search(line)
    return found[1] if found is not None and _jpeg.is_harm(found[1]) else ""
