"""Clean components of windows, linked and split, are those of the whole frame, for any cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segengine.instances import cleaning as cleaning_module
from segengine.instances import parts as parts_module
from segengine.instances.cleaning import Cleaning, clean, clean_frame, kinds_of
from segengine.instances.parts import Parts, parts_of
from segengine.stages.parts import decided_parts, split_tasks
from segengine.store.blobs import Writer, open_objects
from segengine.store.keys import parts_key
from segengine.store.values import decode, encode
from segengine.types import Cell, FrameRef
from segengine.worker.splits import split_components
from segengine.worker.tasks import SplitComponents
from tests.segengine.instances.test_splitting import blobs

some = st.sampled_from
CLEANINGS = st.builds(
    Cleaning,
    classes=some([(1,), (1, 2)]),
    connectivity=some([1, 2]),
    smooth=some([0.0, 0.6, 1.5]),
    holes=some([0, 1, 6, 40]),
    min_area=some([0, 3, 30]),
    split=some(["", "watershed", "distance", "hmaxima"]),
    min_distance=some([1, 3, 6]),
    height=some([0.4, 1.0]),
)


def labelled(seed: int, height: int, width: int) -> np.ndarray:
    """Blobs of two classes with void in them."""
    labels = blobs(seed, height, width).astype(np.uint8)
    labels[blobs(seed + 1, height, width) & (labels > 0)] = 1 + seed % 2
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        y, x = rng.integers(0, height), rng.integers(0, width)
        labels[y : y + 3, x : x + 2] = 255
    return labels


def tiled(
    labels: np.ndarray, how: Cleaning, cut: int, store: Path, missing: tuple[Cell, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a frame in windows of `cut` pixels, as workers and driver make them; class of each id."""
    height, width = labels.shape
    quick = Writer(fsync=False)
    objects = open_objects(str(store), quick)
    windows: dict[Cell, Parts] = {}
    drafts: dict[Cell, np.ndarray] = {}
    for cell in np.ndindex(-(-height // cut), -(-width // cut)):
        if cell in missing:
            continue
        y, x = cell[0] * cut, cell[1] * cut
        bottom, right = min(height, y + cut), min(width, x + cut)
        top, left = max(0, y - how.reach), max(0, x - how.reach)
        seen = labels[top : bottom + how.reach, left : right + how.reach]
        goes_on = (y > 0, bottom < height, x > 0, right < width)
        inner = slice(y - top, bottom - top), slice(x - left, right - left)
        found = clean(kinds_of(seen, 255, how, inner), how, goes_on)
        windows[cell] = parts_of(found, goes_on, (y, x), width)
        drafts[cell] = found.ids
        objects.put(parts_key("s", (0, *cell)), encode(found.ids))
    ref = FrameRef(0, "a", "a", "", height, width)
    splits: dict[Any, SplitComponents] = {}
    if how.split:
        for task in split_tasks(windows, how, "s", ref, str(store), quick):
            result = split_components(task)
            assert isinstance(result, SplitComponents), result
            splits[task.place] = result
    decided = decided_parts("s", 0, windows, how, splits)
    ids, classes = np.zeros(labels.shape, np.uint32), {0: 0}
    for cell, numbers in drafts.items():
        told = decided(cell)
        out = told.ids[numbers]
        classes |= dict(zip(told.ids.tolist(), told.labels.tolist(), strict=True))
        for i, part in enumerate(told.splits, 1):
            data = objects.get(part.key)
            assert data is not None
            out[(told.split == i)[numbers]] = part.ids[decode(data)]
            classes |= dict(zip(part.ids.tolist(), part.labels.tolist(), strict=True))
        y, x = windows[cell].origin
        ids[y : y + out.shape[0], x : x + out.shape[1]] = out
    classes[0] = 0
    return ids, np.array([classes[i] for i in range(int(ids.max()) + 1)])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 999),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    cut=st.integers(1, 30),
    how=CLEANINGS,
)
def test_any_cut_gives_the_objects_of_the_whole(
    tmp_path: Path, seed: int, height: int, width: int, cut: int, how: Cleaning
) -> None:
    cut = max(cut, max(height, width) // 8)
    labels = labelled(seed, height, width)
    wanted, classes, _ = clean_frame(labels, 255, how)
    found, theirs = tiled(labels, how, cut, tmp_path)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(theirs, classes)


@pytest.mark.parametrize("connectivity", [1, 2])
def test_a_window_that_cannot_be_read_is_void(tmp_path: Path, connectivity: int) -> None:
    for seed in range(6):
        labels = labelled(seed, 48, 48)
        how = Cleaning((1, 2), connectivity, 0.0, 40, 5, "watershed", 3)
        found, _ = tiled(labels, how, 16, tmp_path, missing=((1, 1),))
        labels[16:32, 16:32] = 255
        np.testing.assert_array_equal(found, clean_frame(labels, 255, how)[0])


def test_what_is_too_large_stays_whole_for_any_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cleaning_module, parts_module):
        monkeypatch.setattr(module, "LARGEST", 300)
    labels = blobs(49, 60, 60).astype(np.uint8)
    how = Cleaning((1,), split="watershed", min_distance=2)
    wanted, _, whole = clean_frame(labels, 255, how)
    assert 0 < np.count_nonzero(whole) < len(whole) - 1
    for cut in (7, 20, 60):
        found, _ = tiled(labels, how, cut, tmp_path)
        np.testing.assert_array_equal(found, wanted)
