"""Options that are written otherwise and come to the same: masks of the one are those of the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segengine.placing import Placing
from segengine.store.layouts import Layout

CRS = "source.crs"


def kept(
    keys: Mapping[str, Any],
    crs: str | None,
    old: Mapping[str, Any] | None,
    previous: Mapping[str, Layout],
    layouts: Mapping[str, Layout],
) -> dict[str, Any]:
    """`mask_keys` of a job, with `source.crs` as the store has it where that says the same.

    It does where the last run was told the same CRS, and where all scenes lie in it already, on the
    grids that they had (`previous`). Scenes that come later, or are laid out anew, are made anyway.
    old: the store's attributes.
    """
    before = (old or {}).get("fingerprints", {}).get("keys", {})
    if crs is None or before.get(CRS) == keys.get(CRS) or not previous:
        return dict(keys)
    told = (old or {}).get("job", {}).get("source", {}).get("crs")
    if told != crs and not all(
        scene in layouts and _same(layout.placing, layouts[scene].placing, crs)
        for scene, layout in previous.items()
    ):
        return dict(keys)
    had = {CRS: before[CRS]} if CRS in before else {}
    return {key: value for key, value in keys.items() if key != CRS} | had


def _same(before: Placing, now: Placing, crs: str) -> bool:
    from segengine.sources._grid import same_crs

    grids = [(p.height, p.width, p.transform, p.gcps, p.rpcs) for p in (before, now)]
    return (
        before.georeferenced
        and grids[0] == grids[1]
        and same_crs(before.wkt, crs)
        and same_crs(now.wkt, crs)
    )
