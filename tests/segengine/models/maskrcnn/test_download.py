"""The published weights fetched from a server on loopback that drops connections."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from segengine.errors import SegengineError
from segengine.models.maskrcnn import download

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; says what it was asked."""

    drops = 0
    """Connections still to be broken, each after 700,000 bytes."""
    resumes = True
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path != "/weights":
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.server.resumes else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT)
        if self.server.drops:
            self.server.drops -= 1
            stop = start + 700_000
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("SEGENGINE_CACHE", str(tmp_path / "cache"))
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: Server, path: str = "weights") -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_a_broken_connection_is_continued_where_it_broke(server: Server) -> None:
    server.drops = 2
    path = download.resolve("coco", f"{url(server)}#sha256={DIGEST}")
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=700000-", "bytes=1400000-"]
    assert [p.name for p in path.parent.iterdir()] == ["mask_rcnn_coco.h5"]
    assert download.resolve("coco", url(server)) == path
    assert len(server.asked) == 3  # fetched once


def test_a_later_call_continues_an_earlier_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RETRIES", 0)
    server.drops = 1
    with pytest.raises(
        SegengineError, match=r"broke after 700000 of 3000000 bytes; put the file at"
    ):
        download.resolve("coco", url(server))
    path = download.resolve("coco", url(server))
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=700000-"


def test_a_server_that_cannot_resume_starts_again(server: Server) -> None:
    server.drops, server.resumes = 1, False
    assert download.resolve("coco", url(server)).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_taken(server: Server) -> None:
    part = download.cache_folder() / "mask_rcnn_coco.h5.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    assert download.resolve("coco", url(server)).read_bytes() == CONTENT


@pytest.mark.parametrize("check", ["digest", "size"])
def test_other_bytes_are_refused_and_not_kept(server: Server, check: str) -> None:
    target = download.cache_folder() / "file"
    address = url(server) + ("#sha256=" + "0" * 64 if check == "digest" else "")
    with pytest.raises(SegengineError, match=r"SHA-256 is not|has 3000000 bytes, not 5"):
        download.fetch(address, target, 5 if check == "size" else None)
    assert not target.exists()
    assert not target.with_name("file.part").stat().st_size


def test_without_a_network_one_line_says_where_to_put_the_file(server: Server) -> None:
    target = download.cache_folder() / "mask_rcnn_coco.h5"
    server.server_close()
    with pytest.raises(SegengineError) as error:
        download.resolve("coco", url(server))
    assert f"put the file at {target}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_not_asked_for_again(server: Server) -> None:
    with pytest.raises(SegengineError, match="cannot be fetched: Not Found"):
        download.resolve("coco", url(server, "elsewhere"))
    assert len(server.asked) == 1


def test_a_path_without_a_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"weights: nowhere.h5: there is no such file"):
        download.resolve("nowhere.h5")
