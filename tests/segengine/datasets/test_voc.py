"""VOC 2012 against the arrays that were drawn, and the devkit's list of classes and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize

from segengine.datasets.voc import CLASSES, VocSource, color
from segengine.types import Source

from . import standins
from .standins import SIZE, Map, reasons, rows_of, truths_of

VOID = 255
PALETTE = [value for i in range(256) for value in color(i)]


def voc(root: Path, names: tuple[str, ...] = ("2007_000032", "2011_003271")) -> dict[str, Map]:
    """Boxes with a border of two pixels, and their numbers as objects."""
    base = root / "VOCdevkit/VOC2012"
    drawn = {}
    for seed, name in enumerate(names):
        found = standins.boxes(seed, range(1, 21))
        bordered = [
            (VOID, slice(ys.start - 1, ys.stop + 1), slice(xs.start - 1, xs.stop + 1))
            for _, ys, xs in found
        ]
        classes = standins.draw([*bordered, *found], 0)
        numbered = [(i, ys, xs) for i, (_, ys, xs) in enumerate(found, 1)]
        objects = standins.draw([*bordered, *numbered], 0)
        standins.picture(base / f"JPEGImages/{name}.jpg", seed)
        standins.png(base / f"SegmentationClass/{name}.png", classes, PALETTE)
        standins.png(base / f"SegmentationObject/{name}.png", objects, PALETTE)
        drawn[name], drawn[f"{name} objects"] = classes, objects
    lists = base / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("".join(f"{name}\n" for name in names))
    (lists / "val.txt").write_text(f"{names[-1]}\n")
    return drawn


def test_labels_and_objects_are_those_drawn(tmp_path: Path) -> None:
    drawn = voc(tmp_path)
    source = VocSource((str(tmp_path),))
    assert source.truth_instances
    truths = truths_of(source, tmp_path)
    assert sorted(truths) == ["2007_000032", "2011_003271"]
    for name, truth in truths.items():
        classes, objects = drawn[name], drawn[f"{name} objects"]
        np.testing.assert_array_equal(truth.labels[0], classes)
        assert truth.labels.dtype == np.uint8
        assert truth.instances is not None
        np.testing.assert_array_equal(truth.instances[0], np.where(objects == VOID, 0, objects))
        rows = rows_of(truth)
        assert [row["id"] for row in rows] == [1, 2, 3, 4]
        for row in rows:
            mask = objects == row["id"]
            ys, xs = np.nonzero(mask)
            assert {row["class"]} == set(classes[mask].tolist())
            assert row["area"] == mask.sum()
            assert row["bbox"] == [xs[0], ys[0], np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert not row["crowd"]


def test_a_split_is_its_list(tmp_path: Path) -> None:
    voc(tmp_path)
    listing = VocSource(split="val").list([str(tmp_path)])
    assert [entry.name for entry in listing.entries] == ["JPEGImages/2011_003271.jpg"]
    with pytest.raises(ValueError, match=r"^source\.split: .*Segmentation/test\.txt: no such file"):
        VocSource(split="test").list([str(tmp_path)])


def test_a_subset_leaves_the_rest_void(tmp_path: Path) -> None:
    drawn = voc(tmp_path)
    first = int(drawn["2007_000032"][drawn["2007_000032 objects"] == 2][0])
    source = VocSource((str(tmp_path),), classes=(CLASSES[first], "background"))
    assert source.truth_classes == (CLASSES[first], "background")
    assert source.truth_colors == (color(first), (0, 0, 0))
    truth = truths_of(source, tmp_path)["2007_000032"]
    classes = drawn["2007_000032"]
    expected = np.select([classes == first, classes == 0], [0, 1], VOID)
    np.testing.assert_array_equal(truth.labels[0], expected)
    assert {row["class"] for row in rows_of(truth)} == {0}


def test_the_devkit_colours_and_classes() -> None:
    source = VocSource()
    assert len(source.truth_classes) == 21
    told = dict(zip(source.truth_classes, source.truth_colors, strict=True))
    # figures of the development kit's documentation
    assert told["background"] == (0, 0, 0)
    assert told["aeroplane"] == (128, 0, 0)
    assert told["cat"] == (64, 0, 0)
    assert told["person"] == (192, 128, 128)
    assert told["tvmonitor"] == (0, 64, 128)
    assert color(VOID) == (224, 224, 192)
    assert len(set(told.values())) == 21


def test_without_objects_there_are_no_instances(tmp_path: Path) -> None:
    drawn = voc(tmp_path)
    folder = tmp_path / "VOCdevkit/VOC2012/SegmentationObject"
    folder.rename(tmp_path / "away")
    source = VocSource((str(tmp_path),))
    assert not source.truth_instances
    for name, truth in truths_of(source, tmp_path).items():
        np.testing.assert_array_equal(truth.labels[0], drawn[name])
        assert truth.instances is None
        assert truth.objects is None


def test_broken_entries_are_named(tmp_path: Path) -> None:
    voc(tmp_path)
    base = tmp_path / "VOCdevkit/VOC2012"
    lists = base / "ImageSets/Segmentation/trainval.txt"
    lists.write_text(lists.read_text() + "2009_999999\n")
    (item,) = VocSource().list([str(tmp_path)]).unlisted
    assert item.reason == ("no such file; ImageSets/Segmentation/trainval.txt lists 2009_999999")
    first = base / "SegmentationClass/2007_000032.png"
    other = base / "SegmentationObject/2011_003271.png"
    standins.truncate(first)
    other.unlink()
    found = reasons(VocSource(), tmp_path)
    assert found["2007_000032"].startswith(f"{first}: damaged: ")
    assert found["2011_003271"] == f"no truth at {other}"
    standins.png(first, np.full(SIZE, 21, np.uint8), PALETTE)
    assert reasons(VocSource(), tmp_path)["2007_000032"] == f"{first}: code 21 stands for no class"
    standins.png(first, np.zeros((5, 7), np.uint8), PALETTE)
    assert reasons(VocSource(), tmp_path)["2007_000032"] == (
        f"{first}: is 7 x 5 pixels, its image 64 x 48"
    )
    first.write_bytes(b"GIF89a")
    assert reasons(VocSource(), tmp_path)["2007_000032"] == f"{first}: not a PNG"


def test_a_fingerprint_covers_both_files(tmp_path: Path) -> None:
    voc(tmp_path)
    source = VocSource()
    refs = standins.refs_of(source, tmp_path)
    before = source.find_truth(refs)
    assert source.find_truth(refs) == before
    path = tmp_path / "VOCdevkit/VOC2012/SegmentationObject/2007_000032.png"
    standins.png(path, np.ones(SIZE, np.uint8), PALETTE)
    after = source.find_truth(refs)
    assert before[0].fingerprint != after[0].fingerprint
    assert before[1] == after[1]


def test_a_set_behind_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    from segengine.guards import schemes

    monkeypatch.setattr(schemes, "SERVED", (*schemes.SERVED, "memory"))

    drawn = voc(tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/VOCdevkit/VOC2012/", "/voc-set/", recursive=True)
    try:
        source = VocSource(("memory://voc-set",))
        refs = standins.refs_of(source, "memory://voc-set")
        (found, *_) = source.find_truth(refs)
        truth = source.load_truth(refs[0], found, standins.WHOLE, standins.WHOLE)
    finally:
        memory.rm("/voc-set", recursive=True)
    np.testing.assert_array_equal(truth.labels[0], drawn["2007_000032"])
    assert len(rows_of(truth)) == 4


def test_conforms_and_travels() -> None:
    source = VocSource(("/data",), "val", ("person", "car"))
    assert isinstance(source, Source)
    assert deserialize(*serialize(source)) == source
    with pytest.raises(ValueError, match=r"^classes: 'aeroplan' .*did you mean 'aeroplane'"):
        VocSource(classes=("aeroplan",))
    with pytest.raises(ValueError, match=r"^classes: a name is there twice"):
        VocSource(classes=("car", "car"))
