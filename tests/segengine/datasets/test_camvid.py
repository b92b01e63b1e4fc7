"""CamVid against the colours that were drawn, and the published list of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize

from segengine.datasets.camvid import COLORS, GROUPS, CamvidSource
from segengine.types import Color, Source

from . import standins
from .standins import Map, reasons, truths_of

VOID = 255
NAMES = list(COLORS)


def camvid(
    root: Path,
    pictures: str = "701_StillsRaw_full",
    labels: str = "LabeledApproved_full",
    suffix: str = "_L",
    coding: dict[str, Color] = COLORS,
) -> dict[str, Map]:
    """Pictures whose labels hold all 32 classes; returned as indices into the published list."""
    table = np.array([coding[name] for name in NAMES], np.uint8)
    drawn = {}
    for seed, name in enumerate(("0001TP_006690", "Seq05VD_f00000")):
        indices = standins.draw(standins.boxes(seed, range(32), count=8), NAMES.index("Road"))
        indices[0, :32] = np.arange(32)
        standins.picture(root / pictures / f"{name}.png", seed)
        standins.png(root / labels / f"{name}{suffix}.png", table[indices])
        drawn[name] = indices
    return drawn


def test_labels_are_the_colours_drawn(tmp_path: Path) -> None:
    drawn = camvid(tmp_path)
    source = CamvidSource((str(tmp_path),))
    assert source.truth_classes == tuple(NAMES)
    assert len(NAMES) == 32
    assert dict(zip(source.truth_classes, source.truth_colors, strict=True)) == COLORS
    for name, truth in truths_of(source, tmp_path).items():
        expected = np.where(drawn[name] == NAMES.index("Void"), VOID, drawn[name])
        np.testing.assert_array_equal(truth.labels[0], expected)
        assert truth.instances is None
    assert not source.truth_instances


def test_the_common_grouping(tmp_path: Path) -> None:
    drawn = camvid(tmp_path)
    source = CamvidSource((str(tmp_path),), grouping="11")
    assert source.truth_classes == tuple(GROUPS)
    group = {held: i for i, holds in enumerate(GROUPS.values()) for held in holds}
    for name, truth in truths_of(source, tmp_path).items():
        expected = [[group.get(NAMES[v], VOID) for v in row] for row in drawn[name]]
        np.testing.assert_array_equal(truth.labels[0], expected)


def test_every_class_but_void_is_in_one_group() -> None:
    held = [name for holds in GROUPS.values() for name in holds]
    assert sorted(held) == sorted(set(NAMES) - {"Void"})
    assert len(GROUPS) == 11
    assert len(set(COLORS.values())) == 32


@pytest.mark.parametrize("suffix", ["", "_L"])
def test_folders_of_splits(tmp_path: Path, suffix: str) -> None:
    for split in ("train", "val"):
        camvid(tmp_path, split, f"{split}_labels", suffix)
    every = CamvidSource().list([str(tmp_path)])
    assert len(every.entries) == 4
    source = CamvidSource(split="val")
    assert sorted(truths_of(source, tmp_path)) == ["0001TP_006690", "Seq05VD_f00000"]
    assert all(e.name.startswith("val/") for e in source.list([str(tmp_path)]).entries)


def test_a_list_is_a_split(tmp_path: Path) -> None:
    camvid(tmp_path)
    (tmp_path / "test.txt").write_text(
        "/SegNet/CamVid/test/Seq05VD_f00000.png x\n\nSeq05VD_f00030\n"
    )
    listing = CamvidSource(split="test").list([str(tmp_path)])
    assert [entry.name for entry in listing.entries] == ["701_StillsRaw_full/Seq05VD_f00000.png"]
    assert [item.reason for item in listing.unlisted] == [
        "no such picture; test.txt lists Seq05VD_f00030"
    ]
    with pytest.raises(ValueError, match=r"^source\.split: .*val\.txt: no such file"):
        CamvidSource(split="val").list([str(tmp_path)])


def test_its_own_coding_holds(tmp_path: Path) -> None:
    turned = {name: color[::-1] for name, color in COLORS.items()}
    drawn = camvid(tmp_path, coding=turned)
    lines = [f"{r} {g} {b}\t\t{name}\r\n" for name, (r, g, b) in turned.items()]
    (tmp_path / "label_colors.txt").write_text("".join(lines))
    for name, truth in truths_of(CamvidSource(), tmp_path).items():
        scored = drawn[name] != NAMES.index("Void")
        np.testing.assert_array_equal(truth.labels[0][scored], drawn[name][scored])
    (tmp_path / "label_colors.txt").write_text("64 128 64\tUnicorn\n")
    assert set(reasons(CamvidSource(), tmp_path).values()) == {
        f"{tmp_path}/label_colors.txt: line 1 names no class of CamVid"
    }


def test_broken_entries_are_named(tmp_path: Path) -> None:
    camvid(tmp_path)
    first, other = (
        tmp_path / f"LabeledApproved_full/{n}_L.png" for n in ("0001TP_006690", "Seq05VD_f00000")
    )
    standins.png(first, np.full((48, 64, 3), (1, 2, 3), np.uint8))
    other.unlink()
    assert reasons(CamvidSource(), tmp_path) == {
        "0001TP_006690": f"{first}: colour (1, 2, 3) stands for no class",
        "Seq05VD_f00000": f"no truth at {other}",
    }
    standins.png(first, np.zeros((48, 64), np.uint8))
    assert "has no colours" in reasons(CamvidSource(), tmp_path)["0001TP_006690"]
    camvid(tmp_path)
    standins.truncate(first)
    assert reasons(CamvidSource(), tmp_path)["0001TP_006690"].startswith(f"{first}: damaged: ")


def test_conforms_and_travels() -> None:
    source = CamvidSource(("/data",), "val", ("Sky",), grouping="11")
    assert isinstance(source, Source)
    assert deserialize(*serialize(source)) == source
    assert CamvidSource(grouping=11) == CamvidSource(grouping="11")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^grouping: is '12'"):
        CamvidSource(grouping="12")  # type: ignore[arg-type]
