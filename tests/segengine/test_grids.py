"""Jobs over scenes of several files, on a grid and in an area that the job asks for, end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.warp import transform

import segengine
from segengine.commands.status import status
from segengine.commands.zones import zones
from segengine.errors import JobError
from segengine.job import load_job
from segengine.planning.layout import Cut, Probed, place
from segengine.segmenters.kmeans import KMeans
from segengine.sources.raster import RasterSource
from segengine.store.values import decode, encode
from segengine.types import Entry, FrameRef, Part, Probe
from tests.segengine.sources.scenes import CORNER, UTM, field, tile, write

KMEANS = {"kind": "kmeans", "clusters": 3, "space": "bands", "scope": "scene"}
BANDS = ["B04", "B11", "B01"]


def source(bench: Any, **more: Any) -> dict[str, Any]:
    return {"paths": [f"{bench.inputs}/{{scene}}/*_{{band}}.tif"], "bands": BANDS, **more}


def geojson(path: Path, *rings: Any) -> str:
    """A polygon, of metres from the scenes' corner, in degrees."""

    def degrees(ring: Any) -> Any:
        xs, ys = zip(*[*ring, ring[0]], strict=True)
        moved = transform(UTM, "OGC:CRS84", np.add(xs, CORNER[0]), np.add(ys, CORNER[1]))
        return [list(point) for point in zip(*moved, strict=True)]

    shape = {"type": "Polygon", "coordinates": [degrees(ring) for ring in rings]}
    path.write_text(json.dumps(shape))
    return str(path)


def mask(bench: Any, scene: str = "S1") -> Any:
    return np.asarray(bench.open()[scene].mask)[0]


@pytest.mark.usefixtures("plain_report")
def test_a_scene_of_several_files_is_segmented_as_one_array(bench: Any) -> None:
    bands = tile(bench.inputs, "S1")
    tile(bench.inputs, "S2")
    (bench.inputs / "S2/S2_B11.tif").unlink()
    done = bench.run(KMEANS, source=source(bench), store={"shard": 64})
    assert done.exit_code == 3
    assert [(f.name, f.kind, f.reason) for f in done.failed] == [
        ("S2", "corrupt", "has no file of band B11")
    ]
    stacked = np.stack(
        [
            np.kron(bands[b], np.ones((n, n), "uint16"))
            for b, n in zip(BANDS, (1, 2, 6), strict=True)
        ],
        axis=-1,
    )
    wanted = segengine.segment(stacked, {**KMEANS, "scope": "frame"})
    np.testing.assert_array_equal(mask(bench), wanted)
    attributes = bench.open()["S1"].attributes
    assert attributes["transform"] == [10, 0, CORNER[0], 0, -10, CORNER[1]]
    # nothing is read again, and the band that arrives makes its scene
    assert bench.run(KMEANS, source=source(bench), store={"shard": 64}).computed == 0
    write(bench.inputs / "S2/S2_B11.tif", field(20, 1800, 1), 20)
    done = bench.run(KMEANS, source=source(bench), store={"shard": 64})
    assert (done.exit_code, done.computed) == (0, 9)
    # any of its files makes it stale
    write(bench.inputs / "S1/S1_B01.tif", field(60, 1800, 7), 60)
    assert bench.run(KMEANS, source=source(bench), store={"shard": 64}).computed == 9


@pytest.mark.usefixtures("plain_report")
def test_masks_on_another_grid_do_not_depend_on_the_cut(new_bench: Any) -> None:
    first, second = new_bench(), new_bench()
    asked = {"crs": "EPSG:32634", "resolution": 9.0, "resampling": "cubic"}
    for bench, shard in ((first, 64), (second, 256)):
        tile(bench.inputs, "S1")
        bench.run(KMEANS, source=source(bench, **asked), store={"shard": shard})
    assert mask(first).shape[0] > 200
    np.testing.assert_array_equal(mask(first), mask(second))


