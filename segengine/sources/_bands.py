"""The option `bands`: 1-based numbers of the bands to read, in the order to read them."""

from __future__ import annotations

from collections.abc import Sequence

from segengine.errors import CorruptInputError


def require_bands(bands: object) -> tuple[int, ...] | None:
    """The option as a tuple. Raises ValueError for anything but a list of numbers from 1."""
    if bands is None:
        return None
    if (
        not isinstance(bands, Sequence)
        or isinstance(bands, str)
        or not bands
        or any(not isinstance(band, int) or isinstance(band, bool) or band < 1 for band in bands)
    ):
        raise ValueError(f"bands: is {bands!r}; it must list band numbers, the first is 1")
    return tuple(bands)


def choose(asked: tuple[int, ...] | None, default: Sequence[int], present: int) -> tuple[int, ...]:
    """The bands to read of `present` ones.

    >>> choose(None, [1, 2, 3], 4)
    (1, 2, 3)
    >>> choose((5,), [1, 2, 3], 3)
    Traceback (most recent call last):
    segengine.errors.CorruptInputError: band 5 asked, 3 present; set source.bands
    """
    bands = tuple(default) if asked is None else asked
    if max(bands) > present:
        raise CorruptInputError(f"band {max(bands)} asked, {present} present; set source.bands")
    return bands
