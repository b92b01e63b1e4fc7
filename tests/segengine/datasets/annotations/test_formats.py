"""What the programs write, in the forms that they have; and what is refused, in one line."""

from __future__ import annotations

import base64
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.datasets.annotations import pictures
from segengine.datasets.annotations.labelstudio import packed
from segengine.errors import MissingTruthError, SegengineError
from segengine.types import Truth

from .files import CLASSES, WRITERS, masks_of, read

SIZE = (20, 30)
BOX = np.zeros(SIZE, bool)
BOX[4:9, 6:16] = True
SQUARE = [[6, 4], [16, 4], [16, 9], [6, 9]]


def of_json(path: Path, document: Any, name: str = "a.png") -> Truth:
    path.write_text(json.dumps(document))
    return read(path, name, SIZE)


def only(truth: Truth) -> np.ndarray:
    ((kind, mask),) = masks_of(truth, SIZE)
    assert kind == 1
    return mask


def task(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    sides = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    found = [{**sides, **result} for result in results]
    return {"id": 3, "data": {"image": "a.png"}, "annotations": [{"result": found}], **more}


def polygon(points: Any = None, **more: Any) -> dict[str, Any]:
    shares = [[x * 100 / SIZE[1], y * 100 / SIZE[0]] for x, y in points or SQUARE]
    value = {"points": shares, "polygonlabels": ["cell"]}
    return {"id": "r", "type": "polygonlabels", "value": value, **more}


@pytest.mark.parametrize(
    "url",
    [
        "a.png",
        "/data/upload/12/0a1b2c3d-a.png",
        "/data/local-files/?d=deep/sub/a.png",
        "https://host:8080/sub/a.png?x=1",
        "s3://bucket/deep/sub/a.png",
    ],
)
def test_label_studio_names_pictures_by_url(tmp_path: Path, url: str) -> None:
    tasks = [{**task(polygon()), "data": {"image": url}}, {**task(), "data": {"image": "b.png"}}]
    (tmp_path / "t.json").write_text(json.dumps(tasks))
    np.testing.assert_array_equal(only(read(tmp_path / "t.json", "sub/a.png", SIZE)), BOX)
    assert not masks_of(read(tmp_path / "t.json", "b.png", SIZE), SIZE)


def test_label_studio_regions_of_every_kind(tmp_path: Path) -> None:
    labels = {"id": "r", "type": "labels", "value": {"labels": ["cell"]}}
    share = {"x": 20, "y": 20, "width": 100 / 3, "height": 25}
    for shape in (
        {"id": "r", "type": "rectanglelabels", "value": {**share, "rectanglelabels": ["cell"]}},
        {"id": "r", "type": "brush", "value": {"format": "rle", "rle": packed(BOX)}},
        {"id": "r", "type": "rectangle", "value": share},
    ):
        found = of_json(tmp_path / "t.json", [task(shape, labels)])
        np.testing.assert_array_equal(only(found), BOX)
        (tmp_path / "t.json").unlink()
    key = {"id": "k", "type": "keypointlabels", "value": {"x": 1, "y": 2, "width": 0.5}}
    assert not masks_of(of_json(tmp_path / "t.json", [task(key)]), SIZE)


def test_label_studio_takes_the_annotation_that_counts(tmp_path: Path) -> None:
    wrong = {"result": [{**polygon([[0, 0], [3, 0], [3, 3]])}]}
    sure = {"result": task(polygon())["annotations"][0]["result"], "ground_truth": True}
    cancelled = {**wrong, "was_cancelled": True}
    one = {**task(), "annotations": [sure, wrong, cancelled]}
    np.testing.assert_array_equal(only(of_json(tmp_path / "t.json", [one])), BOX)


def cvat(*elements: str, name: str = "a.png", width: int = SIZE[1]) -> str:
    body = "\n".join(elements)
    image = f'<image id="0" name="{name}" width="{width}" height="{SIZE[0]}">{body}</image>'
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><meta/>{image}</annotations>'


def test_cvat_shapes_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    runs = 'rle="0,10,10,10" left="6" top="4" width="10" height="3"'
    for element in (
        '<polygon label="cell" points="6.0,4.0;16.0,4.0;16.0,9.0;6.0,9.0" z_order="0"/>',
        '<box label="cell" xtl="6" ytl="4" xbr="16" ybr="9">\n<attribute name="x">1</attribute></box>',
        '<mask label="cell" rle="0, 50" left="6" top="4" width="10" height="5"></mask>',
        f'<mask label="cell" {runs} group_id="2"/><box label="cell" xtl="6" ytl="5" xbr="16" ybr="6" '
        'group_id="2"/><box label="cell" xtl="6" ytl="7" xbr="16" ybr="9" group_id="2"/>',
        '<points label="cell" points="1,2"/><box label="cell" xtl="8.5" ytl="1.5" xbr="13.5" '
        'ybr="11.5" rotation="90"/>',
    ):
        path.write_text(cvat(element))
        np.testing.assert_array_equal(only(read(path, "a.png", SIZE)), BOX, err_msg=element)
        path.unlink()


def test_cvat_says_what_is_on_top(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    low = '<box label="cell" xtl="6" ytl="4" xbr="8" ybr="6" z_order="0"/>'
    high = '<box label="cell" xtl="0" ytl="0" xbr="16" ybr="9" z_order="1"/>'
    path.write_text(cvat(low, high))
    assert read(path, "a.png", SIZE).instances.max() == 2  # type: ignore[union-attr]
    path.write_text(cvat(low, high).replace('z_order="1"', 'z_order="00"'))
    found = read(path, "a.png", SIZE).instances
    assert found is not None
    assert (found[0][4:6, 6:8] == 1).all()


def test_labelme_groups_are_one_object_and_points_none(tmp_path: Path) -> None:
    square = {"label": "cell", "shape_type": "rectangle", "group_id": 1}
    shapes = [
        {**square, "points": [[6, 4], [10, 8]]},
        {**square, "points": [[15, 4], [11, 8]]},
        {"label": "cell", "shape_type": "point", "points": [[1, 1]]},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes}))
    np.testing.assert_array_equal(only(read(tmp_path / "{stem}.json", "a.png", SIZE)), BOX)
    with pytest.raises(MissingTruthError, match=r"write a field as \{stem\}"):
        read(tmp_path / "a.json", "a.png", SIZE)


