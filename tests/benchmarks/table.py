"""The benchmark table: what was measured, ours and theirs, their ratio, and the target it has."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table."""

    what: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    target: str


def show(rows: Iterable[Row]) -> None:
    """Print an aligned table."""
    cells = [("what", "ours", "theirs", "unit", "ratio", "target")]
    cells += [
        (r.what, f"{r.ours:.4g}", f"{r.theirs:.4g}", r.unit, f"{r.ratio:.4g}", r.target)
        for r in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        columns = zip(row, widths, "<>><><", strict=True)
        print("  ".join(f"{cell:{side}{width}}" for cell, width, side in columns).rstrip())
