"""A store on S3 that takes 50 ms to answer, against one on disk: shards of 1 s and of 0.1 s, two workers.

The server is moto's, on loopback; what stands before it waits, and counts requests.
"""

from __future__ import annotations

import http.client
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import zarr

from segengine.job import parse_job
from segengine.runs import Run
from tests.benchmarks.table import Row, show

DELAY = 0.05
"""Seconds."""
SHARDS = {1.0: 40, 0.1: 200}
"""How many, by the seconds that each takes."""
AIMS = {1.0: 0.8, 0.1: 0.5}
SIDE = 256
_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length")


class _Slow(ThreadingHTTPServer):
    """Passes requests on after a while, and counts them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: str) -> None:
        self.server = urlsplit(server)
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Slow
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(DELAY)
        with self.server.lock:
            what = "LIST" if "list-type" in self.path else self.command
            self.server.seen[what] += 1
        upstream = self.server.server
        link = http.client.HTTPConnection(str(upstream.hostname), upstream.port or 80)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        link.request(self.command, self.path, body or None, headers)
        found = link.getresponse()
        data = found.read()
        self.send_response(found.status)
        for name, value in found.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        size = found.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        link.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _bucket() -> Iterator[tuple[str, _Slow]]:
    """URL of a fresh bucket of a slow S3, which the environment names."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    slow = _Slow("http://{}:{}".format(*server.get_host_and_port()))
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{slow.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("s3://bench")
    yield "s3://bench", slow
    slow.shutdown()
    server.stop()


def rows() -> Iterator[Row]:
    """Throughput on S3 against that on disk; requests a shard."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name, _bucket() as (url, slow):
        place = Path(name)
        for seconds, shards in SHARDS.items():
            source = place / f"{shards}.zarr"
            zarr.save_array(source, np.full((1, SIDE, SIDE * shards, 1), 7, np.uint8))
            disk, _ = _timed(source, f"{place}/{shards}.out", seconds)
            before = Counter(slow.seen)
            far, whole = _timed(source, f"{url}/{shards}", seconds)
            asked = slow.seen - before
            kinds = ", ".join(f"{n / shards:.2g} {kind}" for kind, n in sorted(asked.items()))
            aim = AIMS[seconds]
            yield Row(f"object store: shards of {seconds:g} s a minute on S3, against on disk",
                      60 * shards / far, 60 * shards / disk, "/min", disk / far, f">= {aim}")  # fmt: skip
            yield Row(f"object store: requests a shard ({kinds})", asked.total() / shards, 0, "",
                      asked.total() / shards, "")  # fmt: skip
            yield Row("object store: the whole run", whole, shards * seconds / 2, "s",
                      shards * seconds / 2 / whole, "")  # fmt: skip


def _timed(source: Path, store: str, seconds: float) -> tuple[float, float]:
    """Seconds of the segment stage, and of the whole run."""
    job = {
        "name": "far",
        "source": {"kind": "zarr", "paths": [str(source)]},
        "segmenter": {"kind": "tests.benchmarks.scale:Sleeping", "seconds": seconds},
        "store": {"path": store, "chunk": SIDE, "shard": SIDE, "frames": 1},
        "cluster": {"workers": 2},
    }
    took, begun = 0.0, time.monotonic()
    with Run(parse_job(job)) as run:
        for stage in Run.STAGES:
            if stage == "segment":
                run.wait_for_workers()
            before = time.monotonic()
            for _ in run.stage(stage):
                pass
            if stage == "segment":
                took = time.monotonic() - before
    return took, time.monotonic() - begun


if __name__ == "__main__":
    show(rows())
