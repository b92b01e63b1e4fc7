"""What the code keeps to everywhere, read from the code itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

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


MANY = 5
"""Fields of a dataclass, or arguments of a call, up to which their order can be kept in mind."""


def fields_of(node: ast.ClassDef) -> int:
    """How many fields a dataclass has of its own; 0: it is none."""
    named = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    if not any(isinstance(d, ast.Name) and d.id == "dataclass" for d in named):
        return 0
    return sum(isinstance(part, ast.AnnAssign) for part in node.body)


def large(trees: Iterable[ast.Module]) -> set[str]:
    """Names of dataclasses with many fields."""
    every = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {node.name for node in every if fields_of(node) > MANY}


def ours(tree: ast.Module) -> set[str]:
    """Names in a module that are of this project: another's class may have the same."""
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    others: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            mine = (node.module or "").startswith("segengine")
            (found if mine else others).update(a.asname or a.name for a in node.names)
    return found - others


def built_in_order(tree: ast.Module, classes: set[str]) -> Iterator[str]:
    """Calls that give a class many arguments by their order alone; `cls` is the class around it."""
    known = classes & ours(tree)

    def look(node: ast.AST, around: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Name):
                name = around if child.func.id == "cls" else child.func.id
                if name in known and len(child.args) > MANY:
                    yield f"{name}, line {child.lineno}"
            yield from look(child, child.name if isinstance(child, ast.ClassDef) else around)

    yield from look(tree, "")


def test_what_has_many_fields_is_built_by_keyword() -> None:
    classes = large(SOURCES.values())
    assert {"Layout", "ShardTask", "MaskRecord"} <= classes
    found = {path: list(built_in_order(tree, classes)) for path, tree in SOURCES.items()}
    assert {path for path, calls in found.items() if calls} == set()


def test_what_is_built_by_order_is_seen() -> None:
    fields = "\n".join(f"    field{i}: int" for i in range(MANY + 1))
    text = f"""
@dataclass
class Wide:
{fields}
    @classmethod
    def of(cls) -> Wide:
        return cls(1, 2, 3, 4, 5, 6)
Wide(1, 2, 3, 4, 5, 6)
Wide(1, 2, 3, 4, 5, field5=6)
"""
    tree = ast.parse(text)
    assert list(built_in_order(tree, large([tree]))) == ["Wide, line 12", "Wide, line 13"]


def calls_of(name: str) -> set[str]:
    """Modules that call a function or method of that name."""
    return {
        path
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and name in (getattr(node.func, "id", None), getattr(node.func, "attr", None))
    }


def test_work_is_done_recorded_and_tried_again_in_one_place() -> None:
    tries = {"segengine/testing/clusters.py"}  # any pool, without a run
    hands_on = {"segengine/dispatch/forked.py"}  # one pool, to another
    assert calls_of("dispatch") - tries - hands_on == {"segengine/stages/outcomes.py"}
    assert calls_of("timed") == {"segengine/worker/attempts.py", "segengine/worker/shard.py"}
    # the plan's one window, and what Dask itself raises
    others = {"segengine/dispatch/dask.py", "segengine/planning/outputs.py"}
    assert calls_of("retry_of") == {"segengine/worker/attempts.py", *others}


def test_run_lengths_have_one_codec() -> None:
    """Nobody else takes characters apart into five bits and one that says that more follow."""
    parts = {0x1F, 0x20, 48}
    found = {
        path
        for path, tree in SOURCES.items()
        if parts <= {node.value for node in ast.walk(tree) if is_number(node)}
    }
    assert found == {"segengine/instances/rle.py"}


def is_number(node: ast.AST) -> TypeGuard[ast.Constant]:
    """True for a whole number in the code."""
    return isinstance(node, ast.Constant) and type(node.value) is int


def test_one_file_places_a_scene() -> None:
    """Readers say where a scene lies; nobody else looks into what they said."""
    said = {"crs_wkt", "gcps", "rpcs"}
    found = {
        path
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in said
        if not path.startswith(READS_OTHERS)
    }
    assert found == {"segengine/placing.py"}
