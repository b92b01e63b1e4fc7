"""A site: a Prefect server, what ships deployed on it, and a worker; all ended afterwards."""

import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

SHIPPED = Path(__file__).parents[2] / "deployments"


def until(what: Callable[[], Any], seconds: float, why: str = "waited in vain") -> Any:
    """Wait for a truthy value, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError(f"after {seconds:g} s: {why}")


class Site:
    """A machine with a Prefect home of its own; ends what it has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.ids: dict[str, str] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        self.environ = kept | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "SEGENGINE_DATA": str(folder / "data"),
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [kept.get("PYTHONPATH")])]),
        }

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """`prefect ARGUMENTS` in the background; its words are in `<first argument>.log`."""
        log = (self.folder / f"{arguments[0]}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def serve(self) -> None:
        """Start the server, and wait until it answers."""
        self.start("server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui")
        until(self.answers, 180, "the server does not answer")

    def answers(self) -> bool:
        """True where the server does."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1):
                return True
        except OSError:
            return False

    def prefect(self, *arguments: str) -> str:
        """`prefect ARGUMENTS` in the folder of what ships; what it has printed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=self.folder / "deployments",
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pool(self) -> None:
        """The pool and its queues, as the README makes them."""
        self.prefect("work-pool", "create", "segengine", "--type", "process")
        for queue in ("scenes", "video"):
            self.prefect("work-queue", "create", queue, "--pool", "segengine", "--limit", "1")

    def deploy(self, name: str, **changes: Any) -> None:
        """Deploy one that ships, with top-level keys of its entry changed."""
        file = self.folder / "deployments/prefect.yaml"
        data = yaml.safe_load(file.read_text())
        (entry,) = (d for d in data["deployments"] if d["name"] == name)
        entry.update(changes)
        file.write_text(yaml.safe_dump(data))
        self.prefect("deploy", "--name", name)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the API answers: to a POST, where there is a body."""
        request = urllib.request.Request(
            f"{self.url}/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        for pause in (0.5, 1.0, 2.0, 4.0, 8.0):  # 503: its database is busy
            try:
                return self._ask(request)
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
            time.sleep(pause)
        return self._ask(request)

    def _ask(self, request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=180) as answer:
            return json.load(answer)

    def add(self, name: str, job: dict[str, Any], environ: dict[str, str] | None = None) -> None:
        """A deployment of the flow with a queue of its own, which takes one run at a time."""
        with contextlib.suppress(urllib.error.HTTPError):  # it is there
            self.ask("work_pools/segengine/queues", {"name": name, "concurrency_limit": 1})
        deployment = {
            "name": name,
            "flow_id": self.ask("flows/", {"name": "segment"})["id"],
            "entrypoint": "segengine_flows.segment.segment",
            "pull_steps": [],
            "work_pool_name": "segengine",
            "work_queue_name": name,
            "job_variables": {"env": environ or {}},
            "parameters": {"job": job},
        }
        self.ids[name] = self.ask("deployments/", deployment)["id"]

    def start_run(self, name: str) -> str:
        """Ask for a run of a deployment that was added; its id."""
        return str(self.ask(f"deployments/{self.ids[name]}/create_flow_run", {})["id"])

    def state(self, run: str) -> dict[str, Any]:
        """The state of a flow run."""
        found: dict[str, Any] = self.ask(f"flow_runs/{run}")["state"]
        return found

    def end_of(self, run: str, seconds: float = 300.0) -> dict[str, Any]:
        """Wait for the state that a flow run ends in; why it is no success is shown with a failing test."""
        found: dict[str, Any] = until(
            lambda: terminal(self.state(run)), seconds, f"run {run} does not end"
        )
        if found["type"] != "COMPLETED":
            told = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
            log = self.folder / "worker.log"
            lines = [
                f"{found['name']}: {found['message']}",
                *(each["message"] for each in told[-20:]),
            ]
            lines += log.read_text(errors="replace").splitlines()[-60:] if log.exists() else []
            logging.getLogger(__name__).error("run %s: %s", run, "\n".join(lines))
        return found

    def runs(self, deployment: str, **filters: Any) -> list[dict[str, Any]]:
        """Its flow runs, by the time at which they were to start."""
        found: list[dict[str, Any]] = self.ask(
            "flow_runs/filter",
            {
                "sort": "EXPECTED_START_TIME_ASC",
                "deployments": {"name": {"any_": [deployment]}},
                "flow_runs": filters,
            },
        )
        return found

    def end(self) -> None:
        """End what was started, the latest first."""
        for process in reversed(self.started):
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in psutil.wait_procs(family, timeout=3)[1]:
                child.kill()


def terminal(state: dict[str, Any]) -> dict[str, Any] | None:
    """A state that is final, or None."""
    return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """What ships, on a machine where nothing runs yet."""
    shutil.copytree(SHIPPED, tmp_path / "deployments")
    site = Site(tmp_path)
    yield site
    site.end()
