"""Options as a file has them, whatever their annotation: a YAML true is a Python int."""

from __future__ import annotations


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise ValueError that names an option which is no whole number in its bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: {value!r} is not a whole number from {least} to {most}")


def require_number(name: str, value: object, least: float, most: float) -> None:
    """Raise ValueError that names an option which is no number in its bounds: float32 computes with it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: {value!r} is not a number")
    if not least <= value <= most:
        raise ValueError(f"{name}: {value} is not a number from {least:g} to {most:g}")
