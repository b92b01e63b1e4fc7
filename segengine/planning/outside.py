"""Which scenes of a store `source.area`, which was another when they got their place, no longer meets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segengine.errors import CorruptInputError, TransientInputError
from segengine.store.layouts import Layout


def is_outside(source: Mapping[str, Any], layout: Layout) -> bool:
    """Whether no pixel of a scene lies in the area of a `source` block.

    False where there is none, or where what it says can no longer be read.
    """
    from segengine.sources._area import area_on, require_area
    from segengine.sources._grid import Grid

    area, placing = require_area(source.get("area")), layout.placing
    if area is None or not placing.georeferenced or layout.mosaic is not None:
        return False
    a, b, c, d, e, f = map(float, placing.transform)
    grid = Grid(*layout.shape[1:], (a, b, c, d, e, f), placing.wkt)
    try:
        return not area_on(area, source.get("area_mark", ""), grid).anywhere()
    except (CorruptInputError, TransientInputError):
        return False
