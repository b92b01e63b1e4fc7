"""Weights of PyTorch: nothing that a pickle names is called, whatever the file looks like."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segengine.models._torch import read_state


def touch(canary: Path) -> bytes:
    """A pickle that makes a file when it is loaded."""
    return b"\x80\x02}X\x01\0\0\0acposix\nsystem\n(V" + f"touch {canary}".encode() + b"\ntRs."


def archive(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("archive/data.pkl", data)
        packed.writestr("archive/data/0", np.ones(4, "<f4").tobytes())
    return made.getvalue()


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], count: int = 4) -> bytes:
    """A state dict with one tensor, as torch pickles it."""

    def tuple_of(*numbers: int) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu"
    storage += b"J" + struct.pack("<i", count) + b"tQ"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + tuple_of(*shape)
    made += tuple_of(*strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\0\0\0a" + made + b"s."


def test_a_state_dict_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(archive(tensor((2, 2), (2, 1))))
    np.testing.assert_array_equal(read_state(tmp_path / "a.pth")["a"], np.ones((2, 2)))


def nested() -> bytes:
    """A tuple of a tuple twice, thirty deep, as a key: its hash would take 2 ** 30 steps."""
    made = b"\x80\x02}K\x01\x85q\0"
    for i in range(30):
        made += b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
    return made + b"K\x01s."


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda at: archive(touch(at)), "names posix.system, which weights"),
        (touch, "names posix.system, which weights"),
        (lambda at: touch(at) + archive(touch(at)), "a zip behind something"),
        (lambda at: archive(tensor((1 << 20, 1 << 20), (0, 0))), "is larger than its storage"),
        (lambda at: archive(tensor((9,), (1,))), "goes beyond its storage"),
        (lambda at: archive(b"\x80\x02}(K\x01K\x02K\x03u."), "is not a torch state dict"),
        (lambda at: archive(b"\x80\x02K\x01u."), "is not a torch state dict"),
        (lambda at: archive(b"\x80\x02K\x01K\x02a."), "is not a torch state dict"),
        (lambda at: archive(b"\x80\x02(((((((t."), "is not a torch state dict"),
        (lambda at: archive(nested()), "is not a torch state dict"),
        (lambda at: archive(b"")[:-9], "the zip is damaged"),
    ],
)
def test_what_is_no_state_dict_is_one_line(
    tmp_path: Path, made: Callable[[Path], bytes], says: str
) -> None:
    path, canary = tmp_path / "a.pth", tmp_path / "canary"
    path.write_bytes(made(canary))
    started = time.monotonic()
    with pytest.raises(ValueError, match=says) as caught:
        read_state(path)
    assert str(caught.value).startswith(f"{path}: is not a torch state dict that can be read: ")
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    assert time.monotonic() - started < 60


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        header(b"{}", 1 << 62),
        header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}'),
        header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}'),
        header(b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'),
        header(b'{"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}'),
        header(b'{"a": 1}'),
        header(b"[]"),
        header(b'{"a":' * 50_000),
        b"",
    ],
)
def test_safetensors_that_are_damaged_are_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="is not a safetensors file that can be read") as caught:
        read_state(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_safetensors_are_read(tmp_path: Path) -> None:
    data = header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}')
    (tmp_path / "a.safetensors").write_bytes(data)
    np.testing.assert_array_equal(read_state(tmp_path / "a.safetensors")["a"], [0, 0])
