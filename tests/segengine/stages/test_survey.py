"""What is surveyed together, what is taken up after a kill, and what a fit sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.job import parse_job
from segengine.planning.plan import make_plan
from segengine.runs import Run
from segengine.stages.survey import _batches, _groups
from segengine.store.blobs import open_objects

pytestmark = pytest.mark.usefixtures("plain_report")
SPEC = {"kind": "threshold", "method": "mean", "scope": "run"}


def plan_of(bench: Any, *, refit: bool = False, **blocks: Any) -> Any:
    return make_plan(
        parse_job(bench.job(SPEC, **blocks)), open_objects(str(bench.store)), refit=refit
    )


@pytest.mark.parametrize("size", [1, 4, 5, 6, 7, 32])
def test_a_batch_never_mixes_frames_that_are_cut(size: int, bench: Any, noise: Any) -> None:
    path = bench.put("a.zarr", noise(1, (3, 70, 40, 3)))
    plan = plan_of(bench, source={"paths": [str(path)]}, store={"shard": 32})
    (group,) = _groups(plan)
    batches = list(_batches(plan, group, size))
    places = [shard.place for batch in batches for shard in batch.shards]
    assert places == [(f, y, x) for f in range(3) for y in range(3) for x in range(2)]
    assert len({batch.key for batch in batches}) == len(batches) == 3 * -(-6 // size)
    for batch in batches:
        assert len({shard.place[0] for shard in batch.shards}) == 1
        assert len(batch.shards) <= size


def test_nothing_that_has_vanished_is_surveyed(bench: Any, noise: Any) -> None:
    for name in ("a.png", "b.png", "c.png"):
        bench.put(name, noise(1, (40, 40, 3)))
    bench.put("wide.png", noise(2, (40, 300, 3)))
    bench.run(SPEC, store={"shard": 128})
    (bench.inputs / "b.png").unlink()
    (bench.inputs / "wide.png").unlink()
    (group,) = _groups(plan_of(bench, refit=True, store={"shard": 128}))
    assert [layout.scene for layout in group.layouts] == ["256x256-uint8-3"]
    plan = plan_of(bench, refit=True, store={"shard": 128})
    frames = [s.place[0] for batch in _batches(plan, group, 99) for s in batch.shards]
    assert frames == [0] * 4 + [2] * 4


def test_what_vanishes_after_a_kill_is_in_no_fit(bench: Any, new_bench: Any, noise: Any) -> None:
    dark, bright = noise(1, (40, 40, 3)) // 4, 255 - noise(2, (40, 40, 3)) // 4
    store, alone = {"shard": 512}, new_bench()
    for name, image in (("a.png", dark), ("b.png", bright)):
        bench.put(name, image)
    alone.put("a.png", dark)
    with Run(parse_job(bench.job(SPEC, store=store)), in_process=True) as run:
        list(run.stage("plan"))
        next(run.stage("survey"))  # the batch is surveyed, nothing is fitted
    assert list((bench.store / "records/+survey").rglob("*"))
    (bench.inputs / "b.png").unlink()
    bench.run(SPEC, store=store)
    alone.run(SPEC, store=store)
    masks = [np.asarray(b.open()["256x256-uint8-3"].mask[0]) for b in (bench, alone)]
    np.testing.assert_array_equal(*masks)
    assert not np.array_equal(
        masks[0][:40, :40], segengine.segment(np.stack([dark, bright]), SPEC)[0]
    )


def test_a_frame_that_is_lost_in_part_leaves_no_part_in_a_fit(bench: Any, noise: Any) -> None:
    import rasterio

    dark, bright = noise(1, (64, 48, 3)) // 4, 255 - noise(2, (64, 48, 3)) // 4
    for name, image in (("a.tif", dark), ("b.tif", bright)):
        path: Path = bench.inputs / name
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(
            path, "w", driver="GTiff", height=64, width=48, count=3, dtype="uint8", blockysize=8,
            crs="EPSG:32613", transform=rasterio.Affine(2, 0, 5e5, 0, -2, 4e6),
        ) as out:  # fmt: skip
            out.write(np.moveaxis(image, -1, 0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    summary = bench.run(SPEC, store={"shard": 32})
    assert [f.name for f in summary.failed] == ["b.tif"]
    store = bench.open()
    np.testing.assert_array_equal(store["a"].mask[0], segengine.segment(dark, SPEC))
    assert (np.asarray(store["b"].mask[0]) != store["b"].void).any()  # what can be read is labelled
