"""Reference points: in their strata, by area, the same for a seed, each with a picture of its place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image

import segengine
from segengine.areas.strata import Pixel, Strata
from segengine.commands.sample import sample
from segengine.errors import JobError

UTM = ("EPSG:32633", (10, 0, 400000, 0, -10, 5200000))
NAMES = ["cluster 0", "cluster 1", "cluster 2"]


def put(path: Path, pixels: np.ndarray, crs: str, transform: tuple[float, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "crs": crs}
    height, width = pixels.shape
    where = rasterio.Affine(*transform)
    with rasterio.open(path, "w", height=height, width=width, transform=where, **profile) as file:
        file.write(pixels, 1)


def run(folder: Path, segmenter: Any = None, **blocks: Any) -> str:
    default = {"kind": "kmeans", "clusters": 3, "scope": "run", "space": "bands"}
    store = str(folder / "masks.zarr")
    job = {
        "source": {"paths": [str(folder / "in")]},
        "segmenter": segmenter or default,
        "store": {"path": store, "chunk": 32, "shard": 64},
        **blocks,
    }
    segengine.run(job)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two scenes of three classes, of which the last is rare."""
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    for name, shift in (("a", 0), ("b", 5000)):
        pixels = rng.choice([20, 120, 220], (150, 190), p=[0.7, 0.28, 0.02]).astype(np.uint8)
        pixels[:20, :60] = 0
        put(folder / "in" / f"{name}.tif", pixels, UTM[0], (10, 0, 400000 + shift, 0, -10, 5200000))
    return run(folder)


