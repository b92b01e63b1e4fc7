"""`cluster: {kind: gateway}` on a real Dask gateway: the same bytes, and no cluster outlives its run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from elastic import refusal, sizes_while_working
from faulty import Numbered, counted, numbered
from harness import HERE, Job, differing, job_of, kill, marked, until, write_photos

import segengine
from segengine.dispatch import clusters, keeper
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.pool import Work
from segengine.errors import JobError, SegengineError
from segengine.job import ClusterSpec
from tests.gateway import Gateway

pytestmark = pytest.mark.system

SHARDS = 60


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    path = [str(HERE), str(Path(segengine.__file__).parents[1])]
    found = Gateway(tmp_path_factory.mktemp("gateway"), path)
    yield found
    found.end()
    until(lambda: not marked(found.mark), "the gateway leaves processes")


@pytest.fixture
def let_in(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """Of this process, too."""
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    return gateway


def block(gateway: Gateway, workers: Any = 2, **options: Any) -> dict[str, Any]:
    return {
        "kind": "gateway",
        "workers": workers,
        "address": gateway.address,
        "options": options,
    }


def processes(gateway: Gateway) -> list[psutil.Process]:
    """Of its clusters: schedulers, nannies and workers."""
    found = []
    for process in marked(gateway.mark):
        with suppress(psutil.Error):
            if "gateway" not in "".join(process.cmdline()[:3]):
                found.append(process)
    return found


def assert_empty(gateway: Gateway) -> None:
    gateway.until_empty(30)
    until(lambda: not [p for p in processes(gateway) if is_dasks(p)], "workers are left", 30)


def is_dasks(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "dask_worker" in str(process.cmdline()) or "spawn_main" in str(process.cmdline())
    return False


def test_a_run_has_the_bytes_of_a_local_one_however_often_it_is_ended(
    gateway: Gateway, tmp_path: Path
) -> None:
    """By Ctrl-C, by SIGTERM, by SIGKILL, and with a worker killed in the run that ends well."""
    photos = write_photos(tmp_path / "photos", SHARDS // 4)
    segmenter = {"kind": "faulty:Trapped"}
    local = Job(tmp_path / "local", job_of(photos, tmp_path / "local.zarr", segmenter))
    local.run(0, "--in-process")
    log = tmp_path / "log"
    slow = {**segmenter, "log": str(log), "pause": 0.1}
    there = block(gateway, idle_timeout=12)  # what starts slowly is idle, too
    job = Job(
        tmp_path / "job",
        job_of(photos, tmp_path / "m.zarr", slow, cluster=there),
        gateway.environment,
    )
    done: dict[Any, Any] = {}
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)):
        enough = len(counted(log)) + 6
        run = job.start_command()
        run.until(lambda enough=enough: len(counted(log)) >= enough, "no work")  # type: ignore[misc]
        began = time.monotonic()
        run.popen.send_signal(number)
        assert run.wait() == code, run.stderr
        assert time.monotonic() - began < 5
        if code > 0:
            assert gateway.clusters() == {}
        assert_empty(gateway)
        assert len(done) < len(job.records()) < SHARDS
        assert done.items() <= job.records().items()
        done = job.records()
    run = job.start()
    run.until(lambda: job.steps("segment") >= 5, "no progress")
    victim = next(p for p in processes(gateway) if "spawn_main" in str(p.cmdline()))
    assert kill(victim.parent() or victim)  # its nanny: the gateway starts another
    assert kill(victim) or True
    assert run.wait() == 0, run.stderr
    assert job.summary()["computed"] == SHARDS - len(done)
    assert SHARDS <= len(counted(log)) <= SHARDS + 7  # each time what workers had in hand
    assert differing(job.scenes(), local.scenes()) == []
    assert_empty(gateway)
    for each in job.started:
        each.assert_nobody_left()


def test_ctrl_c_before_there_is_a_worker_leaves_no_cluster(
    gateway: Gateway, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    never = block(gateway, worker="import time; time.sleep(1000)")
    spec = job_of(photos, tmp_path / "m.zarr", {"kind": "faulty:Trapped"}, cluster=never)
    job = Job(tmp_path / "job", spec, gateway.environment)
    run = job.start_command()
    run.until(
        lambda: any(c["status"] == "RUNNING" for c in gateway.clusters().values()), "no start"
    )
    time.sleep(1)
    began = time.monotonic()
    run.popen.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert time.monotonic() - began < 5
    assert_empty(gateway)
    run.assert_nobody_left()


# ----------------------------------------------------------------------------------------- who comes


def works(numbers: range, log: Path, slow: int) -> Iterator[Work]:
    for i in numbers:
        yield Work(str(i), numbered, Numbered(i, slow, "doze", str(log)))


def test_workers_come_with_the_work_and_go_without_it(
    let_in: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK", 0.5)
    spec = ClusterSpec(**block(let_in, {"min": 0, "max": 5}))  # it grants three
    with clusters.open_pool(spec, 1000) as pool:
        assert isinstance(pool, DaskPool)
        assert (pool.workers, pool.lookahead) == (5, 0)
        sizes = sizes_while_working(pool)
    assert sizes[0] == 1
    assert max(sizes) == 3
    assert sizes[-1] == 1
    assert_empty(let_in)


def test_a_cluster_that_runs_is_used_and_left_there(let_in: Gateway, tmp_path: Path) -> None:
    name = let_in.new_cluster(1)
    spec = ClusterSpec(kind="gateway", address=let_in.address, options={"name": name})
    with clusters.open_pool(spec, 10) as pool:
        found = list(pool.dispatch(works(range(5), tmp_path / "log", -1), retries=0, deadline=60))
        assert pool.workers == 1
    assert sorted(o.value for o in found) == list(range(5))
    assert let_in.clusters()[name]["status"] == "RUNNING"
    endless = (Work(str(i), numbered, Numbered(i, i, "nap")) for i in range(10**6))
    with clusters.open_pool(spec, 10) as pool:
        let_in.ask("DELETE", f"clusters/{name}")
        began = time.monotonic()
        with pytest.raises(SegengineError, match=f"the gateway has ended cluster {name}; its log"):
            list(pool.dispatch(endless, retries=0, deadline=60))
        assert time.monotonic() - began < 20
    assert_empty(let_in)


# ------------------------------------------------------------------------------------- bad settings

BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "unknown": (2, {"worker_cores": 2}, JobError, "cluster.options: worker_cores: the gateway has no "),
    "range": (2, {"threads": 5}, JobError, "cluster.options: threads: threads must be <= 2"),
    "type": (2, {"idle_timeout": "1h"}, JobError, "cluster.options: idle_timeout: idle_timeout must be"),
    "threads": (1, {"threads": 2}, JobError, "has 2 threads; set c.ClusterConfig.worker_threads = 1"),
    "worker": (1, {"worker": "raise SystemExit(3)"}, SegengineError, "the gateway has ended cluster "),
    "name": (1, {"name": "nosuch"}, SegengineError, "cluster.options: name: cluster nosuch: "),
    "package": (
        1,
        {"worker": "import sys; sys.modules['segengine'] = None; sys.argv += ['--no-nanny']; "
                   "from distributed.cli.dask_worker import main; main()"},
        SegengineError,
        "cannot import segengine",
    ),
}  # fmt: skip
"""Workers, options, and what the line says of them."""


@pytest.mark.parametrize("name", BAD)
def test_bad_options_end_in_one_line_within_a_minute(let_in: Gateway, name: str) -> None:
    workers, options, kind, said = BAD[name]
    began = time.monotonic()
    with (
        pytest.raises(kind) as caught,
        clusters.open_pool(ClusterSpec(**block(let_in, workers, **options)), 10),
    ):
        pass
    assert time.monotonic() - began < 60
    assert said in str(caught.value)
    assert str(caught.value).startswith("cluster.")
    assert "\n" not in str(caught.value)
    assert_empty(let_in)


def refusal_at(address: str, **options: Any) -> str:
    spec = ClusterSpec(kind="gateway", workers=2, address=address, options=options)
    return refusal(spec)


class _Other(BaseHTTPRequestHandler):
    """Answers, and is no gateway."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_wrong_address_is_said(tmp_path: Path) -> None:
    said = refusal_at("http://127.0.0.1:9")
    assert said.startswith("cluster.address: http://127.0.0.1:9 does not answer: ")
    other = HTTPServer(("127.0.0.1", 0), _Other)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    said = refusal_at(f"http://127.0.0.1:{other.server_port}")
    other.shutdown()
    other.server_close()
    assert "is no Dask gateway: " in said


def test_wrong_credentials_are_said_and_not_shown(
    let_in: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_GATEWAY__AUTH__KWARGS__PASSWORD", "wrong-one")
    said = refusal_at(let_in.address)
    assert said.startswith(
        f"cluster.options: auth: basic: {let_in.address} does not let us in (401 "
    )
    assert said.endswith("DASK_GATEWAY__AUTH__KWARGS__PASSWORD")
    assert "wrong-one" not in said
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    assert refusal_at(let_in.address, auth="jupyterhub").startswith(
        "cluster.options: auth: No Jupyter"
    )
    assert refusal_at(let_in.address, auth="kerberos").startswith(
        "cluster.options: auth: kerberos: No"
    )
    photos = write_photos(tmp_path / "photos", 1)
    spec = job_of(photos, tmp_path / "m.zarr", {"kind": "threshold"}, cluster=block(let_in))
    job = Job(
        tmp_path / "job", spec, {**let_in.environment, "DASK_GATEWAY__AUTH__KWARGS__PASSWORD": ""}
    )
    run = job.start_command()
    assert run.wait() == 1
    (line,) = run.stderr.splitlines()
    assert "cluster.options: auth: basic" in line
