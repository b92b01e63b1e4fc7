"""COCO against pycocotools reading the same file, the panoptic PNGs against what was drawn."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from segengine.datasets._coco import whole_area
from segengine.datasets._json import records
from segengine.datasets._spans import SpanIndex
from segengine.datasets.coco import CocoSource
from segengine.errors import MissingTruthError, SegengineError
from segengine.instances.outlines import outline_runs
from segengine.instances.rle import compress_runs, decompress_runs, runs_box, runs_mask
from segengine.job import parse_job
from segengine.types import FrameRef, Source

from . import standins
from .standins import SIZE, WHOLE, coco_document, reasons, refs_of, rows_of, truths_of

# pycocotools 2.0.11 hands NumPy 2 its masks in a way that is to go
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES, BACKGROUND, VOID = {1: 0, 18: 1, 90: 2}, 3, 255
FAST = settings(max_examples=60, deadline=None)


# The scanner


TEXT = st.text('ab{}[]\\",: é', max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(
    st.sampled_from(["images", "annotations", "info", 'k"{', "x"]), VALUES | st.lists(VALUES)
)


@FAST
@given(DOCUMENTS, st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40))
def test_the_scanner_finds_what_json_parses(
    document: dict[str, Any], indent: int | None, ascii_only: bool, block: int
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    sections = ("images", "annotations")
    found = list(records(io.BytesIO(text), sections, block))
    assert [(f.section, json.loads(f.text)) for f in found] == [
        (key, item)
        for key, items in document.items()
        if key in sections and isinstance(items, list)
        for item in items
        if isinstance(item, dict)
    ]
    assert all(text[f.offset :].startswith(f.text) for f in found)


@FAST
@given(DOCUMENTS, st.data())
def test_the_scanner_tells_a_cut_file(document: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(document).encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ValueError, match="ends inside"):
        list(records(io.BytesIO(text[:cut]), ("images",), 7))


@pytest.mark.parametrize("text", ["]", "[1]", "}{", '{"a": [1]}]'])
def test_the_scanner_tells_what_is_no_object(text: str) -> None:
    with pytest.raises(ValueError, match="stray bracket"):
        list(records(io.BytesIO(text.encode()), ("a",)))


@FAST
@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=9))))
def test_the_index_keeps_the_order_of_the_file(added: list[tuple[int, bytes]]) -> None:
    index = SpanIndex()
    for offset, (key, record) in enumerate(added):
        index.add(key, offset, record)
    for key, spans in zip(range(6), index.lookup(range(6)), strict=True):
        places = [(i, len(record)) for i, (own, record) in enumerate(added) if own == key]
        assert [(span.offset, span.length) for span in spans] == places


# Outlines


@FAST
@given(arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_runs_are_those_of_pycocotools(mask: np.ndarray[Any, Any]) -> None:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = rle["counts"].decode()
    runs = decompress_runs(text)
    assert compress_runs(runs) == text
    np.testing.assert_array_equal(runs_mask(runs, *mask.shape), mask)
    if mask.any():
        assert runs_box(runs, mask.shape[0]) == tuple(coco_mask.toBbox(rle))
    else:
        assert runs_box(runs, mask.shape[0]) == (0, 0, 0, 0)
    outline = {"counts": text, "size": list(mask.shape)}
    np.testing.assert_array_equal(outline_runs(outline, *mask.shape), runs)


@FAST
@given(st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=30))
def test_no_string_of_counts_gives_a_wrong_size(text: str) -> None:
    outline = {"counts": text, "size": [4, 5]}
    try:
        runs = outline_runs(outline, 4, 5)
    except ValueError:
        return
    assert runs.min() >= 0
    assert runs.sum() == 20


# The whole path


def opened(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"separators": (",", ":")}])
def test_objects_are_those_of_pycocotools(tmp_path: Path, style: dict[str, Any]) -> None:
    path = standins.coco(tmp_path, coco_document(), **style)
    oracle = opened(path)
    source = CocoSource((str(tmp_path),))
    truths = truths_of(source, tmp_path)
    assert len(truths) == 3
    seen = 0
    for number in oracle.getImgIds():
        truth = truths[f"{number:012d}"]
        expected = oracle.loadAnns(oracle.getAnnIds(imgIds=[number]))
        rows = rows_of(truth)
        assert [row["id"] for row in rows] == list(range(1, len(expected) + 1))
        for row, own in zip(rows, expected, strict=True):
            assert row["class"] == CLASSES[own["category_id"]]
            assert row["crowd"] == bool(own["iscrowd"])
            assert 0 <= row["area"] - own["area"] < 1
            np.testing.assert_array_equal(row["bbox"], np.float32(own["bbox"]))
            mask = coco_mask.decode({"counts": row["rle"].encode(), "size": SIZE})
            np.testing.assert_array_equal(mask, oracle.annToMask(own))
            seen += 1
    assert seen == 20


def test_labels_hold_the_smallest_and_crowds_are_void(tmp_path: Path) -> None:
    path = standins.coco(tmp_path, coco_document(3))
    oracle = opened(path)
    truths = truths_of(CocoSource((str(tmp_path),)), tmp_path)
    covered = crowded = 0
    for number in oracle.getImgIds():
        own = oracle.loadAnns(oracle.getAnnIds(imgIds=[number]))
        masks = [oracle.annToMask(each) for each in own]
        labels = np.full(SIZE, BACKGROUND)
        instances = np.zeros(SIZE)
        for place in np.ndindex(SIZE):
            here = [
                (each["iscrowd"], each["area"], i) for i, each in enumerate(own) if masks[i][place]
            ]
            if here:
                crowd, _, best = min(here)
                labels[place] = VOID if crowd else CLASSES[own[best]["category_id"]]
                instances[place] = best + 1
                covered += len(here) > 1
                crowded += crowd
        truth = truths[f"{number:012d}"]
        assert truth.labels.shape == (1, *SIZE)
        assert truth.instances is not None
        np.testing.assert_array_equal(truth.labels[0], labels)
        np.testing.assert_array_equal(truth.instances[0], instances)
    assert covered > 200
    assert crowded > 50


def test_a_window_is_cut_from_the_whole(tmp_path: Path) -> None:
    standins.coco(tmp_path, coco_document())
    source = CocoSource((str(tmp_path),))
    refs = refs_of(source, tmp_path)
    truths = source.find_truth(refs)
    whole = source.load_truth(refs[0], truths[0], WHOLE, WHOLE)
    part = source.load_truth(refs[0], truths[0], slice(8, 30), slice(16, 64))
    np.testing.assert_array_equal(part.labels, whole.labels[:, 8:30, 16:64])
    assert part.instances is not None
    assert whole.instances is not None
    np.testing.assert_array_equal(part.instances, whole.instances[:, 8:30, 16:64])
    assert part.objects.equals(whole.objects)


def test_the_order_of_the_sections_does_not_matter(tmp_path: Path) -> None:
    document = coco_document()
    standins.coco(tmp_path / "a", document)
    standins.coco(tmp_path / "b", dict(reversed(document.items())), indent=2)
    one, other = (truths_of(CocoSource((str(tmp_path / n),)), tmp_path / n) for n in "ab")
    for name in one:
        np.testing.assert_array_equal(one[name].labels, other[name].labels)
        assert one[name].objects.equals(other[name].objects)


def test_classes_are_numbered_in_the_order_of_the_file(tmp_path: Path) -> None:
    document = coco_document()
    numbers = [n for n in range(1, 91) if n not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]
    document["categories"] = [{"id": n, "name": f"class {n}"} for n in numbers]
    standins.coco(tmp_path, document)
    source = CocoSource((str(tmp_path),))
    assert source.truth_classes == (*(f"class {n}" for n in numbers), "background")
    assert len(source.truth_colors) == 81
    for number, truth in truths_of(source, tmp_path).items():
        own = [a for a in document["annotations"] if a["image_id"] == int(number)]
        assert [row["class"] for row in rows_of(truth)] == [
            numbers.index(a["category_id"]) for a in own
        ]
    assert numbers.index(90) == 79


def test_a_subset_leaves_the_rest_void(tmp_path: Path) -> None:
    standins.coco(tmp_path, coco_document())
    every = truths_of(CocoSource((str(tmp_path),)), tmp_path)
    source = CocoSource((str(tmp_path),), classes=("toothbrush", "person"))
    assert source.truth_classes == ("toothbrush", "person")
    mapped = {0: 1, 2: 0}
    for name, truth in truths_of(source, tmp_path).items():
        before = every[name]
        expected = np.vectorize(lambda v: mapped.get(v, VOID))(before.labels)
        np.testing.assert_array_equal(truth.labels, expected)
        assert [(row["id"], row["class"]) for row in rows_of(truth)] == [
            (row["id"], mapped[row["class"]]) for row in rows_of(before) if row["class"] in mapped
        ]


def test_a_fingerprint_changes_with_its_own_truth_only(tmp_path: Path) -> None:
    document = coco_document()
    path = standins.coco(tmp_path, document)
    source = CocoSource((str(tmp_path),))
    refs = refs_of(source, tmp_path)
    before = source.find_truth(refs)
    changed = next(a for a in document["annotations"] if a["image_id"] == 100)
    changed["area"] += 1000
    path.write_text(json.dumps(document))
    after = source.find_truth(refs)
    assert [a.fingerprint == b.fingerprint for a, b in zip(after, before, strict=True)] == [
        False,
        True,
        True,
    ]
    assert len({truth.fingerprint for truth in after}) == 3


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "two points": (
        {"segmentation": [[1, 2, 3, 4]]},
        "annotation 900100000001 has no polygon of thr",
    ),
    "one point": ({"segmentation": [[1, 2, 9, 2, 5, 9], [1, 2]]}, "has a polygon of 1 points"),
    "odd": ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "900100000001 .* no list of x, y pairs"),
    "far": ({"segmentation": [[1, 2, 3, 4, 5, 1e30]]}, "900100000001 .* the coordinate 1e"),
    "no outline": ({"segmentation": []}, "annotation 900100000001 has no outline"),
    "category": (
        {"category_id": 91},
        "annotation 900100000001 has the category 91, which does not",
    ),
    "short": (
        {"segmentation": {"counts": [5, 5], "size": [48, 64]}},
        "900100000001 has run lengths that do not sum to 48 x 64",
    ),
    "size": (
        {"segmentation": {"counts": [5, 5], "size": [5, 2]}},
        r"900100000001 is outlined for \[5, 2\]",
    ),
    "box": ({"bbox": [1, 2, 3]}, "annotation 900100000001 has the box"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_annotation_is_named(tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    document = coco_document()
    document["annotations"][0].update(change)
    document["annotations"][0]["image_id"] = 200
    path = standins.coco(tmp_path, document)
    found = reasons(CocoSource((str(tmp_path),)), tmp_path)
    assert list(found) == ["000000000200"]
    assert re.search(message, found["000000000200"]), found
    assert found["000000000200"].startswith(f"{path}: ")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    standins.coco(tmp_path, coco_document())
    (tmp_path / "val2017/000000000200.png").unlink()
    (tmp_path / "val2017/000000000300.png").rename(tmp_path / "val2017/stranger.png")
    listing = CocoSource((str(tmp_path),)).list([str(tmp_path)])
    assert [entry.name for entry in listing.entries] == ["val2017/000000000100.png"]
    assert [(item.name, item.reason) for item in listing.unlisted] == [
        (f"val2017/{n:012d}.png", f"no such file; instances_val2017.json has it as image {n}")
        for n in (200, 300)
    ]


def test_a_picture_of_another_size_is_named(tmp_path: Path) -> None:
    path = standins.coco(tmp_path, coco_document())
    standins.picture(tmp_path / "val2017/000000000200.png", 1, (64, 48))
    assert reasons(CocoSource((str(tmp_path),)), tmp_path) == {
        "000000000200": f"{path}: image 200 is 64 x 48 pixels there, its picture 48 x 64"
    }


def test_a_file_that_moved_under_a_run_is_told(tmp_path: Path) -> None:
    document = coco_document()
    path = standins.coco(tmp_path, document)
    source = CocoSource((str(tmp_path),))
    refs = refs_of(source, tmp_path)
    truths = source.find_truth(refs)
    document["info"]["description"] += "moves all that follows"
    path.write_text(json.dumps(document))
    for ref, truth in zip(refs, truths, strict=True):
        with pytest.raises(MissingTruthError, match=r"instances_val2017\.json: .*run again"):
            source.load_truth(ref, truth, WHOLE, WHOLE)
    path.unlink()
    with pytest.raises(MissingTruthError, match=r"instances_val2017\.json: no such file"):
        source.load_truth(refs[0], truths[0], WHOLE, WHOLE)


def test_a_damaged_file_stops_the_run(tmp_path: Path) -> None:
    path = standins.coco(tmp_path, coco_document())
    standins.truncate(path)
    source = CocoSource((str(tmp_path),))
    ref = FrameRef(0, "val2017/a.png", f"{tmp_path}/val2017/a.png", "", *SIZE)
    with pytest.raises(
        SegengineError, match=r"val2017\.json: the JSON ends inside it, after \d+ b"
    ):
        _ = source.truth_classes
    with pytest.raises(SegengineError, match="ends inside it"):
        source.find_truth([ref])


def test_a_part_of_the_splits_is_enough(tmp_path: Path) -> None:
    document = coco_document()
    standins.coco(tmp_path, document)
    (tmp_path / "annotations/instances_train2017.json").write_text(json.dumps(document))
    names = [f"val2017/{n}00.png".replace("/", "/000000000") for n in (1, 2, 3)]
    listed = CocoSource((str(tmp_path),)).list([str(tmp_path)])
    assert [entry.name for entry in listed.entries] == names
    assert not listed.unlisted
    (tmp_path / "val2017").rename(tmp_path / "images")
    listed = CocoSource((str(tmp_path),), "train2017").list([str(tmp_path)])
    assert [entry.name for entry in listed.entries] == [
        n.replace("val2017", "images") for n in names
    ]


def test_any_file_in_the_format_is_read(tmp_path: Path) -> None:
    document = coco_document()
    own = standins.coco(tmp_path, document)
    own.rename(tmp_path / "mine.json")
    (tmp_path / "annotations").rmdir()
    for image in document["images"]:
        (tmp_path / "val2017" / image["file_name"]).rename(tmp_path / image["file_name"])
    source = CocoSource((str(tmp_path),), annotations="mine.json")
    truths = truths_of(source, tmp_path)
    assert sorted(truths) == ["000000000100", "000000000200", "000000000300"]
    assert sum(len(rows_of(truth)) for truth in truths.values()) == 20


def test_a_set_behind_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    from segengine.guards import schemes

    monkeypatch.setattr(schemes, "SERVED", (*schemes.SERVED, "memory"))
    standins.coco(tmp_path, coco_document())
    local = truths_of(CocoSource((str(tmp_path),)), tmp_path)
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/", "/coco-set/", recursive=True)
    try:
        source = CocoSource(("memory://coco-set",))
        remote = truths_of(source, "memory://coco-set")
        assert source.truth_classes == CocoSource((str(tmp_path),)).truth_classes
    finally:
        memory.rm("/coco-set", recursive=True)
    assert remote.keys() == local.keys()
    for name, truth in remote.items():
        np.testing.assert_array_equal(truth.labels, local[name].labels)
        assert truth.objects.equals(local[name].objects)


def test_wrong_options_name_themselves(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^task: is 'boxes'"):
        CocoSource(task="boxes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^classes: is 'person'"):
        CocoSource(classes="person")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^source\.paths: .* is no COCO data set"):
        CocoSource().list([str(tmp_path)])
    standins.coco(tmp_path, coco_document())
    with pytest.raises(ValueError, match=r"^source\.split: there is no .*instances_test\.json"):
        CocoSource(split="test").list([str(tmp_path)])
    with pytest.raises(ValueError, match="did you mean 'person'"):
        _ = CocoSource((str(tmp_path),), classes=("persom",)).truth_classes


def test_conforms_and_travels() -> None:
    source = CocoSource(("/data/coco",), "val2017", ("person",), task="panoptic")
    assert isinstance(source, Source)
    assert deserialize(*serialize(source)) == source


@FAST
@given(st.floats(0, 20_000), st.sampled_from([32**2, 96**2]))
def test_an_area_stays_on_its_side_of_the_limits(area: float, limit: int) -> None:
    whole = whole_area(area)
    assert (whole < limit, whole > limit) == (area < limit, area > limit)
    assert abs(whole - area) <= 1


def test_a_category_may_be_the_background(tmp_path: Path) -> None:
    document = coco_document()
    document["categories"][1]["name"] = "background"
    standins.coco(tmp_path, document)
    source = CocoSource((str(tmp_path),))
    assert source.truth_classes == ("person", "background", "toothbrush")
    assert (truths_of(source, tmp_path)["000000000300"].labels == 1).all()
    document["categories"][1]["name"] = "person"
    standins.coco(tmp_path, document)
    with pytest.raises(SegengineError, match="two categories are named 'person'"):
        _ = source.truth_classes


BAD_IDS: dict[str, Any] = {"text": "", "negative": -1, "huge": 1 << 80, "half": 0.5, "none": None}


@pytest.mark.parametrize("case", BAD_IDS)
def test_an_annotation_of_nothing_stops_the_run(tmp_path: Path, case: str) -> None:
    document = coco_document()
    document["annotations"][4]["image_id"] = BAD_IDS[case]
    standins.coco(tmp_path, document)
    source = CocoSource((str(tmp_path),))
    with pytest.raises(SegengineError, match=r"val2017\.json: the image's id at byte \d+ is "):
        source.find_truth(refs_of(source, tmp_path))


@pytest.mark.parametrize("case", ["image", "annotations"])
def test_what_refers_to_nothing_stops_the_run(tmp_path: Path, case: str) -> None:
    """Of a file that was cut or merged badly objects would go missing without a word."""
    document = coco_document()
    if case == "image":
        document["annotations"][4]["image_id"] = 999
    else:
        del document["annotations"]
    standins.coco(tmp_path, document)
    source = CocoSource((str(tmp_path),))
    says = {"image": "an image that is not in the file", "annotations": "no list of annotations"}
    with pytest.raises(SegengineError, match=rf"val2017\.json: .*{says[case]}"):
        source.find_truth(refs_of(source, tmp_path))


@pytest.mark.parametrize("kind", ["text", "float"])
def test_ids_of_other_programs(tmp_path: Path, kind: str) -> None:
    """pycocotools takes texts, and whole numbers written as floats, for what they are."""
    plain, other = coco_document(), coco_document()
    change = float if kind == "float" else (lambda number: f"id {number}")
    for section, keys in {
        "images": ("id",),
        "categories": ("id",),
        "annotations": ("id", "image_id", "category_id"),
    }.items():
        for record in other[section]:
            record.update({key: change(record[key]) for key in keys})
    standins.coco(tmp_path / "a", plain)
    standins.coco(tmp_path / "b", plain)  # the pictures
    (tmp_path / "b/annotations/instances_val2017.json").write_text(json.dumps(other))
    one, two = (CocoSource((str(tmp_path / name),)) for name in "ab")
    assert one.truth_classes == two.truth_classes
    theirs = COCO(str(tmp_path / "b/annotations/instances_val2017.json"))
    count = Counter()
    for name, truth in truths_of(one, tmp_path / "a").items():
        again = truths_of(two, tmp_path / "b")[name]
        np.testing.assert_array_equal(truth.labels, again.labels)
        np.testing.assert_array_equal(truth.instances, again.instances)
        assert rows_of(truth) == rows_of(again)
        count[name] = len(rows_of(again))
    assert sum(count.values()) == len(theirs.getAnnIds()) > 0
    images, kinds = two.numbers()
    assert images["val2017/000000000100.png"] == change(100)
    assert kinds["toothbrush"] == change(90)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_two_points_beside_an_area_are_as_pycocotools_has_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    good = rng.uniform(0, 40, 8).round(2).tolist()
    line = rng.uniform(0, 40, 4).round(2).tolist()
    wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([good, line], 41, 43)))
    for polygons in ([good, line], [line, good]):
        mask = runs_mask(outline_runs(polygons, 41, 43), 41, 43)
        np.testing.assert_array_equal(mask, wanted)


def label_studio(root: Path, prefix: str) -> CocoSource:
    """Its export to COCO: `result.json` beside `images/`, whose names it repeats."""
    standins.coco(root, coco_document())
    (root / "val2017").rename(root / "images")
    file = root / "annotations/instances_val2017.json"
    document = json.loads(file.read_text())
    for image in document["images"]:
        image["file_name"] = prefix + image["file_name"]
    (root / "result.json").write_text(json.dumps(document))
    file.unlink()
    file.parent.rmdir()
    return CocoSource((str(root),), annotations="result.json")


@pytest.mark.parametrize("prefix", ["images/", "images\\", ""])
def test_label_studios_export(tmp_path: Path, prefix: str) -> None:
    source = label_studio(tmp_path / "b", prefix)
    listing = source.list([str(tmp_path / "b")])
    assert [entry.name for entry in listing.entries] == [
        f"images/{i * 100:012d}.png" for i in (1, 2, 3)
    ]
    assert not listing.unlisted
    standins.coco(tmp_path / "a", coco_document())
    plain = truths_of(CocoSource((str(tmp_path / "a"),)), tmp_path / "a")
    found = truths_of(source, tmp_path / "b")
    assert len(found) == 3
    for name, truth in plain.items():
        np.testing.assert_array_equal(truth.labels, found[name].labels)
        assert rows_of(truth) == rows_of(found[name])
    assert "images/000000000100.png" in source.numbers()[0]


def test_a_job_names_annotations_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "set"
    label_studio(root, "images/")
    (tmp_path / "own.json").write_text("{}")
    source = {"kind": "coco", "paths": ["set"]}
    for name, wanted in (("result.json", "result.json"), ("own.json", str(tmp_path / "own.json"))):
        job = parse_job(
            {
                "source": source | {"annotations": name},
                "segmenter": {"kind": "threshold"},
                "store": {"path": "m.zarr"},
            },
            base=tmp_path,
        )
        assert job.source_options()["annotations"] == wanted


def test_an_image_id_deeper_down_is_not_the_annotations(tmp_path: Path) -> None:
    document = coco_document()
    standins.coco(tmp_path / "a", document)
    for each in document["annotations"]:
        each["attributes"] = {"image_id": 300, "text": '"image_id": 300,'}
        each["image_id"] = each.pop("image_id")  # after the other
    standins.coco(tmp_path / "b", document)
    one, other = (truths_of(CocoSource((str(tmp_path / n),)), tmp_path / n) for n in "ab")
    assert all(one[name].objects.equals(other[name].objects) for name in one)


# Panoptic


def panoptic(root: Path) -> tuple[Path, dict[str, Any]]:
    """One picture: sky above (stuff), grass below (stuff), two people, a crowd of people, void."""
    ids = np.zeros(SIZE, np.int64)
    ids[:20], ids[20:40] = 7_000_000, 70_001
    ids[10:30, 5:15], ids[12:30, 20:28], ids[15:25, 40:60] = 300, 2, 16_000_000
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
    standins.picture(root / "val2017/000000000009.jpg", 9)
    standins.png(root / "annotations/panoptic_val2017/000000000009.png", colours)
    document = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 48, "width": 64}],
        "annotations": [
            {
                "image_id": 9,
                "file_name": "000000000009.png",
                "segments_info": [
                    {"id": 7_000_000, "category_id": 187, "iscrowd": 0},
                    {"id": 300, "category_id": 1, "iscrowd": 0},
                    {"id": 70_001, "category_id": 193, "iscrowd": 0},
                    {"id": 2, "category_id": 1, "iscrowd": 0},
                    {"id": 16_000_000, "category_id": 1, "iscrowd": 1},
                ],
            }
        ],
        "categories": [
            {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
            {"id": 187, "name": "sky-other-merged", "isthing": 0, "color": [70, 130, 180]},
            {"id": 193, "name": "grass-merged", "isthing": 0, "color": [152, 251, 152]},
        ],
    }
    path = root / "annotations/panoptic_val2017.json"
    path.write_text(json.dumps(document))
    return path, document


def test_panoptic_things_and_stuff(tmp_path: Path) -> None:
    panoptic(tmp_path)
    source = CocoSource((str(tmp_path),), task="panoptic")
    assert source.truth_classes == ("person", "sky-other-merged", "grass-merged")
    assert source.truth_colors == ((220, 20, 60), (70, 130, 180), (152, 251, 152))
    truth = truths_of(source, tmp_path)["000000000009"]
    labels = np.full(SIZE, VOID)
    labels[:20], labels[20:40] = 1, 2
    labels[10:30, 5:15] = labels[12:30, 20:28] = labels[15:25, 40:60] = 0
    np.testing.assert_array_equal(truth.labels[0], labels)
    instances = np.zeros(SIZE)
    instances[10:30, 5:15], instances[12:30, 20:28], instances[15:25, 40:60] = 2, 4, 5
    assert truth.instances is not None
    np.testing.assert_array_equal(truth.instances[0], instances)
    rows = [(r["id"], r["class"], r["bbox"], r["area"], r["crowd"]) for r in rows_of(truth)]
    assert rows == [
        (2, 0, [5, 10, 10, 20], 200, False),
        (4, 0, [20, 12, 8, 18], 144, False),
        (5, 0, [40, 15, 20, 10], 200, True),
    ]


def test_broken_panoptic_truth_is_named(tmp_path: Path) -> None:
    path, document = panoptic(tmp_path)
    png = tmp_path / "annotations/panoptic_val2017/000000000009.png"
    source = CocoSource((str(tmp_path),), task="panoptic")
    segments = document["annotations"][0]["segments_info"]
    dropped = segments.pop()
    path.write_text(json.dumps(document))
    assert reasons(source, tmp_path) == {
        "000000000009": f"{png}: segment 16000000 is not in {path}"
    }
    segments += [dropped, {"id": 5, "category_id": 1}]
    path.write_text(json.dumps(document))
    assert reasons(source, tmp_path) == {"000000000009": f"{path}: segment 5 has no pixel in {png}"}
    segments[-1] = {"id": 2, "category_id": 4}
    path.write_text(json.dumps(document))
    assert reasons(source, tmp_path) == {
        "000000000009": f"{path}: segment 2 has no category 4 in {png}"
    }
    standins.truncate(png)
    assert reasons(source, tmp_path)["000000000009"].startswith(f"{png}: damaged: ")
    png.unlink()
    assert reasons(source, tmp_path) == {"000000000009": f"no truth at {png}"}


# Size


def test_a_big_file_is_never_in_memory(tmp_path: Path) -> None:
    """An index of 32 bytes an annotation, and what the frames asked for need."""
    images, count = 5_000, 50_000
    path = tmp_path / "annotations/instances_val2017.json"
    path.parent.mkdir()
    outline = ",".join(f"{i % 64}.25,{i % 48}.5" for i in range(40))
    with path.open("w") as file:
        file.write('{"images":[')
        file.write(
            ",".join(
                f'{{"id":{i},"file_name":"{i}.jpg","height":48,"width":64}}' for i in range(images)
            )
        )
        file.write('],"annotations":[')
        for i in range(count):
            file.write("," if i else "")
            file.write(
                f'{{"id":{i},"image_id":{i * 7919 % images},"category_id":1,"iscrowd":0,'
                f'"area":9.5,"segmentation":[[{outline}]]}}'
            )
        file.write('],"categories":[{"id":1,"name":"person"}]}')
    refs = [
        FrameRef(i, f"{i}.jpg", f"{tmp_path}/{i}.jpg", "", 48, 64) for i in range(0, images, 20)
    ]
    source = CocoSource((str(tmp_path),))
    tracemalloc.start()
    try:
        found = source.find_truth(refs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert peak < 12e6, peak
    truth = source.load_truth(refs[3], found[3], WHOLE, WHOLE)
    assert len(rows_of(truth)) == 10
