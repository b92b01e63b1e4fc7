"""Labels made to do harm: each is a reason in one line, in linear time, before memory is taken."""

from __future__ import annotations

import io
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.datasets import _json
from segengine.datasets._csv import find_rows, read_table
from segengine.datasets._json import records
from segengine.datasets._labels import read_png
from segengine.datasets.coco import CocoSource
from segengine.datasets.pets import PetsSource
from segengine.errors import MissingTruthError, SegengineError
from segengine.instances.outlines import outline_runs
from segengine.types import FrameRef

from . import standins
from .standins import SIZE, coco_document, reasons, refs_of

PLACE = "a place for what json.dumps cannot write"
DEEP = "[" * 200_000 + "]" * 200_000
DIGITS = "9" * 100_000
BROKEN = {
    "deep outline": ("segmentation", DEEP, "nested too deeply"),
    "deep elsewhere": ("attributes", '{"a": ' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
    "digits": ("area", DIGITS, "not in COCO's format"),
    "infinite area": ("area", "1e400", "the area inf"),
    "no area": ("area", "NaN", "the area nan"),
    "great area": ("area", "1e300", r"the area 1e\+300"),
    "great whole area": ("area", "9" * 400, "too large"),
    "great box": ("bbox", "[0, 0, 1e300, 1]", "has the box"),
    "box of words": ("bbox", '["a", 0, 1, 1]', "could not convert"),
    "infinite corner": ("segmentation", "[[0, 0, 9, 0, 1e400, 9]]", "the coordinate inf"),
    "no corner": ("segmentation", "[[0, 0, 9, 0, NaN, 9]]", "the coordinate nan"),
    "corner of digits": ("segmentation", f"[[0, 0, 9, 0, {'9' * 400}, 9]]", "too many digits"),
    "corner that is true": ("segmentation", "[[0, 0, 9, 0, true, 9]]", "the coordinate True"),
    "zigzag": ("segmentation", f"[[{'0,0,1e6,1e6,' * 20_000} 0, 0]]", "longer than"),
    "runs of digits": ("segmentation", f'{{"size": [48, 64], "counts": [{"9" * 40}]}}', "no numbers"),
    "runs of fractions": ("segmentation", '{"size": [48, 64], "counts": [0.5, 3071.5]}', "no whole"),
    "runs past the end": ("segmentation", '{"size": [48, 64], "counts": [3073]}', "do not sum"),
    "too many runs": (
        "segmentation", '{"size": [48, 64], "counts": [' + "0," * 10_000 + "3072]}", "more run lengths",
    ),
    "too much text": (
        "segmentation", '{"size": [48, 64], "counts": "' + "0" * 60_000 + '"}', "more run lengths",
    ),
    "another size": (
        "segmentation", '{"size": [2000000000, 2000000000], "counts": [4000000000000000000]}',
        r"is outlined for \[2000000000, 2000000000\]",
    ),
    "runs of nothing": ("segmentation", '{"size": [48, 64], "counts": null}', "no numbers"),
    "size of nothing": ("segmentation", '{"size": null, "counts": [1]}', "is not iterable"),
    "category of a list": ("category_id", "[1]", "unhashable"),
    "invalid UTF-8": ("note", '"\udcff"', "not in COCO's format: .*UTF-8"),
}  # fmt: skip


def with_text(root: Path, key: str, text: str) -> Path:
    """A COCO set whose first annotation has some JSON under a key, as it stands."""
    document = coco_document()
    document["annotations"][0] |= {key: PLACE, "image_id": 200}
    path = standins.coco(root, document)
    written = path.read_text().replace(f'"{PLACE}"', text)
    path.write_bytes(written.encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.parametrize("case", BROKEN)
def test_a_hostile_annotation_is_a_reason(tmp_path: Path, case: str) -> None:
    key, text, message = BROKEN[case]
    path = with_text(tmp_path, key, text)
    found = reasons(CocoSource((str(tmp_path),)), tmp_path)
    assert list(found) == ["000000000200"]
    reason = found["000000000200"]
    assert reason.startswith(f"{path}: ")
    assert len(reason.splitlines()) == 1
    assert len(reason) < len(str(path)) + 300
    import re

    assert re.search(message, reason), reason


STOPPING = {
    "deep image": ("images", DEEP, "nested too deeply"),
    "name of digits": ("images", DIGITS, "damaged at byte"),
    "name of half a letter": ("images", r'"\ud800.png"', "is no text"),
    "name that is no text": ("images", "[1]", "is no text"),
    "deep category": ("categories", DEEP, "nested too deeply"),
    "category of half a letter": ("categories", r'"\ud800"', "is no text"),
}


@pytest.mark.parametrize("case", STOPPING)
def test_a_hostile_list_stops_the_run_in_one_line(tmp_path: Path, case: str) -> None:
    section, text, message = STOPPING[case]
    document = coco_document()
    path = standins.coco(tmp_path, document)
    document[section][0]["file_name" if section == "images" else "name"] = PLACE
    path.write_text(json.dumps(document).replace(f'"{PLACE}"', text))
    source = CocoSource((str(tmp_path),))

    def look() -> None:
        source.list([str(tmp_path)])
        _ = source.truth_classes

    with pytest.raises(SegengineError, match=message) as error:
        look()
    assert str(path) in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300


@pytest.mark.parametrize(
    "text", ["1e400", "9" * 100_000, "[1]", "-1", "1.5", "null", "99999999999999999999"]
)
def test_an_image_id_that_is_none_stops_the_run(tmp_path: Path, text: str) -> None:
    path = with_text(tmp_path, "other", "1")
    path.write_text(path.read_text().replace('"image_id": 200', f'"image_id": {text}', 1))
    with pytest.raises(SegengineError, match=r"instances_val2017\.json: .*at byte \d+") as error:
        CocoSource((str(tmp_path),)).find_truth(refs_of(CocoSource((str(tmp_path),)), tmp_path))
    assert len(str(error.value)) < len(str(path)) + 300


def test_a_key_that_is_there_twice_counts_as_in_pycocotools(tmp_path: Path) -> None:
    path = with_text(tmp_path, "other", "1")
    path.write_text(path.read_text().replace('"other": 1', '"image_id": 100, "image_id": 200', 1))
    assert json.loads(path.read_text())["annotations"][0]["image_id"] == 200
    assert reasons(CocoSource((str(tmp_path),)), tmp_path) == {}


@pytest.mark.parametrize("where", ["record", "key", "text", "before"])
def test_what_is_large_is_read_once(where: str) -> None:
    """Each block is copied into what is held once: in all, no more bytes than twice the file."""
    long = b'"' + b"x" * (8 << 20) + b'"'
    text = {
        "record": b'{"annotations": [{"a": ' + long + b"}]}",
        "key": b"{" + long + b': [1], "annotations": [{"a": 1}]}',
        "text": b'{"info": ' + long + b', "annotations": [{"a": 1}]}',
        "before": b'{"annotations": [' + long + b', {"a": 1}]}',
    }[where]
    tracemalloc.start()
    try:
        (found,) = records(io.BytesIO(text), ("annotations",), 1 << 14)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert json.loads(found.text) == {"a": "x" * (8 << 20) if where == "record" else 1}
    assert text[found.offset : found.offset + len(found.text)] == found.text
    assert peak < (2 << 24 if where == "record" else 4 << 20)


def test_what_a_block_adds_is_all_that_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scanner looks at a block and what is left of the one before, however long the record."""
    seen: list[int] = []
    real = np.frombuffer

    def watched(part: Any, dtype: Any) -> Any:
        seen.append(len(part))
        return real(part, dtype)

    monkeypatch.setattr(_json.np, "frombuffer", watched)
    kept: list[int] = []

    class Blocks(io.BytesIO):
        def read(self, size: int | None = -1) -> Any:
            import sys

            kept.append(len(sys._getframe(1).f_locals["data"]))
            return super().read(size)

    text = b'{"annotations": [{"a": "' + b"x" * 500_000 + b'"}]}'
    assert len(list(records(Blocks(text), ("annotations",), 1000))) == 1
    assert max(kept) <= 1000 + 2 * _json._LONGEST
    assert sum(seen) <= len(text) + len(seen)


def test_a_record_beyond_all_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_json, "LARGEST", 10_000)
    text = b'{"annotations": [{"a": "' + b"x" * 20_000 + b'"}]}'
    with pytest.raises(ValueError, match=r"a record of more than \d+ MB at byte 17"):
        list(records(io.BytesIO(text), ("annotations",), 1000))


def test_an_outline_of_many_corners_is_read() -> None:
    angles = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    ring = np.stack([50 + 40 * np.cos(angles), 50 + 40 * np.sin(angles)], 1).ravel().tolist()
    runs = outline_runs([ring], 100, 100)
    assert abs(int(runs[1::2].sum()) - np.pi * 40**2) < 150


# CSV, XML and PNG


def test_a_line_of_a_csv_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"ImageID,x\n" + b"y" * (8 << 20))
    with pytest.raises(SegengineError, match=r"a\.csv: a line of more than 131,072 bytes"):
        list(find_rows(str(path), ["ImageID", "x"], ["a"]))


def test_a_line_that_is_no_csv_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'ImageID,x\n"a\rb",1\na,2\n')
    ((_, rows),) = find_rows(str(path), ["ImageID", "x"], ["a"])
    assert len(rows) == 1
    assert read_table("a,b\n" + "x" * 200_000 + ",1") == [["a", "b"], ["x" * 200_000 + ",1"]]


ENTITY = '<!DOCTYPE a [<!ENTITY e SYSTEM "{0}">]><a><object><bndbox><xmin>&e;</xmin></bndbox></object></a>'
LAUGHS = "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize("case", ["laughs", "external", "deep", "digits"])
def test_xml_neither_grows_nor_reads(tmp_path: Path, case: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("7")
    text = {
        "laughs": f'<!DOCTYPE a [<!ENTITY a "{"x" * 100}">{LAUGHS}]><a>&j;</a>',
        "external": ENTITY.format(secret),
        "deep": "<a>" * 100_000,
        "digits": "<a><object><bndbox>"
        + "".join(f"<{s}>{'9' * 5_000}</{s}>" for s in ("xmin", "ymin", "xmax", "ymax"))
        + "</bndbox></object></a>",
    }[case]
    path = tmp_path / "annotations/xmls/Abyssinian_1.xml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    ref = FrameRef(0, "images/Abyssinian_1.jpg", f"{tmp_path}/images/Abyssinian_1.jpg", "", *SIZE)
    with pytest.raises(MissingTruthError, match=r"Abyssinian_1\.xml: damaged: ") as error:
        PetsSource((str(tmp_path),)).head(ref)
    assert len(str(error.value)) < len(str(path)) + 300


def test_a_png_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    side = 12_000
    head = side.to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
    packed = zlib.compress(bytes(side + 1) * side, 9)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(part).to_bytes(4, "big") + kind + part + zlib.crc32(kind + part).to_bytes(4, "big")
        for kind, part in ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b""))
    )
    path = tmp_path / "a.png"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(MissingTruthError, match=r"is 12000 x 12000 pixels, its image 64 x 48"):
            read_png(str(path), SIZE)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
