"""Open Images against the masks that were drawn, scaled by Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from segengine.datasets._csv import find_rows, read_rows
from segengine.datasets._labels import nearest
from segengine.datasets.openimages import OpenImagesSource
from segengine.errors import SegengineError
from segengine.types import Source, Truth

from . import standins
from .standins import SIZE, Map, reasons, refs_of, rows_of, truths_of

# pycocotools 2.0.11 hands NumPy 2 its masks in a way that is to go
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

VOID = 255
NAMES = {"/m/011k07": "Tortoise", "/m/012074": "Magpie", "/m/01g317": "Person", "/m/0zzz": "Idle"}
IDS = ("000026e7ee790996", "00075905539074f2", "0abc000000000000")
MASK_HEADER = ("MaskPath", "ImageID", "LabelName", "BoxID", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax",
    "PredictedIoU", "Clicks")  # fmt: skip
BOX_HEADER = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax",
    "IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")  # fmt: skip
MASKS = "annotations-object-segmentation.csv"
OWN = (30, 41)
"""Height and width of the masks."""


def openimages(root: Path, folder: str = "validation", masks: str = "masks") -> dict[str, Map]:
    """Two pictures with two masks each, of which some overlap, one without, and a group."""
    drawn, lines, labels = {}, [], []
    for seed, name in enumerate(IDS):
        standins.picture(root / folder / f"{name}.jpg", seed)
        if seed == 2:
            continue
        for i, mid in enumerate(list(NAMES)[seed : seed + 2]):
            mask = np.zeros(OWN, np.uint8)
            mask[4 + 3 * i : 26 - 4 * i, 3 + 5 * i : 30] = 255
            file = f"{name}_{mid.replace('/', '')}_{i}.png"
            Image.fromarray(mask).convert("1").save(_made(root / masks) / file)
            sides = (3 + 5 * i) / 41, 30 / 41, (4 + 3 * i) / 30, (26 - 4 * i) / 30
            lines.append((file, name, mid, f"{i:08x}", *sides, 0.8, "0.1 0.2 1;0.3 0.4 0"))
            drawn[file] = mask
    group = (IDS[0], "xclick", "/m/01g317", 1, 0.75, 1, 0.5, 1, 0, 0, 1, 0, 0)
    single = (IDS[0], "xclick", "/m/011k07", 1, 0.25, 0.5, 0, 0.5, 1, 0, 0, 0, 0)
    stranger = ("ffffffffffffffff", *group[1:])
    standins.rows(root / f"validation-{MASKS}", MASK_HEADER, [lines[i] for i in (2, 0, 3, 1)])
    standins.rows(root / "validation-annotations-bbox.csv", BOX_HEADER, [stranger, single, group])
    labels = [(IDS[0], "verification", "/m/011k07", 1), (IDS[0], "verification", "/m/012074", 0)]
    header = ("ImageID", "Source", "LabelName", "Confidence")
    standins.rows(root / "validation-annotations-human-imagelabels.csv", header, labels)
    standins.rows(
        root / "oidv6-class-descriptions.csv", ("LabelName", "DisplayName"), list(NAMES.items())
    )
    (root / "classes-segmentation.txt").write_text("\n".join(list(NAMES)[:3]) + "\n")
    return drawn


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scaled(mask: Map) -> Map:
    """By Pillow, whose nearest also takes the value at a pixel's centre."""
    image = Image.fromarray(mask).resize((SIZE[1], SIZE[0]), Image.Resampling.NEAREST)
    return np.asarray(image) > 0


def truths_of_annotated(source: OpenImagesSource, root: Path) -> dict[str, Truth]:
    """Of the pictures that have masks."""
    (root / "validation" / f"{IDS[2]}.jpg").unlink()
    return truths_of(source, root)


