"""`cluster: {kind: gateway}`: a cluster that a Dask gateway starts for this run, or one that runs there.

    driver ---- HTTP: asks for a cluster, and for workers ----> gateway ---- starts ----> scheduler, workers
      +-------- TLS, by the gateway's proxy: hands out works --------------------------> scheduler

What was asked for is ended with the run. Where the driver is killed, the gateway itself ends a cluster
that has been idle for a while, where it is set to.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from segengine.dispatch.aside import ANSWER, BYE, TURN, Aside, NoAnswerError, line
from segengine.dispatch.clusters import CONNECTION, options_of, require_fit
from segengine.dispatch.connecting import client_of
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.keeper import Keeper, Sizing
from segengine.dispatch.patience import pause
from segengine.dispatch.pool import Pool
from segengine.errors import JobError, SegengineError
from segengine.job import ClusterSpec
from segengine.terms.gateway import Gateway
from segengine.urls import public

if TYPE_CHECKING:
    from distributed import Client

IDLE_TIMEOUT = 1800
"""Seconds without work after which the gateway ends a cluster, where it lets us say so."""
_CREDENTIALS = {"basic": ("username", "password"), "jupyterhub": ("api_token",), "kerberos": ()}
"""What Dask's setting `gateway.auth.kwargs` holds for each kind."""
_GONE = ("STOPPING", "STOPPED", "FAILED")


@contextlib.contextmanager
def gateway(spec: ClusterSpec, tasks: int) -> Iterator[Pool]:
    """Workers of a gateway's cluster, each with one thread."""
    options = options_of(Gateway, spec)
    sizing = None if spec.workers == "auto" else Sizing(*spec.bounds(tasks))
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(_Door(str(spec.address), options))
        name = options.name
        if name is None:
            name = door.submit()
            stack.callback(door.end, name)
        report = door.started(name)
        if sizing is not None:
            door.scale(name, sizing.size)
        client = stack.enter_context(door.client(report))
        _wait_for_worker(client, door, name)
        require_fit(
            client,
            f"{door.where}: cluster {name}",
            "set c.ClusterConfig.worker_threads = 1 where the gateway is configured",
        )
        pool = DaskPool(client, lookahead=0, expected=sizing.most if sizing else 0)
        keeper = stack.enter_context(Keeper(lambda: _look(door, name, sizing, pool)))
        pool.check = keeper.check
        yield pool


def _wait_for_worker(client: Client, door: _Door, name: str) -> None:
    """Wait for the first one; a gateway may have to wait for room."""
    while not client.scheduler_info(n_workers=-1)["workers"]:
        pause(TURN)
        if trouble := door.trouble(name):
            raise SegengineError(trouble)


def _look(door: _Door, name: str, sizing: Sizing | None, pool: DaskPool) -> str:
    trouble = door.trouble(name)
    if sizing is not None and not trouble:
        before = sizing.size
        if sizing.next(pool.undone) != before:
            door.scale(name, sizing.size)
    return trouble


def load_dask_gateway() -> Any:
    """The package. Raises JobError where it is not installed."""
    try:
        import dask_gateway
    except ImportError as error:
        raise JobError(
            f"cluster.kind: gateway: {error}; pip install 'segengine[gateway]'"
        ) from error
    return dask_gateway


