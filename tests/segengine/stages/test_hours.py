"""When the hours of a run are over, through changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from segengine.stages.hours import Clock, Hours, next_time
from segengine.terms.nights import BudgetSpec

BERLIN = ZoneInfo("Europe/Berlin")
UNIX = {
    # (now, until) as clocks in Berlin show them, and how long that is; checked by hand
    ("2026-07-01T22:00+02:00", "06:00"): 8.0,
    ("2026-07-01T05:59+02:00", "06:00"): 1 / 60,
    ("2026-07-01T06:00+02:00", "06:00"): 24.0,
    ("2026-03-28T22:00+01:00", "06:00"): 7.0,  # set forward: an hour less
    ("2026-10-24T22:00+02:00", "06:00"): 9.0,  # set back: an hour more
    ("2026-03-29T01:00+01:00", "02:30"): 1.0,  # never shown: when they are set, at 01:00 UTC
    ("2026-03-29T03:00+02:00", "02:30"): 23.5,  # that was it; the next day's
    ("2026-10-25T01:00+02:00", "02:30"): 1.5,  # shown twice: the first
    ("2026-10-25T02:45+02:00", "02:30"): 0.75,  # and then the second
    ("2026-10-25T02:30+01:00", "02:30"): 24.0,
}


@pytest.mark.parametrize(("case", "hours"), UNIX.items(), ids=lambda v: str(v))
def test_the_next_time_of_day(case: tuple[str, str], hours: float) -> None:
    now, until = datetime.fromisoformat(case[0]), time.fromisoformat(case[1])
    found = next_time(now.timestamp(), until, BERLIN)
    assert found - now.timestamp() == pytest.approx(hours * 3600, abs=1e-6)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "UTC"]
)
def test_it_is_the_first_minute_that_clocks_come_to_it(zone: str) -> None:
    """Against a walk in steps of a minute, around each change of the clocks of a year."""
    place = ZoneInfo(zone)
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    offsets = [(begin + timedelta(hours=h)).astimezone(place).utcoffset() for h in range(24 * 365)]
    changes = [h for h in range(1, len(offsets)) if offsets[h] != offsets[h - 1]] or [100]
    for hour in changes:
        for until in (time(1, 45), time(2, 0), time(2, 15), time(3, 0)):
            start = begin + timedelta(hours=hour - 30)
            walls = [(start + timedelta(minutes=m)).astimezone(place) for m in range(60 * 60)]
            walls = [w.replace(tzinfo=None) for w in walls]

            def comes(m: int, until: time = until, walls: list[datetime] = walls) -> bool:
                day = datetime.combine(walls[m].date(), until)
                jumped = walls[m - 1] < day <= walls[m]
                return jumped or walls[m] == day

            coming = [m for m in range(1, len(walls)) if comes(m)]
            for now in (0, 29 * 60, 30 * 60 + 5, 31 * 60):
                expected = next(m for m in coming if m > now)
                found = next_time((start + timedelta(minutes=now)).timestamp(), until, place)
                assert found == (start + timedelta(minutes=expected)).timestamp(), (
                    hour,
                    until,
                    now,
                )


def test_hours_of_a_job() -> None:
    now = datetime(2026, 10, 24, 22, tzinfo=BERLIN).timestamp()
    ticks = [50.0]
    clock = Clock(lambda: now, lambda: ticks[0])
    night = Hours.of(BudgetSpec(until="06:00", zone="Europe/Berlin"), clock)
    assert (night.words, night.length, night.left) == ("at 06:00 CET", 9 * 3600, 9 * 3600)
    some = Hours.of(BudgetSpec(duration="4h"), clock)
    ticks[0] += 3600
    assert (some.words, some.length, some.left) == ("after 4h", 4 * 3600, 3 * 3600)
    own = Hours.of(BudgetSpec(until="06:00"), clock)  # the machine's own zone
    assert 0 < own.left <= 24 * 3600


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "one of the two"),
        ({"until": "06:00", "duration": "4h"}, "one of the two"),
        ({"until": 1320}, "in quotes"),
        ({"until": "24:00"}, "in quotes"),
        ({"until": "6"}, "in quotes"),
        ({"until": "06:00", "zone": "Europe/Berlim"}, "no zone"),
        ({"until": "06:00", "zone": "../../etc/passwd"}, "no zone"),
        ({"duration": "4h", "zone": "UTC"}, "goes with until"),
        ({"duration": 4}, "a number and s, m, h or d"),
        ({"duration": "0s"}, "more than nothing"),
        ({"duration": "4 weeks"}, "a number and s, m, h or d"),
        ({"duration": "4h", "order": "oldest"}, "newest"),
    ],
)
def test_what_is_no_budget(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BudgetSpec.model_validate(given)
