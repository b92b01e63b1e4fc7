"""Runs that a real worker starts: an API that is slow or gone, a run cancelled, one that tells."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import yaml

import segengine

from .conftest import SHIPPED, Site, until
from .proxy import Proxy

pytestmark = pytest.mark.system

SLOW = '''
"""A segmenter that takes its time: 0.1 s a frame, and a minute where a pixel is white."""
import time
from dataclasses import dataclass

import numpy as np

from segengine.types import Prediction


@dataclass(frozen=True)
class Slow:
    classes = ("dark", "bright")
    halo = 0
    stride = 1
    outputs = ("labels",)

    def segment(self, pixels):
        time.sleep(60 if pixels.max() == 255 else 0.1)
        return Prediction((pixels[..., 0] > 127).astype(np.uint8))
'''
FRAMES = 30
LONG = 300.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server, a pool and a worker."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "slow_segmenter.py").write_text(SLOW)
    shutil.copytree(SHIPPED, folder / "deployments")
    site = Site(folder)
    try:
        site.serve()
        site.pool()
        site.start("worker", "start", "--pool", "segengine")
        yield site
    finally:
        site.end()


def job(folder: Path, white: tuple[int, ...] = (), empty: int = 0) -> dict[str, Any]:
    """30 shards of one small frame; a white one takes a minute, an empty file is quarantined."""
    (folder / "frames").mkdir(parents=True)
    for index in range(FRAMES):
        value = 255 if index in white else index * 8
        pixels = np.full((32, 32, 3), value, np.uint8)
        cv2.imwrite(str(folder / f"frames/{index:02}.png"), pixels)
    for index in range(empty):
        (folder / f"frames/empty{index}.png").write_bytes(b"")
    return {
        "name": folder.name,
        "source": {"paths": [str(folder / "frames")]},
        "segmenter": {"kind": "slow_segmenter:Slow"},
        "store": {"path": str(folder / "m.zarr"), "chunk": 256, "shard": 256, "frames": 1},
        "cluster": {"workers": 1},
    }


def done(store: Path) -> int:
    """Shards that have their record."""
    if not (store / "zarr.json").exists():
        return 0
    records = segengine.open_store(str(store)).records()
    return sum(r.kind == "mask" and r.status == "done" for r in records)


# ---------------------------------------------------------------------------- an API that is slow


TROUBLES = {
    "half-a-second": {"delay": 0.5},
    "seconds": {"delay": 2.5},
    "ten-seconds": {"delay": 10.0},
    "failing": {"failing": 0.3},
}


def test_an_api_that_is_slow_or_fails_now_and_then_learns_how_a_run_ended(
    site: Site, tmp_path: Path
) -> None:
    proxies, runs = {name: Proxy(site.port) for name in TROUBLES}, {}
    for name, proxy in proxies.items():
        site.add(name, job(tmp_path / name), {"PREFECT_API_URL": proxy.url})
        runs[name] = site.start_run(name)
    waiting = dict(TROUBLES)

    def all_are_troubled() -> bool:
        for name in [n for n in waiting if done(tmp_path / n / "m.zarr") >= 3]:
            vars(proxies[name]).update(waiting.pop(name))
        return not waiting

    until(all_are_troubled, LONG, "they do not start")
    for name, run in runs.items():
        state = site.end_of(run)
        expected = ("COMPLETED", "30 shards computed, 0 done before")
        assert (state["type"], state["message"]) == expected, name
        vars(proxies[name]).update(delay=0.0, failing=0.0)
    assert proxies["failing"].failed >= 1
    again = {name: site.start_run(name) for name in TROUBLES}
    for name, run in again.items():
        state = site.end_of(run)
        expected = ("COMPLETED", "0 shards computed, 30 done before")
        assert (state["type"], state["message"]) == expected, name


def test_an_api_that_is_gone_costs_seconds_and_the_worker_marks_the_run(
    site: Site, tmp_path: Path
) -> None:
    proxy = Proxy(site.port)
    site.add("gone", job(tmp_path / "gone"), {"PREFECT_API_URL": proxy.url})
    run = site.start_run("gone")
    store = tmp_path / "gone/m.zarr"
    until(lambda: done(store) >= 3, LONG, "it does not start")
    proxy.go()
    until(lambda: (store / "report/index.html").exists(), LONG, "the run does not go on")
    ended = time.monotonic()
    state = site.end_of(run)
    assert time.monotonic() - ended < 25
    assert (state["type"], done(store)) == ("CRASHED", FRAMES)
    assert "status code: 1" in state["message"]
    assert not (store / "run.lock").exists()
    # The queue takes one at a time: this one is not in the way any more.
    other = Proxy(site.port)
    site.add("gone", job(tmp_path / "other"), {"PREFECT_API_URL": other.url})
    assert site.end_of(site.start_run("gone"))["type"] == "COMPLETED"


# ----------------------------------------------------------------------------------- a run cancelled


def flow_process(store: Path) -> psutil.Process:
    """The process that holds the store's lock."""
    return psutil.Process(json.loads((store / "run.lock").read_text())["pid"])


