"""Conditions on figures: what they mean, and what is none."""

from __future__ import annotations

import random

import pytest

from segengine.differences.promotion import Pair, parsed, require_known
from segengine.errors import JobError

FIGURES = {
    "mean_iou": Pair(0.70, 0.71),
    "classes.cluster 0.iou": Pair(0.5, 0.4),
    "agreement": Pair(0.97, 0.97),
    "only_b": Pair(None, 0.3),
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("mean_iou >= +0.005", True),  # the difference
        ("mean_iou >= +0.02", False),
        ("mean_iou >= -0.005", True),
        ("mean_iou >= 0.7", True),  # the value in B
        ("mean_iou >= 0.75", False),
        ("mean_iou>=+5e-3 and agreement>=0.97", True),
        ("agreement >= +0.97", True),  # as it is, whatever the sign
        ("agreement < 0.97 or mean_iou > 0.7", True),
        ("'classes.cluster 0.iou' < -0.05", True),
        ('"classes.cluster 0.iou" == 0.4', True),
        ("only_b > 0.2", True),
        ("only_b > +0.0", False),  # A has none: there is no difference
        ("mean_iou > 1 and mean_iou > 1 or mean_iou < 1", True),  # `and` binds closer
        ("mean_iou > 1 and (mean_iou > 1 or mean_iou < 1)", False),
        ("((mean_iou != .5))", True),
    ],
)
def test_what_it_means(text: str, holds: bool) -> None:
    condition = parsed(text)
    require_known(condition, FIGURES)
    assert condition.holds(FIGURES) is holds


def test_as_python_has_it() -> None:
    """Random conditions, against Python's own reading of the same words."""
    chance = random.Random(1)
    names = {"x": 0.25, "y": 0.5, "z": 0.75}
    figures = {name: Pair(0.0, value) for name, value in names.items()}

    def make(depth: int) -> str:
        kind = chance.random()
        if depth == 0 or kind < 0.4:
            op = chance.choice([">=", "<=", ">", "<", "==", "!="])
            return f"{chance.choice('xyz')} {op} {chance.choice(['0.25', '0.5', '.75', '1'])}"
        inner = f" {chance.choice(['and', 'or'])} ".join(make(depth - 1) for _ in range(3))
        return f"({inner})" if kind < 0.7 else inner

    seen = set()
    for _ in range(500):
        text = make(3)
        expected = bool(eval(text, {}, names))
        assert parsed(text).holds(figures) is expected, text
        seen.add(expected)
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the name of a figure was expected"),
        ("mean_iou", "after mean_iou was expected, and the end"),
        ("mean_iou >=", "a number after mean_iou >="),
        ("mean_iou >= high", "a number"),
        ("mean_iou >= 0.5.1", "not understood"),
        ("mean_iou >= 0.5 0.6", "'and' or 'or' was expected"),
        ("mean_iou >= 0.5 and", "the name of a figure was expected"),
        ("(mean_iou >= 0.5", "not closed"),
        ("mean_iou >= 0.5)", "'and' or 'or' was expected"),
        ("__import__('os').system('true')", "was expected"),
        ("mean_iou >= 0.5; import os", "not understood"),
        ("(" * 60 + "a > 1" + ")" * 60, "more than 50 deep"),
        ("a > 1 and " * 2000 + "a > 1", "longer than"),
    ],
)
def test_what_is_none(text: str, words: str) -> None:
    with pytest.raises(JobError, match=words):
        parsed(text)


def test_an_unknown_name() -> None:
    with pytest.raises(
        JobError, match="mean_io: is no figure of these stores; did you mean mean_iou"
    ):
        require_known(parsed("agreement > 0.1 and mean_io > 3"), FIGURES)
