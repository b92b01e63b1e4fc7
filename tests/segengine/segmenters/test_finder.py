"""Objects in windows of large frames: each once, and the same however the frame is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import segengine
from segengine.segmenters._finder import Finder, Grid
from segengine.segmenters.model import create
from segengine.testing import SegmenterTests
from tests.segengine.segmenters import finders

JOBS = Path(__file__).parents[3] / "deployments/jobs"
Array = np.ndarray[Any, Any]


@given(length=st.integers(1, 400), window=st.integers(2, 90), share=st.floats(0, 0.9))
def test_windows_cover_a_frame_and_cores_part_it(length: int, window: int, share: float) -> None:
    grid = Grid(window, max(1, round(window * (1 - share))))
    starts, cores = grid.starts(length), grid.cores(length)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + window] = True
        assert start == 0 or start + window <= length
    assert covered.all()
    for middle in np.linspace(0, length, 50):
        owners = [i for i, (low, high) in enumerate(cores) if low <= middle < high]
        assert owners
        for i in owners:
            assert starts[i] <= middle <= starts[i] + window or len(starts) == 1
            # what is as large as the overlap, less what cores share, is seen whole
            reach = (window - grid.step) * (1 - 2 / 8) / 2
            assert i == 0 or middle - reach >= starts[i] - 1e-9
            assert i == len(starts) - 1 or middle + reach <= starts[i] + window + 1e-9


KINDS = {
    "yolo": lambda folder: create(finders.disc_yolo(folder / "y.onnx", 48), window=48),
    "yolo of any size": lambda folder: create(
        finders.disc_yolo(folder / "a.onnx", "n"), window=41, overlap=0.6
    ),
    "detector": lambda folder: create(
        finders.disc_detector(folder / "d.onnx"), window=50, classes=["disc"]
    ),
    "stardist": lambda folder: create(
        finders.disc_stars(folder / "s.onnx"), window=64, scale={"divide": 255}
    ),
    "cellpose": lambda folder: create(
        finders.disc_cells(folder / "c.onnx", 64),
        head="cellpose",
        window=64,
        scale={"divide": 255},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_discs_of_a_scene_are_each_found_once(kind: str, tmp_path: Path, new_bench: Any) -> None:
    """As in the picture, in shards of 64 pixels and of 512, and uncut; the same rows too."""
    segmenter = KINDS[kind](tmp_path)
    picture, ids = finders.discs(5, (210, 250), 60)
    whole = segengine.predict(picture, segmenter)
    np.testing.assert_array_equal(whole.instances, ids)
    np.testing.assert_array_equal(whole.labels, ids > 0)
    assert whole.objects.column("area").to_pylist() == np.bincount(ids.ravel())[1:].tolist()
    if kind != "yolo":
        return
    tables = []
    for shard in (64, 512):
        bench = new_bench()
        bench.put("scene.zarr", picture)
        options = {"kind": "model", "path": str(tmp_path / "y.onnx"), "window": 48}
        bench.run(options, store={"chunk": 32, "shard": shard})
        (scene,) = bench.open().scenes.values()
        np.testing.assert_array_equal(scene.instances[0], ids)
        np.testing.assert_array_equal(scene.mask[0], ids > 0)
        tables.append(pq.read_table(next(bench.root.rglob("instances.parquet"))))
    first, second = (
        [{k: v for k, v in row.items() if k != "bbox"} for row in table.to_pylist()]
        for table in tables
    )
    assert first == second


def test_cells_go_by_their_flows_the_same_in_a_part_of_a_frame(tmp_path: Path) -> None:
    """`flow_threshold` is decided in windows, wherever the frame is cut."""
    path = finders.disc_cells(tmp_path / "c.onnx", 64)
    picture, _ = finders.discs(5, (260, 64), 25, apart=2 * finders.RADIUS + 1)
    options = {"head": "cellpose", "window": 64, "scale": {"divide": 255}}
    every, some = (
        create(path, flow_threshold=threshold, **options)  # type: ignore[arg-type]
        for threshold in (0, 0.2)
    )
    assert isinstance(some, Finder)
    whole = segengine.predict(picture, some)
    assert 0 < whole.objects.num_rows < segengine.predict(picture, every).objects.num_rows
    part = some.at((10, 0), (260, 64)).segment(picture[None, 10:])
    inner = 10 + some.grid.halo  # type: ignore[union-attr]
    assert (whole.instances[inner:] > 0).any()
    np.testing.assert_array_equal(part.labels[0, inner - 10 :], whole.labels[inner:])


@pytest.mark.parametrize("name", ["ships", "people", "cells"])
def test_a_job_of_the_manual_finds_them(name: str, bench: Any) -> None:
    """deployments/jobs/ships.yaml, people.yaml and cells.yaml, with networks that find discs."""
    data = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    picture, ids = finders.discs(7, (130, 170), 25)
    if name == "ships":
        path = finders.disc_yolo(bench.root / "m.onnx")
        data["segmenter"]["window"] = 64
        bench.put("a.zarr", picture)
        del data["source"]["bands"]
    elif name == "cells":
        path = finders.disc_stars(bench.root / "m.onnx")
        data["segmenter"] |= {"window": 64, "overlap": 0.5, "scale": {"divide": 255}}
        bench.put("a.zarr", picture)
    else:
        path = finders.disc_detector(bench.root / "m.onnx")
        data["segmenter"]["min_score"] = 0.6  # of a disc's fit
        bench.put("a.png", picture)
    data["source"]["paths"] = [str(bench.inputs)]
    data["segmenter"]["path"] = path
    data["store"]["path"] = str(bench.store)
    summary = segengine.run(data)
    assert summary.exit_code == 0
    (scene,) = bench.open().scenes.values()
    shown = scene.instances[0][: len(ids), : ids.shape[1]]
    np.testing.assert_array_equal(shown > 0, ids > 0)
    assert len(np.unique(shown)) == 26
    rows = pq.read_table(next(bench.root.rglob("tables/instances.parquet")))
    assert rows.num_rows == 25


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), size=st.tuples(st.integers(20, 150), st.integers(20, 150)))
def test_any_scene_s_discs_are_each_found_once(disc_finder: Finder, seed: int, size: Any) -> None:
    picture, ids = finders.discs(seed, size, size[0] * size[1] // 900)
    np.testing.assert_array_equal(segengine.predict(picture, disc_finder).instances, ids)


@pytest.fixture(scope="module")
def disc_finder(tmp_path_factory: pytest.TempPathFactory) -> Finder:
    found = KINDS["yolo"](tmp_path_factory.mktemp("models"))
    assert isinstance(found, Finder)
    return found


def test_drawn_networks_keep_the_laws(tmp_path: Path, noise: Any) -> None:
    path = finders.yolo(tmp_path / "y.onnx", side=32)

    class Suite(SegmenterTests):
        sent = False
        sides = (64, 90)

        def make(self) -> Any:
            return create(path, window=32, overlap=0.4, classes=["a", "b", "c"])

        def pixels(self) -> Array:
            frames: Array = noise(5, (2, 210, 175, 3))
            return frames

    suite = Suite()
    suite.test_its_parts_are_what_the_protocol_says()
    suite.test_it_predicts_what_it_says()
    suite.test_tiled_equals_whole()


def test_a_window_sees_only_its_neighbours(tmp_path: Path, noise: Any, monkeypatch: Any) -> None:
    """A shard computes windows around it, not all that its context would hold."""
    made = create(finders.yolo(tmp_path / "y.onnx", side=32), window=32, classes=["a", "b", "c"])
    assert isinstance(made, Finder)
    looked = []

    class Counted:
        provenance = ""

        def find(self, window: Array) -> list[Any]:
            looked.append(window.shape[:2])
            return made.head.find(window)

    counted = replace(made, head=Counted())
    halo = counted.halo
    assert halo == 64
    frame = noise(6, (1, 64 + 2 * halo, 64 + 2 * halo, 3))
    counted.at((640, 640), (4000, 4000)).segment(frame)
    assert set(looked) == {(32, 32)}
    # 64 + 4 pixels at steps of 16 lie in 6 windows an axis, and those have two rivals more
    assert 36 <= len(looked) <= 64