def test_qupath_without_a_collection_and_without_a_class(tmp_path: Path) -> None:
    ring = [*SQUARE, SQUARE[0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": SQUARE}}
    (tmp_path / "a.geojson").write_text(json.dumps([feature, line]))
    found = read(tmp_path / "{stem}.geojson", "a.png", SIZE, classes=("background", "cell"))
    np.testing.assert_array_equal(only(found), BOX)
    assert read(tmp_path / "{stem}.geojson", "a.png", SIZE).unknown == {"(none)": BOX.sum()}


def test_another_class_is_unknown_and_not_scored(tmp_path: Path) -> None:
    truth = of_json(tmp_path / "t.json", [task(polygon(), {**polygon(), "id": "s"})])
    other = {**polygon(), "value": {**polygon()["value"], "polygonlabels": ["dog"]}}
    truth = of_json(tmp_path / "u.json", [task(other)])
    assert truth.unknown == {"dog": BOX.sum()}
    assert (truth.labels[0][BOX] == 255).all()
    assert truth.instances is not None
    assert not truth.instances.any()


def test_crowds_and_annotated_areas_of_coco_stay(tmp_path: Path) -> None:
    flat = [value for point in SQUARE for value in point]
    one = {"id": 1, "image_id": 1, "category_id": 5, "segmentation": [flat], "area": 47.5}
    crowd = {"size": [*SIZE], "counts": [0, 40, 560]}
    document = {
        "annotations": [one, {**one, "id": 2, "segmentation": crowd, "iscrowd": 1, "area": 40}],
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 5, "name": "cell"}],
    }
    truth = of_json(tmp_path / "c.json", document)
    assert truth.objects is not None
    rows = truth.objects.to_pylist()
    assert [(row["area"], row["crowd"]) for row in rows] == [(48, False), (40, True)]
    assert (truth.labels[0, :, :2] == 255).all()
    assert (truth.labels[0][BOX] == 1).all()


# What is wrong with it


LOL = "<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]>"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (cvat().replace("<annotations>", f"{LOL}<annotations>"), "declares a document type"),
        (cvat()[:-9], "is no XML"),
        ("<html></html>", "its root is 'html'"),
        ("<annotations><track id='0'></track></annotations>", "video format"),
        (cvat(width=31), "is 31 x 20 pixels there, its frame 30 x 20"),
        (cvat('<box label="cell" xtl="nan" ytl="4" xbr="16" ybr="9"/>'), "no number from"),
        (cvat('<box label="cell" ytl="4" xbr="16" ybr="9"/>'), "has '' for a number"),
        (cvat('<polygon label="cell" points="1,2;3,4"/>'), "less than three points"),
        (
            cvat('<mask label="c" rle="0,99" left="0" top="0" width="3" height="3"/>'),
            "do not sum",
        ),
        (
            cvat('<mask label="c" rle="9" left="0" top="0" width="900000" height="900000"/>'),
            "has a box of 900000 x 900000",
        ),
        (cvat('<mask label="c" rle="-1,10" left="0" top="0" width="3" height="3"/>'), "not sum"),
        (cvat("<a>" * 40 + "</a>" * 40), "nested too deeply"),
        (cvat(name="b.png"), "no truth at"),
    ],
)
def test_bad_xml_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises((MissingTruthError, SegengineError)) as caught:
        read(tmp_path / "a.xml", "a.png", SIZE)
    assert says in str(caught.value)
    assert "a.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def labelme(**shape: Any) -> dict[str, Any]:
    return {"shapes": [{"label": "cell", "shape_type": "polygon", "points": SQUARE, **shape}]}


COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
    "annotations": [],
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\nxx").decode()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"nothing": 1}, "is no annotation file"),
        ([{"image": "a.png", "tag": []}], "not as JSON_MIN"),
        ([{"annotations": [], "data": {}}], "names no picture"),
        ([task(polygon(original_width=7))], "is of a picture of 7 x 20 pixels"),
        ([task(polygon(image_rotation=90))], "was turned"),
        ([task(polygon([[1, 2], [1e9, 3], [4, 4]]))], "no number from"),
        ([task({"id": "r", "type": "brush", "value": {"rle": [1, 2]}})], "brush"),
        ([task({"id": "r", "type": "brush", "value": {"rle": [0] * 99}})], "brush"),
        ([task({"id": "r", "type": "brush", "value": {"rle": [-1, 300]}})], "are no bytes"),
        (labelme(points=[[1, 2], [3]]), "no pair of numbers"),
        (labelme(points=[[1, 2], [True, 4], [5, 6]]), "no number from"),
        (labelme(shape_type="spline"), "is a 'spline'"),
        (labelme(label=7), "for the name of a class"),
        (labelme(shape_type="mask", points=[[1, 1], [3, 3]], mask=PNG), "no PNG in Base64"),
        (labelme(shape_type="mask", points=[[1, 1], [3, 3]], mask="!"), "no PNG in Base64"),
        ({**labelme(), "imageHeight": 20, "imageWidth": 31}, "its frame 30 x 20"),
        ({"features": [{"geometry": {"type": "Circle"}}]}, "is a Circle"),
        ({"features": [{"geometry": {"type": "Polygon", "coordinates": [[[1, 2]]]}}]}, "three"),
        (
            {**COCO, "images": [{**COCO["images"][0], "height": 3, "width": 4}]},
            "is 4 x 3 pixels there",
        ),
        ({"images": COCO["images"]}, "has no list of annotations"),
        ({"annotations": [], "categories": []}, "has no list of images"),
        ({**COCO, "annotations": [{"id": 1, "image_id": 999}]}, "is of an image that is not in"),
        ({"features": None}, "has no list of features"),
        ({"shapes": None}, "has no list of shapes"),
        ([{**task(), "annotations": [{}]}], "has no list of results"),
        ([task(polygon(value={"polygonlabels": ["cell"]}))], "has no shape"),
    ],
)
def test_bad_json_is_one_line(tmp_path: Path, document: Any, says: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises((MissingTruthError, SegengineError)) as caught:
        read(tmp_path / "{stem}.json", "a.png", SIZE)
    assert says in str(caught.value)
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", '{"shapes": [', "[[[[[[", "\x00\x01", "[{]"])
def test_what_is_no_file_of_the_kind_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises((MissingTruthError, SegengineError)) as caught:
        read(tmp_path / "a.json", "a.png", SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_every_flipped_byte_is_truth_or_one_line(tmp_path: Path, name: str) -> None:
    write, template = WRITERS[name]
    path = tmp_path / template.replace("{stem}", "a")
    holed = BOX.copy()
    holed[5, 8] = False
    write(path, "a.png", SIZE, [(CLASSES[1], BOX), (CLASSES[2], holed)])
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for turn in range(150):
        torn = bytearray(data)
        torn[rng.integers(len(data))] = rng.integers(256)
        path = tmp_path / f"{turn}" / path.name
        path.parent.mkdir()
        path.write_bytes(torn if turn % 3 else torn[: rng.integers(len(data))])
        said = ""
        try:
            read(path.parent / template, "a.png", SIZE)
        except (MissingTruthError, SegengineError) as error:
            said = str(error)
        assert "\n" not in said


def test_memory_is_bounded_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pictures, __import__("segengine.datasets.annotations.cvat", fromlist=["x"])):
        monkeypatch.setattr(module, "LARGEST", 1 << 20)
    labelme_path, xml = tmp_path / "a.json", tmp_path / "a.xml"
    labelme_path.write_text('{"shapes": [], "imageData": "' + "A" * (8 << 20) + '"}')
    xml.write_text(cvat(f'<mask label="cell" rle="{"1," * (8 << 20)}"/>'))
    tracemalloc.start()
    for path, says in ((labelme_path, "save it without"), (xml, "an element of more than 1 MB")):
        with pytest.raises((MissingTruthError, SegengineError), match=says):
            read(path if path == xml else tmp_path / "{stem}.json", "a.png", SIZE)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_names_lead_nowhere(tmp_path: Path) -> None:
    """A picture's name in a file is compared, never opened."""
    document = [{**task(polygon()), "data": {"image": "../../../etc/a.png"}}]
    assert masks_of(of_json(tmp_path / "t.json", document), SIZE)
    document = [{**task(polygon()), "data": {"image": "/etc/passwd"}}]
    with pytest.raises(MissingTruthError, match="no truth at"):
        of_json(tmp_path / "u.json", document)


def test_two_pictures_of_one_name_are_not_guessed(tmp_path: Path) -> None:
    document = [{**task(), "data": {"image": f"{folder}/a.png"}} for folder in "xy"]
    with pytest.raises(MissingTruthError, match=r"may be x/a\.png and y/a\.png"):
        of_json(tmp_path / "t.json", document)
    assert not masks_of(read(tmp_path / "t.json", "x/a.png", SIZE), SIZE)
