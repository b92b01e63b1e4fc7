"""Start runs as processes of their own, watch them, kill them, and compare what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil

import segengine
from segengine.store.blobs import open_objects
from segengine.store.kinds import Record
from segengine.store.records import RecordLog

HERE = Path(__file__).parent
MARK = "SEGENGINE_TEST_PROCESS"
LONG = 120.0
"""Seconds after which a test gives up on something that takes a few."""
AGAIN = ("sh", "-c", 'while :; do "$@"; sleep 0.3; done', "sh")
"""What systemd does for a service: where it ends, it is started anew."""


def until(condition: Callable[[], Any], what: str, seconds: float = LONG) -> Any:
    """Wait for a truthy value, and return it."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"after {seconds:g} s: {what}"
        time.sleep(0.05)


def write_photos(folder: Path, number: int, trapped: tuple[int, ...] = ()) -> Path:
    """Noisy gray blobs of 250 x 240 pixels, 4 shards of 128 each; some with a trap pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        rng = np.random.default_rng(i)
        noise = rng.integers(0, 201, (250, 240), dtype=np.uint8)
        photo = cv2.GaussianBlur(noise, (0, 0), 1.5).astype(np.int64) * 4 - 300
        pixels = photo.clip(0, 200).astype(np.uint8)
        if i in trapped:
            pixels[7, 9] = 255
        assert cv2.imwrite(str(folder / f"{i:02}.png"), pixels)
    return folder


def job_of(photos: Path | str, store: Path | str, segmenter: dict[str, Any], **blocks: Any) -> Any:
    """A job as a mapping: shards of one frame and 128 x 128 pixels, two workers."""
    return {
        "name": "faults",
        "source": {"paths": [str(photos)]},
        "segmenter": segmenter,
        "store": {"path": str(store), "chunk": 64, "shard": 128},
        "cluster": {"kind": "local", "workers": 2},
        **blocks,
    }


def marked(mark: str) -> list[psutil.Process]:
    """All living processes that carry a mark, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@dataclass
class Process:
    """A run in a process of its own; everything it starts carries its mark."""

    folder: Path
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    """A command that starts it: strace, unshare."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        roots = [str(HERE), str(Path(segengine.__file__).parents[1])]
        environment = os.environ | {
            MARK: self.mark,
            "PYTHONPATH": os.pathsep.join(roots),
            **self.environment,
        }
        self.out, self.err = self.folder / f"{self.mark}.out", self.folder / f"{self.mark}.err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.popen = subprocess.Popen(
                [*self.prefix, sys.executable, "-P", *self.command],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def wait(self, seconds: float = LONG) -> int:
        """The exit code."""
        return self.popen.wait(seconds)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition, which must come true before the process ends."""
        until(lambda: condition() or self.popen.poll() is not None, what)
        assert self.popen.poll() is None, f"{what}: it has ended: {self.stderr}"

    @property
    def stderr(self) -> str:
        return self.err.read_text()

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    def everyone(self) -> list[psutil.Process]:
        """All living processes that carry the mark."""
        return marked(self.mark)

    def workers(self) -> list[psutil.Process]:
        """The Dask workers of a local cluster."""
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.popen.pid).children():
                with suppress(psutil.Error):
                    if "spawn_main" in " ".join(child.cmdline()):
                        found.append(child)
        return found

    def assert_nobody_left(self, seconds: float = 10.0) -> None:
        """Nothing that it started lives on for long."""
        until(lambda: not self.everyone(), "processes are left", seconds)

    def end(self) -> None:
        """Clean up."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        for process in self.everyone():
            with suppress(psutil.Error):
                process.kill()


@dataclass
class Job:
    """A job file that is run again and again, and what its runs say."""

    folder: Path
    job: Any
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "job.yaml"
        self.file.write_text(json.dumps(self.job))
        self.events_file = self.folder / "events"
        self.started: list[Process] = []

    @property
    def store(self) -> str:
        return str(self.job["store"]["path"])

    def start(self, moment: str = "none:never:0:0", *flags: str) -> Process:
        """The engine alone; `moment`: see driver.py."""
        self.events_file.unlink(missing_ok=True)
        command = [str(HERE / "driver.py"), str(self.file), str(self.events_file), moment, *flags]
        return self.launch(command)

    def start_command(self, *arguments: str) -> Process:
        """`segengine run`."""
        return self.launch(["-m", "segengine_flows.cli", "run", str(self.file), *arguments])

    def launch(self, command: list[str]) -> Process:
        """A process of its own."""
        process = Process(self.folder / "runs", command, self.environment, self.prefix)
        self.started.append(process)
        return process

    def run(self, expected: int = 0, *flags: str) -> Process:
        """Run to the end; the exit code is as expected."""
        process = self.start("none:never:0:0", *flags)
        code = process.wait()
        assert code == expected, f"exit code {code}: {process.stderr}"
        return process

    def events(self) -> list[str]:
        """What the latest run has said so far."""
        if not self.events_file.exists():
            return []
        return self.events_file.read_text().splitlines()

    def steps(self, stage: str) -> int:
        """How many progresses of a stage there were."""
        return sum(line.startswith(f"{stage} ") for line in self.events())

    def summary(self) -> dict[str, Any]:
        """The latest run's."""
        line = next(e for e in self.events() if e.startswith("summary "))
        found: dict[str, Any] = json.loads(line.removeprefix("summary "))
        return found

    def records(self) -> dict[tuple[str, str, tuple[int, int, int]], Record]:
        """Commit records by (kind, scene, shard)."""
        log = RecordLog(open_objects(self.store))
        singles, packed = log.scenes()
        return {
            (r.kind, r.scene, r.shard): r for scene in singles | packed for r in log.read(scene)
        }

    def scenes(self) -> dict[str, bytes]:
        """Every object below `scenes/`."""
        return tree(self.store)

    def end(self) -> None:
        for process in self.started:
            process.end()


def tree(store: str) -> dict[str, bytes]:
    """Every object below `scenes/` of a store, with its bytes."""
    objects = open_objects(store)
    found = {key: objects.get(key) or b"" for key in objects.keys("scenes")}
    assert any("/c/" in key for key in found)
    return found


def differing(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    """Keys that only one has, or that differ."""
    return sorted(key for key in {*a, *b} if a.get(key) != b.get(key))


def kill(process: psutil.Process) -> bool:
    """SIGKILL; False where it was gone already."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.Error:
        return False
    return True
