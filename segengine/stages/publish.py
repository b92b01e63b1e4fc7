"""The publish stage: pyramid, colours, tables, metrics.json, report; then records are packed.

Packing comes last: as long as a scene has single records, its publish is not finished, whatever was
killed in between.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segengine import asked
from segengine.ahead import each_of
from segengine.errors import DamagedStoreError
from segengine.fingerprint import digest
from segengine.instances.rows import ROWS_SCHEMA, TABLE_SCHEMA, merged, shard_rows, with_centroids
from segengine.measuring import truth as truths
from segengine.planning.plan import Plan
from segengine.planning.stored import StandIn
from segengine.progress import FailedFrame
from segengine.stages import precision
from segengine.stages.aggregate import Measurer
from segengine.stages.metrics_json import WORST, add_figures, text
from segengine.store.arrays import ArraySpec
from segengine.store.keys import (
    COLORS,
    CUT_INSTANCES,
    INSTANCE_TABLE,
    INSTANCES,
    METRICS,
    UNPLACED,
    WORK,
    fit_key,
    pack_key,
    table_key,
)
from segengine.store.kinds import LOST, MaskRecord
from segengine.store.layouts import Layout, commit_unplaced
from segengine.store.records import RecordLog
from segengine.store.shardcodec import encode_shard
from segengine.types import Color, Place
from segengine.urls import public, public_values
from segengine.worker.fits import read_fit

VERSION = 2
"""Raised when figures of `metrics.json` can change."""
TABLES = ("frames", "shards", "instances")
OBJECTS = (*map(table_key, TABLES), METRICS, CUT_INSTANCES)
"""What every publish writes again, beside the report, colours and packs."""
LISTED = 100
"""Cut instances that are named."""
NO_PIXEL = "no valid pixel: every pixel is nodata"


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


class SceneFigures:
    """What the mask records of a scene add up to."""

    def __init__(self, layout: Layout, classes: int) -> None:
        self.layout = layout
        self.areas = np.zeros(classes + 1, np.int64)
        self.ground = layout.placing.ground
        self.totals = [0] * (classes + 1)
        """Ground area of each class, then of void, in the scene's unit."""
        self.inertia: list[float] = []
        self.failures: dict[int, tuple[str, str]] = {}
        self.committed = np.zeros(layout.shape[0], np.int64)
        self.valid = np.zeros(layout.shape[0], np.int64)
        self.colors: dict[int, tuple[Color, ...]] = {}
        self.instances: set[Place] = set()
        """Shards with instances, whose rows are stored."""
        self.rows: list[tuple[Any, ...]] = []
        """(shard, box, status, attempts, seconds, bytes, pixels, finished, reason)"""

    def add(self, record: MaskRecord) -> None:
        """Add a mask record."""
        size = sum(o.bytes for o in record.objects)
        self.rows.append(
            (
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
        )
        if any(o.array == INSTANCES for o in record.objects):
            self.instances.add(record.shard)
        first, last = record.box[0], record.box[3]
        for failure in record.failures:
            self.failures.setdefault(failure.frame, (failure.kind, failure.reason))
        self.committed[first:last] += 1
        if record.areas:
            rows = np.asarray(record.areas, np.int64)
            self.valid[first:last] += rows[:, :-1].sum(axis=1)
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
        if self.layout.gone[i] and kind != LOST:
            return "gone", "the input has vanished; its mask stays"
        if kind:
            return kind, reason.removeprefix(f"{self.layout.frame_name(frame)}: ")
        if self.committed[frame] < rows * columns:
            return "pending", ""
        if not self.valid.any():
            return "corrupt", NO_PIXEL
        return "done", ""

    def failed(self) -> Iterator[FailedFrame]:
        """Quarantined frames."""
        frames: Iterable[int] = sorted(self.failures)
        if not self.valid.any() and (self.committed > 0).all():
            frames = range(self.layout.shape[0])
        for frame in frames:
            status, reason = self.status(frame)
            if status not in ("gone", "done", "pending"):
                name = self.layout.frame_name(frame)
                yield FailedFrame(name, self.layout.scene, frame, status, reason)


def scene_figures(log: RecordLog, layout: Layout, classes: int) -> SceneFigures:
    """The figures of a scene, from its mask records."""
    figures = SceneFigures(layout, classes)
    for record in log.read(layout.scene, MaskRecord):
        if all(i < n for i, n in zip(record.shard, layout.grid, strict=True)):
            figures.add(record)
    figures.rows.sort()
    return figures


def unplaced_failures(plan: Plan) -> list[FailedFrame]:
    """Inputs whose header could not be read."""
    return [FailedFrame(u.name, None, None, u.kind, u.reason) for u in plan.scan.unplaced]


def write_tables(plan: Plan, scenes: Mapping[str, SceneFigures]) -> None:
    """`tables/frames.parquet`, `tables/shards.parquet` and `tables/instances.parquet`."""
    frames: dict[str, list[Any]] = {name: [] for name in FRAMES_SCHEMA.names}
    shards: dict[str, list[Any]] = {name: [] for name in SHARDS_SCHEMA.names}
    for scene, figures in sorted(scenes.items()):
        layout = figures.layout
        for ref in layout.frames():
            status, reason = figures.status(ref.index)
            time = None if layout.times is None else float(layout.times[ref.index])
            row: tuple[Any, ...] = (
                scene,
                ref.index,
                text(ref.name),
                text(public(ref.uri)),
                ref.height,
                ref.width,
                time,
                status,
                text(public(reason)),
            )
            for column, value in zip(frames.values(), row, strict=True):
                column.append(value)
        for _, box, *values in figures.rows:
            for column, value in zip(shards.values(), (scene, list(box), *values), strict=True):
                column.append(value)
    for u in plan.scan.unplaced:
        row = (None, None, text(u.name), text(u.uri), None, None, None, u.kind, text(u.reason))
        for column, value in zip(frames.values(), row, strict=True):
            column.append(value)
    put_table(plan, "frames", pa.table(frames, schema=FRAMES_SCHEMA))
    put_table(plan, "shards", pa.table(shards, schema=SHARDS_SCHEMA))


def write_instances(plan: Plan, scenes: Mapping[str, SceneFigures]) -> None:
    """`tables/instances.parquet`, where the segmenter finds instances; one frame in memory at a time.

    Notes for `write_metrics` which of them are cut.
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
            for f in range(layout.grid[0]):
                rows = _rows(plan, scenes[scene], layout.frame_shards(f))
                ref = layout.frame(f * layout.shard[0])
                if layout.cut:
                    rows = merged(rows, (ref.height, ref.width))
                    cut = rows.filter(rows.column("cut"))
                    count[scene] = count.get(scene, 0) + cut.num_rows
                    some = cut.slice(0, LISTED - len(listed))
                    listed += some.select(["scene", "frame", "id", "class"]).to_pylist()
                # only photos differ in height, and they have no CRS
                rows = with_centroids(rows, ref.height, layout.placing)
                writer.write_table(rows.select(TABLE_SCHEMA.names))
    plan.objects.put(INSTANCE_TABLE, sink.getvalue())
    found = {"count": sum(count.values()), "scenes": count, "listed": listed}
    plan.objects.put(CUT_INSTANCES, json.dumps(found).encode())


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


def write_colors(plan: Plan, scenes: Mapping[str, SceneFigures]) -> None:
    """The colours that fits gave their classes, where they differ from what is stored."""
    fitted: dict[str, Any] = {}
    changed: dict[str, bytes] = {}
    for scene, figures in scenes.items():
        arrays = plan.arrays[scene]
        if COLORS not in arrays:
            continue
        spec, colors = arrays[COLORS], _scene_colors(plan, figures, arrays[COLORS], fitted)
        step = spec.shard[0]
        for i in range(0, len(colors), step):
            key = spec.shard_key(scene, (i // step, 0, 0))
            data = encode_shard(colors[i : i + step], spec.shard, spec.chunk, spec.fill)
            if not plan.objects.has(key, data):
                changed[key] = data
    plan.objects.open(changed)
    with plan.objects.together(len(changed)):
        each_of(changed.items(), lambda item: plan.objects.put(*item), plan.objects.root)


def _scene_colors(
    plan: Plan, figures: SceneFigures, spec: ArraySpec, fitted: dict[str, Any]
) -> NDArray[np.uint8]:
    """(frame or 1, class, 3)"""
    void = ((0, 0, 0),) * plan.classes
    if spec.shape[0] == 1 and not figures.colors:
        group = plan.group(figures.layout, 0) or ""
        return np.asarray([_fit_colors(plan, group, fitted) or void], np.uint8)
    rows = []
    for frame in range(spec.shape[0]):
        own = figures.colors.get(frame)
        if own is None and figures.layout.cut:
            group = plan.group(figures.layout, frame) or ""
            own = _fit_colors(plan, group, fitted)
        # A vanished input's may be of an earlier job, with other classes.
        rows.append(own if own is not None and len(own) == len(void) else void)
    return np.asarray(rows, np.uint8)


def _fit_colors(plan: Plan, group: str, known: dict[str, Any]) -> Any:
    if group not in known:
        fit = read_fit(plan.objects, fit_key(group), plan.plugin)
        known[group] = None if fit is None else asked.colors(fit[1])
    return known[group]


def write_metrics(
    plan: Plan,
    scenes: Mapping[str, SceneFigures],
    measurer: Measurer | None,
) -> dict[str, Any]:
    """`metrics.json`: merged figures per class, per scene and overall."""
    classes = list(plan.plugin.classes)
    document: dict[str, Any] = {"version": 1, "classes": classes}
    document["overall"] = {}
    document["scenes"] = {name: {} for name in sorted(scenes)}
    document["frames"] = []
    document["losses"] = {}
    if measurer is not None:
        add_figures(document, measurer, measurer.merge())
    areas = np.zeros(len(classes) + 1, np.int64)
    metres: dict[str, float] = {}
    for name, figures in sorted(scenes.items()):
        areas += figures.areas
        own = figures.metres
        document["scenes"][name]["areas"] = _areas(classes, figures.areas, own)
        for label, area in zip(classes, own or (), strict=False):
            metres[label] = metres.get(label, 0.0) + area
    document["areas"] = {
        label: {"pixels": count, "square_metres": metres.get(label)}
        for label, count in zip([*classes, "void"], areas.tolist(), strict=True)
    }
    if isinstance(plan.plugin, StandIn):  # whose fits cannot be read
        before = json.loads(plan.objects.get(METRICS) or b"{}")
        document |= {"inertia": before.get("inertia"), "fits": before.get("fits", [])}
    else:
        document["inertia"] = _inertia(plan, scenes)
        document["fits"] = _fits(plan, scenes)
    document["throughput"] = _throughput(scenes)
    alike = precision.figure(plan)
    if alike is not None:
        document["label_agreement"] = alike
    cut = plan.objects.get(CUT_INSTANCES)
    if cut is not None:
        document["cut_instances"] = json.loads(cut)
    plan.objects.put(METRICS, json.dumps(public_values(_finite(document)), indent=1).encode())
    return document


def _areas(classes: list[str], counts: Any, metres: list[float] | None) -> dict[str, Any]:
    names = [*classes, "void"]
    areas: Sequence[float | None] = metres or [None] * len(counts)
    return {
        label: {"pixels": count, "square_metres": area}
        for label, count, area in zip(names, counts.tolist(), areas, strict=True)
    }


def _inertia(plan: Plan, scenes: Mapping[str, SceneFigures]) -> float | None:
    """Sum of the fits' inertia, where the segmenter has one."""
    own = [value for figures in scenes.values() for value in figures.inertia]
    groups = {plan.group(figures.layout, 0) for figures in scenes.values()} - {None}
    for group in sorted(str(g) for g in groups):
        fit = read_fit(plan.objects, fit_key(group), plan.plugin)
        if fit is not None:
            inertia = asked.inertia(fit[1])
            if inertia is not None:
                own.append(inertia)
    return math.fsum(own) if own else None


def _fits(plan: Plan, scenes: Mapping[str, SceneFigures]) -> list[dict[str, Any]]:
    """The fits that label whole scenes or the run: what was found, and on how many frames."""
    groups = {plan.group(figures.layout, 0) for figures in scenes.values()} - {None}
    found = []
    for group in sorted(str(g) for g in groups)[:WORST]:
        fit = read_fit(plan.objects, fit_key(group), plan.plugin)
        if fit is None:
            continue
        about, segmenter = fit
        entry: dict[str, Any] = {
            "name": group,
            "frames": len(about["inputs"]),
            "digest": about["digest"],
            "colors": [list(c) for c in asked.colors(segmenter)],
        }
        found.append(entry | asked.findings(segmenter))
    return found


def _throughput(scenes: Mapping[str, SceneFigures]) -> dict[str, Any]:
    done = [row for figures in scenes.values() for row in figures.rows if row[2] == "done"]
    pixels = sum(row[6] for row in done)
    seconds = math.fsum(row[4] for row in done)
    return {
        "pixels": pixels,
        "worker_seconds": round(seconds, 3),
        "pixels_per_worker_second": round(pixels / seconds) if seconds else None,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return value


def unshown(plan: Plan, measurer: Measurer | None) -> dict[str, Any]:
    """What the report needs to see images and truth whose URLs the store holds without credentials."""
    found: dict[str, Any] = {}
    if any(layout.public is not layout for layout in plan.layouts.values()):
        found["layouts"] = plan.layouts
    if measurer is not None and measurer.truth != measurer.shown:
        found["truth"] = measurer.truth
    return found


def published_mark(plan: Plan) -> str:
    """What a finished publish stands for; anything else is to be published."""
    layouts = [
        [la.scene, la.public.uris, la.fingerprints, la.gone.tolist()]
        for la in plan.layouts.values()
    ]
    evaluate = [plan.job.evaluate.model_dump(mode="json"), plan.job.name]
    truth = truths.of_job(plan.job.as_json())
    unplaced = [[u.name, u.fingerprint, u.reason] for u in plan.scan.unplaced]
    return digest([plan.fingerprint, layouts, evaluate, truth, unplaced, VERSION])


def finish(plan: Plan, log: RecordLog) -> None:
    """Pack the records of every scene, seal it all, and say that the publish is complete."""
    singles, _ = log.scenes()
    done = [scene for scene in plan.layouts if scene in singles]
    plan.objects.adopt_all()
    plan.objects.open([UNPLACED, *map(pack_key, done)])
    with plan.objects.together(len(done)):
        each_of(done, log.write_pack, plan.objects.root)
        commit_unplaced(plan.objects, plan.scan.unplaced)
    plan.objects.commit(published_mark(plan))
    with plan.objects.together(len(done)):
        each_of(done, log.clear, plan.objects.root)
    plan.objects.delete_tree(WORK)