@pytest.mark.usefixtures("plain_report")
def test_only_what_lies_in_the_area_is_labelled_and_scored(bench: Any) -> None:
    tile(bench.inputs, "S1")
    tile(bench.inputs, "far", corner=(CORNER[0] + 50_000, CORNER[1]))
    area = geojson(bench.root / "a.geojson", [(203, -207), (1103, -207), (1103, -907), (203, -907)])
    labels = bench.root / "labels"
    write(labels / "S1.tif", np.ones((180, 180), "uint8"), 10)
    blocks: Any = {
        "source": source(bench, area=area),
        "truth": {"paths": [f"{labels}/{{scene}}.tif"], "classes": ["a", "b", "c"]},
        "store": {"shard": 64},
    }
    segmenter = {"kind": "kmeans", "clusters": 3, "space": "bands", "scope": "run"}
    done = bench.run(segmenter, **blocks)
    assert done.exit_code == 0
    store = bench.open()
    assert list(store.scenes) == ["S1"]  # the other takes no place
    inside = np.zeros((180, 180), bool)
    inside[21:91, 20:110] = True
    np.testing.assert_array_equal(mask(bench) != store["S1"].void, inside)
    assert np.sum(store.metrics["confusion"]["counts"]) == inside.sum()
    assert sum(r.pixels for r in store.records("S1", "mask")) == inside.sum()
    # the content of the file counts, not where it lies
    moved = shutil.copy(area, bench.root / "b.geojson")
    blocks["source"] = source(bench, area=str(moved))
    assert bench.run(segmenter, **blocks).computed == 0
    geojson(Path(moved), [(203, -207), (1103, -207), (1103, -807), (203, -807)])
    assert bench.run(segmenter, **blocks).computed == 9
    inside[81:91] = False
    np.testing.assert_array_equal(mask(bench) != store["S1"].void, inside)


@pytest.mark.usefixtures("plain_report")
def test_a_scene_that_the_area_has_left_is_void_for_that(bench: Any) -> None:
    """And one of nothing but nodata for that, wherever the area lies."""
    for name, east in (("S1", 0), ("S2", 4000)):
        write(bench.inputs / f"{name}.tif", field(10, 600, 1), 10, (CORNER[0] + east, CORNER[1]))
    write(bench.inputs / "S3.tif", np.zeros((60, 60), "uint16"), 10, CORNER, nodata=0)
    segmenter = {"kind": "threshold", "method": "fixed", "levels": [100]}
    area, first = bench.root / "a.geojson", [(3, -3), (5000, -3), (5000, -600), (3, -600)]
    source = {"paths": [f"{bench.inputs}/*.tif"], "area": geojson(area, first)}
    nodata = ("S3.tif", "corrupt", "no valid pixel: every pixel is nodata")
    for ring, left in ((first, []), ([(x + 900, y) for x, y in first], ["S1", "S3"])):
        geojson(area, ring)
        done = bench.run(segmenter, source=source)
        told = [(f.name, f.kind, f.reason) for f in done.failed]
        missed = "no valid pixel: source.area does not meet it"
        assert told == ([(f"{name}.tif", "corrupt", missed) for name in left] or [nodata])
        assert [(f.name, f.kind, f.reason) for f in status(str(bench.store)).failed] == told


def test_an_area_that_cannot_be_meant_stops_the_run_in_one_line(bench: Any) -> None:
    tile(bench.inputs, "S1")
    nowhere = {"area": [100.0, 10.0, 101.0, 11.0]}
    with pytest.raises(JobError, match=r"^source\.area: lies outside all of the 1 inputs"):
        bench.run(KMEANS, source=source(bench, **nowhere))
    dot = geojson(bench.root / "dot.geojson", [(201, -201), (203, -201), (203, -203)])
    for mosaic in (None, "newest"):
        with pytest.raises(
            JobError, match=r"^source\.area: holds no centre of a pixel of the 1 inp"
        ):
            bench.run(KMEANS, source=source(bench, area=dot, mosaic=mosaic))
    with pytest.raises(JobError, match=r"^source\.area: .*no\.geojson: no such file"):
        bench.run(KMEANS, source=source(bench, area=f"{bench.root}/no.geojson"))
    with pytest.raises(JobError, match=r"^source\.crs: .* is no CRS"):
        bench.run(KMEANS, source=source(bench, crs="EPSG:0"))


def test_a_resolution_of_two_degrees_is_not_meant(bench: Any) -> None:
    tile(bench.inputs, "S1")
    with pytest.raises(JobError, match=r"^source\.resolution: 2\.0 makes one pixel of all"):
        bench.run(KMEANS, source=source(bench, crs="EPSG:4326", resolution=2.0))


@pytest.mark.usefixtures("plain_report")
def test_photos_have_no_resolution(bench: Any) -> None:
    bench.put("a.png", np.zeros((40, 40), np.uint8))
    done = bench.run({"kind": "threshold", "method": "otsu"}, source={"resolution": 2.0})
    assert done.exit_code == 3
    assert "is read as images, which has no source.resolution" in done.failed[0].reason


