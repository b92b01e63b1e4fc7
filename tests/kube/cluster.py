"""The cluster as a test sees it: it starts, misbehaves on demand, and ends with all that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from aiohttp import web

from tests.authority import Authority
from tests.kube.boxes import WITH_US, Boxes
from tests.kube.node import MARK, Node
from tests.kube.server import ALL, CORE, Server, definitions
from tests.kube.store import Refused, Store

IMAGE = "registry.test/segengine:1"
"""The one that nodes can pull."""
LONG = 60.0
OURS = {"daskclusters", "daskworkergroups", "deployments", "pods", "services"}
"""What a run's cluster consists of."""
ROOT = Path(__file__).parents[2]
OUTSIDE = {("list", "services"), ("get", "pods"), ("get", "pods/portforward")}
"""What a driver outside the cluster may do besides, to reach a scheduler."""


def _role() -> set[tuple[str, str]]:
    text = (ROOT / "deployments/kubernetes/base/rbac.yaml").read_text()
    (role,) = [m for m in yaml.safe_load_all(text) if m["kind"] == "Role"]
    return {
        (verb, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


ROLE = _role()
"""Verbs and resources of the role that is shipped: a test's driver has it, and nothing else."""


class Cluster:
    """An API server in a thread, a node, and the Dask operator in a process of its own."""

    def __init__(
        self,
        folder: Path,
        path: list[str],
        operator: bool = True,
        defined: bool = True,
        images: set[str] | None = None,
    ) -> None:
        """`path`: folders of modules that workers need. `defined`: the operator's resources are.

        `images`: containers are in roots of their own, as these images have them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.images = images
        self.folder, self.mark = folder, uuid4().hex
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), MARK: self.mark}
        self.port = self.call(self._start, environment)
        self.operator: subprocess.Popen[bytes] | None = None
        self.call(self._furnish, defined)
        if operator:
            self._start_operator()

    async def _start(self, environment: dict[str, str]) -> int:
        self.store = Store()
        self.server = Server(self.store, self.folder / "pods")
        boxes = Boxes(self.folder / "boxes") if self.images else None
        self.node = Node(self.server, environment, self.images or {IMAGE}, boxes)
        self.runner = web.AppRunner(self.server.app, shutdown_timeout=1)
        await self.runner.setup()
        # Kubectl gives its token away by TLS only.
        self.authority = Authority(self.folder / "authority")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.authority.issue("server"))
        for secret in (None, context):
            await web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=secret).start()
        self.node.start()
        self.secure = int(self.runner.addresses[1][1])
        return int(self.runner.addresses[0][1])

    async def _furnish(self, defined: bool) -> None:
        for name in ("default", "dask"):
            self.store.create(CORE[0], "", {"metadata": {"name": name}})
        for definition in definitions() if defined else ():
            self.server.define(definition)
        self.server.rights = {
            "admin": ("admin", ALL),
            "driver": (
                "system:serviceaccount:dask:driver",
                ROLE | OUTSIDE,
            ),
            "reader": ("reader", {(v, "*") for v in ("get", "list", "watch")}),
        }  # fmt: skip

    def _start_operator(self) -> None:
        self.log = self.folder / "operator"
        with self.log.open("wb") as log:
            self.operator = subprocess.Popen(
                [*WITH_US, sys.executable, "-m", "tests.kube.operator"],
                cwd=ROOT,
                env=os.environ | {**self.environment("admin"), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # On a busy machine it takes longer to load than a run waits for one that is there.
        watching = ("admin", "watch", "daskclusters")
        self.until(lambda: watching in self.server.used, "the operator does not begin", 3 * LONG)

    def environment(
        self, token: str = "driver", namespace: str = "dask", *, secure: bool = False
    ) -> dict[str, str]:
        """Variables by which clients find the cluster, as the user of a token; `secure`: by TLS."""
        cluster = {"server": f"http://127.0.0.1:{self.port}"}
        if secure:
            cluster = {"server": f"https://127.0.0.1:{self.secure}"}
            cluster["certificate-authority"] = str(self.authority.ca)
        told = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [
                {"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}
            ],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        file = self.folder / f"kubeconfig-{token}-{namespace}-{secure}"
        file.write_text(yaml.safe_dump(told))
        return {"KUBECONFIG": str(file)}

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it in the server's loop."""

        async def run() -> Any:
            found = function(*args)
            return await found if asyncio.iscoroutine(found) else found

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(LONG)

    def objects(self, plural: str) -> list[Any]:
        """All of a resource."""
        return self.call(
            lambda: [
                o for r, found in self.store.objects.items() if r.plural == plural
                for o in found.values()
            ]
        )  # type: ignore[no-any-return] # fmt: skip

    def left(self, but: str = "no name") -> list[str]:
        """Names of all that runs' clusters consist of, without those of one; a pod that is deleted may
        work until its node has noticed."""
        found = [f"{p}/{o['metadata']['name']}" for p in sorted(OURS) for o in self.objects(p)]
        pods = {o["metadata"]["uid"] for o in self.objects("pods")}
        found += [f"process of {uid}" for uid in list(self.node.processes) if uid not in pods]
        return [name for name in found if but not in name]

    def workers(self) -> list[Any]:
        """Pods of workers that run."""
        return [
            pod for pod in self.objects("pods")
            if pod["metadata"]["labels"].get("dask.org/component") == "worker"
            and pod.get("status", {}).get("phase") == "Running"
        ]  # fmt: skip

    def delete(self, plural: str, name: str, namespace: str = "dask") -> None:
        """As kubectl would."""
        resource = self.server.named(plural)
        with suppress(Refused):
            self.call(self.store.delete, resource, (namespace, name))

    def create(self, plural: str, given: Any, namespace: str = "dask") -> None:
        """As kubectl would."""
        resource = self.server.named(plural)
        self.call(self.store.create, resource, namespace, given)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = LONG) -> Any:
        """Wait for a truthy value."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            told = self.log.read_text()[-2000:] if self.operator else ""
            assert time.monotonic() < end, f"{what}: {self.left()} {told}"
            time.sleep(0.1)
        return found

    def until_empty(self, seconds: float = LONG, but: str = "no name") -> None:
        """Wait until nothing of runs' clusters is left."""
        self.until(lambda: not self.left(but), "resources are left", seconds)

    def stop_operator(self) -> None:
        """Nobody acts on its resources from now on."""
        if self.operator is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.operator.pid, signal.SIGKILL)
            self.operator.wait()

    def end(self) -> None:
        """End all of it."""
        self.stop_operator()
        self.call(self.node.end)
        self.call(self.runner.cleanup)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
