"""`cluster: {kind: kubernetes}` with the real Dask operator: the same bytes, and nothing is left.

What stands in for a cluster's control plane and its nodes: tests/kube.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elastic import refusal, sizes_while_working
from faulty import counted
from harness import HERE, Job, differing, job_of, marked, until, write_photos

import segengine
from segengine.dispatch import clusters, keeper
from segengine.dispatch import kubernetes as kind
from segengine.dispatch.dask import DaskPool
from segengine.job import ClusterSpec
from tests.kube import IMAGE, Cluster
from tests.kube.cluster import ROLE

pytestmark = pytest.mark.system

SHARDS = 60
OPTIONS = {"image": IMAGE, "resources": {"cpu": "500m", "memory": "1GB"}}
PATH = [str(HERE), str(Path(segengine.__file__).parents[1])]


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("kube"), PATH)
    yield found
    found.end()
    until(lambda: not marked(found.mark), "the cluster leaves processes")


@pytest.fixture
def let_in(kube: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Of this process, too."""
    for name, value in kube.environment().items():
        monkeypatch.setenv(name, value)
    return kube


ENDED = 90.0
"""Seconds in which the operator has followed a deletion; by itself it ends a cluster after half an hour."""


def block(workers: Any = 2, **options: Any) -> dict[str, Any]:
    return {"kind": "kubernetes", "workers": workers, "options": {**OPTIONS, **options}}