def drawn(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection"
    return list(found["features"])


def test_points_lie_in_their_strata_where_they_say(store: str, tmp_path: Path) -> None:
    out = tmp_path / "points.geojson"
    report = sample(store, 120, str(out))
    features = drawn(out)
    assert len(features) == 120
    opened = segengine.open_store(store)
    inputs = Path(opened.job["source"]["paths"][0])
    points = geopandas.read_file(out).to_crs(UTM[0]).geometry
    seen = set()
    for feature, point in zip(features, points, strict=True):
        own = feature["properties"]
        assert own["label"] is None
        place = (own["scene"], own["frame"], own["row"], own["column"])
        seen.add(place)
        label = opened[own["scene"]].mask[own["frame"], own["row"], own["column"]]
        assert own["stratum"] == NAMES[int(label)]
        with rasterio.open(inputs / own["name"]) as file:
            assert file.index(point.x, point.y) == (own["row"], own["column"])
            assert file.xy(own["row"], own["column"]) == pytest.approx((point.x, point.y), abs=1e-3)
    assert len(seen) == 120
    counts = Counter(feature["properties"]["stratum"] for feature in features)
    assert {name: one["points"] for name, one in report.strata.items()} == counts
    areas = opened.metrics["areas"]
    whole = sum(areas[name]["square_metres"] for name in NAMES)
    for name, one in report.strata.items():
        assert one["area"] == pytest.approx(areas[name]["square_metres"], rel=1e-9)
        assert abs(one["points"] - 120 * areas[name]["square_metres"] / whole) < 1
    assert [f["properties"]["stratum"] for f in features] != sorted(
        f["properties"]["stratum"] for f in features
    )


def test_a_seed_gives_the_same_points_and_another_one_others(store: str, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        sample(store, 30, str(tmp_path / name / "p.geojson"), seed=seed)
    texts = [(tmp_path / name / "p.geojson").read_bytes() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    places = [
        {(f["properties"]["row"], f["properties"]["column"]) for f in json.loads(text)["features"]}
        for text in texts[1:]
    ]
    assert len(places[0] & places[1]) < 5
    pictures = [(tmp_path / name / "p-pictures" / "07.png").read_bytes() for name in "ab"]
    assert pictures[0] == pictures[1]


def test_pictures_show_the_image_and_outlines(store: str, tmp_path: Path) -> None:
    out = tmp_path / "points.geojson"
    sample(store, 12, str(out))
    inputs = Path(segengine.open_store(store).job["source"]["paths"][0])
    for feature in drawn(out)[:6]:
        own = feature["properties"]
        sheet = np.asarray(Image.open(tmp_path / own["picture"]).convert("RGB")).astype(int)
        with rasterio.open(inputs / own["name"]) as file:
            pixels = file.read(1)
        # the pixel itself, four times as large, in the middle of a frame of another colour
        value = int(pixels[own["row"], own["column"]])
        mark = (sheet == (255, 45, 85)).all(axis=-1)
        rows, columns = np.nonzero(mark[:, : sheet.shape[1] // 2])
        assert rows.size
        inside = (sheet[..., 0] == value) & (sheet[..., 1] == value) & (sheet[..., 2] == value)
        y, x = round(float(rows.mean())), round(float(columns.mean()))
        assert inside[y - 1 : y + 1, x - 1 : x + 1].any()
        outline = (sheet == (255, 214, 10)).all(axis=-1)
        half = sheet.shape[1] // 2
        assert not outline[:, : half - 12].any()
        assert outline[:, half:].sum() > 100


def test_without_the_image_there_is_the_outline_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).choice([20, 220], (80, 90)).astype(np.uint8)
    put(tmp_path / "in" / "a.tif", pixels, *UTM)
    store = run(tmp_path)
    (tmp_path / "in" / "a.tif").unlink()
    report = sample(store, 9, str(tmp_path / "out" / "p.geojson"))
    assert any("pictures without their image" in notice for notice in report.notices)
    assert len(list((tmp_path / "out" / "p-pictures").iterdir())) == 9


def test_pixels_are_drawn_by_their_area(tmp_path: Path) -> None:
    """Of a class that lies evenly over degrees, as many at a latitude as its cosine says."""
    put(
        tmp_path / "in" / "a.tif",
        np.full((160, 200), 9, np.uint8),
        "EPSG:4326",
        (0.5, 0, 0, 0, -0.5, 80),
    )
    store = run(tmp_path, {"kind": "threshold"})
    strata = Strata.of(segengine.open_store(store))
    assert_by_area(strata.draw(0, 3000, 5))
    assert_by_area(strata._rest(0, strata.parts, (), 3000, 5))  # where most is drawn already


def assert_by_area(pixels: list[Pixel]) -> None:
    assert len(set(pixels)) == 3000
    rows = np.array([pixel.row for pixel in pixels])
    counts = np.bincount(rows // 20, minlength=8)
    weight = np.cos(np.radians(80 - 0.5 * (np.arange(160) + 0.5))).reshape(8, 20).sum(axis=1)
    expected = 3000 * weight / weight.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi-squared of 7, 1 in 1,000
    columns = np.bincount([pixel.column // 25 for pixel in pixels], minlength=8)
    assert ((columns - 375) ** 2 / 375).sum() < 24.3


def test_a_small_class_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    pixels = np.full((70, 70), 20, np.uint8)
    pixels[5, 6:8] = 220
    put(tmp_path / "in" / "a.tif", pixels, *UTM)
    two = {"kind": "kmeans", "clusters": 2, "scope": "run", "space": "bands"}
    store = run(tmp_path, two)
    expected = {"cluster 0": 0.99, "cluster 1": 0.5}
    report = sample(store, 20, str(tmp_path / "p.geojson"), allocation="neyman", accuracy=expected)
    assert report.strata["cluster 1"]["points"] == 2
    pixels[5, 7] = 20
    put(tmp_path / "in" / "a.tif", pixels, *UTM)
    report = sample(run(tmp_path, two), 20, str(tmp_path / "q.geojson"))
    assert report.strata["cluster 1"]["points"] == 1
    assert "class cluster 1: has 1 pixels only, of 2 that were to be drawn" in report.notices


def test_all_of_a_class_is_drawn_where_all_is_asked_for(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strata = Strata.of(segengine.open_store(store))
    whole = sum(int((scene.mask[:] == 2).sum()) for scene in strata.store.scenes.values())
    shards = sum(part.areas[2] > 0 for part in strata.parts)
    reads = []
    real = Strata._read
    monkeypatch.setattr(Strata, "_read", lambda *given: reads.append(1) or real(*given))
    for size in (whole, 50 * whole):
        reads.clear()
        found = strata.draw(2, size, 0)
        assert len(set(found)) == len(found) == whole
        assert len(reads) <= 3 * shards


def test_the_first_points_have_pictures(store: str, tmp_path: Path) -> None:
    report = sample(store, 20, str(tmp_path / "p.geojson"), pictures=3)
    assert sorted(path.name for path in Path(report.pictures).iterdir()) == [
        "01.png", "02.png", "03.png"
    ]  # fmt: skip
    shown = [feature["properties"]["picture"] for feature in drawn(tmp_path / "p.geojson")]
    assert shown == [f"p-pictures/0{i}.png" for i in (1, 2, 3)] + [None] * 17
    assert "20 points, a picture of the first 3 in" in report.lines()[0]
    without = sample(store, 20, str(tmp_path / "q.geojson"), pictures=0)
    assert "20 points, without pictures" in without.lines()[0]
    assert not Path(without.pictures).exists()
    assert [f["geometry"] for f in drawn(tmp_path / "q.geojson")] == [
        f["geometry"] for f in drawn(tmp_path / "p.geojson")
    ]
    with pytest.raises(JobError, match="--pictures: -1 is below 0"):
        sample(store, 20, str(tmp_path / "q.geojson"), pictures=-1)


def test_neyman_takes_what_was_measured_or_is_told(store: str, tmp_path: Path) -> None:
    out = str(tmp_path / "p.geojson")
    with pytest.raises(
        JobError, match=r"neyman needs the user's accuracy .* --accuracy cluster 0=0.8"
    ):
        sample(store, 100, out, allocation="neyman")
    accuracy = {"cluster 0": 0.5, "cluster 1": 0.9, "cluster 2": 1.0}
    report = sample(store, 100, out, allocation="neyman", accuracy=accuracy)
    points = [one["points"] for one in report.strata.values()]
    assert points[2] == 2
    weights = [report.strata[n]["share"] * (a * (1 - a)) ** 0.5 for n, a in accuracy.items()]
    assert points[0] == pytest.approx(98 * weights[0] / sum(weights), abs=1)

    folder = tmp_path / "measured"
    pixels = np.random.default_rng(2).choice([20, 220], (80, 90)).astype(np.uint8)
    put(folder / "in" / "a.tif", pixels, *UTM)
    truth = (pixels > 100).astype(np.uint8)
    truth[:40] = 1  # half of what is dark is light in truth
    put(folder / "truth" / "a.tif", truth + 1, *UTM)
    paths = [str(folder / "truth" / "{stem}.tif")]
    spec = {"paths": paths, "classes": ["dark", "light"], "values": [1, 2]}
    measured = run(folder, {"kind": "threshold"}, truth=spec)
    report = sample(measured, 60, str(folder / "p.geojson"), allocation="neyman")
    # background is right in a half of its pixels, object in all
    assert [one["points"] for one in report.strata.values()] == [58, 2]


def test_what_was_labelled_is_not_drawn_over(store: str, tmp_path: Path) -> None:
    out = tmp_path / "points.geojson"
    sample(store, 10, str(out))
    sample(store, 10, str(out), seed=2)  # nobody has changed it
    document = json.loads(out.read_text())
    document["features"][0]["properties"]["label"] = "cluster 1"
    document["features"][1]["properties"]["label"] = ""  # as a table has what is not there
    out.write_text(json.dumps(document))
    with pytest.raises(JobError, match=r"points.geojson holds 10 points already, of which 1 are"):
        sample(store, 10, str(out))
    assert json.loads(out.read_text()) == document
    sample(store, 10, str(out), overwrite=True)
    for other in ("{}", "[1]", "{", '{"features": [{"properties": null}]}', "\0"):
        out.write_text(other)
        with pytest.raises(
            JobError, match=r"points.geojson is there, and no points of `sample`; add"
        ):
            sample(store, 10, str(out))
        assert out.read_text() == other


def test_a_large_file_is_not_said_to_hold_no_points(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "points.geojson"
    sample(store, 10, str(out), pictures=0)
    out.write_text(out.read_text().replace("null", '"cluster 1"'))
    monkeypatch.setattr("segengine.commands.sample._LONGEST", 100)
    with pytest.raises(
        JobError, match=r"points.geojson is there, and is large: it may hold labels"
    ):
        sample(store, 10, str(out))


def test_pictures_that_the_next_run_would_take_are_told(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).choice([20, 220], (80, 90)).astype(np.uint8)
    put(tmp_path / "in" / "a.tif", pixels, *UTM)
    report = sample(run(tmp_path), 9, str(tmp_path / "in" / "p.geojson"))
    assert any("9 pictures lie where the next run looks" in notice for notice in report.notices)


def test_wrong_usage_is_one_line(store: str, tmp_path: Path, bench: Any, noise: Any) -> None:
    out = str(tmp_path / "p.geojson")
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run({"kind": "threshold"})
    for path, size, place, options, why in (
        (store, 0, out, {}, "--size: 0 is not from 1"),
        (store, 5, out, {}, "--size: 5 is too few: 3 strata need 6"),
        (store, 50, str(tmp_path / "p.csv"), {}, "ends in neither .geojson"),
        (store, 50, f"{store}/p.geojson", {}, "lies in the store itself"),
        (store, 50, out, {"allocation": "optimal"}, "none of proportional, neyman"),
        (store, 50, out, {"accuracy": {"cluster 0": 0.5}}, "goes with --allocation neyman"),
        (store, 50, out, {"allocation": "neyman", "accuracy": {"x": 0.5}}, "'x' is no class"),
        (
            store,
            50,
            out,
            {"allocation": "neyman", "accuracy": {"cluster 0": 5.0}},
            "not from 0 to 1",
        ),
        (str(bench.store), 50, out, {}, "no scene of it is georeferenced"),
        (str(tmp_path / "none.zarr"), 50, out, {}, "no segengine store"),
    ):
        with pytest.raises(JobError, match=why):
            sample(path, size, place, **options)
    assert not (tmp_path / "p.geojson").exists()
