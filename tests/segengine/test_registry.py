"""Plug-ins by name: what is installed, what is not, and what two packages want."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from segengine import registry
from segengine.errors import JobError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Further entry points of the metrics, as packages would bring them."""
    more: list[EntryPoint] = []
    real = registry.entry_points

    def entry_points(group: str) -> Any:
        return [*real(group=group), *(p for p in more if p.group == group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry._registered.cache_clear()
    yield more
    registry._registered.cache_clear()


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "segengine.metrics")


def test_one_that_another_package_brings_is_there(installed: list[EntryPoint]) -> None:
    installed.append(point("mine", "segengine.metrics.views:Recall"))
    assert "mine" in registry.names("metrics")
    assert registry.load("metrics", "mine") is registry.load("metrics", "recall")


def test_a_name_that_two_packages_want_is_refused(installed: list[EntryPoint]) -> None:
    installed.append(point("recall", "acme.figures:Recall"))
    with pytest.raises(JobError) as caught:
        registry.load("metrics", "recall")
    said = str(caught.value)
    assert said.startswith("recall: several packages register this name (acme.figures:Recall, ")
    assert said.endswith("; uninstall all but one")
    assert registry.load("metrics", "precision")  # nobody else's trouble


def test_a_package_that_is_found_twice_is_one(installed: list[EntryPoint]) -> None:
    """As where an old and a new folder of its metadata lie beside each other."""
    installed.append(point("recall", "segengine.metrics.views:Recall"))
    assert registry.load("metrics", "recall")


def test_what_is_not_installed_is_told_with_what_is_near() -> None:
    with pytest.raises(
        JobError, match=r"'recal' is not one of the metrics .*; did you mean recall"
    ):
        registry.load("metrics", "recal")