@pytest.fixture(scope="module")
def killed(kube: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of the cluster of a driver that was killed; the last test looks for it."""
    folder = tmp_path_factory.mktemp("killed")
    photos = write_photos(folder / "photos", 5)
    segmenter = {"kind": "faulty:Trapped", "log": str(folder / "log"), "pause": 0.2}
    spec = job_of(photos, folder / "m.zarr", segmenter, cluster=block(1, idle_timeout=10))
    job = Job(folder / "job", spec, kube.environment())
    run = job.start_command()
    run.until(lambda: len(counted(folder / "log")) >= 3, "no work")
    run.popen.send_signal(signal.SIGKILL)
    assert run.wait() == -9
    run.assert_nobody_left()
    (name,) = [o["metadata"]["name"] for o in kube.objects("daskclusters")]
    return str(name)


def test_a_run_has_the_bytes_of_a_local_one(kube: Cluster, killed: str, tmp_path: Path) -> None:
    """Ended by Ctrl-C and SIGTERM, gone on with, and with a worker's pod deleted under way."""
    photos = write_photos(tmp_path / "photos", SHARDS // 4)
    segmenter = {"kind": "faulty:Trapped"}
    local = Job(tmp_path / "local", job_of(photos, tmp_path / "local.zarr", segmenter))
    local.run(0, "--in-process")
    log = tmp_path / "log"
    slow = {**segmenter, "log": str(log), "pause": 0.15}
    spec = job_of(photos, tmp_path / "m.zarr", slow, cluster=block())
    job = Job(tmp_path / "job", spec, kube.environment())
    done: dict[Any, Any] = {}
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        enough = len(counted(log)) + 6
        run = job.start_command()
        run.until(lambda enough=enough: len(counted(log)) >= enough, "no work")  # type: ignore[misc]
        began = time.monotonic()
        run.popen.send_signal(number)
        assert run.wait() == code, run.stderr
        assert time.monotonic() - began < 5
        kube.until_empty(ENDED, but=killed)
        assert len(done) < len(job.records()) < SHARDS
        assert done.items() <= job.records().items()
        done = job.records()
    run = job.start()
    run.until(lambda: job.steps("segment") >= 5, "no progress")
    first = {
        pod["metadata"]["name"] for pod in kube.workers() if killed not in str(pod["metadata"])
    }
    kube.delete("pods", min(first))
    run.until(
        lambda: {p["metadata"]["name"] for p in kube.workers()} - first, "its place stays empty"
    )
    assert run.wait() == 0, run.stderr
    assert job.summary()["computed"] == SHARDS - len(done)
    assert SHARDS <= len(counted(log)) <= SHARDS + 6  # each time what workers had in hand
    assert differing(job.scenes(), local.scenes()) == []
    kube.until_empty(ENDED, but=killed)
    for each in job.started:
        each.assert_nobody_left()


def test_workers_come_with_the_work_and_go_without_it(
    let_in: Cluster, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LOOK", 0.5)
    with clusters.open_pool(ClusterSpec(**block({"min": 0, "max": 3})), 1000) as pool:
        assert isinstance(pool, DaskPool)
        assert (pool.workers, pool.lookahead) == (3, 1)
        sizes = sizes_while_working(pool)
    assert (sizes[0], max(sizes), sizes[-1]) == (1, 3, 1)
    let_in.until_empty(ENDED, but=killed)


def test_ctrl_c_before_there_is_a_worker_leaves_nothing(
    kube: Cluster, killed: str, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    never = block(resources={"memory": "1GB", "gpu": 1})
    spec = job_of(photos, tmp_path / "m.zarr", {"kind": "faulty:Trapped"}, cluster=never)
    job = Job(tmp_path / "job", spec, kube.environment())
    run = job.start_command()
    run.until(lambda: len(kube.left(killed)) > 5, "no cluster")
    time.sleep(2)
    began = time.monotonic()
    run.popen.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert time.monotonic() - began < 5
    kube.until_empty(ENDED, but=killed)
    run.assert_nobody_left()


# ------------------------------------------------------------------------------------- bad settings

OTHER = IMAGE.replace(":1", ":2")
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "image": (
        {"image": OTHER},
        [f"cluster.options: image: {OTHER}: pod seg-", "ImagePullBackOff: Back-off pulling"],
    ),
    "namespace": (
        {"namespace": "nosuch"},
        ["cluster.options: namespace: nosuch: there is no such namespace"],
    ),
    "account": (
        {"service_account": "nobody"},
        ["cluster.options: service_account: nobody: Kubernetes makes no pod: ", "not found"],
    ),
    "secret": (
        {"volumes": [{"name": "data", "secret": "nosuch", "path": "/data"}]},
        ["cluster.options: volumes: pod seg-", 'FailedMount: ', 'secret "nosuch" not found'],
    ),
    "crash": (
        {"env": {"PYTHONHOME": "/nowhere"}},
        [f"cluster.options: image: {IMAGE}: pod seg-", "CrashLoopBackOff: ", "No module named"],
    ),
}  # fmt: skip
"""Options that cannot be, and what the line says of each."""


def test_a_forwarded_port_that_somebody_took_is_chosen_anew(
    let_in: Cluster, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs on one machine may choose the same, or one that a connection goes out by."""
    from kr8s.asyncio.portforward import PortForward

    choose = PortForward._find_available_port
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        taken = [somebody.getsockname()[1]]
        monkeypatch.setattr(
            PortForward,
            "_find_available_port",
            lambda self: taken.pop() if taken else choose(self),
        )
        with clusters.open_pool(ClusterSpec(**block(1)), 2) as pool:
            assert not taken
            assert pool.workers == 1
    let_in.until_empty(ENDED, but=killed)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up hope early; the real figures add up to less than a minute."""
    assert kind.ANSWER + kind.OPERATOR + kind.HOPE < 60
    monkeypatch.setattr(kind, "HOPE", 2.0)
    monkeypatch.setattr(kind, "OPERATOR", 3.0)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", BAD)
def test_bad_options_end_in_one_line_within_a_minute(
    let_in: Cluster, killed: str, name: str
) -> None:
    options, said = BAD[name]
    found = refusal(ClusterSpec(**block(1, **options)))
    assert found.startswith(said[0])
    assert all(part in found for part in said), found
    let_in.until_empty(ENDED, but=killed)


@pytest.mark.usefixtures("soon")
def test_a_quota_is_said_where_it_leaves_no_worker(let_in: Cluster, killed: str) -> None:
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}}
    let_in.create("namespaces", {"metadata": {"name": "tight"}}, namespace="")
    let_in.create("resourcequotas", quota, namespace="tight")
    found = refusal(ClusterSpec(**block(1, namespace="tight")))
    assert found.startswith("cluster.options: namespace: tight: Kubernetes makes no pod: ")
    assert "exceeded quota: small" in found
    let_in.until_empty(ENDED, but=killed)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("reader", "cluster.options: namespace: dask: may not create the cluster: daskclusters."),
        ("nobody", "does not know us (401 Unauthorized); log in, or look at KUBECONFIG"),
    ],
)
def test_who_may_not_is_told(
    kube: Cluster, monkeypatch: pytest.MonkeyPatch, token: str, said: str
) -> None:
    for name, value in kube.environment(token).items():
        monkeypatch.setenv(name, value)
    assert said in refusal(ClusterSpec(**block()))


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("defined", "said"),
    [
        (False, "the Dask operator is not installed there; see https://kubernetes.dask.org"),
        (True, "the Dask operator does not act on the cluster: its resources are defined, but"),
    ],
)
def test_a_cluster_without_an_operator_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defined: bool, said: str
) -> None:
    bare = Cluster(tmp_path / "bare", PATH, operator=False, defined=defined)
    try:
        for name, value in bare.environment().items():
            monkeypatch.setenv(name, value)
        found = refusal(ClusterSpec(**block()))
        assert found.startswith("cluster.kind: kubernetes: ")
        assert said in found
        bare.until_empty(5)
    finally:
        bare.end()
    assert " does not answer: " in refusal(ClusterSpec(**block()))


def test_no_cluster_at_all_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    found = refusal(ClusterSpec(**block()))
    assert found.startswith("cluster.kind: kubernetes: no cluster is known here: ")
    assert found.endswith("set KUBECONFIG, or run in a pod")


# --------------------------------------------------------------------------------- who is gone, is gone


def test_what_a_killed_driver_left_is_ended_by_the_operator(kube: Cluster, killed: str) -> None:
    """It looks every five seconds, and after a look at a scheduler that works once a minute."""
    kube.until(lambda: not any(killed in name for name in kube.left()), "it is left", 90)


def test_the_role_that_is_shipped_has_no_right_that_these_runs_did_without(kube: Cluster) -> None:
    """After all of the above, which ended as they should with no other rights."""
    used = {(v, r) for user, v, r in kube.server.used if user.endswith("dask:driver")}
    assert used >= ROLE, f"of the whole file's tests nobody asks for {sorted(ROLE - used)}"
