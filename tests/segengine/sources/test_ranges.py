"""Files behind a URL: read as they are, each page fetched once while the file stays as it is."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.errors import TransientInputError
from segengine.sources import _ranges
from segengine.sources._files import GuardedFile
from segengine.sources._ranges import PAGE
from segengine.sources.raster import RasterSource
from segengine.types import FrameRef, Tile

DATA = np.random.default_rng(5).bytes(20 * PAGE + 77)


@dataclass
class Shelf:
    """What a server on loopback has, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    cut: int = 0
    """Bytes of an answer that are not sent, of those announced."""
    short: int = 0
    """Bytes by which an answer is shorter than what was asked for."""
    asked: list[tuple[int, int]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    shelf: ClassVar[Shelf]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        shelf, name = self.shelf, self.path.strip("/")
        data = shelf.files.get(name)
        if data is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "")
        start, stop = 0, len(data)
        if wanted and shelf.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(data)) - shelf.short
        self.send_response(206 if wanted and shelf.ranges else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        if not shelf.ranges:
            self.send_header("Accept-Ranges", "none")
        if name in shelf.states:
            self.send_header("ETag", shelf.states[name])
        self.end_headers()
        if body:
            shelf.asked.append((start, stop))
            self.wfile.write(data[start : stop - shelf.cut])
            self.close_connection = bool(shelf.cut)


@pytest.fixture(scope="module")
def server() -> Iterator[Shelf]:
    handler = type("Handler", (_Handler,), {"shelf": Shelf()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        handler.shelf.url = f"http://127.0.0.1:{served.server_port}"
        yield handler.shelf
        served.shutdown()


@pytest.fixture
def shelf(server: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(_ranges, "_PAGES", _ranges._Pages())
    server.files, server.states, server.asked = {"a": DATA}, {"a": '"1"'}, []
    server.ranges, server.cut, server.short = True, 0, 0
    return server


def read(shelf: Shelf, start: int, size: int) -> bytes:
    """Bytes of file `a`, opened anew."""
    with GuardedFile(f"{shelf.url}/a") as file:
        file.seek(start)
        return file.read(size)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 3 * PAGE)),
        st.tuples(st.just("seek"), st.integers(0, len(DATA) + 5)),
    ),
    max_size=12,
)


def test_any_steps_read_what_is_there(shelf: Shelf) -> None:
    @settings(max_examples=60, deadline=None)
    @given(steps)
    def check(steps: list[tuple[str, int]]) -> None:
        with BytesIO(DATA) as local, GuardedFile(f"{shelf.url}/a") as remote:
            for what, number in steps:
                assert getattr(remote, what)(number) == getattr(local, what)(number)
            assert remote.seek(-7, os.SEEK_END) == len(DATA) - 7
            assert remote.read() == DATA[-7:]

    check()


def test_a_page_is_asked_for_once_however_often_it_is_opened(shelf: Shelf) -> None:
    for start in range(0, len(DATA) - 3 * PAGE, PAGE + 11):
        assert read(shelf, start, 3 * PAGE) == DATA[start : start + 3 * PAGE]
    pages = Counter(
        n for start, stop in shelf.asked for n in range(start // PAGE, -(-stop // PAGE))
    )
    assert set(pages.values()) == {1}
    assert sum(stop - start for start, stop in shelf.asked) <= len(DATA)


def test_what_lies_together_is_one_request(shelf: Shelf) -> None:
    read(shelf, 3 * PAGE, 2 * PAGE)
    read(shelf, 0, 9 * PAGE)
    assert shelf.asked == [(3 * PAGE, 5 * PAGE), (0, 3 * PAGE), (5 * PAGE, 9 * PAGE)]


def test_a_tile_fetches_no_more_than_its_pages_and_a_header_some(shelf: Shelf) -> None:
    read(shelf, 4 * PAGE, 2 * PAGE)
    assert shelf.asked == [(4 * PAGE, 6 * PAGE)]
    shelf.asked.clear()
    with GuardedFile(f"{shelf.url}/a") as file:
        for _ in range(100):
            file.read(PAGE // 50)
    assert shelf.asked == [(0, 4 * PAGE)]  # up to what is there


def test_a_file_that_has_changed_is_read_anew(shelf: Shelf) -> None:
    assert read(shelf, 0, 10) == DATA[:10]
    shelf.files["a"], shelf.states["a"] = DATA[::-1], '"2"'
    assert read(shelf, 0, 10) == DATA[::-1][:10]


def test_of_a_server_that_tells_no_state_nothing_is_kept(shelf: Shelf) -> None:
    shelf.states.clear()
    assert read(shelf, 0, 10) == DATA[:10]
    shelf.files["a"] = DATA[::-1]
    assert read(shelf, 0, 10) == DATA[::-1][:10]


def test_no_more_is_kept_than_it_may(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ranges, "KEPT", 4 * PAGE)
    for start in (0, 8 * PAGE, 0):
        assert read(shelf, start, 8 * PAGE) == DATA[start : start + 8 * PAGE]
    assert sum(map(len, _ranges._PAGES.held.values())) == _ranges._PAGES.bytes <= 4 * PAGE
    # More than it may keep at a time: all of it is asked for anew.
    assert sum(stop - start for start, stop in shelf.asked) == 24 * PAGE


def test_without_ranges_the_whole_file_is_read(shelf: Shelf) -> None:
    shelf.ranges = False
    assert read(shelf, 5 * PAGE, 100) == DATA[5 * PAGE :][:100]


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_an_answer_that_breaks_off_is_an_error_and_is_not_kept(shelf: Shelf, fault: str) -> None:
    vars(shelf)[fault] = 1000
    with pytest.raises(TransientInputError):
        read(shelf, 0, 2 * PAGE)
    vars(shelf)[fault] = 0
    assert read(shelf, 0, 2 * PAGE) == DATA[: 2 * PAGE]


def test_windows_of_a_raster_fetch_each_of_its_bytes_once(shelf: Shelf, tmp_path: Any) -> None:
    side = 1024
    pixels = np.random.default_rng(6).integers(0, 255, (3, side, side), np.uint8)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=3, height=side, width=side, dtype="uint8",
        crs="EPSG:32613", transform=rasterio.Affine(1, 0, 5, 0, -1, 5), tiled=True,
        blockxsize=128, blockysize=128, compress="deflate", interleave="pixel",
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    data = (tmp_path / "a.tif").read_bytes()
    shelf.files["a.tif"], shelf.states["a.tif"] = data, '"1"'
    ref = FrameRef(0, "a.tif", f"{shelf.url}/a.tif", "", side, side, 0)
    for y in range(0, side, 256):
        for x in range(0, side, 256):  # with the neighbourhood that a filter needs
            box = slice(max(0, y - 20), y + 276), slice(max(0, x - 20), x + 276)
            (tile,) = RasterSource().read([ref], *box)
            assert isinstance(tile, Tile)
            assert np.array_equal(tile.pixels, np.moveaxis(pixels, 0, -1)[box])
    assert len(data) <= sum(stop - start for start, stop in shelf.asked) < 1.01 * len(data)
