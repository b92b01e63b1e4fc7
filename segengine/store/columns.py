"""Arrow columns of Python values, and counts of rows, without what would load pandas for it.

Where pandas is installed its import is a third of a second of each run, for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def arrow_table(columns: Mapping[str, Sequence[Any] | NDArray[Any]], schema: pa.Schema) -> pa.Table:
    """`pyarrow.table` of the schema's columns."""
    arrays = [arrow_column(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def arrow_column(values: Sequence[Any] | NDArray[Any], kind: pa.DataType) -> pa.Array:
    """`pyarrow.array` of numbers, truth values, texts, words of a dictionary, or lists of one length.

    None is null. Raises OverflowError for an integer that the type does not hold.
    """
    if pa.types.is_dictionary(kind):
        words = [word for word in dict.fromkeys(values) if word is not None]
        places = {word: i for i, word in enumerate(words)}
        found = arrow_column([places.get(value) for value in values], kind.index_type)
        return pa.DictionaryArray.from_arrays(found, arrow_column(words, kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        if isinstance(values, np.ndarray) and values.ndim == 2:
            lengths = {values.shape[1]}
        else:
            lengths = {len(value) for value in values}
        if lengths - {kind.list_size}:
            raise ValueError(f"a list is not of {kind.list_size} values")
        flat = values.reshape(-1) if isinstance(values, np.ndarray) else [*chain(*values)]
        return pa.FixedSizeListArray.from_arrays(arrow_column(flat, kind.value_type), type=kind)
    valid, known = None, [True]
    if not isinstance(values, np.ndarray):
        known = [value is not None for value in values]
    if not all(known):
        valid = pa.py_buffer(np.packbits(known, bitorder="little").tobytes())
    if pa.types.is_string(kind):
        texts = values if valid is None else ["" if value is None else value for value in values]
        whole = "".join(texts)
        body = whole.encode()
        sizes = map(len, texts if len(body) == len(whole) else (text.encode() for text in texts))
        ends = np.array(list(accumulate(sizes, initial=0)), np.int64)
        if ends[-1] > np.iinfo(np.int32).max:
            return pa.array(values, kind)  # which refuses it, or knows how
        data = [pa.py_buffer(ends.astype(np.int32).tobytes()), pa.py_buffer(body)]
    elif pa.types.is_boolean(kind):
        data = [pa.py_buffer(np.packbits(np.array(values, np.bool_), bitorder="little").tobytes())]
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise TypeError(f"no column of {kind} is made here")
    else:
        plain = values if valid is None else [0 if value is None else value for value in values]
        data = [pa.py_buffer(np.array(plain, kind.to_pandas_dtype()).tobytes())]
    return pa.Array.from_buffers(kind, len(values), [valid, *data])


def arrow_scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    """`pyarrow.scalar` of a number or a text."""
    return arrow_column([value], kind)[0]


def numbers_of(column: pa.Array) -> NDArray[Any]:
    """`column.to_numpy()` of numbers, none of them null, read-only."""
    if column.null_count:
        raise ValueError("a number is null")
    if not len(column):
        return np.zeros(0, column.type.to_pandas_dtype())
    held = np.frombuffer(column.buffers()[1], column.type.to_pandas_dtype())
    return held[column.offset : column.offset + len(column)]


def taken(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """`table.take` of these rows."""
    held = pa.py_buffer(np.ascontiguousarray(rows, np.int64).tobytes())
    return table.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, held]))


def counted(table: pa.Table, names: Sequence[str]) -> dict[tuple[Any, ...], int]:
    """How many rows have the same values in columns of words, in the order of the first of them."""
    together = np.zeros(table.num_rows, np.int64)
    for name in names:
        coded = table.column(name).combine_chunks().dictionary_encode(null_encoding="encode")
        together = together * len(coded.dictionary) + numbers_of(coded.indices)
    _, first, rows = np.unique(together, return_index=True, return_counts=True)
    return {
        tuple(table.column(name)[row].as_py() for name in names): count
        for row, count in sorted(zip(first.tolist(), rows.tolist(), strict=True))
    }
