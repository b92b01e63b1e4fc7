"""When a run is to be over: the next time of day in a zone, or so long after its beginning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as TimeOfDay
from time import monotonic, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from segengine.terms.nights import BudgetSpec


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a run's time comes from."""

    unix: Callable[[], float] = time
    """Unix time, which may be set while a run goes on."""
    monotonic: Callable[[], float] = monotonic
    """Seconds that only pass."""


@dataclass(frozen=True, slots=True)
class Hours:
    """The time that a run has."""

    end: float
    """When it is over, as `now` tells."""
    length: float
    """Seconds of it at the beginning."""
    now: Callable[[], float]
    ticks: Callable[[], float]
    """Seconds that only pass, whoever sets the clock: by these it is told how long a work takes."""
    words: str
    """When that is, for people: `at 06:00 CET`, `after 4h`."""

    @classmethod
    def of(cls, spec: BudgetSpec, clock: Clock) -> Hours:
        """Those of a run that begins now."""
        if spec.seconds is not None:
            end = clock.monotonic() + spec.seconds
            words = f"after {spec.duration}"
            return cls(end, spec.seconds, clock.monotonic, clock.monotonic, words)
        assert spec.time is not None
        zone = _zone(spec.zone)
        now = clock.unix()
        end = next_time(now, spec.time, zone)
        shown = datetime.fromtimestamp(end, zone).astimezone(zone)
        words = f"at {shown:%H:%M} {shown.tzname()}"
        return cls(end, end - now, clock.unix, clock.monotonic, words)

    @property
    def left(self) -> float:
        """Seconds until it is over; below 0 afterwards."""
        return self.end - self.now()


def _zone(name: str | None) -> ZoneInfo | None:
    from zoneinfo import ZoneInfo

    return None if name is None else ZoneInfo(name)


def next_time(now: float, at: TimeOfDay, zone: ZoneInfo | None) -> float:
    """The first instant after `now` at which clocks in a zone come to a time of day.

    Where clocks are set forward over it, that is when they are; where they are set back and show it
    twice, each of the two counts. `now` and what is returned are Unix times; `zone` None: the machine's.
    """
    day = datetime.fromtimestamp(now, zone).date()
    walls = (datetime.combine(day + timedelta(days), at) for days in range(3))
    found = (_instant(wall, zone, fold) for wall in walls for fold in (0, 1))
    return min(instant for instant in found if instant > now)


def _instant(wall: datetime, zone: ZoneInfo | None, fold: int) -> float:
    """When clocks show a time, or come past it."""
    found = wall.replace(tzinfo=zone, fold=fold).timestamp()
    if _shown(found, zone) == wall:
        return found
    # They never show it. As before the change of the clocks and as after it, it lies around that.
    around = sorted(wall.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
    before, after = int(around[0]), int(around[1])
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (before, middle) if _shown(middle, zone) >= wall else (middle, after)
    return float(after)


def _shown(instant: float, zone: ZoneInfo | None) -> datetime:
    return datetime.fromtimestamp(instant, zone).replace(tzinfo=None, fold=0)
