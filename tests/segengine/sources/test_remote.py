"""Every source over S3 and HTTP, against servers on loopback: the same as from a local file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
import zarr
from PIL import Image

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources.images import ImageSource
from segengine.sources.listing import list_entries
from segengine.sources.raster import RasterSource
from segengine.sources.video import VideoSource
from segengine.sources.zarr import ZarrSource
from segengine.types import Entry, FrameRef, Source, Tile, Unreadable

from . import buckets
from .buckets import forget_sessions

pytestmark = pytest.mark.system
SOURCES: dict[str, Source] = {
    "images": ImageSource(),
    "raster": RasterSource(),
    "video": VideoSource(),
    "zarr": ZarrSource(),
}
PIXELS = np.random.default_rng(4).integers(0, 256, (64, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One input of each kind."""
    import av

    root = tmp_path_factory.mktemp("inputs")
    Image.fromarray(PIXELS).save(root / "a b#ä.png")
    (root / "sub").mkdir()
    Image.fromarray(PIXELS).save(root / "sub" / "photo.tif")
    with rasterio.open(
        root / "scene.tif", "w", driver="GTiff", count=3, height=64, width=80, dtype="uint8",
        crs="EPSG:32613", transform=rasterio.Affine(1, 0, 5, 0, -1, 5), tiled=True,
        blockxsize=16, blockysize=16, compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(np.moveaxis(PIXELS, -1, 0))
    zarr.create_array(str(root / "x.zarr"), shape=PIXELS.shape, chunks=(16, 16, 3), dtype="u1")[
        :
    ] = PIXELS
    with av.open(str(root / "v.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuvj420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(PIXELS, format="rgb24")))
        container.mux(stream.encode())
    (root / "notes.txt").write_text("not an input")
    return root


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    with buckets.serving(folder, "inputs", "night") as url:
        yield url


def read_all(source: Source, entry: Entry) -> tuple[Any, list[Tile | Unreadable]]:
    """Probe and every frame, a window of it."""
    found = source.probe(entry)
    positions = found.positions if found.positions is not None else [0]
    seeks = found.seeks if found.seeks is not None else [None] * len(positions)
    refs = [
        FrameRef(i, entry.name, entry.uri, "", found.height, found.width, int(p),
                 None if s is None else (int(s[0]), int(s[1])))
        for i, (p, s) in enumerate(zip(positions, seeks, strict=True))
    ]  # fmt: skip
    return found, list(source.read(refs, slice(10, 40), slice(5, 70)))


def assert_same(local: Entry, remote: Entry, kind: str) -> None:
    ours, theirs = (read_all(SOURCES[kind], entry) for entry in (remote, local))
    assert ours[0].attributes == theirs[0].attributes
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert isinstance(a, Tile), a
        assert isinstance(b, Tile), b
        np.testing.assert_array_equal(a.pixels, b.pixels)


@pytest.mark.parametrize("pattern", ["", "/**", "/*"])
def test_s3_lists_and_reads_as_local_files_do(folder: Path, bucket: str, pattern: str) -> None:
    local = list_entries([f"{folder}{pattern}"])
    remote = list_entries([f"{bucket}{pattern}"])
    wanted = ["a b#ä.png", "scene.tif", "sub/photo.tif", "v.avi", "x.zarr"]
    if pattern == "/*":
        wanted.remove("sub/photo.tif")
    assert [e.name for e in remote.entries] == [e.name for e in local.entries] == wanted
    kinds = [remote.kind_of(entry) for entry in remote.entries]
    assert kinds == [local.kind_of(entry) for entry in local.entries]
    if pattern == "":
        for a, b, kind in zip(local.entries, remote.entries, kinds, strict=True):
            assert_same(a, b, kind)


def test_s3_single_objects(folder: Path, bucket: str) -> None:
    for name, kind in (("scene.tif", "raster"), ("x.zarr", "zarr"), ("sub/photo.tif", "images")):
        remote = list_entries([f"{bucket}/{name}"])
        (entry,) = remote.entries
        assert entry.name == name.rpartition("/")[2]
        assert remote.kind_of(entry) == kind
        (same,) = list_entries([f"{bucket}/{name[:-1]}*"]).entries
        assert same == entry


def test_s3_fingerprints_follow_the_content(bucket: str) -> None:
    system = fsspec.filesystem("s3")
    marks = []
    for content in (b"one", b"two", b"one"):
        system.pipe_file("inputs/changing/a.png", content)
        marks.append(list_entries(["s3://inputs/changing/*.png"]).entries[0].fingerprint)
    assert marks[0] == marks[2] != marks[1]


def test_s3_what_lies_beside_a_raster_belongs_to_it(folder: Path, bucket: str) -> None:
    """By a glob, and by its own name; behind a URL too it says what is no pixel."""
    system = fsspec.filesystem("s3")
    root = "inputs/beside"
    content = (folder / "sub" / "photo.tif").read_bytes()
    system.pipe_file(f"{root}/a.tif", content)

    def listed(kind: str = "auto") -> tuple[Entry, str]:
        found = list_entries([f"s3://{root}/*.tif"], kind)
        (entry,) = found.entries
        assert list_entries([f"s3://{root}/a.tif"]).entries == (entry,)
        return entry, found.kind_of(entry)

    before, kind = listed()
    assert kind == "images"
    aux = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
    system.pipe_file(f"{root}/a.tif.aux.xml", f"{aux}</PAMDataset>".encode())
    after, kind = listed()
    assert before.fingerprint != after.fingerprint
    assert kind == "raster"
    with pytest.raises(CorruptInputError, match=r"has a\.tif\.aux\.xml beside it, .*kind: raster$"):
        listed("images")
    _, (tile,) = read_all(RasterSource(), after)
    assert isinstance(tile, Tile)
    assert tile.valid is not None
    np.testing.assert_array_equal(tile.valid, PIXELS[10:40, 5:70, 0] != 7)
    system.rm(f"{root}/a.tif.aux.xml")
    assert listed() == (before, "images")


def test_a_query_opens_one_object_and_nothing_beside_it(tmp_path: Path) -> None:
    """A server that minds no query would give a raster as its own metadata."""
    values = np.zeros((1, 64, 80), np.uint8)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=1, height=64, width=80, dtype="uint8",
        crs="EPSG:32613", transform=rasterio.Affine(1, 0, 5, 0, -1, 5),
    ) as dataset:  # fmt: skip
        dataset.write(values)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/a.tif"
        marks = set()
        for query in ("", "?v=1", "?v=2"):
            (entry,) = list_entries([url + query]).entries
            marks.add(entry.fingerprint)
            _, (tile,) = read_all(RasterSource(), entry)
            assert isinstance(tile, Tile), tile
            assert tile.valid is None
        assert len(marks) == 1
    finally:
        forget_sessions()
        server.shutdown()
        server.server_close()
        thread.join()


def test_s3_what_is_missing(bucket: str) -> None:
    with pytest.raises(ValueError, match=r"source\.paths: .*/\*\.jpg names no input"):
        list_entries([f"{bucket}/*.jpg"])
    for kind, source in SOURCES.items():
        if kind != "zarr":  # an object store has no empty folders to tell apart
            with pytest.raises(TransientInputError):
                source.probe(Entry("a", f"{bucket}/missing.tif", ""))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_http(folder: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        listing = list_entries([f"{url}/sub/photo.tif?version=1"])
        assert [entry.name for entry in listing.entries] == ["photo.tif"]
        assert listing.kind_of(listing.entries[0]) == "images"
        local = Entry("photo.tif", str(folder / "sub" / "photo.tif"), "")
        assert_same(local, listing.entries[0], "images")
        assert_same(
            Entry("s", str(folder / "scene.tif"), ""), Entry("s", f"{url}/scene.tif", ""), "raster"
        )
        globbed = list_entries([f"{url}/sub/*.tif"])
        assert [entry.name for entry in globbed.entries] == ["photo.tif"]
    finally:
        forget_sessions()
        server.shutdown()
        thread.join()
        server.server_close()