@pytest.mark.usefixtures("plain_report")
def test_no_segmenter_is_asked_about_shards_without_a_valid_pixel(
    new_bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees, calls = [], []
    real = KMeans.segment

    def counted(self: Any, pixels: Any) -> Any:
        calls[-1] += 1
        return real(self, pixels)

    monkeypatch.setattr(KMeans, "segment", counted)
    for empty in (True, False):
        bench = new_bench()
        for name, resolution in (("B04", 10), ("B11", 20), ("B01", 60)):
            values = field(resolution, 1800)
            values[: len(values) // 2] = 0
            write(bench.inputs / f"S1/S1_{name}.tif", values, resolution, nodata=0)
        calls.append(0)
        bench.run(
            KMEANS, source=source(bench, skip={"empty": empty}), store={"shard": 32, "chunk": 16}
        )
        trees.append(bench.tree())
    assert trees[0] == trees[1]
    assert calls == [24, 36]  # of 6 x 6 shards the first two rows lie in rows 0 to 63 of 90


@pytest.mark.usefixtures("plain_report")
def test_the_worked_example(tmp_path: Path) -> None:
    """deployments/jobs/sentinel-2.yaml, on a small scene laid out as ESA does."""
    example = Path(__file__).parents[2] / "deployments/jobs/sentinel-2.yaml"
    job = tmp_path / "job.yaml"
    job.write_text(example.read_text().replace("/srv/segengine", str(tmp_path)))
    images = tmp_path / "S2/S2A_T33.SAFE/GRANULE/L2A_T33/IMG_DATA"
    bands = {
        "B04_10m": 10,
        "B03_10m": 10,
        "B02_10m": 10,
        "B8A_20m": 20,
        "TCI_10m": 10,
        "B04_20m": 20,
    }
    for seed, (name, resolution) in enumerate(bands.items()):
        values = field(resolution, 2400, seed)
        path = images / f"R{resolution}m" / f"T33_20260101_{name}.jp2"
        options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        write(path, values, resolution, **options)
    geojson(tmp_path / "fields.geojson", [(111, -111), (1511, -311), (811, -1911)])
    assert segengine.run(load_job(job)).exit_code == 0
    store = segengine.open_store(tmp_path / "masks/sentinel-2.zarr")
    (scene,) = store.scenes.values()
    assert scene.name == "S2A_T33"
    assert scene.attributes["transform"][0] == 20
    found = np.asarray(scene.mask)[0]
    assert found.shape == (120, 120)
    # a triangle of 1,400 x 200, 700 x 1,800 m
    assert (found != scene.void).sum() * 400 == pytest.approx(1_190_000, rel=0.01)
    assert set(np.unique(found[found != scene.void])) == set(range(5))


def test_stores_show_the_pixels_that_were_segmented(bench: Any) -> None:
    bands = tile(bench.inputs, "S1")
    bench.run(KMEANS, source=source(bench))
    found = bench.open()["S1"].pixels(0)
    np.testing.assert_array_equal(found.pixels[..., 0], bands["B04"])


def test_credentials_of_parts_are_not_committed() -> None:
    part = Part("https://me:secret@host/S1_B04.tif?sig=secret", name="B04")
    probe = Probe(kind="raster", height=9, width=9, bands=1, dtype="uint8")
    entry = Entry("S1", part.uri, "mark", (part,))
    (layout,) = place({}, {"S1": entry}, [Probed(entry, probe)], Cut(16, 16)).values()
    assert layout.frame(0).parts == (part,)
    assert layout.public.parts == (Part("https://host/S1_B04.tif", name="B04"),)
    assert decode(encode(layout.public)).parts == layout.public.parts
    assert "secret" not in repr((part, entry, layout, layout.public.uris))


def test_entries_and_refs_of_one_file_have_no_parts() -> None:
    assert Entry("a", "/a", "").parts == FrameRef(0, "a", "/a", "", 1, 1).parts == ()


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("shard", [64, 256])
def test_truth_outside_the_area_counts_nowhere(new_bench: Any, shard: int) -> None:
    """Objects cut by its border and values without a class, against truth that was cut by hand."""
    ring = [(203, -207), (1103, -207), (1103, -907), (203, -907)]
    inside = np.zeros((180, 180), bool)
    inside[21:91, 20:110] = True
    labels, ids = np.zeros((180, 180), "uint8"), np.zeros((180, 180), "uint8")
    boxes = [
        (5, 30, 5, 30),
        (40, 60, 40, 60),
        (70, 130, 100, 120),
        (120, 150, 30, 60),
        (0, 9, 0, 180),
    ]
    for number, (top, bottom, left, right) in enumerate(boxes, 1):
        labels[top:bottom, left:right], ids[top:bottom, left:right] = 1, number
    labels[150:, :] = 9  # no class, over a sixth of the scene
    labels[50, 50] = 9
    documents = []
    for by_hand in (False, True):
        bench = new_bench()
        tile(bench.inputs, "S1")
        area = geojson(bench.root / "a.geojson", ring)
        shown = np.where(inside, labels, 255) if by_hand else labels
        write(bench.root / "labels/S1.tif", shown.astype("uint8"), 10)
        own = np.where(inside, ids, 0) if by_hand else ids
        write(bench.root / "ids/S1.tif", own.astype("uint8"), 10)
        done = bench.run(
            {"kind": "threshold", "instances": "components"},
            source={"paths": [f"{bench.inputs}/S1/S1_B04.tif"], "area": area},
            truth={
                "paths": [f"{bench.root}/labels/S1.tif"],
                "instances": f"{bench.root}/ids/S1.tif",
                "classes": ["background", "object"],
            },
            store={"shard": shard},
            evaluate={"metrics": ["confusion", "coco", "panoptic_quality", "counting"]},
        )
        assert not done.failed
        documents.append(bench.open().metrics)
    for document in documents:
        for row in document["unknown_labels"]:
            assert (row["value"], row["pixels"], row["share"]) == (9, 1, 1 / inside.sum())
        assert not document["missing_truth"]
    for document in documents:
        del document["truth"], document["throughput"]  # where it lies, and how fast that went
    assert documents[0] == documents[1]
    (found, _) = documents
    assert np.sum(found["confusion"]["counts"]) == inside.sum() - 1


@pytest.mark.usefixtures("plain_report")
def test_scenes_outside_are_looked_at_once(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where they, the area or the grid change; by the files that GDAL opens."""
    opened: list[str] = []
    real: Any = RasterSource.open

    def noting(self: Any, uri: str, *args: Any, **more: Any) -> Any:
        opened.append(Path(uri).name.partition("_")[0])
        return real(self, uri, *args, **more)

    monkeypatch.setattr(RasterSource, "open", noting)
    tile(bench.inputs, "S1")
    for i in range(4):
        tile(bench.inputs, f"far{i}", 60, corner=(CORNER[0] + 50_000, CORNER[1] + 1000 * i))
    area = geojson(bench.root / "a.geojson", [(203, -207), (1103, -207), (1103, -907), (203, -907)])

    def run(**options: Any) -> list[str]:
        opened.clear()
        done = bench.run(KMEANS, source=source(bench, area=area, **options), store={"shard": 64})
        assert (done.exit_code, done.scenes) == (0, 1)
        assert any("4 inputs lie outside source.area" in line for line in done.messages)
        return sorted(each for each in opened if each != "S1")

    every = sorted(f"far{i}" for i in range(4) for _ in BANDS)
    assert run() == every
    assert run() == []
    assert run() == []
    write(
        bench.inputs / "far1/far1_B04.tif",
        field(10, 60, 5),
        10,
        (CORNER[0] + 50_000, CORNER[1] + 1000),
    )
    assert run() == ["far1"] * 3
    assert run() == []
    assert run(resolution=20.0) == every
    geojson(Path(area), [(203, -207), (1103, -207), (1103, -807), (203, -807)])
    assert run(resolution=20.0) == every
    assert run(resolution=20.0) == []
    # one that is found inside takes its place
    geojson(Path(area), [(203, -207), (60_000, -207), (60_000, 300), (203, 300)])
    done = bench.run(KMEANS, source=source(bench, area=area, resolution=20.0), store={"shard": 64})
    assert done.scenes == 2


@pytest.mark.usefixtures("plain_report")
def test_the_worked_example_of_parcels(tmp_path: Path) -> None:
    """deployments/jobs/parcels.yaml, and the areas that its first lines tell to ask for."""
    example = Path(__file__).parents[2] / "deployments/jobs/parcels.yaml"
    job = tmp_path / "job.yaml"
    job.write_text(example.read_text().replace("/srv/segengine", str(tmp_path)))
    scenes = tmp_path / "scenes"
    write(scenes / "near.tif", field(20, 7200), 20)
    write(scenes / "far.tif", field(20, 7200), 20, (CORNER[0] + 90_000, CORNER[1]))
    square = [(1003, -1207), (2203, -1207), (2203, -2407), (1003, -2407)]
    parcels = geojson(tmp_path / "parcels.geojson", square)
    done = segengine.run(load_job(job))
    assert (done.exit_code, done.scenes, done.shards) == (0, 1, 9)
    store = segengine.open_store(tmp_path / "masks/parcels.zarr")
    found = np.asarray(store["near"].mask)[0]
    assert found.shape == (720, 720)
    assert (found != store["near"].void).sum() == 120 * 120
    feature = {"type": "Feature", "properties": {"owner": "a"}}
    polygon = json.loads(Path(parcels).read_text())
    Path(parcels).write_text(json.dumps(feature | {"geometry": polygon}))
    table = zones(str(tmp_path / "masks/parcels.zarr"), parcels, str(tmp_path / "parcels.csv"))
    assert sum(table.areas.values()) == pytest.approx(1_440_000, rel=0.02)
    (header, row) = (tmp_path / "parcels.csv").read_text().splitlines()
    assert header.startswith('"owner"')
    assert row.startswith('"a"')
