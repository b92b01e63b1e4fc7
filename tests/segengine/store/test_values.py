"""Values to bytes and back, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numcodecs.zstd import compress

from segengine.store.values import MAGIC, decode, encode
from segengine.types import FrameRef, Window

numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
arrays = npst.arrays(
    npst.integer_dtypes() | npst.unsigned_integer_dtypes() | npst.floating_dtypes(sizes=(32, 64)),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
leaves = numbers | st.binary(max_size=9) | arrays
keys = st.text() | st.integers() | st.tuples(st.text(), st.integers())
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, arrays in dtype and bits too."""
    if isinstance(a, np.ndarray | np.generic):
        native = a.astype(a.dtype.newbyteorder("="))
        return (type(a), native.dtype, a.shape, native.tobytes()) == (
            type(b),
            b.dtype,
            b.shape,
            b.tobytes(),
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@given(values)
def test_round_trip(value: Any) -> None:
    data = encode(value)
    assert same(value, decode(data))
    assert encode(decode(data)) == encode(decode(encode(decode(data))))


@given(arrays)
def test_arrays_keep_every_bit(array: np.ndarray) -> None:
    found = decode(encode({"a": array}))["a"]
    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


def test_scalars_and_our_dataclasses() -> None:
    ref = FrameRef(3, "a b/ü.png", "/x", "f", 7, 9, seek=(5, 1))
    found = decode(encode((ref, Window((0, 1, 2), (3, 4, 5)), np.uint8(7))))
    assert found == (ref, Window((0, 1, 2), (3, 4, 5)), 7)
    assert type(found[2]) is np.uint8


@dataclass(frozen=True)
class Foreign:
    x: int


class NoData:
    pass


def test_foreign_classes_are_refused() -> None:
    data = encode(Foreign(1))
    with pytest.raises(ValueError, match="not a class this job's segmenter may commit"):
        decode(data)
    assert decode(data, (Foreign.__module__.partition(".")[0],)) == Foreign(1)


@pytest.mark.parametrize(
    "name", ["subprocess:Popen", "os:system", "segengine.store.values:encode", "segengine.job:Job"]
)
def test_a_store_cannot_name_what_is_called(name: str) -> None:
    header = json.dumps({"c": name, "f": {"args": "true"}}).encode()
    data = compress(b"".join([MAGIC, len(header).to_bytes(8, "little"), header]), 1)
    with pytest.raises(ValueError, match=name):
        decode(data)


@pytest.mark.parametrize("value", [NoData(), object(), {1, 2}, 1j, lambda: 0, Foreign])
def test_what_cannot_be_committed_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be committed; use numbers"):
        encode([value])


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="array of objects"):
        encode(np.array([{}], object))


@pytest.mark.parametrize("data", [b"", b"junk", compress(b"no magic", 1), encode(5)[:-3]])
def test_damaged_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a committed value"):
        decode(data)


def test_equal_values_give_equal_bytes_in_every_process() -> None:
    code = (
        "import numpy as np, sys; from segengine.store.values import encode;"
        "sys.stdout.write(encode({'b': (1, 2.5), 'a': np.arange(5)}).hex())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bytes.fromhex(found.stdout) == encode({"b": (1, 2.5), "a": np.arange(5)})
