"""What the code keeps to everywhere, read from the code itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

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
