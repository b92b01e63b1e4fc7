"""Areas from labelled points: the paper's example through the command, and a map whose truth is known."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

import segengine
from segengine.areas.olofsson import allocated, estimate
from segengine.areas.points import distinct, points_of
from segengine.areas.strata import Strata
from segengine.commands.area import area
from segengine.commands.sample import sample
from segengine.errors import JobError

NAMES = ("cluster 0", "cluster 1", "cluster 2", "cluster 3")
COUNTS = ((66, 0, 5, 4), (0, 55, 8, 12), (1, 0, 153, 11), (2, 1, 9, 313))
"""Olofsson et al. (2014), table 8."""


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "crs": "EPSG:6933"}
    where = rasterio.Affine(30, 0, 0, 0, -30, 4e6)  # of equal area
    with rasterio.open(path, "w", height=height, width=width, transform=where, **profile) as file:
        file.write(pixels, 1)


def run(folder: Path, clusters: int) -> str:
    job = {
        "source": {"paths": [str(folder / "in")]},
        "segmenter": {"kind": "kmeans", "clusters": clusters, "scope": "run", "space": "bands"},
        "store": {"path": str(folder / "masks.zarr"), "chunk": 64, "shard": 256},
    }
    segengine.run(job)
    return str(folder / "masks.zarr")


def points(counts: Any, names: Any = NAMES, **members: Any) -> dict[str, Any]:
    """A GeoJSON with as many points as an error matrix says."""
    features = [
        {
            "type": "Feature",
            "properties": {"stratum": names[i], "label": names[k]},
            "geometry": {"type": "Point", "coordinates": [0, 0]},
        }
        for i, row in enumerate(counts)
        for k, count in enumerate(row)
        for _ in range(count)
    ]
    return {"type": "FeatureCollection", "features": features, **members}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A map with the shares of the paper's example: 2, 1.5, 32 and 64.5 %."""
    folder = tmp_path_factory.mktemp("example")
    values = np.repeat([30, 90, 150, 220], [800, 600, 12_800, 25_800]).astype(np.uint8)
    put(folder / "in" / "a.tif", values.reshape(200, 200))
    return run(folder, 4)


def test_the_worked_example_through_the_command(example: str, tmp_path: Path) -> None:
    path = tmp_path / "points.geojson"
    path.write_text(json.dumps(points(COUNTS)))
    report = area(example, str(path))
    found = report.as_json()
    whole = sum(found["mapped"].values())
    scale = 900_000 / whole  # hectares, of the example's ten million pixels of Landsat
    areas = [round(found["classes"][name]["area"] * scale) for name in NAMES]
    assert areas == [21158, 11686, 285770, 581386]
    margins = [round((one["high"] - one["area"]) * scale) for one in found["classes"].values()]
    assert margins == [6158, 3756, 15510, 16282]
    for one in found["classes"].values():
        assert one["area"] - one["low"] == pytest.approx(one["high"] - one["area"])
        assert one["se"] * 1.96 == pytest.approx(one["high"] - one["area"])
        assert one["share"] == pytest.approx(one["area"] / whole)
    assert [round(one["users"], 2) for one in found["classes"].values()] == [0.88, 0.73, 0.93, 0.96]
    users = [round(1.96 * one["users_se"], 2) for one in found["classes"].values()]
    assert users == [0.07, 0.10, 0.04, 0.02]
    assert [round(o["producers"], 2) for o in found["classes"].values()] == [0.75, 0.85, 0.93, 0.96]
    assert round(1.96 * found["classes"]["cluster 0"]["producers_se"], 2) == 0.21
    assert round(found["overall"]["accuracy"], 2) == 0.95
    assert round(1.96 * found["overall"]["se"], 2) == 0.02
    assert found["confusion"]["cluster 2"] == dict(zip(NAMES, COUNTS[2], strict=True))
    assert whole == pytest.approx(200 * 200 * 900, rel=2e-4)  # geodesic
    assert (found["points"], found["unlabelled"]) == (640, 0)
    text = "\n".join(report.lines())
    assert "640 points; overall accuracy 94.65% ± 1.85%" in text


