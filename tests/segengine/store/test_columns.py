"""Columns without pandas: what PyArrow makes, from the same values."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segengine.store.columns import arrow_column, arrow_table, counted, numbers_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int8(), st.integers(-128, 127)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), TEXTS),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["", "a", "mask", "ä"])),
    (pa.dictionary(pa.int32(), pa.string()), TEXTS),
]


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=lambda kind: str(kind)[:40])
def test_a_column_is_what_pyarrow_makes(kind: pa.DataType, value: st.SearchStrategy[Any]) -> None:
    @given(st.lists(st.none() | value, max_size=20))
    def check(values: list[Any]) -> None:
        found = arrow_column(values, kind)
        found.validate(full=True)
        assert found.type == kind
        assert found.equals(pa.array(values, kind))

    check()


@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 6), max_size=9))
def test_a_column_of_boxes_is_what_pyarrow_makes(values: list[tuple[int, ...]]) -> None:
    kind = pa.list_(pa.int64(), 6)
    found = arrow_column(values, kind)
    found.validate(full=True)
    assert found.type == kind
    assert found.equals(pa.array(values, kind))


def test_what_a_type_does_not_hold_is_refused() -> None:
    with pytest.raises(OverflowError):
        arrow_column([300], pa.int8())
    with pytest.raises(ValueError, match="not of 2 values"):
        arrow_column([(1, 2), (3,)], pa.list_(pa.int64(), 2))
    with pytest.raises(TypeError, match="timestamp"):
        arrow_column([1], pa.timestamp("s"))


def test_a_table_has_the_columns_of_its_schema_in_its_order() -> None:
    schema = pa.schema([("b", pa.string()), ("a", pa.int64())])
    given = {"a": [1, None], "b": ["x", "y"], "c": [0, 0]}
    assert arrow_table(given, schema) == pa.table({"b": ["x", "y"], "a": [1, None]}, schema=schema)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1), st.data())
def test_numbers_are_those_of_a_slice(values: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(values)))
    column = pa.array(values, pa.int32())[first:]
    found = numbers_of(column)
    assert found.dtype == np.int32
    assert found.tolist() == values[first:]
    with pytest.raises(ValueError, match="null"):
        numbers_of(pa.array([1, None]))


@given(st.lists(st.tuples(st.none() | st.sampled_from("abc"), st.sampled_from(["x", "y"]))))
def test_rows_are_counted_by_what_they_hold(rows: list[tuple[str | None, str]]) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    table = pa.table([[a for a, _ in rows], [b for _, b in rows]], schema=schema)
    parts = pa.concat_tables([table[: len(rows) // 2], table[len(rows) // 2 :]])
    found = counted(parts, ("a", "b"))
    assert list(found.items()) == list(Counter(rows).items())


RUN = """
import sys, segengine
job = {"source": {"paths": [sys.argv[1]]}, "segmenter": {"kind": "threshold"},
       "store": {"path": sys.argv[2]}}
assert segengine.run(job).computed == int(sys.argv[3])
assert "pandas" not in sys.modules
"""


def test_a_run_does_not_load_pandas(tmp_path: Path) -> None:
    """It is there: another package of the tests needs it. Neither in the first run nor in the next."""
    __import__("pandas")
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(
        b"not a picture"
    )  # a table that has a frame without a place
    for computed in ("1", "0"):
        command = [
            sys.executable,
            "-c",
            RUN,
            str(tmp_path / "in"),
            str(tmp_path / "m.zarr"),
            computed,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


def test_columns_of_arrays() -> None:
    flags = np.array([True, False] * 5)
    assert arrow_column(flags, pa.bool_()).equals(pa.array(flags))
    boxes = np.arange(8).reshape(2, 4)
    kind = pa.list_(pa.float32(), 4)
    assert arrow_column(boxes, kind).equals(pa.array(boxes.tolist(), kind))
    assert arrow_column(np.arange(3), pa.uint16()).equals(pa.array([0, 1, 2], pa.uint16()))
