"""Parquet from bytes, read in the calling thread alone.

`pyarrow.parquet.read_table` reads ahead in threads of its own. One that lets go of the bytes while
the interpreter ends takes the process down with it (`terminate called`, exit code 134), which a
run with little to do met about once in thirty on a busy machine. It also imports pyarrow's data
sets, which nothing here needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a parquet file; `columns`: only these."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)
