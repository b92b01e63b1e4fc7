"""`cluster: {kind: kubernetes}`: workers are pods that the Dask operator starts for this run.

    driver ---- creates, scales, deletes ----> DaskCluster ----> operator ----> pods: scheduler, workers
      +-------- by the service, or a port forwarded: hands out works ---------> scheduler

The resource is deleted with the run. Where the driver is killed, the operator deletes it once it has been
idle for a while. What is asked of Kubernetes goes by its own protocol, not by dask-kubernetes' cluster,
which says only that time is over where pods do not start, and asks for more rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from segengine.dispatch import pods
from segengine.dispatch.aside import ANSWER, BYE, TURN, Aside, NoAnswerError, line
from segengine.dispatch.clusters import SETTINGS, options_of, require_fit
from segengine.dispatch.connecting import client_of
from segengine.dispatch.dask import DaskPool
from segengine.dispatch.keeper import Keeper, Sizing
from segengine.dispatch.patience import pause
from segengine.dispatch.pool import Pool
from segengine.errors import JobError, SegengineError
from segengine.job import ClusterSpec
from segengine.terms.kubernetes import Kubernetes

if TYPE_CHECKING:
    from distributed import Client

OPERATOR = 20.0
"""Seconds in which an operator that is there sees a new cluster."""
HOPE = 15.0
"""Seconds for which a reason not to start must last: an image is pulled anew, a claim is bound late."""
NODES = 600.0
"""The same where no node fits: one that does may be on its way."""
FORGOTTEN = 30.0
"""Seconds after which a reason that is not seen any more is over: what crashes runs in between."""
CONNECTION = 5.0
"""Seconds in which a scheduler takes a connection."""
PORT = 8786
IDENTITY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds who it is."""
DASK = "kubernetes.dask.org/v1"
_INSTALL = "see https://kubernetes.dask.org for how to install it"


@contextlib.contextmanager
def kubernetes(spec: ClusterSpec, tasks: int) -> Iterator[Pool]:
    """Pods of the operator, each a worker of one thread."""
    options = options_of(Kubernetes, spec)
    sizing = Sizing(*spec.bounds(tasks))
    name = f"seg-{uuid.uuid4().hex[:8]}"
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_Place(options, name))
        stack.callback(place.delete)
        place.create(sizing.size)
        place.wait_for_scheduler()
        client = stack.enter_context(_client(place))
        while not client.scheduler_info(n_workers=-1)["workers"]:
            place.require_hope()
            pause(TURN)
        require_fit(client, f"cluster.options: image: {options.image}", "start them with one")
        pool = DaskPool(client, expected=sizing.most)
        keeper = stack.enter_context(Keeper(lambda: _look(place, sizing, pool)))
        pool.check = keeper.check
        yield pool


def _look(place: _Place, sizing: Sizing, pool: DaskPool) -> str:
    try:
        before = sizing.size
        if sizing.next(pool.undone) != before:
            place.scale(sizing.size)
        if not pool.client.scheduler_info(n_workers=-1)["workers"]:
            place.require_hope()
        else:
            place.require_there()
    except NoAnswerError:  # the scheduler does without the API server for a while
        return ""
    except SegengineError as error:
        return str(error)
    return ""


def _client(place: _Place) -> Client:
    """A client of the scheduler."""
    import dask

    end = time.monotonic() + ANSWER
    while True:
        try:
            # Anew each time: a port that was free when it was chosen may be somebody's by now.
            address = place.scheduler_address()
            with dask.config.set(SETTINGS):
                return client_of(address, CONNECTION)
        except (OSError, ValueError, NoAnswerError) as error:
            place.require_hope()
            if time.monotonic() > end:
                raise SegengineError(
                    f"cluster.options: namespace: {place.namespace}: the scheduler of {place.name} does "
                    f"not answer: {place.noted or error}"
                ) from error
            pause(TURN)


def load_kr8s() -> Any:
    """The client of Kubernetes. Raises JobError where it, or the operator's package, is missing."""
    try:
        import dask_kubernetes  # noqa: F401
        import kr8s.asyncio.objects
    except ImportError as error:
        raise JobError(
            f"cluster.kind: kubernetes: {error}; pip install 'segengine[kubernetes]'"
        ) from error
    return kr8s


