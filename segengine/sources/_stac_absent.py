"""Assets that the job names and that no item has: most likely misspelt.

An item that lacks what others have is damaged, and `corrupt` by name. Where all lack the same, and have
something of nearly its name, it is the job that is wrong: thousands of lines would hide that.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from segengine.errors import CorruptInputError

_MOST, _LONGEST = 256, 100
"""Names of assets that are compared, and their letters."""


@dataclass(frozen=True, slots=True)
class Lacks:
    """What an item lacks of what the job names, and has in its place."""

    lacking: frozenset[str] = frozenset()
    offered: frozenset[str] = frozenset()


class LackingError(CorruptInputError):
    """An item without assets that the job names."""

    def __init__(self, message: str, lacking: Iterable[str], offered: Iterable[str]) -> None:
        super().__init__(message)
        self.lacks = Lacks(frozenset(lacking), frozenset(islice(offered, _MOST)))


def doubt(wanted: Sequence[str] | None, found: Iterable[Lacks | None]) -> str:
    """Why the option `assets` is likely misspelt, as a line; empty: it is not.

    found: of each item; None: it could not be looked at.
    """
    every = [each for each in found if each is not None]
    told = set(every)
    if not wanted or not told:
        return ""
    absent = frozenset.intersection(*(each.lacking for each in told))
    offered = sorted({name for each in told for name in each.offered})[:_MOST]
    for name in wanted:
        close = _near(name, offered) if name in absent else ""
        if close:
            items = "the item has no" if len(every) == 1 else "none of the items has"
            return f"assets: {items} {name}; did you mean {close}?"
    return ""


def _near(name: str, offered: Sequence[str]) -> str:
    """The name that a typing error would have made this of; empty: there is none."""
    key, _, band = name.rpartition(":")
    bare, ending = (key, f":{band}") if key and band.isdecimal() else (name, "")
    shown = {n.casefold(): n for n in offered if len(n) <= _LONGEST and n.isprintable()}
    close = difflib.get_close_matches(bare[:_LONGEST].casefold(), shown, n=1)
    return f"{shown[close[0]]}{ending}" if close else ""
