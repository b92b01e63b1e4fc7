"""Prompts of files and stores: which each frame and each window is asked for, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyproj import CRS, Transformer

import segengine
from segengine import asked
from segengine.commands.plan import plan
from segengine.errors import JobError
from segengine.ground import Ground
from segengine.job import parse_job
from segengine.segmenters._drawn import drawn
from segengine.segmenters._prompts import MOST, Prompts
from segengine.segmenters._stored import stored
from segengine.segmenters.sam import create
from segengine.types import Frames, Site
from tests.segengine.moving import passing, write_video
from tests.segengine.segmenters import finders, sams

pytestmark = pytest.mark.usefixtures("plain_report")
Array = np.ndarray[Any, Any]
UTM = CRS("EPSG:32633")
SIZE = (60, 80)
GROUND = Ground(UTM.to_wkt(), (10, 0, 500_000, 0, -10, 5_500_000), *SIZE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is bright around a point, or around the middle of a box."""
    folder = tmp_path_factory.mktemp("sam")
    encoder, decoder = (
        sams.encoder(folder / "e.onnx", None),
        sams.decoder(folder / "d.onnx", None),
    )
    return {"encoder": encoder, "decoder": decoder}


def square(x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    ring = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
    return {"type": "Polygon", "coordinates": [ring]}


def point(x: float, y: float) -> dict[str, Any]:
    return {"type": "Point", "coordinates": [x, y]}


def geojson(path: Path, *shapes: Mapping[str, Any], crs: str | None = None) -> str:
    features = [{"type": "Feature", "properties": {}, "geometry": s} for s in shapes]
    document: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs is not None:
        document["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(document))
    return str(path)


def shown(prompts: Prompts) -> list[list[float]]:
    """x, y of a point; x1, y1, x2, y2 of a box."""
    return [
        (c if boxed else c[:1]).ravel().tolist()
        for c, boxed in zip(prompts.corners, prompts.boxed, strict=True)
    ]


def test_shapes_of_a_file_are_points_and_boxes_of_each_frame(tmp_path: Path) -> None:
    several = {"type": "MultiPoint", "coordinates": [[1, 2, 9], [3, 4]]}
    two = {
        "type": "MultiPolygon",
        "coordinates": [square(50, 5, 60, 9)["coordinates"], square(70, 30, 95, 40)["coordinates"]],
    }
    file = geojson(tmp_path / "p.geojson", point(79.5, 59), point(80, 5), several, two)
    found = drawn(file, "auto", "boxes")
    wanted = [[79.5, 59], [1, 2], [3, 4], [50, 5, 80, 40]]  # the box is cut to the frame
    assert shown(found.of(None, 0, SIZE)) == wanted
    middles = drawn(file, "auto", "centroids")
    assert shown(middles.of(None, 0, (60, 100)))[-1] == pytest.approx(
        [(55 * 40 + 82.5 * 250) / 290, (7 * 40 + 35 * 250) / 290]
    )
    assert found.digest == middles.digest != drawn(geojson(tmp_path / "q", two), "auto", "boxes")


def test_a_window_is_asked_for_what_has_its_middle_there() -> None:
    corners = np.array([[[5, 5], [5, 5]], [[0, 0], [30, 10]], [[20, 20], [20, 20]]], float)
    prompts = Prompts(corners, np.array([False, True, False]))
    assert shown(prompts.of_window((0, 0), (16, 16))) == [[5, 5], [0, 0, 16, 10]]
    assert shown(prompts.of_window((4, 12), (16, 16))) == [[0, 0, 16, 6], [8, 16]][:1]
    assert shown(prompts.of_window((5, 5), (16, 16))) == [[0, 0], [0, 0, 16, 5], [15, 15]]


@pytest.mark.parametrize("crs", [None, "urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:32633", "EPSG:3857"])
def test_places_on_the_map_are_brought_to_the_pixels_of_a_scene(
    tmp_path: Path, crs: str | None
) -> None:
    to = Transformer.from_crs(UTM, crs or "OGC:CRS84", always_xy=True).transform

    def at(column: float, row: float) -> tuple[float, float]:
        return to(500_000 + 10 * column, 5_500_000 - 10 * row)

    corners = [at(*c) for c in ((10, 20), (30, 20), (30, 25), (10, 25), (10, 20))]
    box = {"type": "Polygon", "coordinates": [corners]}
    file = geojson(tmp_path / "p", point(*at(12.25, 40.5)), box, point(*at(-3, 5)), crs=crs)
    found = drawn(file, "map" if crs is None else "auto", "boxes")
    prompts = found.of(Frames("a", ("a.tif",), GROUND), 0, SIZE)
    assert prompts.boxed.tolist() == [False, True]
    near = [[[12.25, 40.5], [12.25, 40.5]], [[10, 20], [30, 25]]]
    np.testing.assert_allclose(prompts.corners, near, atol=1e-3)
    for frames in (None, Frames("a", ("a.png",))):
        with pytest.raises(ValueError, match=r"^prompts: .*p: lies in .*not georeferenced; give"):
            found.of(frames, 0, SIZE)
    if crs is not None:
        own = json.loads(Path(file).read_text())["features"][0]["geometry"]["coordinates"]
        big = (int(own[1]) + 60, int(own[0]) + 80)
        assert shown(drawn(file, "pixels", "boxes").of(None, 0, big))[0] == own


def test_a_scene_beyond_180_degrees_has_the_places_of_the_other_side(tmp_path: Path) -> None:
    ground = Ground(CRS("EPSG:4326").to_wkt(), (0.1, 0, 179, 0, -0.1, 2), 40, 40)
    box = square(-179.5, 0, -179, 1)
    file = geojson(tmp_path / "p", point(-179, 1), point(179.55, 0), point(0, 0), box)
    found = drawn(file, "map", "boxes").of(Frames("a", ("a",), ground), 0, (40, 40))
    pixels = [[20, 10], [5.5, 20], [15, 10, 20, 20]]
    for got, wanted in zip(shown(found), pixels, strict=True):
        assert got == pytest.approx(wanted)


def write_scene(path: Path, picture: Array, east: float = 0) -> None:
    """A GeoTIFF where `GROUND` is, or so many metres east of it."""
    import rasterio
    from rasterio.transform import Affine

    path.parent.mkdir(exist_ok=True)
    height, width, count = picture.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": "uint8",
    }
    place = {"crs": UTM, "transform": Affine.translation(east, 0) * Affine(*GROUND.transform)}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(picture.transpose(2, 0, 1))


def told(job: dict[str, Any]) -> list[str]:
    """What a plan and a run of the job both say."""
    found = list(plan(parse_job(job)).notices)
    assert list(segengine.run(job).messages) == found
    return found


def test_degrees_that_are_taken_for_pixels_are_told(
    model: dict[str, str], tmp_path: Path, bench: Any
) -> None:
    write_scene(bench.inputs / "a.tif", np.zeros((*SIZE, 3), np.uint8))
    write_scene(bench.inputs / "b.tif", np.zeros((*SIZE, 3), np.uint8), east=1e6)
    degrees = Transformer.from_crs(UTM, "OGC:CRS84", always_xy=True).transform(500_400, 5_499_700)
    file = geojson(tmp_path / "p.geojson", point(*degrees), point(*degrees))
    segmenter = {"kind": "sam", **model, "prompts": file}
    assert told(bench.job(segmenter)) == [
        f"segmenter.prompts: {file}: names no CRS, so its numbers are pixels of each frame, and 2 scenes "
        "(a, b) are georeferenced; if they are degrees, set coordinates: map"
    ]
    none = f"segmenter.prompts: {file}: none of its 2 prompts is in"
    job = bench.job(segmenter | {"coordinates": "map"})
    assert told(job)[1:] == [
        f"{none} scene b, and no object will be found there"
    ]  # stale before it


@pytest.mark.parametrize("crs", [None, "EPSG:32633", "EPSG:32634", "EPSG:3857"])
def test_prompts_that_no_frame_has_are_told(tmp_path: Path, crs: str | None) -> None:
    """In one line for all scenes; of those that lie nowhere another tells."""
    here, nowhere = Site("a", frozenset({SIZE, (9, 9)}), GROUND), Site("b", frozenset({SIZE}))
    far = (80, 5) if crs is None else (1e300, 1e300)
    file = geojson(tmp_path / "p.geojson", point(*far), crs=crs)
    found = drawn(file, "pixels" if crs is None else "auto", "boxes")
    said = f"prompts: {file}: its prompt is not in "
    (line,) = found.remarks([here])
    assert line == f"{said}any frame, and no object will be found there"
    which = "any frame" if crs is None else "scene a"
    assert list(found.remarks([here, nowhere])) == [line.replace("any frame", which)]
    assert len(found.of(Frames("a", ("a.tif",), GROUND), 0, SIZE)) == 0
    wide = replace(here, sizes=frozenset({SIZE, (60, 81)}))
    assert list(found.remarks([wide])) == ([] if crs is None else [line])


def test_a_job_asks_at_places_of_the_map_where_a_scene_lies(
    model: dict[str, str], tmp_path: Path, bench: Any
) -> None:
    picture, ids = finders.discs(2, (64, 80), 3, apart=24)
    write_scene(bench.inputs / "a.tif", picture)
    rows, cols = np.nonzero(ids == 2)
    at = Transformer.from_crs(UTM, "OGC:CRS84", always_xy=True).transform(
        500_000 + 10 * (cols.mean() + 0.5), 5_500_000 - 10 * (rows.mean() + 0.5)
    )
    prompts = {"prompts": geojson(tmp_path / "p.geojson", point(*at)), "coordinates": "map"}
    assert bench.run({"kind": "sam", **model, **prompts}).exit_code == 0
    (scene,) = bench.open().scenes.values()
    found = scene.instances[0, :64, :80] > 0
    assert (found & (ids == 2)).sum() >= 0.9 * (found | (ids == 2)).sum()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no GeoJSON: "),
        ("[1]", "is no GeoJSON: one object is needed"),
        ('{"type": "FeatureCollection", "features": []}', "has 0 points and boxes; give 1 to 16,384"),
        ('{"type": "LineString", "coordinates": [[1, 2], [3, 4]]}', "feature 1 is a LineString; points"),
        ('{"type": "Point", "coordinates": [1]}', "feature 1 is no point of GeoJSON: two numbers"),
        ('{"type": "Point", "coordinates": [true, 2]}', "feature 1 is no point of GeoJSON"),
        ('{"type": "Point", "coordinates": [1e999, 2]}', "has coordinates that are no finite numbers"),
        ('{"type": "Point", "coordinates": [NaN, 2]}', "is no GeoJSON: NaN is no number of JSON"),
        (f'{{"type": "Point", "coordinates": [1{"0" * 400}, 2]}}', "numbers that are too large"),
        ('{"type": "MultiPoint", "coordinates": 3}', "feature 1 is no MultiPoint of GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "feature 1 is no polygon of GeoJSON"),
        (
            '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}',
            "feature 1 is a polygon of no area",
        ),
        ('{"type": "Feature", "geometry": 4}', "a geometry is no object"),
        ('{"type": "Point", "coordinates": [-105, 40]}', "beyond all frames: .*coordinates: map"),
        ('{"type": "Point", "coordinates": [1e300, 1e300]}', "beyond all frames: .*coordinates: map"),
        ('{"type": "Point", "coordinates": [5, 400], "crs": {"properties": {"name": "EPSG:4326"}}}',
         "no longitudes and latitudes"),
        ('{"type": "Point", "coordinates": [5, 4], "crs": {"properties": {"name": "EPSG:99999"}}}',
         "names no CRS that is known: EPSG:99999"),
        ('{"type": "Point", "coordinates": [5, 4], "crs": "here"}', "its member `crs` names no CRS"),
        ('{"type": "MultiPoint", "coordinates": [' + "[1, 2]," * MOST + "[1, 2]]}", "has 16385 points"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "p.geojson"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"^prompts: .*p\.geojson: .*{said}") as error:
        drawn(str(file), "auto", "boxes")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------- store

NAMES = ("a.png", "b.png", "none.png")
COUNTS = (4, 6, 0)
BRIGHT = {
    "kind": "threshold",
    "method": "fixed",
    "levels": 120,
    "instances": "components",
}


@pytest.fixture(scope="module")
def finds(new_bench: Any) -> tuple[Any, list[Array]]:
    """A bench with the objects of three photos of one size, and which there are."""
    bench = new_bench()
    truth = []
    for seed, (name, count) in enumerate(zip(NAMES, COUNTS, strict=True)):
        picture, ids = finders.discs(seed, (90, 110), count, apart=24)
        bench.put(name, picture)
        truth.append(ids)
    assert bench.run(BRIGHT, store={"chunk": 32, "shard": 128}).exit_code == 0
    return bench, truth


def boxes(ids: Array) -> list[list[float]]:
    found = []
    for number in range(1, int(ids.max(initial=0)) + 1):
        rows, cols = np.nonzero(ids == number)
        found.append([float(v) for v in (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)])
    return found


def of(prompting: Any, name: str, size: tuple[int, int] = (90, 110)) -> list[list[float]]:
    return shown(prompting.of(Frames("", ("other.png", name)), 1, size))


def test_the_objects_of_a_store_are_prompts_of_the_frames_of_their_names(
    finds: tuple[Any, list[Array]],
) -> None:
    bench, truth = finds
    squares, middles = (stored(str(bench.store), ask) for ask in ("boxes", "centroids"))
    for name, ids in zip(NAMES, truth, strict=True):
        assert of(squares, name) == boxes(ids)
        wanted = [
            [np.nonzero(ids == i)[k].mean() + 0.5 for k in (1, 0)] for i in np.unique(ids)[1:]
        ]
        np.testing.assert_allclose(of(middles, name), np.reshape(wanted, (-1, 2)).tolist())
    assert squares.digest == stored(str(bench.store), "boxes").digest
    for name, size, said in (
        ("c.png", (90, 110), "has no frame of this name"),
        ("a.png", (90, 111), "this frame has 90 x 110 pixels there, and here 90 x 111"),
    ):
        with pytest.raises(ValueError, match=rf"^prompts: .*masks\.zarr: {said}$"):
            of(squares, name, size)
    with pytest.raises(ValueError, match=r"^prompts: .*a picture alone has none; run a job$"):
        squares.of(None, 0, (90, 110))


def test_another_job_asks_for_the_objects_of_a_store(
    finds: tuple[Any, list[Array]], model: dict[str, str], tmp_path: Path
) -> None:
    """Frames that share a call each have their own; a frame that the store lacks fails by its name."""
    bench, truth = finds
    inputs = tmp_path / "in"
    shutil.copytree(bench.inputs, inputs)
    shutil.copy(inputs / "a.png", inputs / "new.png")
    job = {
        "source": {"paths": [str(inputs)]},
        "segmenter": {"kind": "sam", **model, "prompts": str(bench.store)},
        "store": {"path": str(tmp_path / "sam.zarr"), "chunk": 32, "shard": 128, "frames": 4},
        "faults": {"retries": 0},
    }
    assert segengine.run(job).exit_code == 3
    store = segengine.open_store(tmp_path / "sam.zarr")
    (scene,) = store.scenes.values()
    for ref, ids in zip(scene.frames[:3], truth, strict=True):
        found = scene.instances[ref.index, :90, :110]
        assert found.max(initial=0) == ids.max(initial=0)
        both, either = ((found > 0) & (ids > 0)).sum(), ((found > 0) | (ids > 0)).sum()
        assert both >= 0.9 * either
    (failed,) = [row for row in store.frames.to_pylist() if row["status"] != "done"]
    assert failed["name"] == "new.png"
    assert "prompts: " in failed["reason"]
    assert failed["reason"].endswith("masks.zarr: has no frame of this name")


def test_what_a_store_is_not_is_one_line(
    finds: tuple[Any, list[Array]], tmp_path: Path, bench: Any, noise: Any
) -> None:
    own, _ = finds
    with pytest.raises(
        ValueError, match=r"^prompts: .*no\.zarr: no segengine store is there; give"
    ):
        stored(str(tmp_path / "no.zarr"), "boxes")
    bench.put("a.png", noise(1, (40, 50, 3)))
    assert bench.run({"kind": "threshold"}).exit_code == 0
    with pytest.raises(ValueError, match=r"^prompts: .*: its job finds no objects; give its segm"):
        stored(str(bench.store), "boxes")
    empty = tmp_path / "empty.zarr"
    shutil.copytree(own.store, empty)
    _rewrite(empty, "instances", pq.read_table(empty / "tables/instances.parquet").slice(0, 0))
    assert list(stored(str(own.store), "boxes").remarks([])) == []
    said = [f"prompts: {empty}: has no objects, and none will be found"]
    assert list(stored(str(empty), "boxes").remarks([])) == said
    half = tmp_path / "half.zarr"
    shutil.copytree(own.store, half)
    whole = stored(str(half), "boxes").digest
    table = half / "tables/frames.parquet"
    rows = pq.read_table(table)
    assert rows.column("name").to_pylist() == list(NAMES)
    place = rows.schema.get_field_index("status")
    words = ["done", "pending", "done"]
    _rewrite(half, "frames", rows.set_column(place, "status", [words]))
    found = stored(str(half), "boxes")
    assert found.digest != whole
    assert len(of(found, "a.png")) == 4
    with pytest.raises(ValueError, match=r"half\.zarr: this frame is pending there; run its job"):
        of(found, "b.png")
    table.unlink()
    with pytest.raises(ValueError, match=r"^prompts: .*frames\.parquet.*; ") as error:
        stored(str(half), "boxes")
    assert "\n" not in str(error.value)


def _rewrite(store: Path, name: str, table: Any) -> None:
    """A table, sealed as a run does it."""
    import io

    from segengine.store.blobs import open_objects
    from segengine.store.keys import table_key
    from segengine.store.seals import SealedObjects

    sink = io.BytesIO()
    pq.write_table(table, sink)
    SealedObjects(open_objects(str(store))).put(table_key(name), sink.getvalue())


def test_a_store_is_not_asked_while_it_is_written(
    finds: tuple[Any, list[Array]], model: dict[str, str]
) -> None:
    bench, _ = finds
    with pytest.raises(JobError, match=r"^segmenter\.prompts: is the store that the job writes"):
        plan(parse_job(bench.job({"kind": "sam", **model, "prompts": f"{bench.store}/"})))


def test_frames_that_are_asked_by_their_names_are_not_still(
    finds: tuple[Any, list[Array]], model: dict[str, str], bench: Any
) -> None:
    write_video(bench.inputs / "v.mkv", passing(3, 64, 96))
    prompts = {"prompts": str(finds[0].store)}
    job = bench.job({"kind": "sam", **model, **prompts}, source={"skip": {"still": 0.0}})
    with pytest.raises(JobError, match=r"^source\.skip\.still: sam .* by its name"):
        segengine.run(job)


def test_other_prompts_make_masks_stale(
    finds: tuple[Any, list[Array]], model: dict[str, str], tmp_path: Path
) -> None:
    bench, _ = finds
    file = geojson(tmp_path / "p.geojson", point(5, 5))
    first = asked.weights(create(**model, prompts=file))
    assert first == asked.weights(create(**model, prompts=file, min_score=0.5))
    geojson(tmp_path / "p.geojson", point(5, 6))
    of_store = asked.weights(create(**model, prompts=str(bench.store)))
    assert len({first, asked.weights(create(**model, prompts=file)), of_store}) == 3
    copy = tmp_path / "copy.zarr"
    shutil.copytree(bench.store, copy)
    assert asked.weights(create(**model, prompts=str(copy))) == of_store
    objects = pq.read_table(copy / "tables/instances.parquet")
    _rewrite(copy, "instances", objects.slice(1))
    assert asked.weights(create(**model, prompts=str(copy))) != of_store


def test_a_frame_is_asked_the_same_in_windows_however_it_is_cut(
    model: dict[str, str], tmp_path: Path
) -> None:
    picture, ids = finders.discs(4, (24, 150), 4, apart=24)
    squares = boxes(ids)
    middles = [point((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in squares[::2]]
    file = geojson(tmp_path / "p.geojson", *middles, *(square(*box) for box in squares[1::2]))
    made = create(**model, prompts=file, window=32, overlap=0.4)
    assert made.halo is not None
    whole = made.segment(picture[None])
    assert whole.objects is not None
    assert whole.objects.num_rows == 4
    shown = whole.labels > 0
    assert not (shown[0] & (ids == 0)).any()
    cut = 75
    for first, last, read in ((0, cut, 0), (cut, 150, cut - made.halo)):
        part = picture[None, :, read : last + made.halo]
        found = asked.placed(made, (0, read), picture.shape[:2]).segment(part)
        inner = found.labels[..., first - read : last - read] > 0
        np.testing.assert_array_equal(inner, shown[..., first:last])
