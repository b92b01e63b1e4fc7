"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

NONE = "-"


def count(value: float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(1234567)
    '1,234,567'
    """
    return NONE if value is None else f"{round(value):,}"


def short(value: float | None) -> str:
    """Three digits and a prefix.

    >>> short(1234567), short(999.9), short(7), short(None)
    ('1.23 M', '1.00 k', '7', '-')
    """
    if value is None:
        return NONE
    size, prefixes = float(value), ["", " k", " M", " G", " T", " P"]
    while abs(size) >= 999.5 and len(prefixes) > 1:
        size /= 1000
        prefixes.pop(0)
    if not prefixes[0] and size == int(size):
        return str(int(size))
    return f"{size:.{2 if abs(size) < 9.995 else 1 if abs(size) < 99.95 else 0}f}{prefixes[0]}"


def percent(share: float | None) -> str:
    """A share with one decimal.

    >>> percent(0.1234), percent(0.00001), percent(None)
    ('12.3 %', '<0.1 %', '-')
    """
    if share is None:
        return NONE
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def hundredths(share: float) -> str:
    """A share with two decimals, rounded down: only all is 100 %.

    >>> hundredths(0.99979), hundredths(0.9999999), hundredths(1.0)
    ('99.97 %', '99.99 %', '100.00 %')
    """
    return f"{math.floor(share * 1e4) / 100:.2f} %"


def figure(value: float | None) -> str:
    """A metric.

    >>> figure(0.98765), figure(None)
    ('0.988', '-')
    """
    return NONE if value is None else f"{value:.3f}"


def moment(unix: float, timespec: str = "minutes") -> str:
    """A time as ISO 8601 has it, in UTC.

    >>> moment(1796030120.9), moment(1796030120.9, "seconds")
    ('2026-11-30T09:15Z', '2026-11-30T09:15:20Z')
    """
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and hours where these are many.

    >>> duration(0.0123), duration(9.87), duration(754), duration(9000), duration(2e-5)
    ('12 ms', '9.9 s', '12 min 34 s', '2 h 30 min', '<1 ms')
    """
    if seconds is None:
        return NONE
    if 0 < seconds < 0.0005:
        return "<1 ms"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def change(difference: float | None) -> str:
    """A difference with its sign.

    >>> change(2), change(-0.078955), change(0), change(-1234567.0), change(None)
    ('+2', '-0.079', '±0', '-1,234,567', '-')
    """
    if difference is None:
        return NONE
    if difference == 0:
        return "±0"
    size = abs(difference)
    text = f"{size:,.0f}" if size == int(size) or size >= 1000 else f"{size:.3g}"
    return f"{'+' if difference > 0 else '-'}{text}"


def area(square_metres: float | None) -> str:
    """An area in the unit that suits it.

    >>> area(2_500_000), area(12345), area(12)
    ('2.50 km²', '1.23 ha', '12.0 m²')
    """
    if square_metres is None:
        return NONE
    for size, unit in ((1e6, "km²"), (1e4, "ha")):
        if square_metres >= size:
            return f"{short(square_metres / size)} {unit}"
    return f"{square_metres:.1f} m²"


def plain(value: Any) -> str:
    """An option or a fitted value in one line.

    >>> plain([1.0, 2.345678]), plain({"a": True})
    ('1, 2.346', 'a: yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(
            f"({plain(v)})" if isinstance(v, list | tuple) else plain(v) for v in value
        )
    if isinstance(value, dict):
        return ", ".join(f"{k}: {plain(v)}" for k, v in value.items())
    return str(value)
