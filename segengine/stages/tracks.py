"""Ids of objects through time, and how many cross lines or stand in zones, as tables of the store.

A pass over the rows of each video's objects, in the order of its frames, whatever the shards. What
depends on the same objects and options is taken over from the table as it was, a scene at a time; the
parquet file's own metadata tell of what each scene's rows were made.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from segengine.instances.crossings import Counts, Seen
from segengine.instances.tracking import VERSION, Look, Tracker
from segengine.job import TracksSpec
from segengine.planning.plan import Plan
from segengine.stages.metrics_json import text
from segengine.stages.objects import FrameObjects, frames_of
from segengine.stages.tables import SceneFigures
from segengine.store.columns import arrow_table
from segengine.store.keys import COUNTS, TRACK_TABLE
from segengine.store.layouts import Layout
from segengine.store.seals import SealedObjects

TRACKS_SCHEMA = pa.schema(
    [
        ("scene", pa.string()),
        ("frame", pa.int64()),
        ("time", pa.float64()),
        ("track", pa.int64()),
        ("id", pa.uint32()),
        ("class", pa.uint16()),
    ]
)
COUNTS_COLUMNS = (
    "scene", "start", "kind", "name", "class", "forward", "backward", "entered", "left", "mean", "most",
)  # fmt: skip
GROUP = 1 << 16
"""Rows of a scene above which a row group of the table ends."""
_MADE_OF = b"segengine.scenes"


@dataclass(frozen=True, slots=True)
class Before:
    """The table of an earlier run."""

    data: bytes = b""
    scenes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Of each: what its rows were made of, its first row group, how many."""

    @classmethod
    def of(cls, objects: SealedObjects) -> Before:
        """That which a seal vouches for; nothing where there is none."""
        data = objects.get(TRACK_TABLE) if TRACK_TABLE in objects.book.seals else None
        if data is None:
            return cls()
        try:
            metadata = pq.read_metadata(io.BytesIO(data)).metadata or {}
            return cls(data, json.loads(metadata.get(_MADE_OF, b"{}")))
        except (ValueError, OSError):
            return cls()

    def tracks(self, scene: str, made_of: str) -> list[int] | None:
        """The track of each of a scene's objects; None where they are not known."""
        digest, first, count = self.scenes.get(scene, ("", 0, 0))
        if digest != made_of:
            return None
        file = pq.ParquetFile(io.BytesIO(self.data))
        table = file.read_row_groups(range(first, first + count), ["track"], use_threads=False)
        found: list[int] = table.column(0).to_pylist()
        return found


def write_tracks(plan: Plan, scenes: Mapping[str, SceneFigures], before: Before) -> None:
    """`tables/tracks.parquet` and `tables/counts.csv`, where the job asks for them."""
    spec = plan.job.tracks
    if spec is None:
        for key in (TRACK_TABLE, COUNTS):
            plan.objects.delete(key)  # an earlier job's
        return
    counted: list[tuple[Any, ...]] = []
    made: dict[str, tuple[str, int, int]] = {}
    groups, sink = 0, io.BytesIO()
    with pq.ParquetWriter(sink, TRACKS_SCHEMA, compression="zstd") as writer:
        for scene, layout in sorted(plan.layouts.items()):
            if layout.times is None:
                continue
            figures, first = scenes[scene], groups
            digest = _made_of(frames_of(plan, figures), spec)
            counts = Counts(spec.lines, spec.zones)
            old = before.tracks(scene, digest)
            for rows in _tables(_tracked(plan, figures, spec, old), layout, spec, counts):
                writer.write_table(rows)
                groups += 1
            made[scene] = digest, first, groups - first
            if spec.lines or spec.zones:
                counted += _count_rows(plan, layout, spec, counts)
        writer.add_key_value_metadata({_MADE_OF: json.dumps(made).encode()})
    plan.objects.put(TRACK_TABLE, sink.getvalue())
    if spec.lines or spec.zones:
        plan.objects.put(COUNTS, _as_csv(counted))
    else:
        plan.objects.delete(COUNTS)