def test_areas_hold_the_truth_of_a_map_that_is_known(tmp_path: Path) -> None:
    """Points drawn from a map and labelled from the truth: 93 to 97 % of intervals hold the true area."""
    rng = np.random.default_rng(0)
    truth = np.kron(rng.choice(2, (20, 20), p=[0.3, 0.7]), np.ones((10, 10), int))
    mapped = np.where(rng.random(truth.shape) < 0.15, 1 - truth, truth)
    put(tmp_path / "in" / "a.tif", np.where(mapped == 1, 200, 50).astype(np.uint8))
    store = run(tmp_path, 2)
    strata = Strata.of(segengine.open_store(store))
    areas = np.array(strata.areas)
    true, held, draws, sums = (truth == 1).mean(), 0, 500, 0.0
    assert abs(areas[1] / areas.sum() - true) > 0.05 * true  # the map itself is far off
    sizes = allocated(400, areas.tolist(), None, 2)
    for seed in range(draws):
        counts = np.zeros((2, 2), np.int64)
        for label, size in enumerate(sizes):
            for pixel in strata.draw(label, size, seed):
                counts[label, truth[pixel.row, pixel.column]] += 1
        found = estimate(counts, areas)
        sums += found.shares[1]
        held += abs(found.shares[1] - true) <= 1.96 * found.shares_se[1]
    assert 0.93 <= held / draws <= 0.97
    assert sums / draws == pytest.approx(true, rel=0.005)

    out = tmp_path / "points.geojson"
    sample(store, 100, str(out), seed=1)
    document = json.loads(out.read_text())
    for feature in document["features"]:
        own = feature["properties"]
        own["label"] = f"cluster {truth[own['row'], own['column']]}"
    out.write_text(json.dumps(document))
    one = area(store, str(out)).classes["cluster 1"]
    assert one["low"] <= true * areas.sum() <= one["high"]
    assert one["share"] == pytest.approx(true, abs=0.12)


def test_the_page_shows_figures_and_what_differs(example: str, tmp_path: Path) -> None:
    path = tmp_path / "my <points>.geojson"
    sample(example, 40, str(path))
    document = json.loads(path.read_text())
    for feature in document["features"]:
        feature["properties"]["label"] = feature["properties"]["stratum"]
    first = document["features"][0]["properties"]
    first["label"] = "cluster 0" if first["stratum"] != "cluster 0" else "cluster 1"
    second = document["features"][1]["properties"]
    second["label"], second["picture"] = first["label"], "../../../etc/passwd"
    second["frame"] = "<script>alert(1)</script>"
    path.write_text(json.dumps(document))
    report = area(example, str(path))
    page = Path(report.page)
    assert page == tmp_path / "my <points>.html"
    text = page.read_text(encoding="utf-8")
    assert "my &lt;points&gt;" in text
    assert "<script" not in text
    assert 'src="my%20%3Cpoints%3E-pictures/01.png"' in text
    assert "passwd" not in text
    assert f"1: {first['label']}, not {first['stratum']}" in text
    area(example, str(path))  # its own page is made again
    page.write_text("mine")
    with pytest.raises(JobError, match="add --overwrite"):
        area(example, str(path))
    other = tmp_path / "else" / "page.html"
    assert area(example, str(path), page=str(other)).page == str(other)
    assert "<img" not in other.read_text()  # pictures lie beside the points


def test_points_without_a_label_are_left_out(example: str, tmp_path: Path) -> None:
    document = points(COUNTS)
    path = tmp_path / "p.geojson"
    path.write_text(json.dumps(document))
    whole = area(example, str(path)).as_json()
    for stratum in NAMES:
        document["features"].append(
            {"type": "Feature", "properties": {"stratum": stratum, "label": None}, "geometry": None}
        )
    path.write_text(json.dumps(document))
    found = area(example, str(path)).as_json()
    assert found["classes"] == whole["classes"]
    assert found["unlabelled"] == 4
    assert "4 points have no label yet" in found["notices"][0]


def test_a_map_that_has_changed_counts_as_it_was(example: str, tmp_path: Path) -> None:
    areas = dict(zip(NAMES, (3e6, 2e6, 1e6, 4e6), strict=True))
    path = tmp_path / "p.geojson"
    path.write_text(json.dumps(points(COUNTS, segengine={"areas": areas})))
    report = area(example, str(path))
    assert report.mapped == areas
    assert "the map has changed since the points were drawn" in report.notices[0]


