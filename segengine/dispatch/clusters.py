"""From the job's `cluster` block to workers: one factory a kind, found through entry points.

Another package adds a kind (Kubernetes, Slurm) by registering a `Cluster` under `segengine.clusters`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from segengine import engines, registry
from segengine.cores import cores
from segengine.dispatch import tls
from segengine.dispatch.connecting import client_of
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.forked import Child, ForkedPool
from segengine.dispatch.pool import Pool
from segengine.dispatch.versions import require_one_environment
from segengine.errors import JobError, SegengineError
from segengine.job import ClusterSpec
from segengine.terms import Terms
from segengine.terms.dask import Address, Local

if TYPE_CHECKING:
    from distributed import Client, Security

T = TypeVar("T", bound=Terms)
CONNECTION = 15.0
"""Seconds in which a scheduler takes a connection."""


class Cluster(Protocol):
    """A kind of cluster: what starts workers for a job, or finds them."""

    def __call__(self, spec: ClusterSpec, tasks: int, /) -> contextlib.AbstractContextManager[Pool]:
        """Workers for about `tasks` tasks; what was started is ended on exit.

        `spec.options` are its own. Raises JobError or SegengineError in one line.
        """
        ...


def open_pool(
    spec: ClusterSpec, tasks: int, child: Child | None = None
) -> contextlib.AbstractContextManager[Pool]:
    """Workers of the job's kind for about `tasks` tasks; for one task `child` is all it takes."""
    if child is not None:
        plain = not spec.options.get("dashboard") and spec.options.get("gpus") is None
        if spec.kind == "local" and tasks == 1 and plain:
            return _forked(spec, child)
        child.close()
    kind: Cluster = registry.load("clusters", spec.kind)
    return kind(spec, tasks)


@contextlib.contextmanager
def _forked(spec: ClusterSpec, child: Child) -> Iterator[Pool]:
    options_of(Local, spec)
    with contextlib.ExitStack() as stack, child:
        yield ForkedPool(child, lambda: stack.enter_context(local(spec, 1)))


SETTINGS: dict[str, Any] = {
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 0,  # a dead worker's task comes back to us at once
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": None,  # native code can keep a sound worker from answering
    # A killed worker comes back; on a busy machine later than the 15 s after which it is given up.
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.worker.memory.target": False,  # results are records: there is nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.admin.tick.limit": "60s",
    # Fifty looks a second at the clock, and two at the machine, are most of what waiting costs.
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.profile.enabled": False,
}


def variable(setting: str) -> str:
    """The environment's name of one of Dask's settings.

    >>> variable("distributed.scheduler.worker-ttl")
    'DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL'
    """
    return f"DASK_{setting.upper().replace('.', '__').replace('-', '_')}"


@contextlib.contextmanager
def local(spec: ClusterSpec, tasks: int) -> Iterator[DaskPool]:
    """Worker processes on this machine, one thread each, reachable on loopback only."""
    options = options_of(Local, spec)
    dashboard = options.dashboard
    if dashboard:
        _require_bokeh()
    import dask
    from distributed import Client, LocalCluster

    from segengine.dispatch.nannies import DeafNanny

    most = _require_gpus(spec) if options.gpus else cores()
    wanted = spec.most(most)
    count = max(1, min(wanted, tasks))
    for name in ("distributed", "distributed.nanny", "distributed.worker", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            worker_class=DeafNanny,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0" if dashboard else None,
            # Else its HTTP server asks for port 8787, and a second run warns that it is in use.
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs=logging.CRITICAL,
            # Before a worker starts, also anew: what loads CUDA reads it once.
            env={"CUDA_VISIBLE_DEVICES": "-1"} if options.gpus == 0 else None,
            memory_limit="auto" if wanted >= cores() else _share(wanted),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        pool = DaskPool(client)
        pool.dashboard = client.dashboard_link if dashboard else ""
        yield pool


def options_of(terms: type[T], spec: ClusterSpec) -> T:
    """The options of a kind's block. Raises JobError naming what is wrong in it."""
    try:
        options = terms.of(spec.options)
    except ValueError as error:
        raise JobError(f"cluster.options: {error}") from None
    if refusal := options.refusal(spec.workers, spec.address):
        raise JobError(f"cluster.{refusal}")
    return options


def _require_gpus(spec: ClusterSpec) -> int:
    """How many GPUs are here. Raises JobError where not every worker has one of its own."""
    found = len(engines.gpus())
    if not found:
        raise JobError("cluster.options: gpus: 1, and no GPU is here; leave the key out")
    if spec.workers != "auto" and spec.most(found) > found:
        raise JobError(
            f"cluster.workers: {spec.workers} workers with a GPU each, and {found} here; ask for "
            f"{found} at most, or leave out cluster.options: gpus"
        )
    return found


def _require_bokeh() -> None:
    """Raise JobError where Dask's pages cannot be served."""
    if importlib.util.find_spec("bokeh") is None:
        raise JobError(
            "cluster.options: dashboard: bokeh is not installed; pip install 'segengine[dashboard]', "
            "or leave the key out"
        )


def _share(workers: int) -> int:
    """Bytes of memory for each of a few workers."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT / max(1, workers))


@contextlib.contextmanager
def address(spec: ClusterSpec, tasks: int) -> Iterator[Pool]:
    """The workers of a scheduler that already runs; at most one shard a worker is under way."""
    place = str(spec.address)
    options_of(Address, spec)
    security = tls.security_of(place, spec.options)
    if security is not None:
        tls.shake_hands(place, security, spec.options)
    with _connected(place, security) as client:
        yield client_pool(client, f"cluster.address: {place}")


def _connected(place: str, security: Security | None) -> Client:
    """A client of the scheduler there. Raises SegengineError where it does not answer."""
    import warnings

    from distributed.versions import VersionMismatchWarning

    warnings.simplefilter("ignore", VersionMismatchWarning)  # a table; what differs is said by us
    try:
        return client_of(place, CONNECTION, security)
    except (OSError, ValueError) as error:
        where = f"cluster.address: {place}"
        if security is None and tls.speaks_tls(place):
            raise SegengineError(
                f"{where} speaks TLS; write tls://, and name ca, cert and key in cluster.options"
            ) from error
        raise SegengineError(
            f"{where} does not answer: {error}; is the scheduler running?"
        ) from error


def client_pool(client: Any, where: str = "client") -> Pool:
    """A pool of a client's workers. Raises as `require_fit`."""
    require_fit(client, where, "start workers with `dask worker --nthreads 1`")
    return DaskPool(client, lookahead=0)


def require_fit(client: Any, where: str, remedy: str) -> None:
    """Raise JobError where workers have several threads, SegengineError where there are none, or
    they cannot work for us: a task that a worker cannot import would end the worker.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise SegengineError(f"{where} has no workers; start some with `dask worker --nthreads 1`")
    for name, worker in workers.items():
        if worker["nthreads"] != 1:
            raise JobError(
                f"{where}: worker {name} has {worker['nthreads']} threads; {remedy}, so that a failure "
                "has one suspect"
            )
    require_one_environment(client, where)
    for name, found in client.run(worker_version, on_error="return").items():
        if isinstance(found, BaseException):
            raise SegengineError(
                f"{where}: worker {name} cannot import segengine: {found}; install it there, or start "
                "workers in this environment"
            )


def worker_version() -> str:
    """The version of segengine where this is called."""
    return version("segengine")
