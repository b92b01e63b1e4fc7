"""The instances of a view, as they are drawn: from their run lengths, so that overlaps show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segengine.instances.rle import decode_crop
from segengine.pictures import draw
from segengine.pictures.view import View
from segengine.reader import SceneStore, Store
from segengine.store.keys import INSTANCE_TABLE
from segengine.store.parquet import read_parquet
from segengine.types import Bool

if TYPE_CHECKING:
    import pyarrow as pa

MOST = 200
"""Instances drawn: the largest that are seen."""
_COLUMNS = ("scene", "frame", "id", "class", "score", "bbox", "area", "rle")


@dataclass(frozen=True, slots=True)
class Pictured:
    """The instances of some frames."""

    classes: tuple[str, ...]
    rows: pa.Table | None
    """Of `tables/instances.parquet`: those drawn alone become values of Python, of which many are a lot."""

    def of(self, scene: SceneStore, frame: int, view: View) -> list[draw.Drawn]:
        """Those that a view of a frame shows, the best last."""
        if self.rows is None:
            return []
        inside = _largest(self.rows, scene.name, frame, view)
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
    if data is None or not places:
        return Pictured(store.classes, None)
    scenes, frames = (sorted(set(values)) for values in zip(*places, strict=True))
    rows = read_parquet(data, _COLUMNS)
    chosen = pc.and_(
        pc.is_in(rows.column("scene"), arrow_column(scenes, pa.string())),
        pc.is_in(rows.column("frame"), arrow_column(frames, rows.column("frame").type)),
    )
    return Pictured(store.classes, rows.filter(chosen))


def _largest(rows: pa.Table, scene: str, frame: int, view: View) -> list[dict[str, Any]]:
    """The largest rows of a frame that a view meets, of equal ones the first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from segengine.store.columns import arrow_scalar, numbers_of, taken

    here = pc.and_(
        pc.equal(rows.column("scene"), arrow_scalar(scene, pa.string())),
        pc.equal(rows.column("frame"), arrow_scalar(frame, rows.column("frame").type)),
    )
    rows = rows.filter(here)
    if not rows.num_rows:
        return []
    area = numbers_of(rows.column("area").combine_chunks())
    corners = rows.column("bbox").combine_chunks().flatten()
    boxes = numbers_of(corners).reshape(-1, 4).astype(np.float64)
    x, y, width, height = boxes.T
    cols = (view.cols.start - width < x) & (x < view.cols.stop)
    seen = np.flatnonzero(cols & (view.rows.start - height < y) & (y < view.rows.stop))
    seen = seen[np.argsort(-area[seen], kind="stable")[:MOST]]
    found: list[dict[str, Any]] = taken(rows, seen).to_pylist()
    return found


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