ONE = points(((3, 1, 0, 0), (0, 4, 0, 0), (0, 0, 4, 0), (0, 0, 0, 4)))


def put_points(path: Path, document: Any) -> str:
    path.write_text(json.dumps(document))
    return str(path)


STARTS = dict(zip(NAMES, (0, 800, 1400, 14_200), strict=True))
"""The first pixel of each class in the example's map, along its rows of 200."""
PIXEL = ("scene", "frame", "row", "column")


def placed(feature: Any, number: int, **properties: Any) -> Any:
    """A point of one of its stratum's pixels, as `sample` says it."""
    row, column = divmod(STARTS[feature["properties"]["stratum"]] + number, 200)
    own = {"scene": "a", "frame": 0, "row": row, "column": column}
    to = Transformer.from_crs("EPSG:6933", "OGC:CRS84", always_xy=True).transform
    at = to(30 * (column + 0.5), 4e6 - 30 * (row + 0.5))
    geometry = {"type": "Point", "coordinates": [round(value, 9) for value in at]}
    own = {**own, **feature["properties"], **properties}
    return {**feature, "properties": own, "geometry": geometry}


def without(feature: Any, *keys: str) -> Any:
    """A point without some of its properties."""
    own = {key: value for key, value in feature["properties"].items() if key not in keys}
    return {**feature, "properties": own}


@pytest.mark.parametrize("by", ["pixel", "coordinates", "id"])
def test_a_place_counts_once_however_often_it_is_there(
    example: str, tmp_path: Path, by: str
) -> None:
    document = points(COUNTS)
    for i, feature in enumerate(document["features"]):
        if by == "pixel":
            document["features"][i] = placed(feature, i)
        elif by == "coordinates":
            document["features"][i] = without(placed(feature, i), *PIXEL)
        else:
            feature["id"] = i + 1
    whole = area(example, put_points(tmp_path / "p.geojson", document)).as_json()
    again = json.loads(json.dumps(document["features"][:3]))
    again[2]["properties"]["label"] = ""  # the other one says it
    document["features"] = [again[2], *document["features"], *again[:2]]
    found = area(example, put_points(tmp_path / "p.geojson", document)).as_json()
    for key in ("classes", "confusion", "points", "unlabelled"):
        assert found[key] == whole[key]
    assert not whole["notices"]
    assert found["notices"] == [
        "3 points are there again, at the same place with the same label: each place counts once"
    ]


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"label": "cluster 1"}, "label is 'cluster 0' and 'cluster 1'"),
        ({"stratum": "cluster 3"}, "stratum is 'cluster 0' and 'cluster 3'"),
    ],
)
def test_a_place_that_contradicts_itself_is_one_line(
    example: str, tmp_path: Path, properties: Any, said: str
) -> None:
    document = json.loads(json.dumps(ONE))
    document["features"] = [placed(each, i) for i, each in enumerate(document["features"])]
    document["features"].append(placed(document["features"][1], 1))
    document["features"][-1]["properties"].update(properties)
    path = put_points(tmp_path / "p.geojson", document)
    with pytest.raises(JobError, match=f"points 2 and 17 are one place, and their {said}; keep"):
        area(example, path)
    document["features"][-1]["properties"]["column"] += 30  # another pixel of it
    put_points(tmp_path / "p.geojson", document)
    assert area(example, path).points == 17


def as_text(feature: Any) -> Any:
    own = {key: str(feature["properties"][key]) for key in ("frame", "row", "column")}
    return {**feature, "properties": {**feature["properties"], **own}}


def short(feature: Any) -> Any:
    """As a program writes it that knows seven decimals, and no columns of ours."""
    at = [round(value, 7) for value in feature["geometry"]["coordinates"]]
    found: Any = without(feature, *PIXEL)
    return {**found, "geometry": {"type": "Point", "coordinates": at}}


