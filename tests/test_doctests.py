"""Examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGES = ("segengine", "segengine_flows", "segengine_tasks")


def modules() -> list[str]:
    """Those whose docstrings have examples, found without importing them."""
    found = []
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = path.relative_to(root).with_suffix("").parts
                found.append(".".join((package, *parts)).removesuffix(".__init__"))
    return [*found, "tests.manual"]


@pytest.mark.parametrize("name", modules())
def test_examples_give_what_they_say(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted > 0
    assert tried.failed == 0


def test_every_package_has_some() -> None:
    found = modules()
    assert len(found) > 30
    assert {name.partition(".")[0] for name in found} == {*PACKAGES, "tests"}
