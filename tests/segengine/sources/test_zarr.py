"""Zarr: arrays and OME-Zarr images of both formats, against the arrays that were written."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources import _chunks
from segengine.sources.zarr import ZarrSource
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

RNG = np.random.default_rng(2)


def store(path: Path, values: Any, version: int = 3, **options: Any) -> Path:
    options = {"chunks": tuple(min(n, 16) for n in values.shape)} | options
    array = zarr.create_array(
        store=str(path), shape=values.shape, dtype=values.dtype, zarr_format=version, **options
    )
    array[...] = values
    return path


def random(*shape: int, dtype: str = "uint16") -> Any:
    return RNG.integers(0, 100, shape).astype(dtype)


def probe(path: Path, **options: Any) -> Probe:
    return ZarrSource(**options).probe(Entry(path.name, str(path), ""))


def read(
    path: Path, rows: slice | None = None, cols: slice | None = None, **options: Any
) -> list[Tile | Unreadable]:
    """Every frame."""
    found = probe(path, **options)
    refs = [
        FrameRef(i, path.name, str(path), "", found.height, found.width, i)
        for i in range(found.frames)
    ]
    rows = rows or slice(0, found.height)
    cols = cols or slice(0, found.width)
    return list(ZarrSource(**options).read(refs, rows, cols))


def assert_frames(path: Path, expected: Any, **options: Any) -> None:
    """expected (frame, y, x, band)"""
    items = read(path, **options)
    assert len(items) == len(expected)
    for item, frame in zip(items, expected, strict=True):
        assert isinstance(item, Tile), item
        assert item.pixels.dtype == frame.dtype
        np.testing.assert_array_equal(item.pixels, frame)
    found = probe(path, **options)
    assert (found.frames, found.height, found.width, found.bands) == expected.shape
    assert found.windowed


def test_conforms() -> None:
    assert isinstance(ZarrSource(), Source)
    with pytest.raises(ValueError, match=r"^bands: is"):
        ZarrSource(bands=(0,))


@pytest.mark.parametrize("version", [2, 3])
def test_axes_without_names(tmp_path: Path, version: int) -> None:
    for i, (shape, axes) in enumerate(
        {
            (20, 30): (None, ..., None),
            (20, 30, 3): (None,),
            (5, 20, 30): (..., None),
            (4, 20, 30, 2): (...,),
            (20, 30, 4): (None,),
            (3, 20, 4): (..., None),
        }.items()
    ):
        values = random(*shape)
        assert_frames(store(tmp_path / f"{i}.zarr", values, version), values[axes])


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("band", "y", "x"), "b y x"),
        (("x", "time", "y"), "x f y"),
        (("time", "lat", "lon"), "f y x"),
        (("y", "x", "band"), "y x b"),
        (("time", "band", "y", "x"), "f b y x"),
    ],
)
def test_named_axes_in_any_order(tmp_path: Path, names: tuple[str, ...], order: str) -> None:
    values = random(*range(6, 6 + len(names)))
    kinds = order.split()
    full = values[(..., *[None] * (4 - values.ndim))]
    kinds += [kind for kind in "fyxb" if kind not in kinds]
    expected = full.transpose([kinds.index(kind) for kind in "fyxb"])
    assert_frames(store(tmp_path / "a.zarr", values, dimension_names=names), expected)
    path = store(tmp_path / "b.zarr", values, 2)
    zarr.open_array(str(path)).attrs["_ARRAY_DIMENSIONS"] = list(names)
    assert_frames(path, expected)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.filterwarnings("ignore")  # the writer's own
def test_ome_zarr(tmp_path: Path, version: str) -> None:
    from ome_zarr.format import format_from_version
    from ome_zarr.writer import write_image

    values = random(2, 3, 4, 40, 50)
    path = tmp_path / "a.zarr"
    write_image(values, zarr.open_group(
        str(path), mode="w", zarr_format=2 if version == "0.4" else 3
    ), axes="tczyx", fmt=format_from_version(version))  # fmt: skip
    # (t, c, z, y, x) -> (t z, y, x, c)
    expected = values.transpose(0, 2, 3, 4, 1).reshape(8, 40, 50, 3)
    assert_frames(path, expected)
    assert_frames(path, expected[..., [2, 0]], bands=(3, 1))


@given(st.integers(0, 39), st.integers(1, 40), st.integers(0, 49), st.integers(1, 50))
@settings(max_examples=20, deadline=None)
def test_windows(tmp_path_factory: Any, y: int, h: int, x: int, w: int) -> None:
    path = tmp_path_factory.getbasetemp() / "windows.zarr"
    values = np.arange(40 * 50 * 3, dtype=np.int32).reshape(40, 50, 3)
    if not path.exists():
        store(path, values, shards=(32, 32, 3))
    rows, cols = slice(y, min(40, y + h)), slice(x, min(50, x + w))
    (item,) = read(path, rows, cols)
    assert isinstance(item, Tile)
    np.testing.assert_array_equal(item.pixels, values[rows, cols])


def test_a_band_that_is_not_there(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", random(20, 30, 3))
    with pytest.raises(CorruptInputError, match=r"^band 5 asked, 3 present; set source\.bands$"):
        probe(path, bands=(5,))


@pytest.mark.parametrize("attribute", ["_FillValue", "missing_value"])
def test_nodata(tmp_path: Path, attribute: str) -> None:
    values = random(20, 30, 3)
    path = store(tmp_path / "a.zarr", values, attributes={attribute: 7})
    (item,) = read(path)
    assert isinstance(item, Tile)
    np.testing.assert_array_equal(item.valid, (values != 7).all(-1))
    assert probe(path).attributes == {"nodata": 7}


FILLS = {
    "bool": True, "int8": -128, "uint8": 255, "int16": -9999, "uint16": 65535, "int32": -(2**31),
    "uint32": 2**32 - 1, "int64": -(2**63), "uint64": 2**64 - 1, "float16": -7.5, "float32": 1e20,
    "float64": 0.1, "float32-nan": np.nan, "float64-inf": np.inf,
}  # fmt: skip


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("attribute", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("name", FILLS)
@pytest.mark.filterwarnings("ignore")  # xarray's own: of consolidated metadata, and of overflow
def test_xarray_says_what_is_nodata(
    tmp_path: Path, version: int, attribute: str, name: str
) -> None:
    """Written by xarray and read again by it: the authority, in every dtype."""
    import xarray as xr

    dtype = np.dtype(name.partition("-")[0])
    fill = dtype.type(FILLS[name])
    values = random(20, 30).astype(dtype)
    values[3:9, 4:12] = fill
    if dtype.kind in "iu" and dtype.itemsize < 8:  # xarray rounds larger ones to float64
        values[15, 15] = fill ^ dtype.type(1)
    variable = xr.Variable(("y", "x"), values, {attribute: fill})
    path = tmp_path / "a.zarr"
    xr.Dataset({"v": variable}).to_zarr(path, zarr_format=version, consolidated=False)
    with xr.open_zarr(path, consolidated=False, chunks=None) as found:
        wanted = found["v"].notnull().values
    (item,) = read(path / "v")
    assert isinstance(item, Tile), item
    expected = values.astype("uint8") if dtype.kind == "b" else values
    np.testing.assert_array_equal(item.pixels[..., 0], expected)
    valid = np.ones(values.shape, bool) if item.valid is None else item.valid
    np.testing.assert_array_equal(valid, wanted)
    assert not valid.all()


def test_neighbours_of_a_large_nodata_are_valid(tmp_path: Path) -> None:
    values = np.full((4, 4), 2**64 - 2, np.uint64)
    values[0] = 2**64 - 1
    path = store(tmp_path / "a.zarr", values, attributes={"_FillValue": 2**64 - 1})
    (item,) = read(path)
    assert isinstance(item, Tile)
    np.testing.assert_array_equal(item.valid, values != 2**64 - 1)
    assert probe(path).attributes == {"nodata": 2**64 - 1}


def test_several_missing_values(tmp_path: Path) -> None:
    values = random(20, 30)
    path = store(tmp_path / "a.zarr", values, attributes={"missing_value": [5, 6, -1, 2.5]})
    (item,) = read(path)
    assert isinstance(item, Tile)
    np.testing.assert_array_equal(item.valid, ~np.isin(values, (5, 6)))


def test_a_fill_value_of_zarr_v2_counts_where_xarray_wrote_it(tmp_path: Path) -> None:
    values = random(20, 30)
    path = store(tmp_path / "a.zarr", values, 2, fill_value=7)
    (item,) = read(path)
    assert isinstance(item, Tile)
    assert item.valid is None
    zarr.open_array(str(path)).attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    (item,) = read(path)
    assert isinstance(item, Tile)
    np.testing.assert_array_equal(item.valid, values != 7)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("pol", "y", "x"), "has an axis 'pol'; rename it to one that is known .*frame: .*time"),
        ((None, "y", "x"), "has an axis without a name beside others with one"),
    ],
)
def test_unknown_axes_are_refused_by_name(tmp_path: Path, names: Any, reason: str) -> None:
    path = store(tmp_path / "a.zarr", random(3, 20, 30), dimension_names=names)
    with pytest.raises(CorruptInputError, match=reason):
        probe(path)


def test_nan_is_nodata_and_a_fill_value_is_not(tmp_path: Path) -> None:
    values = random(20, 30, dtype="float32")
    values[3:5] = np.nan
    (item,) = read(store(tmp_path / "a.zarr", values, fill_value=9))
    assert isinstance(item, Tile)
    np.testing.assert_array_equal(item.valid, ~np.isnan(values))


@pytest.mark.parametrize("dtype", ["bool", ">u2", "int8", "float64"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    values = random(20, 30, dtype=dtype)
    expected = "uint8" if dtype == "bool" else str(np.dtype(dtype).newbyteorder("="))
    path = store(tmp_path / "a.zarr", values, 2)
    assert probe(path).dtype == expected
    (item,) = read(path)
    assert isinstance(item, Tile)
    assert item.pixels.dtype == expected
    np.testing.assert_array_equal(item.pixels[..., 0], values)


def test_groups(tmp_path: Path) -> None:
    values = random(20, 30)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    with pytest.raises(CorruptInputError, match="holds 0 members"):
        probe(tmp_path / "a.zarr")
    store(tmp_path / "a.zarr" / "only", values)
    assert_frames(tmp_path / "a.zarr", values[None, ..., None])
    group.create_array("other", shape=(2, 2), dtype="u1")
    with pytest.raises(CorruptInputError, match=r"holds 2 members \(only, other\); name one"):
        probe(tmp_path / "a.zarr")
    assert_frames(tmp_path / "a.zarr" / "only", values[None, ..., None])


def test_a_damaged_chunk_costs_its_window(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", random(32, 32))
    (path / "c" / "0" / "1").write_bytes(b"damaged")
    (item,) = read(path, slice(0, 9), slice(14, 18))
    assert isinstance(item, Unreadable)
    assert item.kind == "corrupt"
    assert "damaged chunk" in item.reason
    (item,) = read(path, slice(0, 9), slice(0, 16))
    assert isinstance(item, Tile)


def test_what_is_no_zarr(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with pytest.raises(TransientInputError, match="no such file"):
        probe(path)
    path.mkdir()
    with pytest.raises(CorruptInputError, match="no metadata"):
        probe(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(CorruptInputError, match="damaged Zarr metadata"):
        probe(path)
    (tmp_path / "b.zarr").write_text("")
    with pytest.raises(CorruptInputError, match="is a file"):
        probe(tmp_path / "b.zarr")
    with pytest.raises(CorruptInputError, match="complex64 pixels"):
        probe(store(tmp_path / "c.zarr", random(4, 4, dtype="complex64")))
    with pytest.raises(CorruptInputError, match="5 axes without known names"):
        probe(store(tmp_path / "d.zarr", random(2, 2, 2, 2, 2)))
    with pytest.raises(CorruptInputError, match="one y and one x"):
        probe(store(tmp_path / "e.zarr", random(4, 4), dimension_names=("y", "band")))


@pytest.mark.parametrize(
    "filters", [{"compressor": {"id": "pickle"}}, {"filters": [{"id": "pickle"}]}]
)
def test_a_pickle_is_no_codec(tmp_path: Path, filters: dict[str, Any]) -> None:
    import pickle  # noqa: TID251 - what an attacker does

    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "canary",)

    metadata = {"zarr_format": 2, "shape": [8, 8], "chunks": [8, 8], "dtype": "|u1", "order": "C"}
    none = {"compressor": None, "filters": None, "fill_value": 0}
    (tmp_path / ".zarray").write_text(json.dumps(metadata | none | filters))
    (tmp_path / "0.0").write_bytes(pickle.dumps(Touch()))
    with pytest.raises(CorruptInputError, match="damaged Zarr metadata"):
        ZarrSource().probe(Entry("a", str(tmp_path), ""))
    assert not (tmp_path / "canary").exists()


# Bounds


def claims(path: Path, version: int = 3, **changes: Any) -> Path:
    """An array that says so of itself, with one chunk behind it."""
    store(path, np.ones((16, 16), np.uint8), version, compressors=None)
    name = path / ("zarr.json" if version == 3 else ".zarray")
    document = json.loads(name.read_text())
    if version == 3 and "chunks" in changes:
        chunks = changes.pop("chunks")
        document["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    name.write_text(json.dumps(document | changes))
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": [2**40, 2**40]}, "is 1099511627776 x 1099511627776 pixels; at most 17,592"),
        ({"shape": [2**17, 2**17], "chunks": [2**17, 2**17]}, "17,179,869,184 bytes; at most 1,073"),
        ({"shape": [2**40, 16, 16], "chunks": [1, 16, 16]}, "has 1,099,511,627,776 frames; at most"),
        ({"shape": [1, 8, 8, 70_000], "chunks": [1, 8, 8, 1]}, "has 4,097 bands; at most 4,096"),
    ],
)  # fmt: skip
def test_what_no_worker_could_hold_is_refused(
    tmp_path: Path, version: int, changes: dict[str, Any], reason: str
) -> None:
    path = claims(tmp_path / "a.zarr", version, **changes)
    with pytest.raises(CorruptInputError, match=reason):
        probe(path)


def test_a_shard_of_too_many_chunks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(
        str(path), shape=(2**16, 2**16), dtype="u1", chunks=(4, 4), shards=(2**16, 2**16)
    )
    with pytest.raises(CorruptInputError, match="one shard of it has 268,435,456 chunks"):
        probe(path)


BOMBS = {
    "2-zlib": "numcodecs:Zlib", "2-gzip": "numcodecs:GZip", "2-bz2": "numcodecs:BZ2",
    "2-lzma": "numcodecs:LZMA", "2-lz4": "numcodecs:LZ4", "2-zstd": "numcodecs:Zstd",
    "2-blosc": "numcodecs:Blosc", "3-gzip": "zarr.codecs:GzipCodec",
    "3-zstd": "zarr.codecs:ZstdCodec", "3-blosc": "zarr.codecs:BloscCodec",
    "3-lzma": "zarr.codecs.numcodecs:LZMA", "3-bz2": "zarr.codecs.numcodecs:BZ2",
    "3-lz4": "zarr.codecs.numcodecs:LZ4",
}  # fmt: skip
"""Codecs that can make much of little, each with the version of Zarr."""


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.filterwarnings("ignore")  # of codecs outside the specification
def test_a_small_chunk_does_not_become_a_big_one(tmp_path: Path, name: str) -> None:
    """A chunk of 64 MB of ones in the place of one of 256 bytes; beside it they are read."""
    version, codec = int(name[0]), resolve_name(BOMBS[name])()
    values = random(32, 32, dtype="uint8")
    path = store(tmp_path / "a.zarr", values, version, compressors=codec)
    chunk = "c/0/1" if version == 3 else "0.1"
    big = store(
        tmp_path / "b.zarr", np.ones((2**13, 2**13), np.uint8), version,
        chunks=(2**13, 2**13), compressors=codec,
    )  # fmt: skip
    bomb = (big / ("c/0/0" if version == 3 else "0.0")).read_bytes()
    tracemalloc.start()  # before any thread decodes: to stop it while one does ends the process
    try:
        with pytest.raises(ValueError, match=r"claims 67,108,864 bytes|is longer than"):
            _chunks._decoded(name[2:], bomb, 2**16)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**25
    (path / chunk).write_bytes(bomb)
    (item,) = read(path)
    assert isinstance(item, Unreadable), item
    assert item.kind == "corrupt"
    assert re.search(r"damaged chunk: (claims 67,108,864 bytes|is longer than)", item.reason)
    (item,) = read(path, cols=slice(0, 16))
    assert isinstance(item, Tile)
    np.testing.assert_array_equal(item.pixels[..., 0], values[:, :16])


def test_zstd_without_its_size_is_read_and_bounded(tmp_path: Path) -> None:
    import pyarrow as pa

    path = store(tmp_path / "a.zarr", random(32, 32, dtype="uint8"))

    def streamed(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()

    (path / "c/0/1").write_bytes(streamed(bytes([9]) * 256))
    (item,) = read(path)
    assert isinstance(item, Tile)
    assert (item.pixels[:16, 16:] == 9).all()
    for data, reason in (
        (streamed(bytes(2**24)), "is longer than"),
        (b"\x28\xb5\x2f\xfd\0\0" + bytes(range(40)), "ZSTD decompress failed"),
        (bytes(9), "does not begin as Zstandard does"),
    ):
        (path / "c/0/1").write_bytes(data)
        (item,) = read(path)
        assert isinstance(item, Unreadable)
        assert item.kind == "corrupt"
        assert reason in item.reason
