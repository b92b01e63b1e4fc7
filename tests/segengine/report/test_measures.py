"""Which figures are drawn as what: a metric of a stranger may use the names of ours."""

import pytest

from segengine.report._measures import measures

ROWS = [
    {"threshold": 0.5, "tp": 3, "precision": 0.75},
    {"threshold": 0.9, "tp": 1, "precision": 0.25},
]


def test_a_matching_at_thresholds_is_a_table_of_them() -> None:
    shown = measures({"overall": {"matching": {"thresholds": ROWS, "classes": {"car": ROWS}}}})
    (table,) = shown["tables"]
    assert table["name"] == "matching"
    assert table["columns"] == ["tp", "precision"]
    assert [row["name"] for row in table["rows"]] == ["threshold 0.5", "threshold 0.9"]
    assert [row["values"] for row in table["rows"]] == [[3, 0.75], [1, 0.25]]
    assert shown["curves"] == []


@pytest.mark.parametrize(
    "figures",
    [
        {"thresholds": [0.5], "classes": {"car": {"recall": [1.0]}}},
        {"thresholds": 0.5, "classes": {"car": 0.25}},
        {"thresholds": [], "classes": None},
        {"bins": [{"count": 3}], "ece": 0.5},
        {"bins": [1, 2], "ece": 0.5},
        {"rows": [{}], "others": [{"name": "car"}]},
    ],
)
def test_names_alone_make_no_curve(figures: dict[str, object]) -> None:
    shown = measures({"overall": {"own": figures}})
    assert shown["curves"] == []
    assert shown["reliability"] == []
