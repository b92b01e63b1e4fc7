"""When something was, as others write it: RFC 3339 and ISO 8601."""

from __future__ import annotations

from datetime import UTC, datetime


def seconds_of(text: object) -> float | None:
    """Seconds since 1970, UTC where no zone is named; None: it is no time.

    RFC 3339 allows `t` and `z`, which Python does not take.

    >>> seconds_of("2026-05-01t00:00:00z") == seconds_of("2026-05-01T02:00:00+02:00")
    True
    """
    try:
        found = datetime.fromisoformat(str(text).upper())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
