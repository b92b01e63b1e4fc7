"""The option `bands`: the bands to read, in the order to read them.

1-based numbers in a file; names where a path tells them apart by `{band}`.
"""

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


def require_numbers_or_names(bands: object) -> tuple[int | str, ...] | None:
    """The option as a tuple. Raises ValueError for anything but a list of numbers from 1 and of names."""
    if isinstance(bands, Sequence) and not isinstance(bands, str) and bands:
        numbers = [band for band in bands if not (isinstance(band, str) and band)]
        if not numbers:
            return tuple(bands)
        require_bands(numbers)
        return tuple(bands)
    return require_bands(bands)


def choose(
    asked: tuple[int | str, ...] | None, default: Sequence[int], present: int
) -> tuple[int, ...]:
    """The bands to read of `present` ones.

    >>> choose(None, [1, 2, 3], 4)
    (1, 2, 3)
    >>> choose((5,), [1, 2, 3], 3)
    Traceback (most recent call last):
    segengine.errors.CorruptInputError: band 5 asked, 3 present; set source.bands
    """
    bands = tuple(default) if asked is None else tuple(b for b in asked if isinstance(b, int))
    if asked is not None and len(bands) < len(asked):
        raise CorruptInputError("source.bands has names, which {band} in source.paths tells apart")
    if max(bands) > present:
        raise CorruptInputError(f"band {max(bands)} asked, {present} present; set source.bands")
    return bands
