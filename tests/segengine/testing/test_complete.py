"""No plug-in of ours is left out of the suites: what is registered is tried."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from types import ModuleType

import pytest

from segengine.testing import ClusterTests, SegmenterTests, SourceTests
from tests.segengine.sources import test_volume
from tests.segengine.testing import test_our_data_sets, test_our_networks, test_ours


def named(module: ModuleType, suite: type) -> set[str]:
    """What the classes of a suite that are written out are named after."""
    return {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.removeprefix("Test")).lower()
        for name, value in vars(module).items()
        if name.startswith("Test") and not name.startswith("Test_")
        if isinstance(value, type) and value.__module__ == module.__name__
        if issubclass(value, suite)
    }


TRIED = {
    "segmenters": {
        *(s["kind"] for s in test_ours.SEGMENTERS.values()),
        *(s["kind"] for s in test_ours.SURVEYORS.values()),
        *test_our_networks.NETWORKS,
        *named(test_our_networks, SegmenterTests),
    },
    "sources": {
        *test_our_data_sets.SETS,
        *named(test_our_data_sets, SourceTests),
        *named(test_ours, SourceTests),
        *named(test_volume, SourceTests),
    },
    "clusters": named(test_ours, ClusterTests),
}
LOOPED = {"metrics": "MetricTests", "losses": "LossTests", "exports": "ExportTests"}
"""Groups of which one suite each is made in a loop over all names."""


def registered(group: str) -> set[str]:
    return {
        point.name
        for point in distribution("segengine").entry_points
        if point.group == f"segengine.{group}"
    }


@pytest.mark.parametrize("group", TRIED)
def test_each_is_the_subject_of_a_suite(group: str) -> None:
    assert registered(group)
    assert registered(group) - TRIED[group] == set()


@pytest.mark.parametrize(("group", "suite"), LOOPED.items())
def test_each_of_a_group_has_a_suite_of_its_own(group: str, suite: str) -> None:
    found = {name for name in vars(test_ours) if name.endswith(f"_{suite}")}
    wanted = {f"Test_{name.replace('-', '_')}_{suite}" for name in registered(group)}
    assert wanted
    assert wanted - found == set()


def test_there_is_no_other_group() -> None:
    groups = {p.group for p in distribution("segengine").entry_points}
    # Of models and of the terms of clusters there is one each that belongs to a plug-in of another group;
    # a signer is one call.
    others = {"segengine.models", "segengine.terms", "segengine.signers"}
    plugins = {g for g in groups if g.startswith("segengine.")} - others
    assert plugins == {f"segengine.{group}" for group in (*TRIED, *LOOPED)}


def test_the_tables_are_those_of_suites() -> None:
    assert "networks" in named(test_our_networks, SegmenterTests)
    assert "data-sets" in named(test_our_data_sets, SourceTests)
