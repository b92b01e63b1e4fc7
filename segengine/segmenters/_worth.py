"""Whether compiled loops pay: loading them takes as long as a photo does without them."""

from __future__ import annotations

ENOUGH = 1 << 20
"""Pixels that a process has met from which on they do."""
_met = 0


def compiled_pays(pixels: int, enough: int | None = None) -> bool:
    """Whether to take a compiled loop for so many pixels more; what it gives is the same.

    `enough`: another number to have met, of a loop whose gain is less.
    """
    global _met
    _met += pixels
    return _met > (ENOUGH if enough is None else enough)