@pytest.mark.parametrize(
    "copied",
    [as_text, short, lambda one: without(one, "frame"), lambda one: without(one, *PIXEL)],
    ids=["text", "short", "no frame", "no pixel"],
)
def test_a_copy_of_a_point_is_known_however_it_is_written(
    example: str, tmp_path: Path, copied: Any
) -> None:
    document = json.loads(json.dumps(ONE))
    document["features"] = [placed(each, i) for i, each in enumerate(document["features"])]
    document["features"] += [copied(each) for each in document["features"]]
    found = area(example, put_points(tmp_path / "p.geojson", document))
    assert (found.points, len(found.notices)) == (16, 1)
    assert found.notices[0].startswith("16 points are there again")
    document["features"] = list(map(short, document["features"][:16])) + document["features"][16:]
    found = area(example, put_points(tmp_path / "p.geojson", document))
    assert found.points == 16


def test_two_points_of_one_place_have_a_copy_each(tmp_path: Path) -> None:
    """Two scenes of the same ground, with points that differ, and copies without the pixels."""
    both = [
        {"properties": {"stratum": "a", "label": label, "scene": scene, "frame": 0, "row": 1, "column": 1}}
        for scene, label in (("s", "a"), ("t", "b"))
    ]  # fmt: skip
    for each in both:
        each["geometry"] = {"type": "Point", "coordinates": [5, 5]}
    features = [*both, *(without(each, *PIXEL) for each in both)]
    every = list(points_of("p", features, ("a", "b")))
    pixels = [("s",), ("t",), ("s", "t"), ("s", "t")]
    assert [point.number for point in distinct("p", every, ("a", "b"), pixels)] == [1, 2]


def ours(**properties: Any) -> Any:
    document = json.loads(json.dumps(ONE))
    document["features"] = [placed(each, i) for i, each in enumerate(document["features"])]
    document["features"][1]["properties"].update(properties)
    return document


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"scene": "b"}, "its scene 'b' is none of the map"),
        ({"row": 200}, "frame 0, row 200, column 1 is beyond scene 'a'"),
        ({"row": "-1"}, "frame 0, row -1, column 1 is beyond scene 'a'"),
        ({"frame": 1}, "frame 1, row 0, column 1 is beyond scene 'a'"),
        (
            {"frame": None, "column": 10**30},
            "row 0, column 1000000000000000000000000000000 is beyond",
        ),
        ({"row": None}, "11, 48 is in no scene of the map"),
    ],
)
def test_points_that_cannot_be_of_the_map_are_one_line(
    example: str, tmp_path: Path, properties: Any, said: str
) -> None:
    document = ours(**properties)
    document["features"][1]["geometry"]["coordinates"] = [11, 48]
    path = put_points(tmp_path / "p.geojson", document)
    with pytest.raises(JobError, match=f"point 2 is not of this map: {said}") as caught:
        area(example, path)
    assert "\n" not in str(caught.value)
    document["segengine"] = {"areas": dict.fromkeys(NAMES, 1e6)}  # drawn from the map as it was
    found = area(example, put_points(tmp_path / "p.geojson", document)).notices
    assert "the map has changed" in found[0]
    assert found[1].startswith(f"point 2 is not on the map as it is: {said}")


@pytest.mark.parametrize("known", ["pixel", "coordinates"])
def test_strata_that_are_not_the_maps_are_told(example: str, tmp_path: Path, known: str) -> None:
    document = ours()
    if known == "coordinates":
        document["features"] = [without(each, *PIXEL) for each in document["features"]]
    path = put_points(tmp_path / "p.geojson", document)
    assert not area(example, path).notices
    for i, name in ((3, "cluster 1"), (5, "cluster 0")):
        document["features"][i]["properties"]["stratum"] = name
    put_points(tmp_path / "p.geojson", document)
    assert area(example, path).notices == (
        "2 points are of another stratum than the map has there, the first point 4, of 'cluster 1' where "
        "the map has 'cluster 0'; are they of another map, or were lines mixed up?",
    )


def test_coordinates_are_those_of_the_crs_that_the_file_names(example: str, tmp_path: Path) -> None:
    document = ours()
    document["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::6933"}}
    for i, feature in enumerate(document["features"]):
        row, column = (feature["properties"][key] for key in ("row", "column"))
        at = [30 * (column + 0.5), 4e6 - 30 * (row + 0.5)]
        document["features"][i] = without(feature, *PIXEL)
        document["features"][i]["geometry"]["coordinates"] = at
    assert not area(example, put_points(tmp_path / "p.geojson", document)).notices


