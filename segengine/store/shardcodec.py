"""One Zarr v3 shard to bytes: inner chunks zstd level 1 with checksum, index at the end, CRC-32C.

Whoever reads a damaged shard is told so by its codecs, instead of being given other labels.

zarr-python reads the result; writing it here is twice as fast and gives the bytes to checksum
without reading them back. Format: Zarr v3 specification, `sharding_indexed` codec.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import compress
from numpy.typing import NDArray

LEVEL = 1
_EMPTY = np.uint64(2**64 - 1)


def codecs(chunk: tuple[int, ...]) -> list[dict[str, Any]]:
    """The `codecs` metadata of an array whose shards `encode_shard` writes."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": LEVEL, "checksum": True}}
    return [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": list(chunk),
                "codecs": [little, zstd],
                "index_codecs": [little, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
    ]


def encode_shard(
    block: NDArray[Any], shard: tuple[int, ...], chunk: tuple[int, ...], fill: Any
) -> bytes:
    """Bytes of a shard of shape `shard` whose first corner holds `block`; the rest is `fill`.

    A chunk that is all `fill` is not stored. Equal arrays give equal bytes.
    """
    counts = tuple(s // c for s, c in zip(shard, chunk, strict=True))
    index = np.full((*counts, 2), _EMPTY, np.dtype("<u8"))
    fill = np.asarray(fill, block.dtype)
    parts: list[bytes] = []
    offset = 0
    occupied = [range(-(-n // c)) for n, c in zip(block.shape, chunk, strict=True)]
    for place in product(*occupied):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, chunk, strict=True))
        piece = block[box]
        if _all_fill(piece, fill):
            continue
        if piece.shape != chunk:
            whole = np.full(chunk, fill, block.dtype)
            whole[tuple(slice(0, n) for n in piece.shape)] = piece
            piece = whole
        data = compress(np.ascontiguousarray(piece), LEVEL, True)
        index[place] = offset, len(data)
        offset += len(data)
        parts.append(data)
    table = index.tobytes()
    checksum = int(google_crc32c.value(table)).to_bytes(4, "little")
    return b"".join([*parts, table, checksum])


def without_frames(
    data: bytes, shard: tuple[int, ...], chunk: tuple[int, ...], frames: Collection[int]
) -> bytes:
    """Bytes of a shard in which some frames, counted from its first, hold nothing but `fill`.

    The first axis is the frame, and a chunk has one. The bytes of all other chunks are those that
    were there: what `encode_shard` would give of such a block. Raises ValueError for damaged bytes.
    """
    if chunk[0] != 1:
        raise ValueError("a chunk holds several frames")
    counts = tuple(s // c for s, c in zip(shard, chunk, strict=True))
    size = 16 * int(np.prod(counts))
    table, checksum = data[-size - 4 : -4], data[-4:]
    if len(table) != size or int(google_crc32c.value(table)).to_bytes(4, "little") != checksum:
        raise ValueError("the shard's index is damaged")
    index = np.frombuffer(table, np.dtype("<u8")).reshape(*counts, 2).copy()
    index[sorted(frames)] = _EMPTY
    parts: list[bytes] = []
    offset = 0
    for place in np.argwhere(index[..., 0] != _EMPTY).tolist():
        start, length = (int(n) for n in index[tuple(place)])
        if start + length > len(data) - size - 4:
            raise ValueError("the shard's index is damaged")
        index[tuple(place)] = offset, length
        parts.append(data[start : start + length])
        offset += length
    table = index.tobytes()
    return b"".join([*parts, table, int(google_crc32c.value(table)).to_bytes(4, "little")])


def _all_fill(piece: NDArray[Any], fill: NDArray[Any]) -> bool:
    first = piece.flat[0]
    if first != fill and not (first != first and fill != fill):
        return False
    return bool(np.isnan(piece).all() if fill != fill else (piece == fill).all())
