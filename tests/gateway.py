"""A Dask gateway for tests: its server, its proxy, and clusters as processes of this machine.

The server is the real one, with its backend for one machine; who asks gives any name and one password.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

MARK = "SEGENGINE_TEST_PROCESS"
PASSWORD = "1e5"
"""Which Dask, where it reads variables itself, takes for a number."""
LONG = 60.0
CONFIG = """
import sys
from dask_gateway_server.options import Float, Integer, Options, String
folder, port = {folder!r}, {port}
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.address = "127.0.0.1:0"
c.Proxy.address = f"127.0.0.1:{{port}}"
c.SimpleAuthenticator.password = {password!r}
c.UnsafeLocalBackend.clusters_directory = folder
c.UnsafeLocalBackend.inherited_environment = ["PATH", "PYTHONPATH", {mark!r}]
c.UnsafeLocalBackend.sigint_timeout = 2
c.UnsafeLocalBackend.cluster_heartbeat_period = 1
c.UnsafeLocalBackend.cluster_status_period = 1
c.UnsafeLocalBackend.worker_status_period = 1
c.ClusterConfig.scheduler_cmd = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
c.ClusterConfig.worker_cmd = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard"]
c.ClusterConfig.cluster_max_workers = 3
def configured(options):
    found = {{"worker_threads": options.threads, "idle_timeout": options.idle_timeout}}
    found["environment"] = {{"OMP_NUM_THREADS": "1"}}
    if options.worker:
        found["worker_cmd"] = [sys.executable, "-c", options.worker]
    return found
c.Backend.cluster_options = Options(
    Integer("threads", 1, min=1, max=2),
    Float("idle_timeout", 0, min=0, max=3600),
    String("worker", ""),
    handler=configured,
)
"""


class Gateway:
    """A server that runs, and what it says of its clusters."""

    def __init__(self, folder: Path, path: list[str]) -> None:
        """`path`: folders of modules that workers need."""
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "DASK_GATEWAY__AUTH__KWARGS__USERNAME": "tester",
            "DASK_GATEWAY__AUTH__KWARGS__PASSWORD": PASSWORD,
        }
        (folder / "clusters").mkdir()
        config = folder / "config.py"
        config.write_text(
            CONFIG.format(
                folder=str(folder / "clusters"), port=self.port, password=PASSWORD, mark=MARK
            )
        )
        self.log, self.mark = folder / "log", uuid4().hex
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dask_gateway_server", "-f", str(config)],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.until(self._answers, "it does not answer")

    def _answers(self) -> bool:
        with suppress(OSError, ValueError):
            return isinstance(self.clusters(), dict)
        return False

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """An answer of its own interface."""
        told = base64.b64encode(f"tester:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"{self.address}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {told}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def clusters(self) -> dict[str, Any]:
        """Those that start or run, by name."""
        found: dict[str, Any] = self.ask("GET", "clusters/")
        return found

    def new_cluster(self, workers: int) -> str:
        """One that runs; its name."""
        name: str = self.ask("POST", "clusters/", {"cluster_options": {}})["name"]
        self.until(lambda: self.clusters().get(name, {}).get("status") == "RUNNING", "no cluster")
        self.ask("POST", f"clusters/{name}/scale", {"count": workers})
        return name

    def until(self, condition: Any, what: str, seconds: float = LONG) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"{what}: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def until_empty(self, seconds: float = LONG) -> None:
        """Wait until no cluster is left."""
        self.until(lambda: not self.clusters(), "clusters are left", seconds)

    def end(self) -> None:
        """End it, and its clusters with it."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
