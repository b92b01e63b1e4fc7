"""The objects of a scene frame by frame, in order, whatever its shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.planning.plan import Plan
from segengine.stages.tables import SceneFigures, scene_rows


class FrameObjects(NamedTuple):
    """The objects of a frame, in order of their ids."""

    number: int
    ids: list[int]
    kinds: list[int]
    boxes: NDArray[np.float64]
    """(object, 4) x, y, width, height."""
    rles: list[str]


def frames_of(plan: Plan, figures: SceneFigures) -> Iterator[FrameObjects]:
    """Frames with objects."""
    for table in scene_rows(plan, figures):
        rows = table.sort_by([("frame", "ascending"), ("id", "ascending")])
        frames = np.asarray(rows.column("frame"))
        ends = np.flatnonzero(np.diff(frames, append=-1)) + 1
        for start, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=False):
            part = rows.slice(start, stop - start)
            columns = (part.column(name).to_pylist() for name in ("id", "class", "bbox", "rle"))
            ids, kinds, boxes, rles = columns
            yield FrameObjects(int(frames[start]), ids, kinds, np.array(boxes, np.float64), rles)