class _RefusedError(SegengineError):
    """The API server says no."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
        """Of HTTP."""


class _Place:
    """A namespace, and one cluster in it. Each answer comes in time, or is an error in one line."""

    def __init__(self, options: Kubernetes, name: str) -> None:
        self.kr8s = load_kr8s()
        self.options, self.name = options, name
        self.created = 0.0
        self.seen: dict[str, tuple[float, float]] = {}
        """When a reason not to start was first seen, and when last."""
        self._forward: Any = None
        self.noted = ""
        """Why a port was not forwarded, the last time."""

    def __enter__(self) -> _Place:
        for logger in ("distributed", "distributed.client", "httpx", "kr8s"):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._aside = Aside("segengine-kubernetes", self._note)
        try:
            self._answer(self._opened(), "find out who we are")
        except BaseException:
            self.__exit__()
            raise
        self.namespace = self.options.namespace or _own_namespace() or self.api.namespace
        return self

    def __exit__(self, *_: object) -> None:
        self._aside.end(self._closed())

    def _note(self, _: Any, context: Mapping[str, Any]) -> None:
        """A connection that is not forwarded is Dask's to make anew: told only where none is made."""
        self.noted = line(context.get("exception") or context.get("message"))

    async def _opened(self) -> None:
        import warnings

        warnings.filterwarnings("ignore", message="Kubernetes version", category=UserWarning)
        # One of our own: kr8s gives an earlier one to who comes by the same thread's and loop's number.
        self.api = self.kr8s.asyncio.Api(bypass_factory=True)
        try:
            await self.api
        except KeyError as error:
            file = os.environ.get("KUBECONFIG") or "~/.kube/config"
            raise SegengineError(
                f"cluster.kind: kubernetes: {file} has no {error.args[0]}, and names no cluster; set "
                "KUBECONFIG to the file that kubectl uses, or choose one with kubectl config use-context"
            ) from error
        except (yaml.YAMLError, TypeError, AttributeError, IndexError) as error:
            # It looks into what it has read unseen. No more of that is shown: it holds credentials.
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1}: no YAML)" if mark else ""
            file = os.environ.get("KUBECONFIG") or "~/.kube/config"
            raise SegengineError(
                f"cluster.kind: kubernetes: {file} is no configuration of kubectl{where}; look at "
                "KUBECONFIG"
            ) from error

    async def _closed(self) -> None:
        if self._forward is not None:
            await self._forward.async_stop()
        if hasattr(self, "api") and self.api._session is not None:
            await self.api._session.aclose()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # ----------------------------------------------------------------------------------- requests

    def _answer(
        self,
        coroutine: Coroutine[Any, Any, Any],
        what: str,
        *,
        seconds: float = ANSWER,
        whole: bool = False,
    ) -> Any:
        """Of the API server. `whole`: it is waited for also where the run is ending."""
        import httpx

        try:
            return self._aside.answer(coroutine, seconds, whole=whole)
        except self.kr8s.ServerError as error:
            raise self._refused(error, what) from error
        except (TimeoutError, self.kr8s.APITimeoutError) as error:
            raise NoAnswerError(
                f"cluster.kind: kubernetes: {self._server} does not answer within {seconds:g} s; look at "
                "kubectl version"
            ) from error
        except httpx.HTTPError as error:
            raise NoAnswerError(
                f"cluster.kind: kubernetes: {self._server} does not answer: {line(error)}; look at "
                "kubectl version"
            ) from error
        except (ValueError, KeyError, OSError) as error:
            raise SegengineError(
                f"cluster.kind: kubernetes: no cluster is known here: {line(error)}; set KUBECONFIG, or "
                "run in a pod"
            ) from error

    @property
    def _server(self) -> str:
        return str(self.api.auth.server) if hasattr(self, "api") else "the API server"

    def _refused(self, error: Any, what: str) -> SegengineError:
        """What it said no to, in words of the job."""
        said, code = line(error), getattr(error.response, "status_code", 0)
        if code == 401:
            return SegengineError(
                f"cluster.kind: kubernetes: {self._server} does not know us (401 {said}); log in, or "
                "look at KUBECONFIG"
            )
        if not hasattr(self, "namespace"):  # nothing that the job says has been asked for yet
            verb = "may not" if code == 403 else "cannot"
            return _RefusedError(f"Kubernetes at {self._server}: {verb} {what}: {said}", code)
        space = f"cluster.options: namespace: {self.namespace}"
        if code == 403 and "exceeded quota" not in said:
            return _RefusedError(f"{space}: may not {what}: {said}", code)
        if code == 404 and "namespaces" in said:
            return JobError(f"{space}: there is no such namespace: {said}")
        if code == 404 and "could not find the requested resource" in said:
            return SegengineError(
                f"cluster.kind: kubernetes: the Dask operator is not installed there; {_INSTALL}"
            )
        if code == 422:
            return JobError(f"cluster.options: Kubernetes refuses them: {said}")
        return _RefusedError(f"{space}: cannot {what}: {said}", code)

    async def _call(self, method: str, version: str, url: str, **kwargs: Any) -> Any:
        async with self.api.call_api(
            method, version=version, namespace=self.namespace, url=url, **kwargs
        ) as response:
            return response.json()

    def _get(self, version: str, plural: str, **selectors: str) -> list[Mapping[str, Any]]:
        call = self._call("GET", version, plural, params=selectors)
        found: list[Mapping[str, Any]] = self._answer(call, f"list {plural}")["items"]
        return found

    # ------------------------------------------------------------------------------ a cluster's life

    def create(self, workers: int) -> None:
        """Ask for it."""
        made = json.dumps(pods.cluster_spec(self.name, self.options, workers))
        call = self._call("POST", DASK, "daskclusters", content=made)
        self._answer(call, "create the cluster", whole=True)
        self.created = time.monotonic()

    def scale(self, workers: int) -> None:
        """Ask for so many workers."""
        call = self._call(
            "PATCH",
            DASK,
            f"daskworkergroups/{self.name}-default",
            content=json.dumps({"spec": {"worker": {"replicas": workers}}}),
            headers={"Content-Type": "application/merge-patch+json"},
        )
        self._answer(call, "scale its workers")

    def delete(self) -> None:
        """End it, and its pods with it."""
        call = self._call("DELETE", DASK, f"daskclusters/{self.name}")
        with contextlib.suppress(SegengineError):
            self._answer(call, "delete the cluster", seconds=BYE, whole=True)

    def require_there(self) -> Mapping[str, Any]:
        """The resource. Raises SegengineError where somebody has deleted it."""
        call = self._call("GET", DASK, f"daskclusters/{self.name}")
        try:
            found: Mapping[str, Any] = self._answer(call, "look at the cluster")
        except _RefusedError as error:
            if error.code == 404:
                raise SegengineError(
                    f"cluster.options: namespace: {self.namespace}: somebody, or idle_timeout, has "
                    f"deleted the cluster {self.name}; run again: what is done is kept"
                ) from error
            raise
        return found

    def wait_for_scheduler(self) -> None:
        """Wait until its pod is ready. Raises SegengineError where it will not be."""
        while True:
            found = self._get("v1", "pods", labelSelector=self._selector("scheduler"))
            if any(_is_ready(pod) for pod in found):
                return
            self.require_hope()
            pause(TURN)

    def _selector(self, component: str = "") -> str:
        more = f",dask.org/component={component}" if component else ""
        return f"dask.org/cluster-name={self.name}{more}"

    def require_hope(self) -> None:
        """Raise SegengineError where pods will not start, with what Kubernetes says of them."""
        cluster = self.require_there()
        if not cluster.get("status", {}).get("phase"):
            if time.monotonic() - self.created > OPERATOR:
                raise SegengineError(
                    "cluster.kind: kubernetes: the Dask operator does not act on the cluster: its "
                    f"resources are defined, but nobody is there; {_INSTALL}"
                )
            return
        if cluster["status"]["phase"] == "Error":
            raise SegengineError(
                "cluster.kind: kubernetes: the Dask operator refuses the cluster; look at its log"
            )
        found = self._get("v1", "pods", labelSelector=self._selector())
        if any(_is_ready(pod) and _is_worker(pod) for pod in found):
            self.seen.clear()
            return
        now = time.monotonic()
        self.seen = {r: seen for r, seen in self.seen.items() if now - seen[1] < FORGOTTEN}
        for option, said, hope in self._reasons(found):
            first, _ = self.seen.get(option, (now, now))
            self.seen[option] = first, now
            if now - first > hope:
                raise SegengineError(f"cluster.options: {option}: {said}")

    def _reasons(self, found: list[Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
        """Why pods do not start: the option to look at, what is said, and for how long to hope."""
        for pod in found:
            reason, message = pods.waits(pod)
            name = pod["metadata"]["name"]
            if reason == "Unschedulable":
                yield "resources", f"no node takes pod {name}: {line(message)}", NODES
            elif reason:
                last = self._last_words(name) if reason == "CrashLoopBackOff" else ""
                option, said = pods.HOPELESS[reason], line(last or message or reason)
                of = f"{self.options.image}: " if option == "image" else ""
                yield option, f"{of}pod {name}: {reason}: {said}", HOPE
        for deployment in self._seen("apps/v1", "deployments", labelSelector=self._selector()):
            if message := pods.refused(deployment):
                option, of = "namespace", self.namespace
                if "service account" in message:
                    option, of = "service_account", str(self.options.service_account)
                yield option, f"{of}: Kubernetes makes no pod: {line(message)}", HOPE
        pending = {
            p["metadata"]["uid"] for p in found if p.get("status", {}).get("phase") == "Pending"
        }
        for event in self._seen("v1", "events") if pending else ():
            if event["involvedObject"].get("uid") in pending and event["reason"] in pods.EVENTS:
                name, message = event["involvedObject"]["name"], line(event.get("message", ""))
                yield "volumes", f"pod {name}: {event['reason']}: {message}", HOPE

    def _seen(self, version: str, plural: str, **selectors: str) -> list[Mapping[str, Any]]:
        """As `_get`; nothing where we may not look: it only helps to say why."""
        try:
            return self._get(version, plural, **selectors)
        except _RefusedError as error:
            if error.code == 403:
                return []
            raise

    def _last_words(self, pod: str) -> str:
        """What a pod said when it ended: its last error, else its last line."""

        async def read() -> str:
            async with self.api.call_api(
                "GET", version="v1", namespace=self.namespace, url=f"pods/{pod}/log",
                params={"tailLines": "20"},
            ) as response:  # fmt: skip
                return str(response.text)

        with contextlib.suppress(SegengineError):
            lines = self._answer(read(), "read its log").strip().splitlines()
            errors = [one for one in lines if re.match(r"[\w.]*(Error|Exception)\b", one)]
            return str((errors or lines or [""])[-1].strip())
        return ""

    def scheduler_address(self) -> str:
        """Where the scheduler is reached: by its service's name in the cluster, else by a port that
        is forwarded."""
        host = f"{self.name}-scheduler.{self.namespace}"
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, PORT)
            return f"tcp://{host}:{PORT}"
        port = self._answer(self._forwarded(), "forward a port")
        return f"tcp://127.0.0.1:{port}"

    async def _forwarded(self) -> int:
        from kr8s.asyncio.objects import Service

        service = await Service.get(
            f"{self.name}-scheduler", namespace=self.namespace, api=self.api
        )
        if not await service.async_ready_pods():
            raise NoAnswerError(f"{self.name} has no scheduler that is ready")
        if self._forward is not None:
            await self._forward.async_stop()
        self._forward = service.portforward(remote_port=PORT, local_port="auto")
        return int(await self._forward.async_start())


def _own_namespace() -> str:
    """Of the pod that the driver runs in; empty: it runs in none, or a context says where to go."""
    file = IDENTITY / "namespace"
    return "" if os.environ.get("KUBECONFIG") or not file.exists() else file.read_text().strip()


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _is_worker(pod: Mapping[str, Any]) -> bool:
    return bool(pod["metadata"].get("labels", {}).get("dask.org/component") == "worker")
