"""What is installed, and under which names: nothing that a user's own modules could be taken for."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import SLOW

ROOT = Path(__file__).parents[1]
COMPARED = ("patchworks", "openslide")
"""What a benchmark measures beside ours where it is installed, and what a test of `real` fetches."""


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


# ------------------------------------------------------------------------------- what is imported
def declared() -> dict[str, set[str]]:
    """Distributions that pyproject.toml names: `dependencies`, and each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"dependencies": project["dependencies"], **project["optional-dependencies"]}
    return {
        name: {normal(re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0]) for line in lines}
        for name, lines in groups.items()
    }


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that a file imports by name, at its top or in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if called == "import_module" and isinstance(node.args[0].value, str):
                yield node.args[0].value


def strangers(*folders: str) -> dict[str, set[str]]:
    """Modules of other packages that files of these folders import: name and importing files."""
    ours = {"segengine", "segengine_flows", "segengine_tasks", "tests", *COMPARED}
    helpers = {file.stem for file in (ROOT / "tests").rglob("*.py")}
    found: dict[str, set[str]] = {}
    for file in (f for folder in folders for f in sorted((ROOT / folder).rglob("*.py"))):
        if "fixtures" in file.parts and file.name.startswith("make_"):
            continue  # run by hand, beside the projects that are compared with
        known = sys.stdlib_module_names | ours | (helpers if "tests" in folders else set())
        for name in imported(ast.parse(file.read_text(encoding="utf-8"))):
            if name.partition(".")[0] not in known:
                found.setdefault(name, set()).add(str(file.relative_to(ROOT)))
    return found


def undeclared(modules: dict[str, set[str]], allowed: set[str]) -> list[str]:
    """Those modules whose distribution is not among the allowed ones."""
    by_module = packages_distributions()
    lines = []
    for name, files in sorted(modules.items()):
        found = {normal(d) for d in by_module.get(name.partition(".")[0], ())}
        if not found & allowed:
            lines.append(f"{name} ({', '.join(found) or 'not installed'}): {', '.join(files)}")
    return lines


def test_what_the_engine_imports_is_declared() -> None:
    """By dependencies, or by the extra of a plug-in: what comes with another package may go with it."""
    groups = declared()
    tests = groups.pop("test")
    allowed = set().union(*groups.values())
    found = strangers("segengine", "flows", "tasks")
    assert undeclared(found, allowed) == []
    assert {"numpy", "zarr", "prefect", "uvicorn", "google_crc32c"} <= {
        name.partition(".")[0] for name in found
    }
    extras = set().union(*(names for group, names in groups.items() if group != "dependencies"))
    needed = extras - groups["dependencies"] - {"gcsfs"}  # fsspec's own, by URL
    assert needed <= tests, "the extra `test` brings all that the tests need"


def test_what_the_tests_import_is_declared() -> None:
    assert undeclared(strangers("tests"), set().union(*declared().values())) == []


def test_an_import_that_nothing_declares_is_found() -> None:
    assert undeclared({"yaml": {"a.py"}}, declared()["dependencies"]) == []
    assert undeclared({"yaml": {"a.py"}, "no_such": {"b.py"}}, {"numpy"}) == [
        "no_such (not installed): b.py",
        "yaml (pyyaml): a.py",
    ]
    assert list(imported(ast.parse("def f():\n    import a.b, c\n    from d.e import f"))) == [
        "a.b",
        "c",
        "d.e",
    ]


def test_every_dependency_has_an_exact_version() -> None:
    pinned = {
        normal(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert set().union(*declared().values()) - {"gcsfs"} <= pinned


def test_the_newest_release_in_the_changelog_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    released = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == project["version"]
    assert released == sorted(set(released), key=lambda v: [*map(int, v.split("."))], reverse=True)
