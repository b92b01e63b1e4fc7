"""The folder's helpers, importable by its tests; what they start ends with each test."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Job


@pytest.fixture
def make_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Builds job files in folders of their own; their processes end with the test."""
    made: list[Job] = []

    def make(job: Any, **environment: str) -> Job:
        made.append(Job(tmp_path / f"job{len(made)}", job, environment))
        return made[-1]

    yield make
    for job in made:
        job.end()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server that speaks S3, on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a fresh bucket; the environment of this process and of its children can open it."""
    import s3fs

    environment = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://faults-{uuid.uuid4().hex}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(url)
    return url
