"""Photos, jobs and the command as a process of its own, with a Prefect home of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

SLOW = '''
"""A segmenter that takes its time: 0.2 s a frame, so that there is a middle to interrupt."""
import time
from dataclasses import dataclass

import numpy as np

from segengine.types import Prediction


@dataclass(frozen=True)
class Slow:
    seconds: float = 0.2
    classes = ("dark", "bright")
    halo = 0
    stride = 1
    outputs = ("labels",)

    def segment(self, pixels):
        time.sleep(self.seconds)
        return Prediction((pixels[..., 0] > 127).astype(np.uint8))
'''

DEPLOY = """
import importlib, json, sys
from prefect.client.orchestration import get_client

name = sys.argv[1]
made = getattr(importlib.import_module(f"segengine_flows.{name}"), name)
with get_client(sync_client=True) as client:
    flow = client.create_flow(made)
    deployment = client.create_deployment(
        flow_id=flow, name="test", entrypoint=f"segengine_flows.{name}.{name}", pull_steps=[]
    )
    run = client.create_flow_run_from_deployment(
        deployment, parameters={"job": json.loads(sys.argv[2])}
    )
print(run.id)
"""


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect home with its database made: the first start takes longest."""
    from segengine_flows.api import EmbeddedApi

    home = tmp_path_factory.mktemp("prefect")
    before = dict(os.environ)
    os.environ["PREFECT_HOME"] = str(home)
    try:
        api = EmbeddedApi()
        api.wait(120)
        api.stop()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return home


@pytest.fixture
def handlers_as_before() -> Iterator[None]:
    """Of the signals that the command catches."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four small photos of two sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, shape in enumerate([(40, 50), (40, 50), (300, 20), (40, 50)]):
        pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), pixels)
    return folder


@pytest.fixture
def job_file(tmp_path: Path, photos: Path) -> Path:
    """A job of a few seconds over the photos."""
    file = tmp_path / "job.yaml"
    file.write_text(
        "name: photos\n"
        "source: {paths: [photos]}\n"
        "segmenter: {kind: kmeans, clusters: 3}\n"
        "store: {path: masks.zarr}\n"
        "cluster: {workers: 1}\n"
    )
    return file


@pytest.fixture
def slow_job(tmp_path: Path) -> Path:
    """A job of 40 shards, 0.2 s each, on one worker."""
    (tmp_path / "slow_segmenter.py").write_text(SLOW)
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(40):
        cv2.imwrite(str(folder / f"{index:02}.png"), np.full((32, 32, 3), index * 6, np.uint8))
    file = tmp_path / "slow.yaml"
    file.write_text(
        "name: slow\n"
        "source: {paths: [frames]}\n"
        "segmenter: {kind: 'slow_segmenter:Slow'}\n"
        "store: {path: slow.zarr, chunk: 256, shard: 256, frames: 1}\n"
        "cluster: {workers: 1}\n"
    )
    return file


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(tmp_path: Path, prefect_home: Path) -> Iterator[Start]:
    """Start `python ARGUMENTS`, with environment; what is left of it is ended afterwards."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environ: str) -> Any:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=kept | {"PREFECT_HOME": str(prefect_home), "PYTHONPATH": str(tmp_path)} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


@pytest.fixture
def start(launch: Start) -> Start:
    """Start `segengine ARGUMENTS` as a process."""

    def run(*arguments: str, module: str = "segengine_flows.cli", **environ: str) -> Any:
        return launch("-P", "-m", module, *arguments, **environ)

    return run


@pytest.fixture
def api(prefect_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that is there before the flow."""
    from segengine_flows.api import EmbeddedApi

    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    server = EmbeddedApi()
    server.wait(60)
    yield server
    server.stop(0)


@pytest.fixture
def worker_run(launch: Start, api: Any) -> Start:
    """A run of a deployment of one of our flows, in a process as a worker starts it."""

    def run(flow: str, job: dict[str, Any]) -> "subprocess.Popen[str]":
        created = launch("-P", "-c", DEPLOY, flow, json.dumps(job), PREFECT_API_URL=api.url)
        out, err = created.communicate(timeout=60)
        assert created.returncode == 0, err
        return launch(
            *("-m", "prefect.engine"),
            PREFECT__FLOW_RUN_ID=out.split()[-1],
            PREFECT_API_URL=api.url,
        )

    return run
