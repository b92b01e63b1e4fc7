"""Classes of two stores, by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from segengine.differences.frames import Classes


def test_classes_are_matched_by_name() -> None:
    a: Any = SimpleNamespace(classes=("water", "land"))
    b: Any = SimpleNamespace(classes=("land", "ice", "water"))
    found = Classes.of(a, b)
    assert found.names == ("water", "land", "ice")
    assert (found.a.tolist(), found.b.tolist(), found.void) == ([0, 1], [1, 2, 0], 3)