def _made_of(frames: Iterator[FrameObjects], spec: TracksSpec) -> str:
    """Digest of all that decides tracks."""
    found = xxhash.xxh3_128(f"{VERSION} {spec.iou!r} {spec.gap}".encode())
    for frame in frames:
        found.update(json.dumps([frame.number, frame.ids, frame.kinds, frame.rles]).encode())
    return found.hexdigest()


def _tracked(
    plan: Plan, figures: SceneFigures, spec: TracksSpec, old: list[int] | None
) -> Iterator[tuple[FrameObjects, list[int]]]:
    """Frames, and the track of each of their objects."""
    tracker = Tracker(spec.iou, spec.gap)
    height = figures.layout.frame(0).height
    place = 0
    for frame in frames_of(plan, figures):
        if old is not None:
            tracks = old[place : place + len(frame.ids)]
            place += len(frame.ids)
        else:
            looks = [Look.of(rle, height) for rle in frame.rles]
            tracks = tracker.step(frame.number, list(zip(frame.kinds, looks, strict=True)))
        yield frame, tracks


def _tables(
    tracked: Iterator[tuple[FrameObjects, list[int]]],
    layout: Layout,
    spec: TracksSpec,
    counts: Counts,
) -> Iterator[pa.Table]:
    """A scene's rows, at least `GROUP` a table but for the last; adds them to the counts."""
    assert layout.times is not None
    columns: dict[str, list[Any]] = {name: [] for name in TRACKS_SCHEMA.names}
    for frame, tracks in tracked:
        time = float(layout.times[frame.number])
        count = len(frame.ids)
        columns["scene"] += [layout.scene] * count
        columns["frame"] += [frame.number] * count
        columns["time"] += [time] * count
        columns["track"] += tracks
        columns["id"] += frame.ids
        columns["class"] += frame.kinds
        centres = (frame.boxes[:, :2] + frame.boxes[:, 2:] / 2).tolist()
        seen = [
            Seen(t, k, (x, y)) for t, k, (x, y) in zip(tracks, frame.kinds, centres, strict=True)
        ]
        counts.step(frame.number, int(time // spec.seconds), seen, spec.gap)
        if len(columns["id"]) >= GROUP:
            yield arrow_table(columns, TRACKS_SCHEMA)
            columns = {name: [] for name in TRACKS_SCHEMA.names}
    if columns["id"]:
        yield arrow_table(columns, TRACKS_SCHEMA)


def _count_rows(
    plan: Plan, layout: Layout, spec: TracksSpec, counts: Counts
) -> Iterator[tuple[Any, ...]]:
    """Rows of a scene: by period, lines before zones, as the job has them, by class."""
    assert layout.times is not None
    classes = [text(name) for name in plan.plugin.classes]
    periods, lengths = np.unique(layout.times // spec.seconds, return_counts=True)
    frames = dict(zip(periods.astype(int).tolist(), lengths.tolist(), strict=True))
    order = {name: i for i, name in enumerate((*spec.lines, *spec.zones))}
    of: dict[tuple[int, str, int], tuple[Any, ...]] = {}
    for (period, name, kind), c in counts.crossed.items():
        of[period, name, kind] = ("line", name, c.forward, c.backward, "", "", "", "")
    for (period, name, kind), s in counts.stood.items():
        mean = round(s.sum / frames[period], 4)
        of[period, name, kind] = ("zone", name, "", "", s.entered, s.left, mean, s.most)
    for period, name, kind in sorted(of, key=lambda key: (key[0], order[key[1]], key[2])):
        what, _, *figures = of[period, name, kind]
        named = (
            classes[kind] if kind < len(classes) else str(kind)
        )  # an earlier job's, of what is gone
        yield (text(layout.scene), period * spec.seconds, what, text(name), named, *figures)


def _as_csv(rows: Sequence[tuple[Any, ...]]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COUNTS_COLUMNS)
    writer.writerows(rows)
    return sink.getvalue().encode()
