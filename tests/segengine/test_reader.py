"""What lies in a store: plain Zarr v3, OME-Zarr, tables; read by other libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import segengine
from segengine.errors import JobError, StoreError
from segengine.stages.tables import FRAMES_SCHEMA, SHARDS_SCHEMA

pytestmark = pytest.mark.usefixtures("plain_report")
KMEANS = {"kind": "kmeans", "clusters": 3, "attempts": 1}


@pytest.fixture
def stored(bench: Any, noise: Any) -> Any:
    """Photos, a scene with a pyramid, a name that is escaped, and a file that is no image."""
    bench.put("b/1.png", noise(1, (40, 50, 3)))
    bench.put("a.png", noise(2, (60, 30, 3)))
    bench.put("big one.zarr", noise(3, (2, 100, 70, 3)))
    (bench.inputs / "broken.jpg").write_bytes(b"no image")
    bench.run(KMEANS, store={"shard": 64})
    return bench


def test_plain_zarr_opens_it(stored: Any) -> None:
    group = zarr.open_group(stored.store / "scenes", mode="r")
    assert sorted(group.group_keys()) == sorted(stored.open().scenes)
    for name, scene in stored.open().scenes.items():
        mask = group[f"{name}/mask/0"]
        assert isinstance(mask, zarr.Array)
        assert mask.metadata.zarr_format == 3
        assert (mask.dtype, mask.fill_value) == (np.uint8, 255)
        assert mask.shape == scene.layout.shape
        assert mask.metadata.dimension_names == ("frame", "y", "x")
        np.testing.assert_array_equal(mask[:], scene.mask[:])
        codec = json.loads((stored.store / f"scenes/{name}/mask/0/zarr.json").read_text())["codecs"]
        inner = codec[0]["configuration"]["codecs"]
        assert [c["name"] for c in codec] == ["sharding_indexed"]
        assert [c["name"] for c in inner] == ["bytes", "zstd"]
        assert inner[1]["configuration"]["level"] == 1


def test_consolidated_metadata_is_the_scenes_and_not_the_roots(stored: Any) -> None:
    for folder in (stored.store, stored.store / "scenes"):
        assert "consolidated_metadata" not in json.loads((folder / "zarr.json").read_text())
    for name in stored.open().scenes:
        folder = stored.store / "scenes" / name
        nodes = {
            p.parent.relative_to(folder).as_posix(): json.loads(p.read_text())
            for p in folder.rglob("zarr.json")
            if p.parent != folder
        }
        root = json.loads((folder / "zarr.json").read_text())
        assert root["consolidated_metadata"]["metadata"] == nodes
        opened = zarr.open_consolidated(folder, zarr_format=3)
        assert {path for path, _ in opened.members(max_depth=None)} == set(nodes)


def test_ome_zarr_readers_open_it(stored: Any) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    name = next(n for n in stored.open().scenes if n.startswith("big"))
    location = parse_url(stored.store / "scenes" / name / "mask")
    assert location is not None
    (node,) = list(Reader(location)())
    levels = stored.open()[name].levels
    assert len(levels) == 4
    for found, level in zip(node.data, levels, strict=True):
        np.testing.assert_array_equal(np.asarray(found), level[:])
    assert [a["name"] for a in node.metadata["axes"]] == ["frame", "y", "x"]
    scales = [t[0]["scale"] for t in node.metadata["coordinateTransformations"]]
    assert scales == [[1, 1, 1], [1, 2, 2], [1, 4, 4], [1, 8, 8]]
    ome = zarr.open_group(location.path, mode="r").attrs["ome"]
    assert ome["version"] == "0.5"  # type: ignore[index, call-overload]


def test_the_root_names_job_classes_and_fingerprints(stored: Any) -> None:
    attributes = json.loads((stored.store / "zarr.json").read_text())["attributes"]["segengine"]
    assert attributes["version"] == 1
    assert attributes["job"]["segmenter"] == KMEANS
    assert attributes["classes"] == ["cluster 0", "cluster 1", "cluster 2"]
    assert set(attributes["fingerprints"]) >= {"job", "weights", "segmenter_version"}
    assert segengine.Job.model_validate(attributes["job"]).store.path == str(stored.store)


def test_tables(stored: Any) -> None:
    frames = pq.read_table(stored.store / "tables/frames.parquet")
    shards = pq.read_table(stored.store / "tables/shards.parquet")
    assert frames.schema.equals(FRAMES_SCHEMA)
    assert shards.schema.equals(SHARDS_SCHEMA)
    rows = frames.to_pylist()
    placed = {(r["scene"], r["frame"]): r for r in rows if r["scene"] is not None}
    (lost,) = [r for r in rows if r["scene"] is None]
    assert (lost["name"], lost["status"], lost["height"]) == ("broken.jpg", "corrupt", None)
    assert lost["reason"]
    assert placed["256x256-uint8-3", 0]["name"] == "a.png"
    assert placed["256x256-uint8-3", 1]["name"] == "b/1.png"
    one = placed["256x256-uint8-3", 1]
    assert (one["height"], one["width"]) == (40, 50)
    assert all(Path(r["uri"]).exists() and r["status"] == "done" for r in placed.values())
    for name, scene in stored.open().scenes.items():
        mine = [r for r in shards.to_pylist() if r["scene"] == name]
        seen = np.zeros(scene.mask.shape, int)
        for row in mine:
            f0, y0, x0, f1, y1, x1 = row["box"]
            seen[f0:f1, y0:y1, x0:x1] += 1
            inside = np.asarray(scene.mask[f0:f1, y0:y1, x0:x1])
            assert row["pixels"] == int((inside != scene.void).sum())
            assert (row["status"], row["attempts"]) == ("done", 1)
        assert (seen == 1).all()
        sizes = [
            (scene.store.path, p.stat().st_size)
            for p in (stored.store / f"scenes/{name}/mask/0/c").rglob("*")
            if p.is_file()
        ]
        assert sum(r["bytes"] for r in mine) == sum(n for _, n in sizes)


def test_areas_and_inertia_are_those_of_the_masks(stored: Any) -> None:
    metrics = stored.open().metrics
    total = np.zeros(3, int)
    for name, scene in stored.open().scenes.items():
        counts = np.bincount(np.asarray(scene.mask).ravel(), minlength=256)
        found = metrics["scenes"][name]["areas"]
        assert [found[f"cluster {i}"]["pixels"] for i in range(3)] == counts[:3].tolist()
        real = sum(f.height * f.width for f in scene.frames)
        assert found["void"]["pixels"] == real - counts[:3].sum()
        total += counts[:3]
    assert [metrics["areas"][f"cluster {i}"]["pixels"] for i in range(3)] == total.tolist()
    assert metrics["inertia"] > 0


def test_colours_are_the_clusters_means(stored: Any) -> None:
    for scene in stored.open().scenes.values():
        for ref in scene.frames:
            labels = np.asarray(scene.mask[ref.index])[: ref.height, : ref.width]
            pixels = scene.pixels(ref.index).pixels
            for label, color in enumerate(scene.colors(ref.index)):
                mean = pixels[labels == label].mean(axis=0)
                assert np.abs(mean - color).max() <= 2, (ref.name, label)


def test_a_scene_gives_its_pixels_again(stored: Any, noise: Any) -> None:
    scene = stored.open()["256x256-uint8-3"]
    np.testing.assert_array_equal(scene.pixels(0).pixels, noise(2, (60, 30, 3)))
    part = scene.pixels(1, slice(3, 9), slice(10, None)).pixels
    np.testing.assert_array_equal(part, noise(1, (40, 50, 3))[3:9, 10:])
    with pytest.raises(KeyError):
        stored.open()["nothing"]


def test_what_is_no_store(tmp_path: Path, bench: Any, noise: Any) -> None:
    with pytest.raises(JobError, match="no segengine store is there"):
        segengine.open_store(tmp_path / "none")
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.store.write_text("a file")
    with pytest.raises(JobError, match=r"store\.path: .* is a file; name a folder"):
        bench.run(KMEANS)
    assert bench.store.read_text() == "a file"
    bench.store.unlink()
    bench.store.mkdir()
    (bench.store / "mine.txt").write_text("keep")
    with pytest.raises(JobError, match="holds other files and no store"):
        bench.run(KMEANS)
    assert sorted(p.name for p in bench.store.iterdir()) == ["mine.txt"]
    (bench.store / "mine.txt").unlink()
    zarr.create_group(bench.store)
    with pytest.raises(StoreError, match=r"zarr\.json that is not segengine's"):
        bench.run(KMEANS)


def test_a_store_of_another_version_is_refused(stored: Any) -> None:
    path = stored.store / "zarr.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(StoreError, match="store version 99"):
        stored.open()


def test_a_georeferenced_scene(bench: Any, noise: Any) -> None:
    import rasterio
    from rasterio.transform import Affine

    bench.inputs.mkdir()
    image = noise(5, (50, 40, 1))[..., 0]
    image[:7] = 0
    with rasterio.open(
        bench.inputs / "area.tif", "w", driver="GTiff", height=50, width=40, count=1,
        dtype="uint8", crs="EPSG:32613", transform=Affine(30, 0, 500000, 0, -20, 4e6), nodata=0,
    ) as out:  # fmt: skip
        out.write(image, 1)
    spec = {"kind": "threshold", "method": "fixed", "levels": 100}
    bench.run(spec, store={"shard": 32})
    scene = bench.open()["area"]
    attributes = dict(zarr.open_group(bench.store / "scenes/area", mode="r").attrs)
    assert rasterio.crs.CRS.from_wkt(attributes["crs_wkt"]).to_epsg() == 32613
    assert attributes["transform"] == [30, 0, 500000, 0, -20, 4e6]
    wanted = np.where(image == 0, 255, image > 100)
    np.testing.assert_array_equal(scene.mask[0], wanted)
    area = bench.open().metrics["areas"]["object"]
    count = int((wanted == 1).sum())
    assert area["pixels"] == count
    # at the central meridian of a UTM zone lengths on the ground are 1 / 0.9996 of those on the map
    assert area["square_metres"] == pytest.approx(count * 600.0 / 0.9996**2, rel=1e-7)
