"""GeoParquet of STAC items: one row an item, read in batches, through stac-geoparquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from segengine.errors import CorruptInputError
from segengine.sources._files import open_input
from segengine.sources._stac_needs import need

if TYPE_CHECKING:
    from segengine.sources._stac_items import Item
    from segengine.sources.listing import Unlisted

_SUFFIXES = (".parquet", ".geoparquet", ".pq")
_MOST_ROWS = 2_000_000
_MOST_BYTES = 1 << 29
"""Of one row group, as it lies in memory."""
_BATCH = 512


def is_parquet(uri: str) -> bool:
    """Whether a document is GeoParquet, by its name."""
    return os.path.splitext(uri.partition("?")[0])[1].lower() in _SUFFIXES


def read_items(
    uri: str, read: Callable[[Mapping[str, Any], str], Item]
) -> Iterator[Item | Unlisted]:
    """The items of a file. Raises CorruptInputError, TransientInputError."""
    with need("stac_geoparquet"):
        from stac_geoparquet.arrow import stac_table_to_items
    import pyarrow as pa
    import pyarrow.parquet as pq

    from segengine.sources._stac_walk import read_one

    with open_input(uri) as file:
        try:
            held = pq.ParquetFile(file)
            _require_bounded(held)
            for batch in held.iter_batches(batch_size=_BATCH, use_threads=False):
                for item in stac_table_to_items(pa.table(batch)):
                    yield read_one(item, uri, read)
        except CorruptInputError:
            raise
        except Exception as error:
            raise CorruptInputError(
                f"is no GeoParquet of STAC items: {type(error).__name__}: {error}".partition("\n")[
                    0
                ]
            ) from error


def _require_bounded(held: Any) -> None:
    """Raise CorruptInputError for what a footer claims and no driver could hold."""
    about = held.metadata
    if about.num_rows > _MOST_ROWS:
        raise CorruptInputError(
            f"holds {about.num_rows:,} items; at most {_MOST_ROWS:,} are read: split it"
        )
    for i in range(about.num_row_groups):
        size = about.row_group(i).total_byte_size
        if size > _MOST_BYTES:
            raise CorruptInputError(
                f"has a row group of {size:,} bytes; at most {_MOST_BYTES:,} are read at once: write it "
                "with smaller ones"
            )
