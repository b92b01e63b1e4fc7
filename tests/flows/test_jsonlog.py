"""`--log json`: every line of stderr is an object that says which run, scene, shard and attempt."""

import json
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from .conftest import Start

FLAKY = '''
"""Fails once on the bright frame, and kills its worker on the white one."""
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segengine.types import Prediction


@dataclass(frozen=True)
class Flaky:
    seen: str
    classes = ("dark", "bright")
    halo = 0
    stride = 1
    outputs = ("labels",)

    def segment(self, pixels):
        warnings.warn("the segmenter warns", stacklevel=1)
        os.write(2, b"a library writes\\n")
        if pixels.max() == 255:
            os.kill(os.getpid(), 9)
        if pixels.max() == 200 and not Path(self.seen).exists():
            Path(self.seen).touch()
            raise OSError("the connection was reset")
        return Prediction((pixels[..., 0] > 127).astype(np.uint8))
'''


@pytest.fixture
def flaky_job(tmp_path: Path) -> Path:
    """Five shards: one needs a second attempt, one is given up, and one frame is junk."""
    (tmp_path / "flaky_segmenter.py").write_text(FLAKY)
    (tmp_path / "frames").mkdir()
    for index, value in enumerate((10, 20, 200, 255)):
        pixels = np.full((32, 32, 3), value, np.uint8)
        cv2.imwrite(str(tmp_path / "frames" / f"{index}.png"), pixels)
    (tmp_path / "frames" / "junk.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 10)
    file = tmp_path / "flaky.yaml"
    file.write_text(
        "name: flaky\n"
        "source: {paths: [frames]}\n"
        f"segmenter: {{kind: 'flaky_segmenter:Flaky', seen: {tmp_path / 'seen'}}}\n"
        "store: {path: flaky.zarr, chunk: 256, shard: 256, frames: 1}\n"
        "cluster: {workers: 1}\n"
        "faults: {retries: 1}\n"
    )
    return file


def lines_of(text: str) -> list[dict[str, Any]]:
    """Every line is an object with at least time, level and message."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines
    for line in lines:
        assert {"time", "level", "message"} <= line.keys()
        assert line["level"] in ("debug", "info", "warning", "error", "critical")
    return lines


@pytest.mark.system
@pytest.mark.parametrize("how", [(), ("--prefect",)], ids=["plain", "flow"])
def test_a_run_with_a_retry_and_a_lost_shard_is_json_to_the_last_line(
    start: Start, flaky_job: Path, how: tuple[str, ...]
) -> None:
    process = start("run", str(flaky_job), "--log", "json", *how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "2 frames quarantined" in out  # stdout is as it was
    lines = lines_of(err)
    (run,) = {line["run"] for line in lines}  # all of them lie within the run
    assert len(run) == 12
    shards = {line["shard"][0]: line for line in lines if "shard" in line}
    retried = [line for line in lines if line["message"] == "done at attempt 2"]
    assert [line["shard"] for line in retried] == [[2, 0, 0]]
    assert (retried[0]["attempt"], retried[0]["stage"]) == (2, "segment")
    assert shards[3]["message"].startswith("crash: ")
    assert shards[3]["attempt"] >= 2
    assert {line["scene"] for line in shards.values()} == {retried[0]["scene"]}
    assert set(shards) == {2, 3}  # what went well at once is in the sums alone
    quarantined = [line for line in lines if line["message"].startswith("quarantined: ")]
    assert len(quarantined) == 2
    assert {line["level"] for line in quarantined} == {"warning"}
    (finished,) = [line for line in lines if line["message"] == "finished"]
    assert (finished["computed"], finished["quarantined"], finished["exit_code"]) == (4, 2, 3)
    assert {line.get("stage") for line in lines} >= {"plan", "segment", "publish"}


@pytest.mark.system
def test_an_interrupt_is_json_too(start: Start, slow_job: Path) -> None:
    process = start("run", str(slow_job), "--log=json")
    first = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    last = lines_of(first + err)[-1]
    assert last["level"] == "error"
    assert last["message"].startswith("interrupted; the same command goes on")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "no.yaml", "--log", "json"), "no.yaml"),
        (("run", "no.yaml", "--log", "json", "--nonsense"), "--nonsense"),
    ],
    ids=["no job", "bad usage"],
)
def test_a_mistake_is_json_too(start: Start, arguments: tuple[str, ...], message: str) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = lines_of(err)
    assert line["level"] == "error"
    assert message in line["message"]
    assert "run" not in line


def test_a_signal_before_anything_is_loaded_is_json_too(launch: Start) -> None:
    code = (
        "import os, signal, sys; from segengine_flows.early import catch_early; catch_early();"
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    process = launch("-c", code, "run", "x.yaml", "--log", "json")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    (line,) = lines_of(err)
    assert line["message"].startswith("interrupted")


def test_nobody_has_a_say_after_the_last_word(launch: Start) -> None:
    # As who waits for workers that this process kills on its way out.
    code = (
        "import threading; from segengine_flows import jsonlog, leaving; jsonlog.begin()\n"
        "began = threading.Event()\n"
        "def work():\n"
        "    while True: jsonlog.log('crash', 'warning'); began.set()\n"
        "threading.Thread(target=work, daemon=True).start(); began.wait()\n"
        "leaving.leave(143, 'the last word')"
    )
    process = launch("-c", code)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    said = [line["message"] for line in lines_of(err)]
    assert said[0] == "crash"
    assert said.index("the last word") == len(said) - 1


def test_warnings_and_log_records_of_libraries_are_lines(launch: Start) -> None:
    code = (
        "import logging, os, sys, warnings; from segengine_flows import jsonlog; jsonlog.begin();"
        "warnings.warn('w'); logging.getLogger('a.b').error('e'); os.write(2, b'raw');"
        "sys.stderr.write('text')"
    )
    process = launch("-c", code)
    _, err = process.communicate(timeout=60)
    found = [(line["level"], line["message"], line["logger"]) for line in lines_of(err)]
    assert found == [("warning", "w", "UserWarning"), ("error", "e", "a.b")]
