"""One photo in a fresh process: the command against the library, and recorded against a trivial flow.

All that is measured is a whole process with those that it started. Bytecode is there, as pip leaves it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import rmtree
from statistics import median

import cv2
import skimage.data

from tests.benchmarks.table import Row, show

TURNS = 5
LIBRARY = (
    sys.executable,
    "-c",
    "import segengine; segengine.run(segengine.load_job('job.yaml'))",
)
COMMAND = (sys.executable, "-P", "-m", "segengine_flows.start")
JOB = """
source: {paths: [photo.jpg]}
segmenter: {kind: threshold, method: mean}
store: {path: masks.zarr}
"""
FLOW = """
from prefect import flow

@flow
def nothing():
    return 1

nothing()
"""
MISTAKES = {
    "a key that is none": JOB.replace("source", "sorce"),
    "an option's value": JOB.replace("mean", "meen"),
}

Spent = tuple[float, float]
"""Seconds of the clock, and of processors."""


class Fresh:
    """Starts commands in a folder with the job, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        astronaut = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "photo.jpg"), cv2.resize(astronaut, (640, 480)))
        (folder / "job.yaml").write_text(JOB)
        (folder / "flow.py").write_text(FLOW)
        named = ("PREFECT", "PYTHONDONTWRITEBYTECODE")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(named)} | {
            "PREFECT_HOME": str(folder / "home"),
            "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its default is 20
        }

    def spent(self, command: Sequence[str], code: int = 0) -> Spent:
        """What a command takes."""
        with open(self.folder / "said", "wb") as said:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=said, stderr=said
            )
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == code, (self.folder / "said").read_text()
        return wall, used.ru_utime + used.ru_stime

    def cold(self, command: Sequence[str]) -> Spent:
        """The same where no store is there."""
        rmtree(self.folder / "masks.zarr", ignore_errors=True)
        return self.spent(command)


def rows() -> Iterator[Row]:
    """Medians of turns."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        fresh = Fresh(Path(name))
        for measure in (_against_the_library, _recorded, _answers):
            yield from measure(fresh)


def _against_the_library(fresh: Fresh) -> list[Row]:
    run = (*COMMAND, "run", "job.yaml")
    fresh.cold(LIBRARY), fresh.cold(run)  # makes the bytecode
    turns = [
        [(fresh.cold(command), fresh.spent(command)) for command in (run, LIBRARY)]
        for _ in range(TURNS)
    ]
    found = []
    for when, again in (("cold", 0), ("again", 1)):
        for what, unit in (("", "s"), (", processors", "CPU s")):
            ours, theirs = (
                median(turn[who][again][bool(what)] for turn in turns) for who in (0, 1)
            )
            name = f"one photo, `segengine run` / `segengine.run`, {when}{what}"
            found.append(Row(name, ours, theirs, unit, ours / theirs, "<= 1.5"))
    return found


def _recorded(fresh: Fresh) -> list[Row]:
    """With `--prefect`, against the plain run and a flow that does nothing, one after the other."""
    run = (*COMMAND, "run", "job.yaml")
    first = fresh.cold((*run, "--prefect"))  # makes Prefect's database
    rmtree(fresh.folder / "home")
    trivial = (sys.executable, "flow.py")
    first_trivial = fresh.spent(trivial)
    turns = [
        (fresh.cold((*run, "--prefect")), fresh.cold(run), fresh.spent(trivial))
        for _ in range(TURNS)
    ]
    ours = median(turn[0][0] for turn in turns)
    plain = median(turn[1][0] for turn in turns)
    theirs = plain + median(turn[2][0] for turn in turns)
    start = plain + first_trivial[0]
    what = "one photo, `segengine run --prefect` / plain and a trivial flow"
    return [
        Row(what, ours, theirs, "s", ours / theirs, "<= 1"),
        Row(f"{what}, the first time", first[0], start, "s", first[0] / start, "<= 1"),
    ]


def _answers(fresh: Fresh) -> list[Row]:
    """What asks for nothing but an answer."""
    asked = {"`segengine --help`": ((*COMMAND, "--help"), 0)}
    for i, (what, text) in enumerate(MISTAKES.items()):
        (fresh.folder / f"wrong{i}.yaml").write_text(text)
        asked[f"a mistake in the YAML: {what}"] = ((*COMMAND, "run", f"wrong{i}.yaml"), 2)
    found = []
    for what, (command, code) in asked.items():
        ours = min(fresh.spent(command, code)[0] for _ in range(2 * TURNS))
        found.append(Row(what, ours, 0.3, "s", ours / 0.3, "<= 1"))
    return found


if __name__ == "__main__":
    show(rows())
