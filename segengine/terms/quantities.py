"""Sizes and durations as people write them: 16GB, 90m, 01:30:00."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) *([KMGT])(i?)B?", re.IGNORECASE)
# No minutes beyond 59 where hours are given, as batch systems have it.
_CLOCK = re.compile(r"(?:(?:(\d+)-)?(\d+):(?=[0-5]?\d:))?(\d+):([0-5]\d)", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *([smhd])", re.ASCII)
_METRES = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,9})?) ?m")
_WORKER = 100_000_000
"""Bytes without which a worker that has nothing to do does not start."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def bytes_of(text: str) -> int:
    """A size in bytes. Raises ValueError for what is none.

    >>> bytes_of("16GB"), bytes_of("1.5 GiB")
    (16000000000, 1610612736)
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be a size as 16GB or 500M")
    power = "KMGT".index(match[2].upper()) + 1
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def require_worker(text: str, workers: int = 1) -> None:
    """Raise ValueError where so many workers cannot share a size."""
    if bytes_of(text) < _WORKER * workers:
        shared = f", so {workers * _WORKER // 10**6}MB for {workers} cores" if workers > 1 else ""
        raise ValueError(f"must be {_WORKER // 10**6}MB a worker at least{shared}")


def metres_of(resolution: object) -> float | None:
    """The number of a resolution in metres; None: it is none.

    >>> metres_of("10 m"), metres_of("0.25m"), metres_of(10), metres_of("0 m")
    (10.0, 0.25, None, None)
    """
    found = _METRES.fullmatch(resolution) if isinstance(resolution, str) else None
    return None if found is None else float(found[1]) or None


def seconds_of(value: str | float) -> float:
    """A duration in seconds; a number is seconds, as YAML reads 1:30:00. Raises ValueError.

    >>> seconds_of("90m"), seconds_of("1-00:00:30")
    (5400.0, 86430.0)
    """
    if isinstance(value, int | float):
        return float(value)
    if match := _DURATION.fullmatch(value.strip()):
        return float(match[1]) * _SECONDS[match[2]]
    if match := _CLOCK.fullmatch(value.strip()):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    raise ValueError("must be a duration as 90m, 4h or 01:30:00")


def _is_size(value: str) -> str:
    bytes_of(value)
    return value


def _is_duration(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a duration as 90m, 4h or 01:30:00")
    seconds_of(value)
    return value


def _is_no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Count = Annotated[int, BeforeValidator(_is_no_bool)]
"""A number, and not `true`, which Python takes for 1."""
Size = Annotated[str, AfterValidator(_is_size)]
"""Of memory, as `16GB`."""
Duration = Annotated[str | int | float, BeforeValidator(_is_duration)]
"""As `90m`, `4h`, `01:30:00`, or seconds."""
Line = Annotated[str, Field(pattern=r"^[^\r\n]*$")]
"""What stands on a line of a script, and starts no other."""
Word = Annotated[Line, Field(min_length=1)]
"""The same with something on it."""
