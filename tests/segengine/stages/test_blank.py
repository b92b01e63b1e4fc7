"""Shards outside the area are stored many at once: bytes and records are those that workers make."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

import segengine
from segengine.commands.verify import verify
from segengine.errors import SegengineError
from segengine.sources._area import area_on
from segengine.sources._grid import Grid
from segengine.stages import blank
from segengine.worker import segment
from tests.segengine.sources.scenes import CORNER, UTM, field, write
from tests.segengine.test_grids import geojson

TRIANGLE = [(2203, -207), (4403, -1207), (2103, -2907)]
FIXED = {"kind": "threshold", "method": "fixed", "levels": 2000}


def job(bench: Any, **more: Any) -> dict[str, Any]:
    return {
        "source": {
            "paths": [write(bench.inputs / "a.tif", field(20, 6000), 20)],
            "area": geojson(bench.root / "area.json", TRIANGLE),
            **more,
        },
        "store": {"path": str(bench.store), "chunk": 16, "shard": 16},
    }


def nodata(bench: Any) -> dict[str, Any]:
    """Much of it nodata, in blocks and in parts of them."""
    blocks = job(bench)
    pixels = field(20, 6000)
    pixels[:, :] = np.where(np.add.outer(np.arange(300), np.arange(300)) % 299 < 60, pixels, 0)
    path = write(bench.inputs / "a.tif", pixels, 20, nodata=0, tiled=True, blockxsize=32,
                 blockysize=32, compress="deflate")  # fmt: skip
    return {**blocks, "source": {"paths": [path]}}


def gap(bench: Any) -> dict[str, Any]:
    """A map of two scenes, far from each other."""
    blocks = job(bench)
    pixels = field(20, 6000)
    for name, rows, cols in (
        ("a", slice(0, 70), slice(0, 70)),
        ("b", slice(220, 300), slice(200, 300)),
    ):
        corner = CORNER[0] + 20 * cols.start, CORNER[1] - 20 * rows.start
        write(bench.inputs / f"{name}.tif", pixels[rows, cols], 20, corner)
    source = {"paths": [str(bench.inputs / "*.tif")], "mosaic": "newest"}
    return {**blocks, "source": source}


def records(bench: Any) -> list[Any]:
    """Without what is of a run: times."""
    (scene,) = bench.open().scenes
    found = [dataclasses.replace(r, seconds=0, finished=0) for r in bench.open().records(scene)]
    return sorted(found, key=lambda record: record.key)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Places of shards that workers were asked for."""
    found: list[Any] = []
    real = segment._computed

    def noting(task: Any) -> Any:
        found.append(task.place)
        return real(task)

    monkeypatch.setattr(segment, "_computed", noting)
    return found


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("inputs", [job, nodata, gap])
@pytest.mark.parametrize(
    "segmenter", [FIXED, {"kind": "kmeans", "clusters": 2, "space": "bands", "scope": "run"}]
)
def test_bytes_and_records_are_those_of_workers(
    new_bench: Any, inputs: Any, segmenter: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk, plain = new_bench(), new_bench()
    blocks = inputs(bulk)
    done = bulk.run(segmenter, **blocks)
    assert (done.computed, done.shards, done.exit_code) == (361, 361, 0)
    assert len(asked) < 361 / 2
    assert any("mask/1" in path for path in bulk.tree())
    assert verify(str(bulk.store)).exit_code == 0
    monkeypatch.setattr(blank, "FEW", 1 << 30)
    monkeypatch.setattr("segengine.stages.pyramid.blank_checksum", lambda spec: "never")
    asked.clear()
    plain.run(segmenter, **inputs(plain))
    assert len(asked) == 361
    assert bulk.tree() == plain.tree()
    # They lie at other paths: fingerprints of inputs are left out.
    for one, other in zip(records(bulk), records(plain), strict=True):
        assert (one.key, one.objects, one.box) == (other.key, other.objects, other.box)
        if hasattr(one, "areas"):
            mine = (one.areas, one.pixels, one.ground, one.failures, one.fit, one.version)
            assert mine == (
                other.areas, other.pixels, other.ground, other.failures, other.fit, other.version,
            )  # fmt: skip
    assert bulk.run(segmenter, **blocks).computed == 0


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_ends_in_between_goes_on(
    new_bench: Any, when: str, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, bench = new_bench(), new_bench()
    clean.run(FIXED, **job(clean))
    real = blank._commit

    def ending(*args: Any) -> None:
        if when == "after":
            real(*args)
        raise SegengineError("the power is gone")

    monkeypatch.setattr(blank, "TOGETHER", 100)
    monkeypatch.setattr(blank, "_commit", ending)
    blocks = job(bench)
    with pytest.raises(SegengineError, match="power"):
        bench.run(FIXED, **blocks)
    monkeypatch.setattr(blank, "_commit", real)
    asked.clear()
    again = bench.run(FIXED, **blocks)
    assert again.computed == (361 if when == "before" else 261)
    assert verify(str(bench.store)).exit_code == 0
    assert bench.tree() == clean.tree()


@pytest.mark.usefixtures("plain_report")
def test_whoever_asks_for_empty_shards_gets_them(bench: Any, asked: list[Any]) -> None:
    bench.run(FIXED, **job(bench, skip={"empty": False}))
    assert len(asked) == 361


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("side", [3000, 0])
def test_an_input_that_has_changed_is_left_to_workers(
    bench: Any, asked: list[Any], side: int
) -> None:
    """What they find out is not passed over: that the file is another by now, or none."""
    blocks = {**job(bench), "faults": {"retries": 0}}
    blocks["store"] |= {"shard": 32}
    real: Any = blank.blank_shards

    def replaced(plan: Any) -> Any:
        if side:
            write(bench.inputs / "a.tif", field(20, side), 20)
        else:
            (bench.inputs / "a.tif").write_bytes(b"no raster")
        return real(plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segengine.stages.segment.blank_shards", replaced)
        done = segengine.run({**blocks, "segmenter": FIXED})
    assert done.exit_code == 3
    assert len(asked) == 100


@pytest.mark.parametrize("side", [7, 16, 33])
def test_what_is_beyond_holds_no_pixel_of_the_area(tmp_path: Path, side: int) -> None:
    """By shapely: no square that is called so meets a polygon, and most that meet none are."""
    rng = np.random.default_rng(side)
    grid = Grid(250, 300, (20.0, 0.0, CORNER[0], 0.0, -20.0, CORNER[1]), UTM)
    for number in range(20):
        ring = rng.uniform([-500, -6000], [7000, 500], (4, 2)).tolist()
        path = geojson(tmp_path / f"{number}.json", ring)
        found = area_on(path, "", grid).beyond(side)
        area = shapely.Polygon([(x / 20, -y / 20) for x, y in ring])
        inside = area_on(path, "", grid).inside(slice(0, 250), slice(0, 300))
        rows, cols = found.shape
        assert (rows, cols) == (-(-250 // side), -(-300 // side))
        alone = 0
        for y, x in np.argwhere(found):
            assert not inside[y * side : (y + 1) * side, x * side : (x + 1) * side].any()
            box = shapely.box(x * side, y * side, (x + 1) * side, (y + 1) * side)
            assert not area.is_valid or not area.buffer(-0.01).intersects(box)
        for y, x in np.argwhere(~found):
            box = shapely.box((x - 2) * side, (y - 2) * side, (x + 3) * side, (y + 3) * side)
            alone += bool(area.is_valid and not area.intersects(box))
        assert not alone