@pytest.mark.parametrize("white", [(), (5,)], ids=["many shards", "one long shard"])
def test_a_run_cancelled_in_prefect_ends_soon_keeps_its_shards_and_gives_the_lock_back(
    site: Site, tmp_path: Path, white: tuple[int, ...]
) -> None:
    name = f"cancelled-{len(white)}"
    store = tmp_path / name / "m.zarr"
    site.add(name, job(tmp_path / name, white))
    run = site.start_run(name)
    until(lambda: done(store) >= 5, LONG, "it does not start")
    process = flow_process(store)
    family = [process, *process.children(recursive=True)]
    before = done(store)
    site.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    _, alive = psutil.wait_procs(family, timeout=15)  # Prefect kills after 30 s
    assert alive == []
    assert site.state(run)["type"] == "CANCELLED"  # told by the process, before it ended
    assert not (store / "run.lock").exists()
    kept = done(store)
    assert before <= kept < FRAMES
    for index in white:  # no longer slow: its shard is stale, and was never done
        cv2.imwrite(
            str(tmp_path / name / f"frames/{index:02}.png"), np.zeros((32, 32, 3), np.uint8)
        )
    state = site.end_of(site.start_run(name))
    expected = f"{FRAMES - kept} shards computed, {kept} done before"
    assert (state["type"], state["message"]) == ("COMPLETED", expected)


@pytest.mark.parametrize("white", [(), (5,)], ids=["many shards", "one long shard"])
def test_a_flow_process_that_gets_sigterm_ends_soon_in_a_terminal_state(
    site: Site, tmp_path: Path, white: tuple[int, ...]
) -> None:
    name = f"terminated-{len(white)}"
    store = tmp_path / name / "m.zarr"
    site.add(name, job(tmp_path / name, white))
    run = site.start_run(name)
    until(lambda: done(store) >= 5, LONG, "it does not start")
    process = flow_process(store)
    family = [process, *process.children(recursive=True)]
    before = done(store)
    process.terminate()
    assert psutil.wait_procs(family, timeout=15)[1] == []
    assert site.end_of(run)["type"] == "CRASHED"
    assert not (store / "run.lock").exists()
    assert before <= done(store) < FRAMES


# ------------------------------------------------------------------------------ a person who is told


class Inbox:
    """A web hook on loopback: what it was sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.messages.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def subjects(self) -> list[str]:
        """What it was told of, once each: a server sends what it has not noted as sent again."""
        return list(dict.fromkeys(message["subject"] for message in self.messages))


BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block

message = {"subject": "{{subject}}", "body": "{{body}}"}
print(Block(name="n", url=sys.argv[1], json_data=message).save("segengine", overwrite=True))
"""


def automations(site: Site, inbox: Inbox, **within: int) -> Path:
    """The shipped file with a block's id in it, as the README says, and some times changed."""
    made = subprocess.run(
        [sys.executable, "-c", BLOCK, inbox.url],
        env=site.environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    text = (SHIPPED / "automations.yaml").read_text().replace("BLOCK_ID", made.stdout.split()[-1])
    data = yaml.safe_load(text)
    for automation in data["automations"]:
        seconds = within.get(automation["name"].partition("-")[2])
        automation["trigger"]["within"] = seconds or automation["trigger"]["within"]
    file = site.folder / "automations.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_the_shipped_automations_tell_a_person_and_give_up_a_lost_run(
    site: Site, tmp_path: Path
) -> None:
    inbox = Inbox()
    out = site.prefect(
        "automation", "create", "--from-file", str(automations(site, inbox, lost=45))
    )
    assert "segengine-tell" in out
    assert "segengine-lost" in out
    site.add("green", job(tmp_path / "green"))
    assert site.end_of(site.start_run("green"))["name"] == "Completed"
    site.add("bad", job(tmp_path / "bad", empty=1))
    state = site.end_of(site.start_run("bad"))
    assert (state["type"], state["name"]) == ("COMPLETED", "Quarantined")
    until(lambda: inbox.messages, LONG, "nobody was told")
    site.add("worse", job(tmp_path / "worse", empty=9))
    assert site.end_of(site.start_run("worse"))["name"] == "Failed"
    until(lambda: "segengine: worse: Failed" in inbox.subjects(), LONG, "nobody was told")
    assert inbox.subjects() == ["segengine: bad: Quarantined", "segengine: worse: Failed"]
    assert inbox.messages[0]["body"] == f"bad is Quarantined: {state['message']}"

    site.add("lost", job(tmp_path / "lost", (20,)), {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"})
    run = site.start_run("lost")
    store = tmp_path / "lost/m.zarr"
    until(lambda: done(store) >= 5, LONG, "it does not start")
    process = flow_process(store)
    process.suspend()
    try:
        assert "Nothing has been heard" in site.end_of(run)["message"]
    finally:
        process.kill()
