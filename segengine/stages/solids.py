"""Objects of volumes through their slices, as a table of the store: one row a solid.

A pass over the rows of each volume's objects, in the order of its slices, whatever the shards.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segengine.instances.solids import Solids
from segengine.planning.plan import Plan
from segengine.stages.objects import frames_of
from segengine.stages.tables import SceneFigures
from segengine.store.columns import arrow_column
from segengine.store.keys import SOLID_TABLE
from segengine.store.layouts import Layout

SOLIDS_SCHEMA = pa.schema(
    [
        ("scene", pa.string()),
        ("solid", pa.int64()),
        ("class", pa.uint16()),
        ("voxels", pa.int64()),
        ("mm3", pa.float64()),
        ("centre", pa.list_(pa.float64(), 3)),
        ("box", pa.list_(pa.int64(), 6)),
        ("frames", pa.list_(pa.int64())),
        ("ids", pa.list_(pa.uint32())),
    ]
)


def write_solids(plan: Plan, scenes: Mapping[str, SceneFigures]) -> None:
    """`tables/solids.parquet`, where the job asks for it."""
    spec = plan.job.solids
    if spec is None:
        plan.objects.delete(SOLID_TABLE)  # an earlier job's
        return
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SOLIDS_SCHEMA, compression="zstd") as writer:
        for scene, layout in sorted(plan.layouts.items()):
            if layout.slices is not None:
                writer.write_table(_solids(plan, scenes[scene], spec.connectivity))
    plan.objects.put(SOLID_TABLE, sink.getvalue())


def _solids(plan: Plan, figures: SceneFigures, connectivity: int) -> pa.Table:
    """A scene's rows."""
    layout = figures.layout
    slices = layout.slices or 1
    solids = Solids(layout.shape[1], connectivity)
    ids: list[int] = []
    boxes = [np.zeros((0, 4))]
    for frame in frames_of(plan, figures):
        solids.step(frame.number, frame.kinds, frame.rles, new=frame.number % slices == 0)
        ids += frame.ids
        boxes.append(frame.boxes)
    found = solids.found()
    rows = found.rows(np.concatenate(boxes))
    cubic = _cubic_millimetres(layout)
    columns: dict[str, Sequence[Any]] = {
        "scene": [layout.scene] * len(rows),
        "solid": range(1, len(rows) + 1),
        "class": [row["class"] for row in rows],
        "voxels": [row["voxels"] for row in rows],
        "mm3": [None if cubic is None else row["voxels"] * cubic for row in rows],
        "centre": [row["centre"] for row in rows],
        "box": [(row["first"], *row["box"][:2], row["last"] + 1, *row["box"][2:]) for row in rows],
    }
    arrays = [arrow_column(columns[name], SOLIDS_SCHEMA.field(name).type) for name in columns]
    members = [row["members"] for row in rows]
    ends = np.cumsum([0, *map(len, members)])
    order = np.concatenate([np.zeros(0, np.int64), *members])
    for of, kind in ((found.frame[order], pa.int64()), (np.array(ids)[order], pa.uint32())):
        offsets = arrow_column(ends.tolist(), pa.int32())
        arrays.append(pa.ListArray.from_arrays(offsets, arrow_column(of.tolist(), kind)))
    return pa.Table.from_arrays(arrays, schema=SOLIDS_SCHEMA)


def _cubic_millimetres(layout: Layout) -> float | None:
    """Of a voxel, which a tilted volume's is no box; None: not known."""
    steps = layout.steps
    return None if steps is None else abs(float(np.linalg.det(np.array(steps))))
