"""What is told where Kubernetes is not reached; what it does with a cluster: tests/faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from segengine.dispatch import kubernetes
from segengine.errors import SegengineError
from segengine.job import ClusterSpec

SPEC = ClusterSpec(
    kind="kubernetes", workers=1, options={"image": "i", "resources": {"memory": "1GB"}}
)
CONFIG = """current-context: c
clusters: [{name: c, cluster: {server: "SERVER"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: t}}]
"""


class Refusing(BaseHTTPRequestHandler):
    """Says no to all."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Refusing) as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def told(config: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file = folder / "config"
    file.write_text(config)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(SegengineError) as caught:
        kubernetes.kubernetes(SPEC, 1).__enter__()
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(file), "FILE")


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ("users: [secret\n:", " (line 2: no YAML)"),
        ("a text", ""),
        ("[]", ""),
        ("", ""),
    ],
)
def test_a_configuration_that_is_none_is_named(
    config: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(config, tmp_path, monkeypatch) == (
        f"cluster.kind: kubernetes: FILE is no configuration of kubectl{where}; look at KUBECONFIG"
    )


@pytest.mark.parametrize(
    ("config", "lacks"),
    [("{}", "current-context"), ("{current-context: a, contexts: [{name: a}]}", "context")],
)
def test_a_configuration_that_names_no_cluster_is_told(
    config: str, lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = told(config, tmp_path, monkeypatch)
    assert said.startswith(f"cluster.kind: kubernetes: FILE has no {lacks}, and names no cluster; ")
    assert said.endswith("kubectl config use-context")


@pytest.mark.parametrize(("code", "verb"), [(403, "may not"), (500, "cannot")])
def test_who_does_not_say_who_we_are_is_named(
    code: int, verb: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = told(CONFIG.replace("SERVER", f"{server}/{code}"), tmp_path, monkeypatch)
    assert said.startswith(f"Kubernetes at {server}/{code}: {verb} find out who we are: ")
