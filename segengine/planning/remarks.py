"""What the segmenter says of all the scenes that it is to label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from segengine import asked
from segengine.store.layouts import Layout
from segengine.types import Cell, Site

if TYPE_CHECKING:
    from segengine.planning.plan import Plan


def remarks(plan: Plan) -> Iterator[str]:
    """A line each, which names the option that it is about."""
    sites = (
        Site(name, _sizes(layout), layout.placing.ground)
        for name, layout in plan.layouts.items()
        if not layout.gone.all()
    )
    for line in asked.remarks(plan.plugin, sites):
        yield f"segmenter.{line}"


def _sizes(layout: Layout) -> frozenset[Cell]:
    """(height, width) of the frames that are still there, each once."""
    here = ~layout.gone
    heights, widths = layout.heights[here].tolist(), layout.widths[here].tolist()
    return frozenset(zip(heights, widths, strict=True))