def test_masks_are_those_drawn_at_the_size_of_the_picture(tmp_path: Path) -> None:
    drawn = openimages(tmp_path)
    source = OpenImagesSource((str(tmp_path),))
    assert source.truth_classes == ("Tortoise", "Magpie", "Person")
    refs = refs_of(source, tmp_path)
    assert [Path(ref.name).stem for ref in refs] == list(IDS)
    for seed, ref in enumerate(refs[:2]):
        (found,) = source.find_truth([ref])
        truth = source.load_truth(ref, found, standins.WHOLE, standins.WHOLE)
        great, small = (scaled(mask) for file, mask in drawn.items() if IDS[seed] in file)
        expected = np.full(SIZE, VOID)
        expected[great], expected[small] = seed, seed + 1
        np.testing.assert_array_equal(truth.labels[0], expected)
        rows = [row for row in rows_of(truth) if not row["crowd"]]
        assert [row["class"] for row in rows] == [seed, seed + 1]
        for row, mask in zip(rows, (great, small), strict=True):
            own = coco_mask.decode({"counts": row["rle"].encode(), "size": SIZE})
            np.testing.assert_array_equal(own, mask)
            assert row["area"] == mask.sum()
        np.testing.assert_allclose(
            rows[0]["bbox"], [3 / 41 * 64, 4 / 30 * 48, 27 / 41 * 64, 22 / 30 * 48], rtol=1e-6
        )


def test_a_group_is_a_crowd_and_labels_nothing(tmp_path: Path) -> None:
    openimages(tmp_path)
    truth = truths_of_annotated(OpenImagesSource(), tmp_path)
    (crowd,) = [row for row in rows_of(truth[IDS[0]]) if row["crowd"]]
    assert (crowd["class"], crowd["bbox"], crowd["area"]) == (2, [48, 24, 16, 24], 16 * 24)
    instances = truth[IDS[0]].instances
    assert instances is not None
    assert (instances[0, 24:, 48:] == crowd["id"]).all()
    assert (truth[IDS[0]].labels[0, 24:, 48:] == VOID).all()


def test_a_picture_without_masks_has_no_truth(tmp_path: Path) -> None:
    openimages(tmp_path)
    assert reasons(OpenImagesSource(), tmp_path) == {
        IDS[2]: f"no truth at {tmp_path}/validation-{MASKS}: {IDS[2]}"
    }


def test_labels_of_pictures_and_boxes(tmp_path: Path) -> None:
    openimages(tmp_path)
    source = OpenImagesSource()
    refs = refs_of(source, tmp_path)
    assert source.image_labels(refs) == [{"Tortoise": 1.0, "Magpie": 0.0}, {}, {}]
    assert source.boxes(refs) == [
        [("Tortoise", (16, 0, 16, 24)), ("Person", (48, 24, 16, 24))],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("folder", "masks"),
    [("validation", "masks/validation"), ("images/validation", "masks/0"), ("images", "masks")],
)
def test_the_places_of_files(tmp_path: Path, folder: str, masks: str) -> None:
    openimages(tmp_path, folder, masks)
    _made(tmp_path / "metadata")
    for file in tmp_path.glob("*.csv"):
        file.rename(tmp_path / "metadata" / file.name)
    source = OpenImagesSource((str(tmp_path),), "validation")
    assert len(source.list([str(tmp_path)]).entries) == 3
    assert set(reasons(source, tmp_path)) == {IDS[2]}


def test_a_subset_leaves_the_rest_void(tmp_path: Path) -> None:
    openimages(tmp_path)
    source = OpenImagesSource((str(tmp_path),), classes=("Magpie",))
    for truth in truths_of_annotated(source, tmp_path).values():
        assert np.unique(truth.labels).tolist() == [0, VOID]
        assert [row["class"] for row in rows_of(truth)] == [0]


def test_many_classes_take_16_bits(tmp_path: Path) -> None:
    openimages(tmp_path)
    (tmp_path / "classes-segmentation.txt").unlink()
    more = {f"/m/{i:04x}": f"class {i}" for i in range(400)}
    standins.rows(
        tmp_path / "class-descriptions-boxable.csv", *_split([*more.items(), *NAMES.items()])
    )
    source = OpenImagesSource((str(tmp_path),))
    assert len(source.truth_classes) == 404
    truth = truths_of_annotated(source, tmp_path)[IDS[0]]
    assert truth.labels.dtype == np.uint16
    assert np.unique(truth.labels).tolist() == [400, 401, 65535]


