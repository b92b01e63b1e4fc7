"""Shards that kill, block or fail their worker cost nobody else anything."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from faulty import Task, counted, hold_at_once, nothing
from harness import Job, job_of, write_photos

from segengine.dispatch import clusters
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.pool import Work
from segengine.job import ClusterSpec

pytestmark = pytest.mark.system

FAULTS = {"retries": 1}


def job_with_trap(
    make_job: Callable[..., Job],
    tmp_path: Path,
    trap: str,
    deadline: float = 60,
    kind: str = "faulty:Trapped",
    **options: Any,
) -> Job:
    """Three photos of 4 shards; the first shard of the second holds the trap."""
    photos = write_photos(tmp_path / "photos", 3, trapped=(1,))
    log = str(tmp_path / "log")
    segmenter = {"kind": kind, "trap": trap, "log": log, **options}
    faults = FAULTS | {"deadline": deadline}
    job: Job = make_job(job_of(photos, tmp_path / "m.zarr", segmenter, faults=faults))
    return job


def assert_only_the_trap_failed(job: Job, status: str) -> None:
    (failed,) = job.summary()["failed"]
    assert (failed["name"], failed["kind"]) == ("01.png", status), failed["reason"]
    records = {key[2]: record for key, record in job.records().items() if key[0] == "mask"}
    assert len(records) == 12
    assert {place for place, r in records.items() if r.status != "done"} == {(1, 0, 0)}
    assert records[1, 0, 0].status == status
    stored = [key for key in job.scenes() if "/mask/0/c/" in key]
    assert len(stored) == 11
    assert not any(key.endswith("/mask/0/c/1/0/0") for key in stored)


def test_a_shard_that_kills_its_worker_is_a_crash_and_is_tried_again_by_the_next_run(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_with_trap(make_job, tmp_path, "kill", times=4)
    job.run(3)
    assert_only_the_trap_failed(job, "crash")
    innocent = [r for key, r in job.records().items() if key[2] != (1, 0, 0)]
    assert {r.attempts for r in innocent} == {1}
    first = counted(tmp_path / "log")
    assert 2 <= first.count("trap") <= 3  # among others, then alone until it is given up
    Path(tmp_path / "log").write_text("trap\n" * 4)  # the trap is worn out
    job.run(0)
    assert job.summary()["computed"] == 1
    assert counted(tmp_path / "log").count("segment") == 1
    assert {r.status for r in job.records().values()} == {"done"}


@pytest.mark.parametrize("trap", ["kill", "storing"])
def test_a_shard_that_kills_its_worker_costs_none_that_is_stored_beside_it(
    trap: str, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_with_trap(make_job, tmp_path, trap, kind="faulty:Slow")
    job.run(3)
    assert_only_the_trap_failed(job, "crash")
    Path(tmp_path / "log").unlink()
    # Worn out after the first time: Dask begins the shard again, and nobody hears of it.
    once = job_with_trap(make_job, tmp_path, trap, kind="faulty:Slow", times=1)
    once.run(0)
    assert once.summary()["failed"] == []
    assert {r.status for r in once.records().values()} == {"done"}
    assert counted(tmp_path / "log").count("trap") == 1


@pytest.mark.parametrize("trap", ["sleep", "spin"])
def test_a_shard_that_hangs_is_stopped_in_time(
    trap: str, make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_with_trap(make_job, tmp_path, trap, deadline=2)
    began = time.monotonic()
    run = job.run(3)
    assert time.monotonic() - began < 60
    assert_only_the_trap_failed(job, "hang")
    assert counted(tmp_path / "log").count("trap") == 2
    (failed,) = job.summary()["failed"]
    assert "within 2 s (faults.deadline)" in failed["reason"]
    run.assert_nobody_left()


def test_a_worker_that_blocks_before_it_can_say_so_is_found_all_the_same() -> None:
    with clusters.open_pool(ClusterSpec(workers=1), 1) as pool:
        list(pool.dispatch([Work("warm", nothing, Task())], retries=0, deadline=60))
        work = Work("held", hold_at_once, Task())
        (outcome,) = pool.dispatch([work], retries=0, deadline=1)
    assert (outcome.status, outcome.attempts) == ("hang", 1)


def test_what_waits_behind_one_that_blocks_is_not_blamed_for_it() -> None:
    with clusters.open_pool(ClusterSpec(workers=1), 1) as pool:
        list(pool.dispatch([Work("warm", nothing, Task())], retries=0, deadline=60))
        works = [Work("held", hold_at_once, Task()), Work("behind", nothing, Task())]
        found = {o.work.key: o.status for o in pool.dispatch(works, retries=0, deadline=8)}
    assert found == {"held": "hang", "behind": "done"}


def test_a_worker_that_is_gone_when_it_is_to_be_stopped_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its address is asked for with the keys it works on; by then another has taken its place."""
    with clusters.open_pool(ClusterSpec(workers=1), 1) as pool:
        assert isinstance(pool, DaskPool)
        list(pool.dispatch([Work("warm", nothing, Task())], retries=0, deadline=60))
        processing = pool.client.processing
        gone = "tcp://127.0.0.1:1"
        monkeypatch.setattr(
            pool.client, "processing", lambda: {gone: tuple(chain(*processing().values()))}
        )
        work = Work("held", hold_at_once, Task())
        (outcome,) = pool.dispatch([work], retries=0, deadline=1)
    assert outcome.status == "hang"


