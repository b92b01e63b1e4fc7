"""Zarr: arrays and OME-Zarr images of both formats, against the arrays that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.errors import CorruptInputError, TransientInputError
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
    with pytest.raises(ValueError, match=r"source\.bands is"):
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
    import json
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
