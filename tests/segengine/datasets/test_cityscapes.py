"""Cityscapes against the arrays that were drawn, and the published table of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize

from segengine.datasets.cityscapes import LABELS, CityscapesSource
from segengine.types import Source

from . import standins
from .standins import SIZE, Map, reasons, rows_of, truths_of

VOID = 255
FRAMES = ("val/lindau/lindau_000001_000019", "train/ulm/ulm_000002_000019")
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
    25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
"""As published: label id to the id that is trained and scored."""


def cityscapes(root: Path, kind: str = "gtFine") -> dict[str, Map]:
    """Road and sky; two cars, a caravan and a group of people; a part that is out of the picture."""
    ids = np.full(SIZE, 7, np.uint8)
    ids[:20], ids[40:] = 23, 3
    instances = ids.astype(np.uint16)
    for label, number, ys, xs in (
        (26, 26000, slice(22, 30), slice(2, 10)),
        (26, 26001, slice(22, 30), slice(14, 20)),
        (29, 29000, slice(20, 30), slice(30, 40)),
        (24, 24, slice(15, 35), slice(50, 60)),
    ):
        ids[ys, xs], instances[ys, xs] = label, number
    for seed, frame in enumerate(FRAMES):
        standins.picture(root / f"leftImg8bit/{frame}_leftImg8bit.png", seed)
        standins.png(root / f"{kind}/{frame}_{kind}_labelIds.png", ids)
        standins.png(root / f"{kind}/{frame}_{kind}_instanceIds.png", instances)
    return {"ids": ids, "instances": instances}


def test_labels_are_the_train_ids(tmp_path: Path) -> None:
    drawn = cityscapes(tmp_path)
    truths = truths_of(CityscapesSource((str(tmp_path),)), tmp_path)
    assert len(truths) == 2
    for truth in truths.values():
        expected = np.vectorize(lambda v: TRAIN_IDS.get(v, VOID))(drawn["ids"])
        np.testing.assert_array_equal(truth.labels[0], expected)


def test_objects_are_numbered_and_groups_are_crowds(tmp_path: Path) -> None:
    drawn = cityscapes(tmp_path)
    truth = truths_of(CityscapesSource(), tmp_path)["lindau_000001_000019_leftImg8bit"]
    rows = [(r["id"], r["class"], r["bbox"], r["area"], r["crowd"]) for r in rows_of(truth)]
    assert rows == [
        (24, 11, [50, 15, 10, 20], 200, True),
        (26000, 13, [2, 22, 8, 8], 64, False),
        (26001, 13, [14, 22, 6, 8], 48, False),
    ]
    assert truth.instances is not None
    kept = np.isin(drawn["instances"], [24, 26000, 26001])
    np.testing.assert_array_equal(truth.instances[0], np.where(kept, drawn["instances"], 0))


def test_all_annotated_classes(tmp_path: Path) -> None:
    drawn = cityscapes(tmp_path)
    source = CityscapesSource(ids="all")
    assert len(source.truth_classes) == 30
    truth = truths_of(source, tmp_path)["ulm_000002_000019_leftImg8bit"]
    expected = np.where(drawn["ids"] < 4, VOID, drawn["ids"] - 4)
    np.testing.assert_array_equal(truth.labels[0], expected)
    assert [(r["id"], source.truth_classes[r["class"]]) for r in rows_of(truth)] == [
        (24, "person"),
        (26000, "car"),
        (26001, "car"),
        (29000, "caravan"),
    ]


def test_coarse_labels_and_splits(tmp_path: Path) -> None:
    cityscapes(tmp_path, "gtCoarse")
    source = CityscapesSource(split="val", labels="coarse", classes=("sky", "car"))
    truths = truths_of(source, tmp_path)
    assert list(truths) == ["lindau_000001_000019_leftImg8bit"]
    assert np.unique(truths.popitem()[1].labels).tolist() == [0, 1, VOID]
    listing = source.list([str(tmp_path)])
    assert [entry.name for entry in listing.entries] == [f"leftImg8bit/{FRAMES[0]}_leftImg8bit.png"]
    with pytest.raises(ValueError, match=r"^source\.split: there is no folder .*/test"):
        CityscapesSource(split="test").list([str(tmp_path)])


def test_the_published_table() -> None:
    assert [label.id for label in LABELS] == list(range(34))
    assert {label.id: label.train_id for label in LABELS if label.train_id != 255} == TRAIN_IDS
    assert {label.name for label in LABELS if label.has_instances} == {
        "person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle",
        "bicycle",
    }  # fmt: skip
    assert {label.category for label in LABELS} == {
        "void", "flat", "construction", "object", "nature", "sky", "human", "vehicle",
    }  # fmt: skip
    source = CityscapesSource()
    assert source.truth_classes[0] == "road"
    assert source.truth_classes[18] == "bicycle"
    assert source.truth_colors[0] == (128, 64, 128)
    assert source.truth_colors[13] == (0, 0, 142)
    assert source.truth_colors[18] == (119, 11, 32)
    assert len(source.truth_classes) == len(set(source.truth_colors)) == 19


def test_broken_entries_are_named(tmp_path: Path) -> None:
    drawn = cityscapes(tmp_path)
    labels, instances = (
        tmp_path / f"gtFine/{FRAMES[0]}_gtFine_{n}Ids.png" for n in ("label", "instance")
    )
    stem = "lindau_000001_000019_leftImg8bit"
    odd = drawn["ids"].copy()
    odd[3, 4] = 34
    standins.png(labels, odd)
    assert reasons(CityscapesSource(), tmp_path) == {stem: f"{labels}: code 34 stands for no class"}
    standins.png(labels, drawn["ids"])
    odd = drawn["instances"].copy()
    odd[3, 4] = 40001
    standins.png(instances, odd)
    assert reasons(CityscapesSource(), tmp_path) == {
        stem: f"{instances}: code 40 stands for no class"
    }
    standins.truncate(instances)
    assert reasons(CityscapesSource(), tmp_path)[stem].startswith(f"{instances}: damaged: ")
    instances.unlink()
    assert reasons(CityscapesSource(), tmp_path) == {}
    alone = standins.truths_of(CityscapesSource(), tmp_path)
    (own,) = (truth for name, truth in alone.items() if stem in name)
    assert (own.instances, own.objects) == (None, None)
    assert sum(truth.instances is None for truth in alone.values()) == 1
    labels.unlink()
    assert reasons(CityscapesSource(), tmp_path) == {stem: f"no truth at {labels}"}


def test_conforms_and_travels() -> None:
    source = CityscapesSource(("/data",), labels="coarse", ids="all")
    assert isinstance(source, Source)
    assert deserialize(*serialize(source)) == source
    with pytest.raises(ValueError, match=r"^labels: is 'rough'"):
        CityscapesSource(labels="rough")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^ids: is '34'"):
        CityscapesSource(ids="34")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^classes: 'caravan' is no class"):
        CityscapesSource(classes=("caravan",))