def test_what_a_table_adds_is_no_label(example: str, tmp_path: Path) -> None:
    document = ours(label=" cluster 0\t")
    empty: dict[str, Any] = {"type": "Feature", "properties": None, "geometry": None}
    document["features"] += [
        empty,
        {**empty, "properties": dict.fromkeys(("stratum", "label", "row"))},
    ]
    found = area(example, put_points(tmp_path / "p.geojson", document))
    assert (found.points, found.unlabelled, len(found.notices)) == (16, 2, 1)
    assert found.confusion["cluster 0"]["cluster 0"] == 3


def test_the_page_of_points_behind_a_url(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    put_points(tmp_path / "in/p q.geojson", ours(label="cluster 1"))
    served = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "in"))
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        found = area(example, f"{url}/p%20q.geojson?sig=secret")
        with pytest.raises(JobError, match="names no file; say where the page goes with --page"):
            area(example, f"{url}/?sig=secret")
        server.shutdown()
    assert found.page == "p q.html"
    assert "secret" not in (tmp_path / "p q.html").read_text()
    local = tmp_path / "in/p q.geojson"
    assert area(example, f"file://{local}").page == str(local.with_suffix(".html"))


@pytest.mark.parametrize("blank", ["", " "])
def test_an_empty_label_is_none_yet(example: str, tmp_path: Path, blank: str) -> None:
    found = area(example, put_points(tmp_path / "p.geojson", changed(5, label=blank)))
    assert (found.points, found.unlabelled) == (15, 1)
    with pytest.raises(JobError, match="point 6 has no property `stratum`"):
        area(example, put_points(tmp_path / "p.geojson", changed(5, stratum=blank)))


def changed(number: int, **properties: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(ONE))
    found["features"][number]["properties"].update(properties)
    return dict(found)


WRONG: dict[str, tuple[Any, str]] = {
    "no GeoJSON": ("hello", "is no GeoJSON"),
    "a list": ([1], "one object is needed"),
    "no features": ({"type": "FeatureCollection"}, "a FeatureCollection is needed"),
    "none labelled": (points([[0] * 4] * 4), "no point has a label yet"),
    "a label that is no class": (changed(5, label="cluster 9"), "point 6: label 'cluster 9' is no class"),
    "a number": (changed(5, label=1), "point 6: label 1 is no class of the store"),
    "a stratum that is no class": (changed(0, stratum="sea"), "point 1: stratum 'sea' is no class"),
    "no stratum": (changed(0, stratum=None), "point 1 has no property `stratum`"),
    "too few in a stratum": (
        points(((3, 1, 0, 0), (0, 4, 0, 0), (0, 0, 1, 0), (0, 0, 0, 4))),
        "1 labelled point in the stratum 'cluster 2', which is 32.00% of the map; two are needed",
    ),
    "of another map": (
        points(((3, 1, 0, 0), (0, 4, 0, 0), (0, 0, 4, 0), (0, 0, 0, 4)), segengine={"areas": {"a": 1}}),
        "is not of the classes of this store",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_points_are_one_line(example: str, tmp_path: Path, name: str) -> None:
    given, why = WRONG[name]
    path = tmp_path / "p.geojson"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    with pytest.raises(JobError) as caught:
        area(example, str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)
    assert not (tmp_path / "p.html").exists()


def test_a_point_without_the_property_label(example: str, tmp_path: Path) -> None:
    found = changed(0)
    del found["features"][2]["properties"]["label"]
    path = tmp_path / "p.geojson"
    path.write_text(json.dumps(found))
    with pytest.raises(JobError, match="point 3 has no property `label`"):
        area(example, str(path))
    with pytest.raises(JobError, match=r"none\.geojson: no such file"):
        area(example, str(tmp_path / "none.geojson"))
    path.write_text(json.dumps(ONE))
    with pytest.raises(JobError, match=r"--page: .* ends in neither .html"):
        area(example, str(path), page=str(tmp_path / "page.txt"))