def _split(lines: list[tuple[str, str]]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    return lines[0], lines[1:]


def test_broken_entries_are_named(tmp_path: Path) -> None:
    drawn = openimages(tmp_path)
    first, _, third, _ = drawn
    standins.truncate(tmp_path / "masks" / first)
    (tmp_path / "masks" / third).unlink()
    found = reasons(OpenImagesSource(), tmp_path)
    assert found[IDS[0]].startswith(f"{tmp_path}/masks/{first}: damaged: ")
    assert found[IDS[1]] == f"no truth at {tmp_path}/masks/{third}"
    table = tmp_path / f"validation-{MASKS}"
    text = table.read_text().replace(f"{IDS[0]},/m/011k07", f"{IDS[0]},/m/nil")
    table.write_text(text)
    assert reasons(OpenImagesSource(), tmp_path)[IDS[0]] == (
        f"{table}: {first}: its label '/m/nil' is no class"
    )
    table.write_text(text.replace("/m/nil,00000000,0.", "/m/011k07,00000000,7."))
    assert f"{table}: {first}: no box: 7." in reasons(OpenImagesSource(), tmp_path)[IDS[0]]
    table.write_text(text.replace("MaskPath", "Path"))
    with pytest.raises(SegengineError, match="has no column MaskPath"):
        reasons(OpenImagesSource(), tmp_path)


def test_a_fingerprint_changes_with_rows_masks_and_groups(tmp_path: Path) -> None:
    drawn = openimages(tmp_path)
    source = OpenImagesSource()
    refs = refs_of(source, tmp_path)
    before = [truth.fingerprint for truth in source.find_truth(refs)]
    assert [truth.fingerprint for truth in source.find_truth(refs)] == before
    path = tmp_path / "masks" / next(iter(drawn))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    changed = [truth.fingerprint for truth in source.find_truth(refs)]
    assert [a == b for a, b in zip(before, changed, strict=True)] == [False, True, True]
    path = tmp_path / "validation-annotations-bbox.csv"
    path.write_text(path.read_text().replace(",0.75,1,", ",0.7,1,"))
    again = [truth.fingerprint for truth in source.find_truth(refs)]
    assert [a == b for a, b in zip(changed, again, strict=True)] == [False, True, True]


SIDE = st.integers(1, 30)


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 2**32))
def test_nearest_is_that_of_pillow(a: int, b: int, c: int, d: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (a, b), np.uint8)
    image = Image.fromarray(mask).resize((d, c), Image.Resampling.NEAREST)
    ours, theirs = nearest(mask, (c, d)), np.asarray(image)
    # where a centre falls between two pixels, Pillow's floats may round either way
    rows = [(2 * i + 1) * a % (2 * c) != 0 for i in range(c)]
    cols = [(2 * i + 1) * b % (2 * d) != 0 for i in range(d)]
    np.testing.assert_array_equal(ours[np.ix_(rows, cols)], theirs[np.ix_(rows, cols)])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.text('x,"é ', max_size=4), st.sampled_from("01"))
    )
)
def test_rows_are_found_where_they_lie(
    tmp_path_factory: Any, lines: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    standins.rows(path, ("text", "key", "flag"), [(text, key, flag) for key, text, flag in lines])
    for only in (None, ("flag", "1")):
        found = find_rows(str(path), ("key",), "abc", only)
        for key, (place, spans) in zip("abc", found, strict=True):
            expected = [
                {"text": text, "key": own, "flag": flag}
                for own, text, flag in lines
                if own == key and (only is None or flag == "1")
            ]
            assert read_rows(place) == expected
            assert len(spans) == len(expected)


def test_conforms_and_travels(tmp_path: Path) -> None:
    source = OpenImagesSource(("/data",), "test", ("Person",))
    assert isinstance(source, Source)
    assert deserialize(*serialize(source)) == source
    with pytest.raises(ValueError, match=r"^split: is 'val'"):
        OpenImagesSource(split="val")
    (tmp_path / "validation").mkdir()
    with pytest.raises(
        SegengineError, match=r"class-descriptions-boxable\.csv: no such file; check"
    ):
        _ = OpenImagesSource((str(tmp_path),)).truth_classes
