"""`tables/runs.parquet`: one row a run.

    run, version, started, seconds          which run, of which release, when (Unix time), how long
    exit_code, computed, left, shards       as the run's summary has them; shards of the store
    pixels, rate                            labelled by the run, and so many a second
    frames.done .failed .left .gone         of the store, by what became of them
    area.<class>, area.void                 pixels of the store
    inputs.mean .std, inputs.<band>.mean    of what was segmented, by a sample of its pixels
    confidence                              mean of the labels', where it is stored
    <figure>                                overall figures of metrics.json, of a class classes.<class>.iou
    seconds.<stage>, pace.<stage>           how long each stage took; seconds a megapixel, of the slowest
    alerts                                  figures that have passed a limit of the job's, or shifted

Columns are those of all runs so far; where a run had no such figure it is null.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segengine.progress import Alert
from segengine.store.columns import arrow_column, numbers_of, taken
from segengine.store.keys import RUNS
from segengine.store.parquet import read_parquet
from segengine.store.seals import SealedObjects

LAST = 7
"""Runs that a figure is held against."""

_ALERT = pa.struct(
    [
        ("figure", pa.string()),
        ("value", pa.float64()),
        ("before", pa.float64()),
        ("rule", pa.string()),
    ]
)
RUNS_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("version", pa.string()),
        ("started", pa.float64()),
        ("seconds", pa.float64()),
        ("exit_code", pa.int64()),
        ("computed", pa.int64()),
        ("left", pa.int64()),
        ("shards", pa.int64()),
        ("pixels", pa.int64()),
        ("rate", pa.float64()),
        *((f"frames.{what}", pa.int64()) for what in ("done", "failed", "left", "gone")),
        ("alerts", pa.list_(_ALERT)),
    ]
)
"""Columns of every run; those of figures, areas and stages come after."""


class History:
    """The runs of a store so far, oldest first."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def read(cls, objects: SealedObjects) -> History:
        """That of a store; empty where there is none, or only its damaged remains."""
        data = objects.get(RUNS)
        try:
            table = None if data is None else read_parquet(data)
        except (ValueError, OSError):
            table = None
        known = table is not None and all(
            field.name in table.schema.names and table.schema.field(field.name).type == field.type
            for field in RUNS_SCHEMA
        )
        return cls(table if known else pa.Table.from_batches([], schema=RUNS_SCHEMA))

    @cached_property
    def last(self) -> list[dict[str, Any]]:
        """The last runs, as plain values."""
        first = max(0, self.table.num_rows - LAST)
        found: list[dict[str, Any]] = self.table.slice(first).to_pylist()
        return found

    @cached_property
    def busy(self) -> list[dict[str, Any]]:
        """The last runs that computed anything, as plain values."""
        rows = np.flatnonzero(numbers_of(self.table.column("computed").combine_chunks()) > 0)
        found: list[dict[str, Any]] = taken(self.table, rows[-LAST:]).to_pylist()
        return found

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Those of the last run."""
        rows = self.last[-1:]
        return tuple(Alert(**alert) for row in rows for alert in row["alerts"] or ())

    def values(self, figure: str, most: int = LAST) -> list[float]:
        """What a figure was in the last runs that had it; not more than `most`."""
        if figure not in self.table.schema.names or not is_figure(self.table.schema.field(figure)):
            return []
        column = self.table.column(figure).drop_null()
        found = column.slice(max(0, len(column) - most)).to_pylist()
        return [float(value) for value in found if math.isfinite(value)]

    def with_row(self, row: Mapping[str, Any], alerts: Sequence[Alert] = ()) -> History:
        """And one run more."""
        return History(
            pa.concat_tables([self.table, _table(row, alerts)], promote_options="default")
        )

    def write(self, objects: SealedObjects) -> None:
        """Put it in its place, atomically."""
        sink = io.BytesIO()
        pq.write_table(self.table.combine_chunks(), sink, compression="zstd")
        objects.put(RUNS, sink.getvalue())


def is_figure(field: pa.Field) -> bool:
    """Whether a column is a number of each run."""
    return bool(pa.types.is_integer(field.type) or pa.types.is_floating(field.type))


def _table(row: Mapping[str, Any], alerts: Sequence[Alert]) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for name, value in row.items():
        known = RUNS_SCHEMA.get_field_index(name)
        kind = pa.int64() if name.startswith("area.") else pa.float64()
        columns[name] = arrow_column([value], kind if known < 0 else RUNS_SCHEMA.field(known).type)
    columns["alerts"] = _alerts(alerts)
    first = {name: columns.pop(name) for name in RUNS_SCHEMA.names}
    found = {**first, **columns}
    return pa.Table.from_arrays(list(found.values()), names=list(found))


def _alerts(alerts: Sequence[Alert]) -> pa.Array:
    """A list of one row."""
    rows = [
        arrow_column([alert[i] for alert in alerts], field.type) for i, field in enumerate(_ALERT)
    ]
    values = pa.StructArray.from_arrays(rows, fields=list(_ALERT))
    return pa.ListArray.from_arrays(
        arrow_column([0, len(alerts)], pa.int32()), values, type=pa.list_(_ALERT)
    )
