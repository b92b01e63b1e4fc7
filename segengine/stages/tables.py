"""The tables of a store: a row a frame, a shard, an instance; and what they are made of."""

from __future__ import annotations

import io
import itertools
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segengine.errors import DamagedStoreError
from segengine.instances.rows import (
    ROWS_SCHEMA,
    TABLE_SCHEMA,
    merged,
    scored,
    shard_rows,
    with_centroids,
)
from segengine.planning.held import places_of
from segengine.planning.outside import is_outside
from segengine.planning.plan import Plan
from segengine.progress import FailedFrame
from segengine.stages.metrics_json import text
from segengine.store.columns import arrow_table, numbers_of, taken
from segengine.store.keys import (
    CUT_INSTANCES,
    INSTANCE_TABLE,
    INSTANCES,
    table_key,
)
from segengine.store.kinds import LOST, MaskRecord
from segengine.store.layouts import Layout, Unplaced
from segengine.store.records import SceneRecords
from segengine.types import Color, Place
from segengine.urls import public
from segengine.worker.sampled import Sampled, added

TABLES = ("frames", "shards", "instances", "tracks", "solids")
LISTED = 100
"""Cut instances that are named."""
PRUNED = "pruned"
"""What has become of a frame that is deleted: it is in no table, and not counted."""
NO_PIXEL = "no valid pixel: every pixel is nodata"
NOT_MET = "no valid pixel: source.area does not meet it"

