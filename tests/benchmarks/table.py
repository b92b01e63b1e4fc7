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


_WIDTHS = (100, 9, 9, 8, 8, 0)
"""Of columns: a line is printed before the next is known."""
HEADING = ("what", "ours", "theirs", "unit", "ratio", "target")


def show(rows: Iterable[Row]) -> None:
    """Print each row as it is measured."""
    print(line(HEADING))
    for row in rows:
        print(line(row), flush=True)


def line(row: Iterable[object]) -> str:
    """A row of the table."""
    cells = (f"{cell:.4g}" if isinstance(cell, float | int) else str(cell) for cell in row)
    columns = zip(cells, _WIDTHS, "<>><><", strict=True)
    return "  ".join(f"{cell:{side}{width}}" for cell, width, side in columns).rstrip()
