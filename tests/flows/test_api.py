"""The embedded Prefect API: loopback only, quiet, and gone with its parent."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from segengine_flows.api import EmbeddedApi, prepare_client


@pytest.mark.system
def test_it_answers_on_loopback_only_with_analytics_off(
    prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(prefect_home))
    monkeypatch.setenv("PREFECT_API_URL", "")
    api = EmbeddedApi()
    try:
        api.wait(60)
        with urllib.request.urlopen(f"{api.url}/health", timeout=5) as answer:
            assert answer.read() == b"true"
        process = psutil.Process(api.pid)
        listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
        environ = process.environ()
        assert environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert environ["DO_NOT_TRACK"] == "1"
        assert "PREFECT_API_URL" not in environ
    finally:
        api.stop()
    assert not api.is_alive()
    assert not api.is_ready(0.5)


PARENT = """
import sys, time
from segengine_flows.api import EmbeddedApi
api = EmbeddedApi()
print(api.pid, flush=True)
if sys.argv[1] == "ready":
    api.wait(60)
print("now", flush=True)
time.sleep(60)
"""


@pytest.mark.system
@pytest.mark.parametrize("when", ["at once", "ready"])
def test_it_ends_with_a_parent_that_is_killed(prefect_home: Path, when: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, when],
        env={**os.environ, "PREFECT_HOME": str(prefect_home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout as lines:
        api = psutil.Process(int(lines.readline()))
        assert lines.readline() == "now\n"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert psutil.wait_procs([api], timeout=5)[1] == []


@pytest.mark.system
def test_it_says_why_it_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file"))
    api = EmbeddedApi()
    try:
        with pytest.raises(RuntimeError, match=r"it ended at its start: .*file"):
            api.wait(60)
    finally:
        api.stop()


def test_the_client_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true"}
    monkeypatch.setattr(os, "environ", environ)
    prepare_client("http://127.0.0.1:1/api")
    assert environ["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "true"
    assert environ["PREFECT_API_URL"] == "http://127.0.0.1:1/api"
    assert environ["DO_NOT_TRACK"] == "1"
