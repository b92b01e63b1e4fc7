"""The instances of a view, as they are drawn: from their run lengths, so that overlaps show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segengine.instances.rle import decode_crop
from segengine.pictures import draw
from segengine.pictures.view import View
from segengine.reader import SceneStore, Store
from segengine.store.keys import INSTANCE_TABLE
from segengine.store.parquet import read_parquet
from segengine.types import Bool

MOST = 200
"""Instances drawn: the largest that are seen."""


@dataclass(frozen=True, slots=True)
class Pictured:
    """The instances of some frames."""

    classes: tuple[str, ...]
    rows: Mapping[tuple[str, int], list[dict[str, Any]]]
    """By (scene, frame)."""

    def of(self, scene: SceneStore, frame: int, view: View) -> list[draw.Drawn]:
        """Those that a view of a frame shows, the best last."""
        rows = self.rows.get((scene.name, frame), [])
        inside = [row for row in rows if _meets(row["bbox"], view)]
        inside = sorted(inside, key=lambda row: -row["area"])[:MOST]
        scored = any(row["score"] != 1 for row in inside)
        height = scene.layout.frame(frame).height
        # of equal scores the small are on top
        order = sorted(inside, key=lambda row: (row["score"], -row["area"]))
        return [self._drawn(row, view, height, scored) for row in order]

    def _drawn(self, row: Mapping[str, Any], view: View, height: int, scored: bool) -> draw.Drawn:
        x, y, wide, high = row["bbox"]
        box = ((x - view.cols.start), (y - view.rows.start), wide, high)
        mask, corner = decode_crop(row["rle"], height)
        at, seen = _seen(mask, corner, view)
        name = self.classes[row["class"]]
        text = f"{name} {row['score']:.2f}" if scored else name
        left, top, width, tall = (v / view.step for v in box)
        return draw.Drawn(row["id"], text, (left, top, width, tall), seen, at)


def pictured(store: Store, places: Sequence[tuple[str, int]]) -> Pictured:
    """The instances of frames, each (scene, frame); of a store without any, none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from segengine.store.columns import arrow_column

    data = store.objects.get(INSTANCE_TABLE)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    if data is not None and places:
        scenes, frames = (sorted(set(values)) for values in zip(*places, strict=True))
        rows = read_parquet(data)
        chosen = pc.and_(
            pc.is_in(rows.column("scene"), arrow_column(scenes, pa.string())),
            pc.is_in(rows.column("frame"), arrow_column(frames, rows.column("frame").type)),
        )
        for row in rows.filter(chosen).to_pylist():
            found.setdefault((row["scene"], row["frame"]), []).append(row)
    return Pictured(store.classes, found)


def _meets(box: Sequence[float], view: View) -> bool:
    x, y, width, height = box
    rows, cols = view.rows, view.cols
    return bool(cols.start - width < x < cols.stop and rows.start - height < y < rows.stop)


def _seen(mask: Bool, corner: tuple[int, int], view: View) -> tuple[tuple[int, int], Bool]:
    """What of a mask the view's pixels show, and where it begins in the view."""
    first, seen = [], mask
    for axis, (start, part) in enumerate(zip(corner, (view.rows, view.cols), strict=True)):
        length = view.labels.shape[axis]
        # the pixel in the middle of each step, as the labels are
        middles = np.minimum(
            part.start + np.arange(length) * view.step + view.step // 2, part.stop - 1
        )
        i, j = np.searchsorted(middles, (start, start + mask.shape[axis]))
        seen = seen.take(middles[i:j] - start, axis=axis)
        first.append(int(i))
    return (first[0], first[1]), seen
