"""Mean shift: what its formula says, regions that hang together, the same for any cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin

import segengine
from segengine import asked
from segengine.commands.verify import verify
from segengine.job import load_job
from segengine.segmenters._meanshift import FINE, Filter
from segengine.testing._pictures import picture

JOBS = Path(__file__).parents[3] / "deployments/jobs"


def by_formula(pixels, valid, how, y, x):
    """Where a pixel ends: its values and (down, along), in plain words and float64."""
    value, place = pixels[y, x].astype(float), np.array([y, x], float)
    for _ in range(how.iterations):
        near = [
            (v, u)
            for v in range(len(pixels))
            for u in range(len(pixels[0]))
            if valid[v, u]
            and ((place - (v, u)) ** 2).sum() / how.spatial**2
            + ((pixels[v, u] - value) ** 2).sum() / how.range**2
            <= 1
        ]
        new = np.mean([pixels[at] for at in near], axis=0), np.mean(near, axis=0)
        step = ((new[0] - value) ** 2).sum() + ((new[1] - place) ** 2).sum()
        value, place = new
        if step < how.convergence:
            break
    return value, place - (y, x)


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_pixels_end_where_the_formula_says(bands):
    rng = np.random.default_rng(bands)
    pixels = rng.integers(0, 900, (11, 9, bands)).astype(np.uint16)
    valid = rng.random((11, 9)) < 0.9
    how = Filter(spatial=3, range=397.3 * bands**0.5, iterations=4, convergence=0.1)
    planes = slice(0, 11), slice(0, 9)
    links, values = how.connect(pixels, valid, planes, 0.5, 0.5)
    ended = np.zeros((11, 9, bands + 2))
    for y, x in np.argwhere(valid):
        value, moved = by_formula(pixels, valid, how, y, x)
        np.testing.assert_allclose(values[y, x] * how.range / FINE, value, atol=how.range / FINE)
        ended[y, x] = [*value / how.range, *moved / how.spatial]
    for bit, (down, along) in ((1, (0, 1)), (2, (1, 0))):
        here, there = ended[: 11 - down, : 9 - along], ended[down:, along:]
        both = valid[: 11 - down, : 9 - along] & valid[down:, along:]
        off = here - there
        like = np.sqrt((off[..., :bands] ** 2).sum(-1)), np.sqrt((off[..., bands:] ** 2).sum(-1))
        linked = links[: 11 - down, : 9 - along] & bit != 0
        sure = both & (np.abs(like[0] - 0.5) > 0.01) & (np.abs(like[1] - 0.5) > 0.01)
        assert (linked[~both] == 0).all()
        assert np.array_equal(linked[sure], ((like[0] < 0.5) & (like[1] < 0.5))[sure])


@pytest.mark.parametrize("share", [1, 0.04, 0.08])
def test_a_window_is_filtered_as_the_frame_is(share):
    """Also where few pixels are there, much alike, so that they go as far as they can."""
    rng, how = np.random.default_rng(7), Filter(4, 0.9, 2, 0.0)
    pixels = picture(3, (70, 66), dtype="float32")
    if share < 1:
        pixels = (rng.random((70, 66, 1)) * 0.1).astype(np.float32)
    valid = rng.random((70, 66)) < share
    whole = how.connect(pixels, valid, (slice(0, 70), slice(0, 66)), 0.5, 0.5)
    far = how.reach
    for y, x in np.ndindex(*((2, 1) if share == 1 else (8, 8))):
        window = slice(y, y + 62), slice(x, x + 58)
        inner = slice(far, 62 - far), slice(far, 58 - far)
        links, values = how.connect(pixels[window], valid[window], inner, 0.5, 0.5)
        assert np.array_equal(values, whole[1][window][inner])
        assert np.array_equal(links[:-1, :-1], whole[0][window][inner][:-1, :-1])


def noisy(values, seed=0):
    rng = np.random.default_rng(seed)
    return (np.asarray(values) + rng.normal(0, 3, np.shape(values))).clip(0, 255).astype(np.uint8)


def test_flat_ground_is_a_region_and_what_is_small_joins_what_is_like_it():
    ground = np.full((30, 40), 60)
    ground[:, 20:] = 160
    ground[10:13, 8:11] = 110  # nearer to the left side
    found = segengine.predict(noisy(ground), {"kind": "meanshift", "range": 30, "min_size": 12})
    assert np.array_equal(found.instances, np.where(np.arange(40) < 20, 1, 2) * np.ones((30, 1)))
    assert (found.labels == 1).all()
    spec = {"kind": "meanshift", "range": 30, "min_size": 12, "small": "drop"}
    found = segengine.predict(noisy(ground), spec)
    speck = np.zeros((30, 40), np.bool_)
    speck[10:13, 8:11] = True
    assert np.array_equal(found.labels == 0, speck)
    assert np.array_equal(found.instances == 0, speck)
    found = segengine.predict(noisy(ground), {**spec, "min_size": 9})
    assert found.instances.max() == 3


def test_what_is_not_there_parts_regions_and_moves_nobody():
    ground = np.full((20, 21, 2), 0.5, np.float32)
    ground[:, 10, 1] = np.nan
    found = segengine.predict(ground, {"kind": "meanshift", "range": 0.1, "min_size": 300})
    assert (found.labels[:, 10] == 255).all()
    assert [np.unique(ids).tolist() for ids in np.split(found.instances, [10, 11], axis=1)] == [
        [1], [0], [2],
    ]  # fmt: skip
    assert segengine.predict(ground[..., :1], {"kind": "meanshift"}).instances.max() == 1


def test_the_job_of_a_landscape(bench, plain_report):
    """deployments/jobs/landscape.yaml: nodata, shards, a table of regions, verified."""
    scene = np.maximum(picture(5, (80, 90), 4, "uint16"), 1)
    scene[30:45, :50] = 0
    path = bench.inputs / "a.tif"
    path.parent.mkdir()
    about = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5e6, 2, 2), "nodata": 0}
    with rasterio.open(
        path, "w", driver="GTiff", height=80, width=90, count=4, dtype="uint16", **about
    ) as file:
        file.write(np.moveaxis(scene, -1, 0))
    settings = [f"source.paths=[{path}]", f"store.path={bench.store}"]
    settings += ["store.chunk=16", "store.shard=48", "segmenter.range=9000"]
    assert segengine.run(load_job(JOBS / "landscape.yaml", settings)).exit_code == 0
    store = bench.open()["a"]
    labels, ids = store.mask[0], store.instances[0]
    there = (scene != 0).any(axis=-1)
    whole = segengine.create_segmenter({"kind": "meanshift", "range": 9000, "min_size": 50})
    wanted = asked.merged(whole, scene[None], there[None]).instances[0]
    assert np.array_equal(labels == 255, ~there)
    assert np.array_equal(ids, wanted)
    areas = np.bincount(ids[there])
    assert areas[0] == 0
    assert len(areas) > 10
    assert (areas[1:] >= 50).all()
    rows = pq.read_table(bench.store / "tables/instances.parquet")
    assert rows.column("area").to_pylist() == areas[1:].tolist()
    checked = verify(str(bench.store))
    assert checked.sampled
    assert not checked.problems
    assert not checked.skipped
