"""Damaged headers of every format: no reader ends, hangs or fills the process; a reason is given."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from segengine.errors import CorruptInputError
from segengine.sources import _apart
from segengine.sources.raster import ApartError, RasterSource
from segengine.types import Entry, FrameRef, Tile

from . import formats

FILES = 40
"""Of each format; `python -m tests.segengine.sources.mutations 2000` takes as many as one likes."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """By format; in a process of its own, which damage may end."""
    command = [sys.executable, "-m", "tests.segengine.sources.mutations", str(FILES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {found["format"]: found for found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", [*formats.RASTERS, *formats.ZARRS])
def test_damage_is_read_or_a_reason(outcomes: dict[str, Any], name: str) -> None:
    found = outcomes[name]
    assert found["whole"] == "read"
    assert sum(found["outcomes"].values()) == FILES
    assert set(found["outcomes"]) <= {"read", "corrupt", "refused", "corrupt+read"}
    if name == "png":  # its chunks carry sums, which are looked at when it is opened
        assert found["outcomes"] == {"refused": FILES}
    else:
        assert len(found["outcomes"]) > 1, "no damage was noticed, or all of it"
    assert found["seconds"] < 5
    assert found["megabytes"] < 1024


def probe(path: Path) -> Any:
    return RasterSource().probe(Entry(path.name, str(path), ""))


def changed(path: Path, at: int, data: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("a box of nothing", "damaged JP2 header: a box of 0 bytes at byte"),
        ("a box that ends outside", "ends outside of what holds it"),
        ("boxes in boxes", "16 in one another"),
    ],
)
def test_boxes_of_a_jp2(tmp_path: Path, what: str, reason: str) -> None:
    path = formats.write("jp2", tmp_path)
    whole = path.read_bytes()
    inner = whole.index(b"ihdr") - 4
    if what == "a box of nothing":
        changed(path, inner, bytes(4))
    elif what == "a box that ends outside":
        changed(path, inner, struct.pack(">I", 1 << 20))
    else:
        nest = b""
        for _ in range(20):
            nest = struct.pack(">I4s", 8 + len(nest), b"asoc") + nest
        path.write_bytes(whole[: inner - 8] + nest + whole[inner - 8 :])
    with pytest.raises(CorruptInputError, match=reason):
        probe(path)


@pytest.mark.parametrize(
    ("version", "at", "value", "reason"),
    [
        (1, 12, 1 << 30, "a list of 1,073,741,824 items"),
        (1, 8, 7, "a list begins with 7"),
        (1, 16, 1 << 20, "a name of 1,048,576 bytes"),
        (1, 24, 1 << 30, "its variable .* ends at byte"),
        (2, 24, 1 << 30, "its variable .* ends at byte"),
    ],
)
def test_the_header_of_a_classic_netcdf(
    tmp_path: Path, version: int, at: int, value: int, reason: str
) -> None:
    path = formats.write("netcdf" if version == 1 else "netcdf-64", tmp_path)
    assert path.read_bytes()[3] == version
    changed(path, at, struct.pack(">I", value))
    with pytest.raises(CorruptInputError, match=f"damaged netCDF header: {reason}"):
        probe(path)


def test_records_of_a_netcdf_are_counted(tmp_path: Path) -> None:
    """A frame for each, as the library itself writes them; cut short, they are not there."""
    from scipy.io import netcdf_file

    path = tmp_path / "a.nc"
    with netcdf_file(str(path), "w") as file:
        for name, size in (("t", None), ("y", 8), ("x", 9)):
            file.createDimension(name, size)
        variable = file.createVariable("v", "i2", ("t", "y", "x"))
        for i in range(3):
            variable[i] = i
    assert probe(path).bands == 3
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(CorruptInputError, match="its variable v ends at byte"):
        probe(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ncols 4\nnrows 2000000000\n", "claims 4 x 2,000,000,000 pixels, more than"),
        ("ncols 4\nnrows -1\n", "no nrows in it"),
        ("ncols 4\ncellsize 1\n", "no nrows in it"),
    ],
)
def test_the_header_of_a_grid(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.asc"
    path.write_text(text + "xllcorner 0\nyllcorner 0\ncellsize 1\n1 2 3 4\n")
    with pytest.raises(CorruptInputError, match=f"damaged grid header: {reason}"):
        probe(path)


# HDF5: in a process of its own


def test_hdf5_is_read_in_another_process(tmp_path: Path) -> None:
    path = formats.write("hdf5", tmp_path)
    found = probe(path)
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    (item,) = RasterSource().read([ref], slice(3, 9), slice(5, 60))
    assert isinstance(item, Tile)
    child = _apart._child.process
    assert child is not None
    assert child.poll() is None
    (item,) = RasterSource().read([ref], slice(0, 9), slice(0, 9))
    assert _apart._child.process is child
    child.kill()
    child.wait()
    (item,) = RasterSource().read([ref], slice(0, 9), slice(0, 9))
    assert isinstance(item, Tile)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (signal.SIGSEGV, "it ends the library that reads it"),
        (signal.SIGXCPU, "the library that reads it does not come to an end"),
    ],
)
def test_what_ends_the_child_is_a_reason(tmp_path: Path, end: signal.Signals, reason: str) -> None:
    path = formats.write("hdf5", tmp_path)
    probe(path)
    child = _apart._child.process
    assert child is not None
    child.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(probe, path)
        while not _apart._child.lock.locked():
            time.sleep(0.001)
        child.send_signal(end)
        child.send_signal(signal.SIGCONT)
        with pytest.raises(CorruptInputError, match=f"^damaged raster: {reason}$"):
            asked.result()
    assert probe(path).width == formats.SIDE


@pytest.mark.parametrize(
    ("does", "status"),
    [
        ("while True: pass", -signal.SIGXCPU),
        ("bytearray(1 << 28)", 0),
        ("bytearray(3 << 30)", 1),
        ("_apart.allow(1 << 30); bytearray(3 << 30)", 0),
    ],
)
def test_time_and_memory_of_the_child_are_limited(does: str, status: int) -> None:
    code = (
        "from segengine.sources import _apart\n_apart._inside = True\n_apart._limit(1, 1 << 30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + does], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stderr
    assert ("MemoryError" in done.stderr) == (status == 1)


def test_hdf5_is_not_opened_here(tmp_path: Path) -> None:
    path = formats.write("hdf5", tmp_path)
    with (
        pytest.raises(ApartError, match="convert it to GeoTIFF"),
        RasterSource().open(str(path)),
    ):
        pass
