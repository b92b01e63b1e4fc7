"""Oxford-IIIT Pet against the trimaps that were drawn, and the set's own lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize

from segengine.datasets.pets import BREEDS, PetsSource
from segengine.errors import MissingTruthError
from segengine.types import FrameRef, Source

from . import standins
from .standins import SIZE, Map, reasons, refs_of, rows_of, truths_of

VOID = 255
PICTURES = {"Abyssinian_100": (1, 1, 1), "yorkshire_terrier_99": (37, 2, 25), "pug_1": (26, 2, 17)}
HEAD = """<annotation><folder>OXIIIT</folder><size><width>64</width><height>48</height></size>
<object><name>cat</name><bndbox><xmin>12</xmin><ymin>3</ymin><xmax>40</xmax><ymax>25</ymax></bndbox>
</object></annotation>"""


def pets(root: Path) -> dict[str, Map]:
    """A pet with a border in each picture; the head of the first."""
    drawn = {}
    lines = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids"]
    for seed, (name, numbers) in enumerate(PICTURES.items()):
        trimap = np.full(SIZE, 2, np.uint8)
        trimap[5 + seed : 40, 10:50], trimap[8 + seed : 37, 13:47] = 3, 1
        standins.picture(root / f"images/{name}.jpg", seed)
        standins.png(root / f"annotations/trimaps/{name}.png", trimap)
        lines.append(" ".join(map(str, (name, *numbers))))
        drawn[name] = trimap
    (root / "annotations/list.txt").write_text("\n".join(lines) + "\n")
    (root / "annotations/trainval.txt").write_text("\n".join(lines[2:4]) + "\n")
    (root / "annotations/test.txt").write_text(lines[4] + "\n")
    (root / "annotations/trimaps/._pug_1.png").write_bytes(b"\0\5\26\7")  # the set's own litter
    (root / "annotations/xmls").mkdir()
    (root / "annotations/xmls/Abyssinian_100.xml").write_text(HEAD)
    return drawn


def test_labels_are_the_trimap_from_0(tmp_path: Path) -> None:
    drawn = pets(tmp_path)
    source = PetsSource((str(tmp_path),))
    assert source.truth_classes == ("pet", "background", "border")
    assert len(set(source.truth_colors)) == 3
    truths = truths_of(source, tmp_path)
    assert sorted(truths) == sorted(PICTURES)
    for name, truth in truths.items():
        np.testing.assert_array_equal(truth.labels[0], drawn[name] - 1)
        (row,) = rows_of(truth)
        pet = drawn[name] == 1
        ys, xs = np.nonzero(pet)
        assert (row["id"], row["class"], row["area"]) == (1, 0, pet.sum())
        assert row["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert truth.instances is not None
        np.testing.assert_array_equal(truth.instances[0], pet)


def test_breeds(tmp_path: Path) -> None:
    drawn = pets(tmp_path)
    source = PetsSource((str(tmp_path),), target="breed")
    assert len(source.truth_classes) == 38
    for name, truth in truths_of(source, tmp_path).items():
        number = PICTURES[name][0]
        expected = np.select([drawn[name] == 1, drawn[name] == 2], [number - 1, 37], VOID)
        np.testing.assert_array_equal(truth.labels[0], expected)
        assert source.truth_classes[number - 1] == name.rpartition("_")[0]


def test_breeds_are_numbered_as_published() -> None:
    assert len(BREEDS) == 37
    assert sum(name[0].isupper() for name in BREEDS) == 12  # cats
    assert list(BREEDS) == sorted(BREEDS, key=str.lower)


@pytest.mark.parametrize(("split", "count"), [(None, 3), ("trainval", 2), ("test", 1)])
def test_a_split_is_its_list(tmp_path: Path, split: str | None, count: int) -> None:
    pets(tmp_path)
    (tmp_path / "images/Abyssinian_100.mat").touch()
    assert len(PetsSource(split=split).list([str(tmp_path)]).entries) == count


def test_a_subset_leaves_the_rest_void(tmp_path: Path) -> None:
    drawn = pets(tmp_path)
    source = PetsSource(classes=("background", "pet"))
    for name, truth in truths_of(source, tmp_path).items():
        expected = np.select([drawn[name] == 1, drawn[name] == 2], [1, 0], VOID)
        np.testing.assert_array_equal(truth.labels[0], expected)
    only = truths_of(PetsSource(target="breed", classes=("pug",)), tmp_path)
    assert [len(rows_of(only[name])) for name in PICTURES] == [0, 0, 1]


def test_heads(tmp_path: Path) -> None:
    pets(tmp_path)
    source = PetsSource()
    heads = {Path(ref.name).stem: source.head(ref) for ref in refs_of(source, tmp_path)}
    assert heads == {
        "Abyssinian_100": (12, 3, 40, 25),
        "yorkshire_terrier_99": None,
        "pug_1": None,
    }
    path = tmp_path / "annotations/xmls/pug_1.xml"
    path.write_text(HEAD[:90])
    ref = FrameRef(0, "images/pug_1.jpg", f"{tmp_path}/images/pug_1.jpg", "", *SIZE)
    with pytest.raises(MissingTruthError, match=r"pug_1\.xml: damaged"):
        source.head(ref)


def test_broken_entries_are_named(tmp_path: Path) -> None:
    pets(tmp_path)
    lists = tmp_path / "annotations/list.txt"
    lists.write_text(lists.read_text().replace("pug_1 26", "pug_1 38") + "pug_2 26 2 17\n")
    (item,) = PetsSource().list([str(tmp_path)]).unlisted
    assert (item.name, item.reason) == (
        "images/pug_2.jpg",
        "no such file; annotations/list.txt lists pug_2",
    )
    trimaps = tmp_path / "annotations/trimaps"
    (trimaps / "Abyssinian_100.png").unlink()
    standins.png(trimaps / "yorkshire_terrier_99.png", np.full(SIZE, 4, np.uint8))
    assert reasons(PetsSource(target="breed"), tmp_path) == {
        "Abyssinian_100": f"no truth at {trimaps}/Abyssinian_100.png",
        "yorkshire_terrier_99": f"{trimaps}/yorkshire_terrier_99.png: code 4 stands for no class",
        "pug_1": f"{trimaps}/pug_1.png: its class 38 in the list is no breed",
    }
    standins.png(trimaps / "pug_1.png", np.ones(SIZE, np.uint8))
    standins.truncate(trimaps / "pug_1.png")
    assert reasons(PetsSource(), tmp_path)["pug_1"].startswith(f"{trimaps}/pug_1.png: damaged: ")


def test_conforms_and_travels() -> None:
    source = PetsSource(("/data",), "test", target="breed")
    assert isinstance(source, Source)
    assert deserialize(*serialize(source)) == source
    with pytest.raises(ValueError, match=r"^target: is 'species'"):
        PetsSource(target="species")  # type: ignore[arg-type]
