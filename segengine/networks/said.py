"""A stranger's JSON, looked at before it is used: what is of another kind counts as not said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 200
"""Letters of a text that counts."""


def number(value: Any) -> float | None:
    """A finite number, also one in quotes; None: it is none."""
    if isinstance(value, str):  # as a number in quotes
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def numbers(value: Any) -> list[float]:
    """A list of finite numbers; empty where one of them is none."""
    found = [number(each) for each in listed(value)]
    return [v for v in found if v is not None] if None not in found else []


def text(about: Mapping[str, Any], *keys: str) -> str:
    """The first of these keys that holds a printable text of at most 200 letters; else empty."""
    for key in keys:
        found = about.get(key)
        if isinstance(found, str) and 0 < len(found) <= LONGEST and found.isprintable():
            return found
    return ""


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; else an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> Sequence[Any]:
    """A JSON array; else an empty one."""
    return value if isinstance(value, list) else ()


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a JSON array."""
    return [each for each in listed(value) if isinstance(each, dict)]
