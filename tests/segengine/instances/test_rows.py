"""Rows of instances against pycocotools and scikit-image."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco
from skimage.measure import regionprops

import segengine
from segengine.instances import downward, rle
from segengine.instances.boxes import objects_in, shown_in
from segengine.instances.rle import encode_rle
from segengine.instances.rows import (
    ROWS_SCHEMA,
    TABLE_SCHEMA,
    objects_of,
    read_rows,
    to_bytes,
    with_frame,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=40))


def pad(mask: np.ndarray, origin: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size, np.uint8)
    whole[origin[0] :, origin[1] :][: mask.shape[0], : mask.shape[1]] = mask
    return whole


@settings(max_examples=200)
@given(masks, st.tuples(*[st.integers(0, 40)] * 4))
def test_runs_are_those_of_coco(mask: np.ndarray, margin: tuple[int, int, int, int]) -> None:
    top, left, bottom, right = margin
    size = (mask.shape[0] + top + bottom, mask.shape[1] + left + right)
    whole = pad(mask, (top, left), size)
    wanted = coco.encode(np.asfortranarray(whole))["counts"].decode()
    assert encode_rle(mask, (top, left), size) == wanted


def test_long_runs() -> None:
    whole = np.zeros((3000, 70), np.uint8)
    whole[5:2990, 3:60] = 1
    assert (
        encode_rle(whole, (0, 0), whole.shape)
        == coco.encode(np.asfortranarray(whole))["counts"].decode()
    )


@settings(max_examples=60)
@given(
    npst.arrays(
        np.uint32,
        st.tuples(st.integers(1, 15), st.integers(1, 15)),
        elements=st.sampled_from([0, 1, 2, 7, 900]),
    )
)
def test_objects_say_what_the_map_holds(ids: np.ndarray) -> None:
    labels = (ids % 3).astype(np.uint8)
    rows = objects_of(ids, labels).to_pylist()
    regions = {r.label: r for r in regionprops(ids.astype(np.int64))}
    assert [r["id"] for r in rows] == sorted(regions)
    for row in rows:
        region = regions[row["id"]]
        y0, x0, y1, x1 = region.bbox
        assert row["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert row["area"] == region.num_pixels
        assert row["class"] == row["id"] % 3
        assert row["score"] == 1.0
        decoded = coco.decode({"size": list(ids.shape), "counts": row["rle"].encode()})
        np.testing.assert_array_equal(decoded, ids == row["id"])


@settings(max_examples=60)
@given(
    npst.arrays(
        np.uint32,
        st.tuples(st.integers(1, 15), st.integers(1, 15)),
        elements=st.sampled_from([0, 1, 2, 7, 1 << 31]),
    ),
    st.tuples(*[st.integers(0, 40)] * 4),
    st.integers(1, 60),
)
def test_objects_of_large_maps_are_found_alike(
    ids: np.ndarray, margin: tuple[int, int, int, int], strip: int
) -> None:
    top, left, bottom, right = margin
    size = (ids.shape[0] + top + bottom, ids.shape[1] + left + right)
    wanted = shown_in(ids, (top, left), size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downward, "SMALL", 0)
        patch.setattr(downward, "STRIP", strip)
        several = shown_in(ids, (top, left), size)
        patch.setattr(downward, "RUNS", 0)
        patch.setattr(rle, "RUNS", 0)
        many = shown_in(ids, (top, left), size)
    for found in (several, many):
        for mine, theirs in zip(found[:-1], wanted[:-1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert found.rles == wanted.rles


@pytest.mark.usefixtures("plain_report")
def test_the_table_of_a_store(bench: Any, noise: Any) -> None:
    spec = {"kind": "edges", "output": "regions"}
    for i, size in enumerate([(40, 50), (60, 33), (20, 300)]):
        bench.put(f"{i}.png", noise(i, (*size, 3)))
    bench.run(spec, store={"shard": 512})
    table = pq.read_table(bench.store / "tables/instances.parquet")
    assert table.schema.equals(TABLE_SCHEMA)
    store = bench.open()
    count = 0
    for name, scene in store.scenes.items():
        for ref in scene.frames:
            ids = np.asarray(scene.instances[ref.index])[: ref.height, : ref.width]
            rows = [r for r in table.to_pylist() if (r["scene"], r["frame"]) == (name, ref.index)]
            assert [r["id"] for r in rows] == np.unique(ids[ids > 0]).tolist()
            first = [int(np.argmax(ids.ravel() == r["id"])) for r in rows]
            assert first == sorted(first)  # numbered by first pixel in raster order
            for row in rows:
                whole = coco.decode(
                    {"size": [ref.height, ref.width], "counts": row["rle"].encode()}
                )
                np.testing.assert_array_equal(whole, ids == row["id"])
            count += len(rows)
    assert count == table.num_rows > 10
    # The next job finds none: a table of an earlier one must not stay.
    bench.run({"kind": "threshold"})
    assert not (bench.store / "tables/instances.parquet").exists()
    assert bench.open()["256x256-uint8-3"].instances is None


@pytest.mark.usefixtures("plain_report")
def test_a_segmenter_that_does_not_say_what_it_predicts(toys: str, bench: Any, noise: Any) -> None:
    image = noise(1, (40, 40, 3))
    bench.put("a.png", image)
    bench.run({"kind": f"{toys}:Silent"})
    scene = bench.open()["256x256-uint8-3"]
    wanted = segengine.predict(image, {"kind": f"{toys}:Silent"})
    np.testing.assert_array_equal(scene.instances[0, :40, :40], wanted.instances)
    assert scene.probabilities is None


def test_rows_stored_before_they_had_a_column() -> None:
    ids = np.array([[1, 1, 0, 2]], np.uint32)
    rows = with_frame(objects_of(ids, ids), "scene", 3, cut=[True, False])
    assert read_rows(to_bytes(rows)).equals(rows)
    old = read_rows(to_bytes(rows.drop_columns("cut")))
    assert old.schema == ROWS_SCHEMA
    assert old.column("cut").to_pylist() == [None, None]
    assert old.drop_columns("cut").equals(rows.drop_columns("cut"))


def test_objects_of_a_map_take_little_beside_it() -> None:
    y, x = np.mgrid[:512, :512]
    inside = (y % 36 - 17.5) ** 2 + (x % 36 - 17.5) ** 2 < 270
    ids = np.where(inside, y // 36 * 15 + x // 36 + 1, 0).astype(np.int32)
    objects_in(ids, (0, 0), (2048, 2048))
    tracemalloc.start()
    objects_in(ids, (0, 0), (2048, 2048))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * ids.size  # 17 as numbers of 64 bits and turned around