class _Door:
    """What a gateway is asked for. Each answer comes in time, or is an error in one line."""

    def __init__(self, address: str, options: Gateway) -> None:
        self.loaded = load_dask_gateway()
        self.address, self.options = address, options
        self.where = f"cluster.address: {public(address)}"

    def __enter__(self) -> _Door:
        for logger in ("distributed", "distributed.client"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._aside = Aside("segengine-gateway")
        try:
            self.gateway = self._aside.begin(self._opened()).result()
        except (ValueError, TypeError, ImportError) as error:
            self._aside.end()
            raise JobError(f"cluster.options: auth: {error}") from error
        for part in ("username", "password"):
            # As it was written: Dask takes 1234 and 1e5 for numbers.
            told = os.environ.get(f"DASK_GATEWAY__AUTH__KWARGS__{part.upper()}")
            if told is not None and hasattr(self.gateway.auth, part):
                setattr(self.gateway.auth, part, told)
        try:
            self._call(self.gateway._get_versions, self._no_gateway)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._aside.end(self.gateway._cleanup())

    async def _opened(self) -> Any:
        # In a loop of ours: a client with one of its own closes it twice, and complains at the end.
        import dask

        kind = self.options.auth
        told = dask.config.get("gateway.auth.kwargs", None) or {}
        if kind is not None:  # Dask's settings may be for another kind
            told = {name: told[name] for name in _CREDENTIALS[kind] if name in told}
        with dask.config.set({"gateway.auth.kwargs": told}):
            return self.loaded.Gateway(self.address, auth=kind, asynchronous=True)

    def _no_gateway(self, said: str) -> SegengineError:
        return SegengineError(f"{self.where} is no Dask gateway: {said}; name where one listens")

    def _refused(self, said: str) -> SegengineError:
        return JobError(f"cluster.options: the gateway refuses them: {said}")

    def _call(
        self,
        ask: Callable[..., Coroutine[Any, Any, Any]],
        refused: Callable[[str], SegengineError],
        *args: Any,
        seconds: float = ANSWER,
        whole: bool = False,
    ) -> Any:
        """An answer of the gateway. `refused`: the error where it understood, and says no.

        `whole`: it is waited for also where the run is ending.
        """
        from aiohttp import ClientError, ClientResponseError

        try:
            return self._aside.answer(ask(*args), seconds, whole=whole)
        except TimeoutError as error:
            raise NoAnswerError(
                f"{self.where} does not answer within {seconds:g} s; is the gateway running?"
            ) from error
        except ClientResponseError as error:
            if error.status in (401, 403):
                raise self._unknown(error) from error
            raise refused(f"{error.status} {error.message}") from error
        except ClientError as error:
            raise NoAnswerError(
                f"{self.where} does not answer: {public(line(error))}; is the gateway running?"
            ) from error
        except (ValueError, self.loaded.GatewayClusterError) as error:
            raise refused(line(error)) from error
        except self.loaded.GatewayServerError as error:
            raise SegengineError(f"{self.where}: the gateway has failed: {line(error)}") from error
        except ImportError as error:
            raise JobError(f"cluster.options: auth: {self._auth}: {error}") from error

    @property
    def _auth(self) -> str:
        kind = type(self.gateway.auth).__name__.removesuffix("Auth").lower()
        return self.options.auth or kind

    def _unknown(self, error: Any) -> SegengineError:
        how = {
            "basic": "set DASK_GATEWAY__AUTH__KWARGS__USERNAME and DASK_GATEWAY__AUTH__KWARGS__PASSWORD",
            "jupyterhub": "set JUPYTERHUB_API_TOKEN",
            "kerberos": "run kinit",
        }.get(self._auth, "see Dask's setting gateway.auth")
        return SegengineError(
            f"cluster.options: auth: {self._auth}: {public(self.address)} does not let us in "
            f"({error.status} {error.message}); {how}"
        )

    # ------------------------------------------------------------------------------- a cluster's life

    def submit(self) -> str:
        """Ask for a cluster; its name."""
        known = self._call(self.gateway._cluster_options, self._refused)
        given = dict(self.options.theirs)
        for option in given:
            if option not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise JobError(
                    f"cluster.options: {option}: the gateway has no such option; {takes}"
                )
        chosen = _with(known, given)
        if "idle_timeout" not in given and "idle_timeout" in known and not known["idle_timeout"]:
            with contextlib.suppress(JobError):  # it allows less
                chosen = _with(known, {"idle_timeout": IDLE_TIMEOUT})
        name: str = self._call(self.gateway._submit, self._refused, chosen, whole=True)
        return name

    def started(self, name: str) -> Any:
        """What is told of a cluster, once its scheduler runs."""
        while True:
            report = self._call(self.gateway._cluster_report, self._no_cluster(name), name)
            if report.status.name == "RUNNING":
                return report
            if report.status.name in _GONE:
                raise SegengineError(self._ended(name))
            pause(TURN)

    def _no_cluster(self, name: str) -> Callable[[str], SegengineError]:
        key = "name" if self.options.name else "the gateway"
        return lambda said: SegengineError(f"cluster.options: {key}: cluster {name}: {said}")

    def trouble(self, name: str) -> str:
        """Why a cluster that ran is of no more use, in one line; empty: it is."""
        try:
            report = self._call(self.gateway._cluster_report, self._no_cluster(name), name)
        except NoAnswerError:  # its scheduler does without the gateway for a while
            return ""
        except SegengineError as error:
            return str(error)
        return self._ended(name) if report.status.name in _GONE else ""

    def _ended(self, name: str) -> str:
        return (
            f"{self.where}: the gateway has ended cluster {name}; its log says why: workers that do not "
            "start, a limit, idle_timeout, or somebody's word"
        )

    def scale(self, name: str, size: int) -> None:
        """Ask for so many workers."""
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it grants fewer, which a run can do with
            self._call(self.gateway._scale_cluster, self._no_cluster(name), name, size)

    def end(self, name: str) -> None:
        """End a cluster."""
        with contextlib.suppress(SegengineError):
            self._call(
                self.gateway._stop_cluster, self._no_cluster(name), name, seconds=BYE, whole=True
            )

    def client(self, report: Any) -> Client:
        """A client of a cluster's scheduler."""
        place = report.scheduler_address
        try:
            return client_of(place, CONNECTION, report.security)
        except (OSError, ValueError) as error:
            raise SegengineError(
                f"{self.where}: its proxy of schedulers does not answer at {place.rpartition('/')[0]}: "
                f"{line(error)}; set DASK_GATEWAY__PROXY_ADDRESS"
            ) from error


def _with(known: Any, given: Mapping[str, Any]) -> Any:
    """A gateway's options with those of the job. Raises JobError naming one that cannot be."""
    for option, value in given.items():
        try:
            known[option] = value
        except (TypeError, ValueError) as error:
            raise JobError(f"cluster.options: {option}: {line(error)}") from error
    return known
