"""Instances of a cut frame: those of the whole frame, in maps, tables and records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco
from scipy import ndimage

import segengine
from segengine.errors import JobError
from segengine.report._content import content

pytestmark = [
    pytest.mark.usefixtures("plain_report"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pycocotools
]

MODULE = '''
"""A segmenter that reads its objects off the pixels: a gray value is an object."""

import numpy as np
import pyarrow as pa

from segengine.instances.boxes import row_of
from segengine.instances.rows import SCHEMA
from segengine.types import Prediction


class Read:
    """Each window numbers what it sees its own way; `grown` objects reach under their neighbours.

    A window overlooks objects of which it sees fewer than `least` pixels.
    """

    classes = ("background", "even", "odd")
    outputs = ("labels", "instances", "objects")
    stride = 1

    def __init__(self, halo=8, grown=False, least=0):
        self.halo, self.grown, self.least = halo, grown, least

    def segment(self, pixels):
        values = pixels[..., 0].astype(np.uint32)
        values[np.bincount(values.ravel())[values] < self.least] = 0
        labels = np.where(values > 0, 1 + values % 2, 0).astype(np.uint8)
        ids = np.where(values > 0, 1000 - values, 0).astype(np.uint32)
        if not self.grown:
            return Prediction(labels, instances=ids)
        rows = []
        for value in np.unique(ids[ids > 0]).tolist():
            mask = ids[0] == value
            mask[:-1] |= mask[1:]
            size = mask.shape
            rows.append(row_of(value, 1 + (1000 - value) % 2, value / 1000, mask, (0, 0), size))
        objects = pa.Table.from_pylist(rows, schema=SCHEMA)
        return Prediction(labels, instances=ids, objects=objects)
'''


def cells(seed: int, height: int, width: int, count: int) -> np.ndarray:
    """Touching cells with a few gaps, as gray values."""
    rng = np.random.default_rng(seed)
    marks = np.ones((height, width), bool)
    points = np.stack([rng.integers(0, height, count), rng.integers(0, width, count)], axis=1)
    marks[tuple(points.T)] = False
    distance, (y, x) = ndimage.distance_transform_edt(marks, return_indices=True)
    owner = np.zeros((height, width), int)
    owner[tuple(points.T)] = np.arange(1, count + 1)
    found = owner[y, x]
    found[distance > 14] = 0
    return found.astype(np.uint8)


@pytest.fixture
def segmenter(bench: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = Path(bench.root) / "code"
    folder.mkdir()
    (folder / "reads_objects.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    return "reads_objects:Read"


def run(bench: Any, segmenter: str, shard: int, **options: Any) -> tuple[np.ndarray, list[Any]]:
    path = bench.root / f"masks-{shard}-{len(options)}.zarr"
    store = {"path": str(path), "shard": shard, "chunk": 32}
    bench.run({"kind": segmenter, **options}, store=store)
    (scene,) = segengine.open_store(path).scenes.values()
    table = pq.read_table(path / "tables/instances.parquet")
    return np.asarray(scene.instances[0]), table.to_pylist()


def numbered(values: np.ndarray) -> np.ndarray:
    found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.zeros(len(found), int)
    rank[np.argsort(np.where(found == 0, -1, first))] = np.arange(len(found))
    return rank[inverse].reshape(values.shape)


@pytest.mark.parametrize("shard", [32, 64, 96])
def test_a_cut_frame_has_the_objects_of_the_whole(shard: int, bench: Any, segmenter: str) -> None:
    truth = cells(3, 150, 200, 90)
    truth[0, 0] = 0
    bench.put("a.png", truth)
    whole, rows = run(bench, segmenter, 256)
    wanted = numbered(truth)
    np.testing.assert_array_equal(whole[:150, :200], wanted)
    tiled, tiled_rows = run(bench, segmenter, shard)
    np.testing.assert_array_equal(tiled, whole)
    assert tiled_rows == rows
    for row in rows[::7]:
        mask = coco.decode({"size": [150, 200], "counts": row["rle"]})
        np.testing.assert_array_equal(mask, wanted == row["id"])
        assert row["area"] == mask.sum()
        ys, xs = np.nonzero(mask)
        assert row["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert row["class"] == 1 + int(truth[ys[0], xs[0]]) % 2


def test_overlaps_are_kept_in_the_table(bench: Any, segmenter: str) -> None:
    truth = cells(4, 100, 120, 40)
    truth[0, 0] = 0
    bench.put("a.png", truth)
    whole, rows = run(bench, segmenter, 128, grown=True)
    tiled, tiled_rows = run(bench, segmenter, 32, grown=True)
    np.testing.assert_array_equal(tiled, whole)
    assert len(tiled_rows) == len(rows)
    for a, b in zip(tiled_rows, rows, strict=True):
        assert (a["id"], a["class"], a["score"]) == (b["id"], b["class"], b["score"])
        first = coco.decode({"size": [100, 120], "counts": a["rle"]})
        second = coco.decode({"size": [100, 120], "counts": b["rle"]})
        np.testing.assert_array_equal(first, second)


def test_an_object_larger_than_the_overlap_is_one_or_is_flagged(bench: Any, segmenter: str) -> None:
    truth = np.zeros((64, 96), np.uint8)
    truth[5:60, 10:41] = 3  # the windows to the right see 17 columns of it
    truth[20:24, 50:90] = 4
    truth[2:8, 70:74] = 5
    bench.put("a.png", truth)
    store = {"shard": 32, "chunk": 32}
    for least, cut in ((0, []), (700, [3])):
        bench.run({"kind": segmenter, "least": least}, store=store)
        found = bench.open().metrics["cut_instances"]
        rows = bench.open().table("instances").to_pylist()
        named = {row["id"]: int(truth[int(row["bbox"][1]), int(row["bbox"][0])]) for row in rows}
        assert [named[row["id"]] for row in found["listed"]] == cut
        assert found["count"] == sum(found["scenes"].values()) == len(cut)
        if not cut:
            assert sorted(named.values()) == [3, 4, 5]
        shown = content(bench.open())
        assert shown["cut"] == len(cut)
    summary = bench.run({"kind": segmenter, "least": 700}, store=store)
    assert summary.computed == 0
    assert summary.metrics["cut_instances"] == found


def test_nothing_of_a_finished_job_is_done_again(bench: Any, segmenter: str) -> None:
    bench.put("a.png", cells(5, 100, 120, 40))
    store = {"shard": 32, "chunk": 32}
    assert bench.run({"kind": segmenter}, store=store).computed == 64
    before = bench.tree()
    assert bench.run({"kind": segmenter}, store=store).computed == 0
    assert bench.tree() == before
    table = bench.open().table("instances")
    assert pc.count_distinct(table.column("id")).as_py() == table.num_rows


@pytest.mark.parametrize("shard", [32, 64])
def test_components_of_a_cut_frame_are_those_of_its_mask(
    shard: int, bench: Any, noise: Any
) -> None:
    image = noise(7, (150, 190, 3))
    bench.put("a.png", image)
    spec = {"kind": "threshold", "method": "mean", "instances": "components"}
    bench.run(spec, store={"shard": shard})
    (scene,) = bench.open().scenes.values()
    mask = np.asarray(scene.mask[0])[:150, :190]
    found = np.asarray(scene.instances[0])[:150, :190]
    wanted, count = ndimage.label(mask == 1, np.ones((3, 3)))
    np.testing.assert_array_equal(found, numbered(wanted))
    assert bench.open().table("instances").num_rows == count
    np.testing.assert_array_equal(segengine.predict(image, spec).instances, found)


def test_components_are_refused_where_objects_are_found(
    bench: Any, segmenter: str, noise: Any
) -> None:
    bench.put("a.png", noise(7, (50, 60, 3)))
    for kind in ({"kind": segmenter}, {"kind": "edges", "operator": "canny"}):
        with pytest.raises(JobError, match=r"segmenter.instances: .* leave the key out"):
            bench.run({**kind, "instances": "components"})
