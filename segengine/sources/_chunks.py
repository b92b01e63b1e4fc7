"""Chunks of a Zarr array that take no more memory when decoded than the array says.

A few bytes can stand for gigabytes. What says so at its beginning is asked before its decoder is;
what does not is decoded here, up to that size and no further:

    blosc, lz4, zstd with a size     asked, then decoded by their own codec
    gzip, zlib, bz2, lzma, zstd      decoded here

Source: RFC 1950, 1952 and 8878; the headers of Blosc 1 and of numcodecs' LZ4.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numcodecs.abc
from zarr import AsyncArray
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec

from segengine.errors import CorruptInputError
from segengine.sources._bounds import MOST_BYTES

MOST_INNER = 1 << 22
"""Chunks of a shard, whose index is read whole."""
_SLACK = 1 << 16
"""Bytes by which what is no pixel yet may be longer: headers and checksums of the codecs between."""
_HEAD = 18
"""Bytes that tell a size: the longest header of a Zstandard frame."""
_DICTIONARY = 1 << 28
"""Bytes of memory that LZMA may take beside what it decodes."""


def require_bounded_chunks(array: Any) -> None:
    """Raise CorruptInputError where one chunk of an array is more than is decoded at once."""
    size = math.prod(array.chunks) * array.dtype.itemsize
    if size > MOST_BYTES:
        raise CorruptInputError(
            f"one chunk of it is {' x '.join(map(str, array.chunks))} values, {size:,} bytes; at "
            f"most {MOST_BYTES:,} are decoded at once: store it in smaller chunks"
        )
    if array.shards is not None:
        inner = math.prod(array.shards) // max(math.prod(array.chunks), 1)
        if inner > MOST_INNER:
            raise CorruptInputError(
                f"one shard of it has {inner:,} chunks; at most {MOST_INNER:,} are read: "
                "store it in smaller shards"
            )


def bounded(array: Any) -> Any:
    """The same array, whose chunks are decoded within their size."""
    import zarr

    metadata = array.metadata
    if metadata.zarr_format == 3:
        metadata = replace(metadata, codecs=tuple(map(_bounded, metadata.codecs)))
    elif metadata.compressor is not None:
        limit = math.prod(metadata.chunks) * max(array.dtype.itemsize, 8) + _SLACK
        metadata = replace(metadata, compressor=_Compressor(metadata.compressor, limit))
    inner = AsyncArray(metadata, array.store_path, array.async_array.config)
    return zarr.Array(inner)


def _bounded(codec: Any) -> Any:
    if isinstance(codec, ShardingCodec):
        return replace(
            codec,
            codecs=tuple(map(_bounded, codec.codecs)),
            index_codecs=tuple(map(_bounded, codec.index_codecs)),
        )
    name = codec.to_dict()["name"].removeprefix("numcodecs.")
    return _Bounded(codec, name) if name in _SIZES else codec


@dataclass(frozen=True)
class _Bounded(BytesBytesCodec):
    """A codec of Zarr v3, asked for no more than its chunk."""

    codec: Any
    name: str
    is_fixed_size = False

    def to_dict(self) -> Any:
        return self.codec.to_dict()

    def evolve_from_array_spec(self, array_spec: Any) -> _Bounded:
        return replace(self, codec=self.codec.evolve_from_array_spec(array_spec))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        return int(self.codec.compute_encoded_size(input_byte_length, chunk_spec))

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        itemsize = chunk_spec.dtype.to_native_dtype().itemsize
        limit = math.prod(chunk_spec.shape) * itemsize * 9 // 8 + _SLACK
        data = memoryview(chunk_data.as_numpy_array())
        found = await asyncio.to_thread(_decoded, self.name, data, limit)
        if found is None:
            return await self.codec._decode_single(chunk_data, chunk_spec)
        return chunk_spec.prototype.buffer.from_bytes(found)


class _Compressor(numcodecs.abc.Codec):  # type: ignore[misc]
    """The compressor of a Zarr v2 array, asked for no more than a chunk."""

    codec_id = "segengine.bounded"
    """Never written: arrays are opened for reading."""

    def __init__(self, codec: Any, limit: int) -> None:
        self.codec, self.limit = codec, limit

    def encode(self, buf: Any) -> Any:
        return self.codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        if self.codec.codec_id in _SIZES:
            found = _decoded(self.codec.codec_id, memoryview(buf), self.limit)
            if found is not None:
                return found
        return self.codec.decode(buf, out)

    def get_config(self) -> Any:
        return self.codec.get_config()


def _decoded(name: str, data: bytes | memoryview, limit: int) -> bytes | None:
    """The bytes behind a chunk; None where its own codec may decode it. Raises ValueError."""
    size = _SIZES[name](bytes(data[:_HEAD]))
    if size is None:
        try:
            found = _STREAMS[name](data, limit + 1)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(str(error)) from error  # OSError is the word of who fetches a chunk
        if len(found) <= limit:
            return found
        raise ValueError(f"is longer than {limit:,} bytes when decoded, which its chunk is not")
    if size > limit:
        raise ValueError(f"claims {size:,} bytes, more than the {limit:,} of its chunk")
    return None


def _blosc_size(data: bytes) -> int:
    return int.from_bytes(data[4:8], "little")


def _lz4_size(data: bytes) -> int:
    return int.from_bytes(data[:4], "little")


def _zstd_size(data: bytes) -> int | None:
    """The content size of the first frame; None where it does not say."""
    if data[:4] != b"\x28\xb5\x2f\xfd" or len(data) < 6:
        raise ValueError("does not begin as Zstandard does")  # its codec would ask for all memory
    flags = data[4]
    single = bool(flags & 32)
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    width = (int(single), 2, 4, 8)[flags >> 6]
    size = int.from_bytes(data[start : start + width], "little")
    return None if width == 0 else size + 256 * (width == 2)


def _unsaid(data: bytes) -> None:
    return None


_SIZES: dict[str, Callable[[bytes], int | None]] = {
    "blosc": _blosc_size,
    "lz4": _lz4_size,
    "zstd": _zstd_size,
    "gzip": _unsaid,
    "zlib": _unsaid,
    "bz2": _unsaid,
    "lzma": _unsaid,
}
"""By codec: how many bytes a chunk says it is; those that are not here make no chunk longer."""


def _inflate(data: bytes | memoryview, limit: int) -> bytes:
    """A zlib stream, or the members of a gzip file one after another."""
    found, left = [], limit
    while data and left > 0:
        stream = zlib.decompressobj(47)  # finds out which it is
        part = stream.decompress(data, left)
        found.append(part)
        left -= len(part)
        if left > 0 and not stream.eof:
            raise ValueError("ends before its end")
        data = stream.unused_data.lstrip(b"\0")
    return b"".join(found)


def _bunzip(data: bytes | memoryview, limit: int) -> bytes:
    return _members(bz2.BZ2Decompressor, data, limit)


def _unlzma(data: bytes | memoryview, limit: int) -> bytes:
    return _members(lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY), data, limit)


def _members(stream: Callable[[], Any], data: bytes | memoryview, limit: int) -> bytes:
    found, left = [], limit
    while data and left > 0:
        decoder = stream()
        part = decoder.decompress(data, left)
        found.append(part)
        left -= len(part)
        if left > 0 and not decoder.eof:
            raise ValueError("ends before its end")
        data = decoder.unused_data
    return b"".join(found)


def _unzstd(data: bytes | memoryview, limit: int) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), "zstd") as stream:
        return bytes(stream.read(limit))


_STREAMS: dict[str, Callable[[bytes | memoryview, int], bytes]] = {
    "gzip": _inflate,
    "zlib": _inflate,
    "bz2": _bunzip,
    "lzma": _unlzma,
    "zstd": _unzstd,
}
