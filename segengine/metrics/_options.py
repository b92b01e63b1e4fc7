"""Checks of option values; each raises ValueError with a message that starts with the option."""

from __future__ import annotations

import math


def integer(option: str, value: object, least: int, most: int) -> None:
    """A whole number from `least` to `most`; a YAML true is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{option}: must be an integer from {least} to {most}, not {value!r}")


def number(option: str, value: object, least: float, most: float = math.inf) -> float:
    """A finite number from `least` to `most`, as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{option}: must be a number, not {value!r}")
    if not least <= value <= most:
        limits = f"from {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise ValueError(f"{option}: must be a number {limits}, not {value!r}")
    return float(value)
