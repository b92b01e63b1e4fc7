"""What the code keeps to everywhere, read from the code itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("segengine", "flows", "tasks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def definitions(tree: ast.Module) -> Iterator[str]:
    """Names that a module gives a meaning of its own."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def test_a_place_means_one_thing() -> None:
    where = [path for path, tree in SOURCES.items() if "Place" in definitions(tree)]
    assert where == ["segengine/types.py"]


_KEYS = re.compile(
    r"/?((records|work|tables|report|scenes|misplaced|mask|instances|probabilities|confidence)/"
    r"|(run\.lock|metrics\.json|zarr\.json|misplaced|\+(layouts|unplaced|seals|copies|fits))$)"
)
_FOLDERS = {"records", "work", "tables", "report", "scenes", "misplaced"}
_TAKES_A_FOLDER = {"children", "keys", "delete_tree"}
READS_OTHERS = "segengine/sources/"
"""Inputs: a Zarr array has a `zarr.json` too."""


def spelled(tree: ast.AST) -> Iterator[str]:
    """Keys of a store, and the folders of them, that a module spells out; docstrings are prose."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in prose and _KEYS.match(node.value):
                yield node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for given in node.args if node.func.attr in _TAKES_A_FOLDER else ():
                if isinstance(given, ast.Constant) and given.value in _FOLDERS:
                    yield given.value


def test_one_file_knows_every_key_of_the_store() -> None:
    found = {
        path: sorted(keys)
        for path, tree in SOURCES.items()
        if not path.startswith(READS_OTHERS) and (keys := set(spelled(tree)))
    }
    assert list(found) == ["segengine/store/keys.py"], found


@pytest.mark.parametrize(
    "text",
    [
        "objects.put('records/x', b'')",
        "key = f'{root}/scenes/{scene}'",
        "objects.delete_tree('work')",
        "arrays['mask/0']",
        "f'{path}/zarr.json'",
    ],
)
def test_a_key_that_is_spelled_elsewhere_is_seen(text: str) -> None:
    assert list(spelled(ast.parse(text)))
    assert not list(spelled(ast.parse(f'"""{text}"""\nreport("scenes")')))