BATCH = 1 << 16
"""Rows of a table that are values of Python at a time."""
FRAMES_SCHEMA = pa.schema(
    [
        ("scene", pa.string()),
        ("frame", pa.int64()),
        ("name", pa.string()),
        ("uri", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("time", pa.float64()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
SHARDS_SCHEMA = pa.schema(
    [
        ("scene", pa.string()),
        ("box", pa.list_(pa.int64(), 6)),
        ("status", pa.string()),
        ("attempts", pa.int32()),
        ("seconds", pa.float64()),
        ("bytes", pa.int64()),
        ("pixels", pa.int64()),
        ("finished", pa.float64()),
        ("reason", pa.string()),
    ]
)


class _ShardRows:
    """Rows of `tables/shards.parquet` of a scene: as Python's objects, a million would take a GB."""

    TOGETHER = 1 << 12

    def __init__(self, scene: str) -> None:
        self.scene = scene
        self._tables: list[pa.Table] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(self, place: Place, *row: Any) -> None:
        """A shard: its place, box, status, attempts, seconds, bytes, pixels, finished, reason."""
        self._rows.append((*place, self.scene, *row))
        if len(self._rows) == self.TOGETHER:
            self._columns()

    def table(self) -> pa.Table:
        """All of them, in the order of their places."""
        self._columns()
        if not self._tables:
            return _NO_SHARDS
        table = pa.concat_tables(self._tables).combine_chunks()
        axes = [numbers_of(table.column(axis).combine_chunks()) for axis in "xyf"]
        return taken(table.select(SHARDS_SCHEMA.names), np.lexsort(axes))

    def _columns(self) -> None:
        if self._rows:
            columns = dict(zip(_PLACED_SCHEMA.names, zip(*self._rows, strict=True), strict=True))
            self._tables.append(arrow_table(columns, _PLACED_SCHEMA))
            self._rows = []


_NO_SHARDS = arrow_table(dict.fromkeys(SHARDS_SCHEMA.names, ()), SHARDS_SCHEMA)
_PLACED_SCHEMA = pa.schema([*((axis, pa.int64()) for axis in "fyx"), *SHARDS_SCHEMA])


class SceneFigures:
    """What the mask records of a scene add up to."""

    def __init__(self, layout: Layout, classes: int, outside: Callable[[], bool]) -> None:
        """`outside`: whether the job's area does not meet the scene; asked where no pixel is valid."""
        self.layout = layout
        self.outside = outside
        self.areas = np.zeros(classes + 1, np.int64)
        self.ground = layout.placing.ground
        self.totals = [0] * (classes + 1)
        """Ground area of each class, then of void, in the scene's unit."""
        self.inertia: list[float] = []
        self.failures: dict[int, tuple[str, str]] = {}
        self.committed = np.zeros(layout.shape[0], np.int64)
        self.valid = np.zeros(layout.shape[0], np.int64)
        self.sure = np.zeros(layout.shape[0], np.int64)
        """Confidence of each frame's labels, added up."""
        self.told = np.zeros(layout.shape[0], np.int64)
        """Of how many pixels."""
        self.colors: dict[int, tuple[Color, ...]] = {}
        self.instances: set[Place] = set()
        """Shards with instances, whose rows are stored."""
        self.shards = _ShardRows(layout.scene)
        self.sampled: Sampled = ()
        """What a sample of the pixels adds up to."""
        self.still = 0
        """Frames that have the mask of one before, as far as shards of whole frames tell."""
        self.done_pixels = 0
        self.done_seconds = array("d")
        """Of the shards that are done."""

    def add(self, record: MaskRecord) -> None:
        """Add a mask record."""
        size = sum(o.bytes for o in record.objects)
        self.shards.add(
            record.shard,
            record.box,
            record.status,
            record.attempts,
            record.seconds,
            size,
            record.pixels,
            record.finished,
            text(public(record.reason)),
        )
        if record.status == "done":
            self.done_pixels += record.pixels
            self.sampled = added(self.sampled, record.sampled)
            self.still += record.still if record.shard[1:] == (0, 0) else 0
            self.done_seconds.append(record.seconds)
        if any(o.array == INSTANCES for o in record.objects):
            self.instances.add(record.shard)
        first, last = record.box[0], record.box[3]
        for failure in record.failures:
            self.failures.setdefault(failure.frame, (failure.kind, failure.reason))
        self.committed[first:last] += 1
        if record.areas:
            rows = np.asarray(record.areas, np.int64)
            self.valid[first:last] += rows[:, :-1].sum(axis=1)
            if record.confidence:
                self.sure[first:last] += record.confidence
                self.told[first:last] += rows[:, :-1].sum(axis=1)
            outside = 0
            (_, y0, x0), (_, y1, x1) = record.box[:3], record.box[3:]
            for i in range(first, last):
                ref = i if self.layout.stacked else 0
                height, width = self.layout.heights[ref], self.layout.widths[ref]
                inside = max(0, min(y1, height) - y0) * max(0, min(x1, width) - x0)
                outside += (y1 - y0) * (x1 - x0) - int(inside)
            # A vanished input's mask may be of an earlier job, with other classes than these.
            if rows.shape[1] == self.areas.size:
                self.areas += rows.sum(axis=0)
                self.areas[-1] -= outside
        for i, row in enumerate(record.colors):
            self.colors[first + i] = row
        self.inertia += record.inertia
        if self.ground is not None and record.status == "done":
            self._add_ground(record)

    def _add_ground(self, record: MaskRecord) -> None:
        assert self.ground is not None
        if len(record.ground) == len(self.totals):
            self.totals = [a + b for a, b in zip(self.totals, record.ground, strict=True)]
            return
        # One of an earlier release: as if its classes lay evenly over its rows.
        (f0, y0, x0), (f1, y1, x1) = record.box[:3], record.box[3:]
        rows, cols = min(y1, self.ground.height) - y0, min(x1, self.ground.width) - x0
        area = np.zeros((f1 - f0, rows, cols), np.uint8)
        whole = self.ground.totals(area, 1, (y0, x0))
        if whole is None or not record.areas or len(record.areas[0]) != len(self.totals):
            self.ground = None
            return
        counts = np.asarray(record.areas, np.int64).sum(axis=0)
        counts[-1] = area.size - counts[:-1].sum()
        for i, count in enumerate(counts.tolist()):
            self.totals[i] += whole[0] * count // area.size

    @property
    def metres(self) -> list[float] | None:
        """Square metres of each class, then of void; None: they cannot be told."""
        unit = None if self.ground is None else self.ground.exponent
        return None if unit is None else [math.ldexp(total, unit) for total in self.totals]

    def status(self, frame: int) -> tuple[str, str]:
        """(status, reason) of a frame."""
        i = frame if self.layout.stacked else 0
        _, rows, columns = self.layout.grid
        kind, reason = self.failures.get(frame, ("", ""))
        if self.layout.stacked and not self.layout.names[i]:
            return PRUNED, ""
        if self.layout.gone[i] and kind != LOST:
            return "gone", "the input has vanished; its mask stays"
        if kind:
            return kind, reason.removeprefix(f"{self.layout.frame_name(frame)}: ")
        if self.committed[frame] < rows * columns:
            return "pending", ""
        if not self.valid.any():
            return "corrupt", self._why_void
        return "done", ""

    @cached_property
    def _why_void(self) -> str:
        return NOT_MET if self.outside() else NO_PIXEL

    def counts(self) -> Counter[str]:
        """Frames by status."""
        _, rows, columns = self.layout.grid
        frames = self.layout.shape[0]
        odd = self.committed < rows * columns
        if not self.valid.any():
            odd[:] = True
        odd |= self.layout.gone if self.layout.stacked else bool(self.layout.gone[0])
        odd[list(self.failures)] = True
        found = Counter({"done": frames - int(np.count_nonzero(odd))})
        found.update(self.status(int(frame))[0] for frame in np.flatnonzero(odd))
        del found[PRUNED]
        return found

    def failed(self) -> Iterator[FailedFrame]:
        """Quarantined frames."""
        frames: Iterable[int] = sorted(self.failures)
        if not self.valid.any() and (self.committed > 0).all():
            frames = range(self.layout.shape[0])
        for frame in frames:
            status, reason = self.status(frame)
            if status not in (PRUNED, "gone", "done", "pending"):
                name = self.layout.frame_name(frame)
                yield FailedFrame(name, self.layout.scene, frame, status, reason)


def scene_figures(plan: Plan, scene: str, records: SceneRecords) -> SceneFigures:
    """The figures of a scene, from its mask records."""
    layout = plan.layouts[scene]
    figures = SceneFigures(layout, plan.classes, lambda: is_outside(plan.source, layout))
    for record in records.of(MaskRecord):
        if all(i < n for i, n in zip(record.shard, layout.grid, strict=True)):
            figures.add(record)
    return figures


def unplaced_failures(plan: Plan) -> list[FailedFrame]:
    """Inputs whose header could not be read, those among them that keep the mask of an earlier run."""
    return failures_of(plan.scan.unplaced, plan.layouts)


def failures_of(unplaced: Sequence[Unplaced], layouts: Mapping[str, Layout]) -> list[FailedFrame]:
    """The same, of inputs without a place, and of scenes."""
    known: dict[str, tuple[str | None, int | None]] = {**places_of(unplaced, layouts)}
    found = []
    for each in unplaced:
        scene, frame = known.get(each.name, (None, None))
        found.append(FailedFrame(each.name, scene, frame, each.kind, each.reason))
    return found


def write_tables(plan: Plan, scenes: Mapping[str, SceneFigures]) -> None:
    """`tables/frames.parquet`, `tables/shards.parquet` and `tables/instances.parquet`."""
    shards = [_NO_SHARDS, *(figures.shards.table() for _, figures in sorted(scenes.items()))]
    put_table(plan, "shards", pa.concat_tables(shards).combine_chunks())
    del shards
    rows = _frame_rows(plan, scenes)
    # not `empty_table`, which loads pandas where that is installed
    parts = [arrow_table(dict.fromkeys(FRAMES_SCHEMA.names, ()), FRAMES_SCHEMA)]
    while batch := list(itertools.islice(rows, BATCH)):
        columns = dict(zip(FRAMES_SCHEMA.names, zip(*batch, strict=True), strict=True))
        parts.append(arrow_table(columns, FRAMES_SCHEMA))
    put_table(plan, "frames", pa.concat_tables(parts).combine_chunks())


def _frame_rows(plan: Plan, scenes: Mapping[str, SceneFigures]) -> Iterator[tuple[Any, ...]]:
    """A row a frame, those without a place last; one that cannot be looked at now says why."""
    known = places_of(plan.scan.unplaced, plan.layouts)
    why = {known[u.name]: u.reason for u in plan.scan.unplaced if u.name in known}
    for scene, figures in sorted(scenes.items()):
        layout = figures.layout
        for index in range(layout.shape[0]):
            ref = layout.frame(index)
            if ref.pruned:
                continue
            status, reason = figures.status(index)
            reason = reason or why.get((scene, index if layout.stacked else 0), "")
            yield (
                scene,
                index,
                text(ref.name),
                text(public(ref.uri)),
                ref.height,
                ref.width,
                None if layout.times is None else float(layout.times[index]),
                status,
                text(public(reason)),
            )
    for u in plan.scan.unplaced:
        if u.name in known:
            continue
        yield (None, None, text(u.name), text(u.uri), None, None, None, u.kind, text(u.reason))


def write_instances(plan: Plan, scenes: Mapping[str, SceneFigures]) -> None:
    """`tables/instances.parquet`, where the segmenter finds instances; one frame in memory at a time.

    Notes for `write_metrics` which of them are cut, or were too large to be split.
    """
    if "instances" not in plan.outputs:
        for key in (INSTANCE_TABLE, CUT_INSTANCES):
            plan.objects.delete(key)  # an earlier job's
        return
    count: dict[str, int] = {}
    listed: list[dict[str, Any]] = []
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, TABLE_SCHEMA, compression="zstd") as writer:
        for scene, layout in sorted(plan.layouts.items()):
            for f, rows in enumerate(scene_rows(plan, scenes[scene])):
                ref = layout.frame(f * layout.shard[0])
                if layout.cut or plan.cleaning is not None:  # which flags what it could not split
                    cut = rows.filter(rows.column("cut"))
                    count[scene] = count.get(scene, 0) + cut.num_rows
                    some = cut.slice(0, LISTED - len(listed))
                    listed += some.select(["scene", "frame", "id", "class"]).to_pylist()
                # only photos differ in height, and they have no CRS
                rows = with_centroids(scored(rows), ref.height, layout.placing)
                writer.write_table(rows.select(TABLE_SCHEMA.names))
                del rows  # before the next frame's are read
    pa.default_memory_pool().release_unused()
    plan.objects.put(INSTANCE_TABLE, sink.getvalue())
    found = {"count": sum(count.values()), "scenes": count, "listed": listed}
    plan.objects.put(CUT_INSTANCES, json.dumps(found).encode())


def scene_rows(plan: Plan, figures: SceneFigures) -> Iterator[pa.Table]:
    """The objects of a scene, whole, a row of shards at a time: in the order of its frames."""
    layout = figures.layout
    for f in range(layout.grid[0]):
        places = layout.frame_shards(f)
        if layout.cut:
            ref = layout.frame(f * layout.shard[0])
            yield merged(_rows(plan, figures, places), (ref.height, ref.width))
        else:
            yield _rows(plan, figures, places)


def _rows(plan: Plan, figures: SceneFigures, places: Iterable[Place]) -> pa.Table:
    """The rows of shards; damaged ones are named, and left out."""
    scene, found = figures.layout.scene, [ROWS_SCHEMA.empty_table()]
    for place in places:
        if place in figures.instances:
            try:
                found.append(shard_rows(plan.objects, scene, [place]))
            except DamagedStoreError as error:
                plan.objects.damaged[error.key] = error.what
    return pa.concat_tables(found)


def put_table(plan: Plan, name: str, table: pa.Table) -> None:
    """Write a table, atomically."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    plan.objects.put(table_key(name), sink.getvalue())
