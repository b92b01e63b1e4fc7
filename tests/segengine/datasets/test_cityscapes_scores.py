"""Scores of a run over a set like Cityscapes, and those of its own scripts.

`fixtures/make_cityscapes.py` made the set and the scores.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segengine.commands.evaluate import evaluate
from segengine.datasets.cityscapes import LABELS, CityscapesSource

from .standins import rows_of, truths_of

pytestmark = pytest.mark.usefixtures("plain_report")
ARCHIVE = Path(__file__).parent / "fixtures" / "cityscapes.zip"
SCORED = sorted((x for x in LABELS if x.train_id != 255), key=lambda label: label.train_id)
IDS = [label.id for label in SCORED]
THINGS = [label.name for label in SCORED if label.has_instances]
PANOPTIC = {"metric": "panoptic_quality", "things": THINGS}
PAINTED = '''
"""What the pictures of the set say that is found in them."""

import numpy as np

from segengine.datasets.cityscapes import LABELS
from segengine.types import Prediction


class Painted:
    """Red is the label id, green the object's number."""

    halo, stride, version = 0, 1, 1
    classes = tuple(label.name for label in LABELS)
    outputs = ("labels", "instances")

    def segment(self, pixels):
        return Prediction(pixels[..., 0], instances=pixels[..., 1].astype(np.uint32))
'''


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    with zipfile.ZipFile(ARCHIVE) as archive:
        figures: dict[str, Any] = json.loads(archive.read("figures.json"))
    return figures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    name = f"painted_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PAINTED)
    monkeypatch.syspath_prepend(tmp_path)
    return {"kind": f"{name}:Painted"}


def assert_scores(metrics: Mapping[str, Any], theirs: dict[str, Any]) -> None:
    """The counts of every class that is scored, the IoU of each, and the mean."""
    table = np.array(theirs["confMatrix"])
    counts = np.array(metrics["confusion"]["counts"])
    assert metrics["confusion"]["rows"] == [label.name for label in SCORED]
    assert metrics["confusion"]["columns"] == [*(label.name for label in LABELS), "void"]
    np.testing.assert_array_equal(counts[:, :-1], table[IDS])
    assert not counts[:, -1].any()
    overall = metrics["overall"]
    for label in SCORED:
        assert overall["classes"][label.name]["iou"] == theirs["classScores"][label.name]
        assert overall["classes"][label.name]["pixels"] == table[label.id].sum()
    assert overall["mean_iou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-15)


def assert_panoptic(overall: Mapping[str, Any], theirs: dict[str, Any]) -> None:
    """Panoptic quality; a class that is on neither side has 0 there, and is in no mean either."""
    (own,) = (value for key, value in overall.items() if key.startswith("panoptic_quality"))
    for group in ("All", "Things", "Stuff"):
        assert own[group.lower()] == pytest.approx(theirs[group], abs=1e-9)
    for label in SCORED:
        row = {key: own["classes"][label.name][key] or 0 for key in ("pq", "sq", "rq")}
        assert row == pytest.approx(theirs["per_class"][str(label.id)], abs=1e-9)


def test_the_set_has_what_is_scored_otherwise(root: Path, known: dict[str, Any]) -> None:
    table = np.array(known["pixels"]["all"]["confMatrix"])
    for i in set(range(34)) - {22}:
        assert table[i].sum() > 0, LABELS[i].name
    assert table[22].sum() == 0 < table[IDS, 22].sum()
    others = sorted(set(range(34)) - set(IDS))
    assert table[np.ix_(IDS, others)].sum() > 100
    assert table[np.ix_(others, IDS)].sum() > 100
    ids = [np.unique(np.array(Image.open(p))) for p in root.rglob("*_instanceIds.png")]
    assert len(ids) == 2
    assert all(np.isin(range(24, 34), i[i < 1000]).any() for i in ids)


@pytest.mark.parametrize("shard", [256, 48])
def test_counts_and_ious_are_those_of_the_sets_own_scripts(
    shard: int, root: Path, painted: dict[str, Any], bench: Any, known: dict[str, Any]
) -> None:
    source = {"kind": "cityscapes", "paths": [str(root)]}
    metrics = bench.run(painted, source=source, store={"shard": shard}).metrics
    assert_scores(metrics, known["pixels"]["all"])


def test_afterwards_too_and_panoptic_quality(
    root: Path, painted: dict[str, Any], bench: Any, known: dict[str, Any]
) -> None:
    """Of the frames with instances: the third has none, and is no part of panoptic quality."""
    bench.run(painted, source={"kind": "cityscapes", "paths": [str(root)]})
    metrics = evaluate(str(bench.store), None, {"metrics": ["confusion", PANOPTIC]}).metrics
    assert_scores(metrics, known["pixels"]["all"])
    assert_panoptic(metrics["overall"], known["panoptic"])


def test_all_annotated_classes_have_the_counts_too(
    root: Path, painted: dict[str, Any], bench: Any, known: dict[str, Any]
) -> None:
    source = {"kind": "cityscapes", "paths": [str(root)], "ids": "all"}
    table = bench.run(painted, source=source).metrics["confusion"]
    assert table["rows"] == [label.name for label in LABELS[4:]]
    expected = np.array(known["pixels"]["all"]["confMatrix"])[4:]
    np.testing.assert_array_equal(np.array(table["counts"])[:, :-1], expected)


def test_true_objects_are_those_of_the_sets_own_scripts(root: Path, known: dict[str, Any]) -> None:
    truths = truths_of(CityscapesSource(), root)
    for frame, theirs in known["objects"].items():
        rows = rows_of(truths[f"{frame}_leftImg8bit"])
        own = sorted([row["id"], IDS[row["class"]], row["area"]] for row in rows)
        assert own == theirs
        assert {row["id"] for row in rows if row["crowd"]} == {i for i, *_ in theirs if i < 1000}
    assert len(known["objects"]) == 2
    assert [frame for frame, truth in truths.items() if truth.objects is None] == [
        "munster_000000_000019_leftImg8bit"
    ]
