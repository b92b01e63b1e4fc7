"""What is installed, and under which names: nothing that a user's own modules could be taken for."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import SLOW

ROOT = Path(__file__).parents[1]


def packages(folder: str) -> set[str]:
    """Packages in a folder of the repository, itself included."""
    found = {p.parent.relative_to(ROOT) for p in (ROOT / folder).rglob("__init__.py")}
    return {".".join(path.parts) for path in found}


def test_the_packages_named_are_those_that_are_there() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = packages("segengine") | packages("flows") | packages("tasks")
    named = {setuptools["package-dir"].get(name, name) for name in setuptools["packages"]}
    assert named == folders
    assert {"segengine", "flows", "tasks"} <= folders
    installed = {name.partition(".")[0] for name in setuptools["packages"]}
    assert installed == {"segengine", "segengine_flows", "segengine_tasks"}


@pytest.mark.parametrize("command", ["segmenters", "plan", "run"])
def test_a_users_own_tasks_and_flows_are_left_alone(command: str, tmp_path: Path) -> None:
    """On PYTHONPATH, where the README tells users to put the folder of their own segmenters."""
    mine = tmp_path / "mine"
    (mine / "flows").mkdir(parents=True)
    (mine / "tasks.py").write_text("raise SystemExit('the tasks of a user were imported')")
    (mine / "flows/__init__.py").write_text("raise SystemExit('the flows of a user were imported')")
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    job = tmp_path / "job.yaml"
    job.write_text(
        "source: {paths: [photos]}\nsegmenter: {kind: threshold}\nstore: {path: masks.zarr}\n"
        "cluster: {workers: 1}\n"
    )
    script = Path(sys.executable).with_name("segengine")
    done = subprocess.run(
        [str(script), command, *([] if command == "segmenters" else [str(job)])],
        env=os.environ | {"PYTHONPATH": str(mine), "PREFECT_HOME": str(tmp_path / "prefect")},
        cwd=mine,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_what_is_slow_is_there() -> None:
    tests = Path(__file__).parent
    assert [name for name in SLOW if not (tests / name).exists()] == []
