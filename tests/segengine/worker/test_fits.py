"""Fits of another package's classes, which move: taken over by their former names, or made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MODULE = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segengine.store.tags import stored_as
from segengine.types import Prediction

CLASSES = ("dark", "bright")


{tag}
@dataclass(frozen=True)
class {fit}:
    level: int
    classes: ClassVar = CLASSES
    halo: ClassVar = 0
    stride: ClassVar = 1
    outputs: ClassVar = ("labels",)

    def segment(self, pixels):
        return Prediction((pixels[..., 0] > self.level).astype(np.uint8))


class Lowest:
    classes = CLASSES
    outputs = ("labels",)

    def __init__(self, scope, above=50):
        self.scope, self.above = scope, above

    def survey(self, pixels, valid):
        return int(pixels[valid].min())

    def merge(self, a, b):
        return min(a, b)

    def fit(self, state):
        return {fit}(state + self.above)
"""
RUN = """
import json, sys, segengine
done = segengine.run(json.loads(sys.argv[1]))
print(json.dumps([done.computed, done.skipped, done.messages]))
"""


@dataclass
class Acme:
    """Another package, whose releases are processes of their own."""

    folder: Path
    bench: Any

    def release(self, fit: str, tag: str = "") -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "acme.py").write_text(MODULE.format(fit=fit, tag=tag))

    def run(self, **options: Any) -> tuple[int, int, list[str]]:
        """Shards computed, shards skipped, notices."""
        segmenter = {"kind": "acme:Lowest", "scope": "run"} | options
        done = self._python("-c", RUN, json.dumps(self.bench.job(segmenter)))
        assert done.returncode == 0, done.stderr
        computed, skipped, messages = json.loads(done.stdout)
        return computed, skipped, messages

    def verify(self) -> str:
        command = ("-m", "segengine_flows.cli", "verify", str(self.bench.store), "--trust")
        done = self._python(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-P", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def acme(bench: Any, noise: Callable[..., Any], tmp_path: Path) -> Acme:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (40, 40, 3)))
    found = Acme(tmp_path / "acme", bench)
    found.release("Fit")
    return found


def test_a_fit_whose_class_has_moved_is_made_again_with_a_notice(acme: Acme) -> None:
    assert acme.run() == (3, 0, [])
    first = acme.bench.tree()
    acme.release("Level")
    why = "acme:Fit: AttributeError: module 'acme' has no attribute 'Fit'"
    said = acme.verify()
    assert "0 shards segmented again" in said
    assert f"the fit run-uint8-3 cannot be read: {why}" in said
    computed, skipped, messages = acme.run()
    assert (computed, skipped) == (3, 0)
    assert messages == [
        f"1 fit cannot be read, and will be made again: run-uint8-3 ({why})",
        "3 of 3 shards are stale and will be done again: inputs or the fit changed "
        "(scene 256x256-uint8-3)",
    ]
    assert acme.bench.tree() == first
    assert "3 shards segmented again" in acme.verify()


def test_a_fit_is_taken_over_by_its_former_name(acme: Acme) -> None:
    assert acme.run() == (3, 0, [])
    acme.release("Level", '@stored_as("acme-level/1", former=("acme:Fit",))')
    assert acme.run() == (0, 3, [])
    assert "3 shards segmented again" in acme.verify()


def test_nothing_is_said_of_a_fit_that_is_not_this_jobs(acme: Acme) -> None:
    assert acme.run() == (3, 0, [])
    acme.release("Level")
    computed, _, messages = acme.run(above=60)
    assert computed == 3
    assert messages == [
        "3 of 3 shards are stale and will be done again: segmenter.above: default -> 60 "
        "(scene 256x256-uint8-3)"
    ]


def test_fits_of_scenes_are_made_again_and_counted(acme: Acme, noise: Any) -> None:
    acme.bench.put("gray.png", noise(4, (40, 40)))
    assert acme.run(scope="scene") == (4, 0, [])
    acme.release("Level")
    computed, _, messages = acme.run(scope="scene")
    assert computed == 4
    assert messages[0].startswith("2 fits cannot be read, and will be made again: scene-256x256-")
