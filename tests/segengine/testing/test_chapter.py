"""The examples of the chapter run, and pass the suites that they show."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from segengine import testing

CHAPTER = Path(__file__).parents[3] / "segengine" / "testing" / "README.md"
EXAMPLES = dict(
    re.findall(
        r"^## (?:A|An) ([a-z ]+)\n.*?```python\n(.*?)```",
        CHAPTER.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)
STARTING = [pytest.param(name, marks=pytest.mark.system) for name in ("kind of cluster",)]
QUICK = [name for name in EXAMPLES if name != "kind of cluster"]


def test_every_suite_has_an_example() -> None:
    shown = "".join(EXAMPLES.values())
    assert len(EXAMPLES) == len(testing.__all__) == 7
    for suite in testing.__all__:
        assert f"({suite}):" in shown


@pytest.mark.parametrize("name", [*QUICK, *STARTING])
def test_an_example_passes_its_suite(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"example_{name.replace(' ', '_')}"
    (tmp_path / f"{module}.py").write_text(EXAMPLES[name])
    monkeypatch.syspath_prepend(tmp_path)
    found = importlib.import_module(module)
    (suite,) = (value for key, value in vars(found).items() if key.startswith("Test"))
    laws = [law for law in dir(suite) if law.startswith("test_")]
    assert len(laws) >= 7
    for law in laws:
        getattr(suite(), law)()