def test_what_has_no_time_left_is_ended_at_once_and_its_worker_is_there_again() -> None:
    """That which has begun, what waits behind it, and what was not handed out; no one is to blame."""
    with clusters.open_pool(ClusterSpec(workers=1), 1) as pool:
        assert isinstance(pool, DaskPool)
        list(pool.dispatch([Work("warm", nothing, Task())], retries=0, deadline=60))
        (before,) = pool.client.run(os.getpid).values()
        began = time.monotonic()

        def left() -> float:
            return began + 2 - time.monotonic()

        works = [Work("held", hold_at_once, Task(), left=left)]
        works += [Work(str(i), nothing, Task(), left=left) for i in range(3)]
        found = {o.work.key: o.status for o in pool.dispatch(works, retries=2, deadline=60)}
        assert time.monotonic() - began < 8
        assert set(found.values()) == {"late"}
        assert set(found) == {"held", "0", "1", "2"}
        (outcome,) = pool.dispatch([Work("after", nothing, Task())], retries=0, deadline=60)
        assert outcome.status == "done"
        assert before not in pool.client.run(os.getpid).values()


def test_a_failure_that_passes_is_tried_again(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = job_with_trap(make_job, tmp_path, "raise", times=1)
    job.run(0)
    attempts = Counter(r.attempts for key, r in job.records().items() if key[0] == "mask")
    assert attempts == {1: 11, 2: 1}


def test_a_failure_that_stays_is_an_error_and_is_tried_again_by_the_next_run(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_with_trap(make_job, tmp_path, "raise", times=4)
    job.run(3)
    (failed,) = job.summary()["failed"]
    assert failed["kind"] == "error"
    assert "the connection was reset" in failed["reason"]
    job.run(3)
    assert job.summary()["computed"] == 1
    assert counted(tmp_path / "log").count("trap") == 4
    job.run(0)
    assert job.summary()["computed"] == 1


class Web(ThreadingHTTPServer):
    """Photos over HTTP; answers 500 to the requests for a name that `failing` counts down."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failing: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_HEAD(self) -> None:
        self._answer(None)

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.asked[name] += 1
        # The first request is the plan's, for the header.
        if self.server.asked[name] > 1 and self.server.failing[name] > 0:
            self.server.failing[name] -= 1
            self.send_error(500)
            return
        self._answer(name)

    def _answer(self, name: str | None) -> None:
        data = (self.server.folder / self.path.strip("/")).read_bytes()
        first, last = 0, len(data) - 1
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            a, _, b = asked.removeprefix("bytes=").partition("-")
            first, last = int(a), min(int(b or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{len(data)}"')
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if name is not None:
            self.wfile.write(data[first : last + 1])

    def log_message(self, format: str, *args: object) -> None:
        """Not on the terminal."""


@contextmanager
def served(folder: Path) -> Iterator[Web]:
    with Web(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_input_that_cannot_be_read_now_is_read_later(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    with served(photos) as web:
        job = make_job(
            job_of("", tmp_path / "m.zarr", {"kind": "faulty:Trapped"}, faults=FAULTS)
            | {"source": {"paths": [f"{web.url}/00.png", f"{web.url}/01.png"]}}
        )
        web.failing["01.png"] = 1 << 30
        job.run(3)
        (failed,) = job.summary()["failed"]
        assert (failed["name"], failed["kind"]) == ("01.png", "error")
        assert "500" in failed["reason"]
        web.failing["01.png"] = 1
        web.asked.clear()
        web.asked["01.png"] = 1  # what is known is not planned again
        job.run(0)
        assert job.summary()["computed"] == 4
        assert web.failing["01.png"] == 0
        assert max(r.attempts for r in job.records().values()) == 2
