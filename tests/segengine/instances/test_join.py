"""Objects across window borders: perfect tiles give the whole frame's objects back."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segengine.instances.join import (
    BAND,
    CERTAIN,
    Seen,
    _numbered,
    _shared,
    components,
    groups_of,
    join,
    renumbered,
    see,
)


def windows_of(
    truth: np.ndarray, side: int, *, overlap: bool, noise: Any = None
) -> tuple[dict[tuple[int, int], Seen], dict[tuple[int, int], np.ndarray]]:
    """What windows of a perfect segmenter see: the true objects, numbered by the window's own taste."""
    height, width = truth.shape
    halo = BAND if overlap else 0
    seen, cores = {}, {}
    for r, y in enumerate(range(0, height, side)):
        for c, x in enumerate(range(0, width, side)):
            y1, x1 = min(y + side, height), min(x + side, width)
            top, left = max(0, y - halo), max(0, x - halo)
            part = truth[top : min(height, y1 + halo), left : min(width, x1 + halo)].copy()
            if noise is not None:
                part = noise(part, r, c)
            values, dense = np.unique(part, return_inverse=True)
            shuffled = np.random.default_rng(r * 100 + c).permutation(len(values)) + 1
            shuffled[values == 0] = 0
            ids = shuffled[dense].reshape(part.shape)
            labels = (part > 0).astype(np.uint8)
            inner = (slice(y - top, y1 - top), slice(x - left, x1 - left))
            band = BAND if overlap else 0
            seen[r, c], cores[r, c], _ = see(ids, labels, inner, (y, x), width, band=band)
    return seen, cores


def stitched(truth: np.ndarray, side: int, **options: Any) -> np.ndarray:
    seen, cores = windows_of(truth, side, **options)
    joined = join(seen, overlap=options["overlap"])
    found = np.zeros(truth.shape, np.uint32)
    for (r, c), core in cores.items():
        y, x = r * side, c * side
        found[y : y + core.shape[0], x : x + core.shape[1]] = joined.ids[r, c][core]
    return found


def numbered(truth: np.ndarray) -> np.ndarray:
    """The same objects, numbered by first pixel in raster order."""
    values, first, inverse = np.unique(truth, return_index=True, return_inverse=True)
    order = np.argsort(np.where(values == 0, -1, first))
    rank = np.empty(len(values), int)
    rank[order] = np.arange(len(values)) + (values[order[0]] != 0)
    return rank[inverse].reshape(truth.shape)


@given(st.integers(0, 10_000), st.sampled_from([2, 9, 2**32 - 1]), st.booleans())
@settings(max_examples=60)
def test_ids_follow_their_first_pixel(seed: int, top: int, filled: bool) -> None:
    ids = np.random.default_rng(seed).integers(filled, top, (7, 9), np.uint32, endpoint=True)
    found, new = renumbered(ids)
    np.testing.assert_array_equal(found, numbered(ids))
    assert found.dtype == np.uint32
    old = dict(zip(ids.ravel().tolist(), found.ravel().tolist(), strict=True))
    assert new == {k: v for k, v in old.items() if k}


def voronoi(seed: int, size: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    marks = np.ones((size, size), bool)
    points = rng.integers(0, size, (count, 2))
    marks[tuple(points.T)] = False
    _, (y, x) = ndimage.distance_transform_edt(marks, return_indices=True)
    owner = np.zeros((size, size), int)
    owner[tuple(points.T)] = np.arange(1, count + 1)
    return owner[y, x]


@given(st.integers(0, 10_000), st.sampled_from([16, 23, 40, 64]), st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_cells_without_a_gap_come_out_whole(seed: int, side: int, count: int) -> None:
    truth = voronoi(seed, 96, count)
    np.testing.assert_array_equal(stitched(truth, side, overlap=True), numbered(truth))


@given(st.integers(0, 10_000), st.sampled_from([16, 23, 40, 64]), st.floats(0.2, 0.7))
@settings(max_examples=30, deadline=None)
def test_components_are_those_of_the_whole_frame(seed: int, side: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((90, 70)) < share
    whole, _ = ndimage.label(mask, np.ones((3, 3)))
    seen, cores = {}, {}
    for r, y in enumerate(range(0, 90, side)):
        for c, x in enumerate(range(0, 70, side)):
            labels = mask[y : y + side, x : x + side].astype(np.uint8)
            inner = (slice(0, labels.shape[0]), slice(0, labels.shape[1]))
            ids = components(labels, (0,))
            seen[r, c], cores[r, c], _ = see(ids, labels, inner, (y, x), 70, band=0)
    joined = join(seen, overlap=False)
    found = np.zeros(mask.shape, np.uint32)
    for (r, c), core in cores.items():
        at = slice(r * side, r * side + side), slice(c * side, c * side + side)
        found[at] = joined.ids[r, c][core]
    np.testing.assert_array_equal(found, numbered(whole))


def test_classes_are_not_joined() -> None:
    labels = np.zeros((8, 16), np.uint8)
    labels[2:6, 2:8], labels[2:6, 8:14] = 1, 2
    seen = {}
    for c in range(2):
        part = labels[:, 8 * c : 8 * c + 8]
        inner = (slice(0, 8), slice(0, 8))
        seen[0, c], _, _ = see(components(part, (0,)), part, inner, (0, 8 * c), 16, band=0)
    joined = join(seen, overlap=False)
    assert joined.label.tolist() == [1, 2]
    assert joined.parts.tolist() == [1, 1]


def test_noise_at_the_borders_does_not_cut_objects() -> None:
    truth = voronoi(1, 256, 60)

    def noise(part: np.ndarray, r: int, c: int) -> np.ndarray:
        rng = np.random.default_rng([r, c])
        flipped = rng.random(part.shape) < 0.05
        return np.where(flipped, 0, part)

    found = stitched(truth, 64, overlap=True, noise=noise)
    whole = numbered(truth)
    matched = 0
    for i in range(1, 61):
        ids, counts = np.unique(found[whole == i], return_counts=True)
        best = ids[np.argmax(counts)]
        union = np.count_nonzero((whole == i) | (found == best))
        matched += counts.max() / union > 0.5 and best > 0
    assert matched == 60
    assert len(np.unique(found)) - 1 <= 62


@given(st.integers(0, 10_000), st.sampled_from([16, 23, 33, 64]), st.integers(3, 40))
@settings(max_examples=30, deadline=None)
def test_perfect_windows_cut_nothing(seed: int, side: int, count: int) -> None:
    seen, _ = windows_of(voronoi(seed, 97, count), side, overlap=True)
    assert not join(seen, overlap=True).cut.any()
    seen, _ = windows_of(voronoi(seed, 97, count), side, overlap=False)
    assert not join(seen, overlap=False).cut.any()


@given(st.integers(0, 10_000), st.sampled_from([24, 33, 48]), st.integers(3, 20))
@settings(max_examples=30, deadline=None)
def test_what_one_window_does_not_see_is_flagged_where_it_was_cut(
    seed: int, side: int, count: int
) -> None:
    truth = voronoi(seed, 96, count)
    blind = (1, 1)

    def noise(part: np.ndarray, r: int, c: int) -> np.ndarray:
        return np.zeros_like(part) if (r, c) == blind else part

    seen, cores = windows_of(truth, side, overlap=True, noise=noise)
    joined = join(seen, overlap=True)
    found = np.zeros(truth.shape, int)
    for (r, c), core in cores.items():
        y, x = r * side, c * side
        found[y : y + core.shape[0], x : x + core.shape[1]] = joined.ids[r, c][core]
    wanted: set[int] = set()
    along, end = slice(side, 2 * side), 2 * side
    for at, sign in ((side, -1), (end, 1)):  # pixels on either side of each border of the blind one
        outer = slice(at - BAND, at) if sign < 0 else slice(at, at + BAND)
        inner = slice(at, at + BAND) if sign < 0 else slice(at - BAND, at)
        for here, there in (((outer, along), (inner, along)), ((along, outer), (along, inner))):
            goes_on = np.isin(truth[here], truth[there])
            wanted |= set(found[here][goes_on].tolist())
    assert set((np.flatnonzero(joined.cut) + 1).tolist()) == wanted
    assert wanted


def test_windows_that_disagree_on_a_class_are_flagged() -> None:
    seen = {}
    for c in range(2):
        ids = np.zeros((10, 12), int)
        ids[2:6] = 1
        ids[8, 2:5] = 2  # wholly within its window's shard
        inner = (slice(0, 10), slice(0, 10) if c == 0 else slice(2, 12))
        labels = np.where(ids == 1, 1 + c, np.where(ids == 2, 3, 0))
        seen[0, c], _, _ = see(ids, labels, inner, (0, 10 * c), 20)
    joined = join(seen, overlap=True)
    assert joined.label.tolist() == [1, 2, 3, 3]
    assert joined.cut.tolist() == [True, True, False, False]
    alone = join({(0, 0): seen[0, 0]}, overlap=True)  # the other window could not be read
    assert alone.cut.tolist() == [True, False]


@pytest.mark.parametrize("overlap", [True, False])
def test_nothing_seen_is_no_object(overlap: bool) -> None:
    truth = np.zeros((40, 40), int)
    assert not stitched(truth, 16, overlap=overlap).any()


@pytest.mark.parametrize("overlap", [False, True])
def test_a_frame_of_which_no_window_could_be_read_has_no_objects(overlap: bool) -> None:
    joined = join({}, overlap=overlap)
    assert (joined.ids, joined.label.size, joined.parts.size) == ({}, 0, 0)


def test_ties_between_the_parts_of_an_object() -> None:
    """The largest part names the class; of equally large ones, that with the first pixel."""

    def part(first: int, area: int, label: int) -> Seen:
        nothing = np.zeros((0, 0), np.int32)
        return Seen(
            np.array([first]), np.array([area]), np.array([label], np.uint16),
            np.array([label / 10], np.float32), nothing, nothing, nothing, nothing,
            np.zeros((4, 1), np.bool_),
        )  # fmt: skip

    def chosen(*parts: tuple[int, int, int]) -> int:
        windows = {(0, i): part(*given) for i, given in enumerate(parts)}
        one = np.zeros(len(parts), np.int64)  # all of them are one object
        label = np.array([given[2] for given in parts], np.uint16)
        sizes, cells = [1] * len(parts), sorted(windows)
        joined = _numbered(windows, cells, sizes, one, label, np.zeros(len(parts), np.bool_))
        assert joined.parts.tolist() == [len(parts)]
        assert joined.score.tolist() == [np.float32(max(label) / 10)]
        return int(joined.label[0])

    assert chosen((50, 9, 1), (10, 4, 2), (30, 4, 3)) == 1
    for order in itertools.permutations([(10, 4, 2), (30, 4, 3), (20, 4, 1)]):
        assert chosen(*order) == 2
    assert chosen((-1, 4, 5), (30, 4, 3)) == 5  # as `see` numbers one without a pixel of its own


@pytest.mark.parametrize("agreed", [False, True])
def test_windows_that_cannot_differ_are_believed_on_a_pixel(agreed: bool) -> None:
    """The left window knows that two strips are one, which meet in it; the right one sees them apart."""
    ids = np.zeros((8, 12), np.int32)
    ids[1:4] = ids[6:] = ids[:, :2] = 1
    ids[7, 2:] = 0
    apart = np.where(ids > 0, np.where(np.arange(8) < 5, 1, 2)[:, None], 0).astype(np.int32)
    left, core, _ = see(ids[:, :8], ids[:, :8] > 0, np.s_[0:8, 0:6], (0, 0), 12)
    right, other, _ = see(apart[:, 4:], apart[:, 4:] > 0, np.s_[0:8, 2:8], (0, 6), 12)
    joined = join({(0, 0): left, (0, 1): right}, overlap=True, agreed=agreed)
    assert len(joined.label) == (1 if agreed else 2)
    if agreed:
        whole = [joined.ids[0, 0][core], joined.ids[0, 1][other]]
        np.testing.assert_array_equal(np.hstack(whole), ids)


def test_what_goes_on_behind_nodata_is_one_object() -> None:
    ids, valid = np.ones((4, 12), np.int32), np.ones((4, 12), bool)
    valid[:, 4:8] = False  # all that both windows see of it
    seen, cores = {}, []
    for i, (window, inner) in enumerate(
        [(np.s_[:, :8], np.s_[0:4, 0:6]), (np.s_[:, 4:], np.s_[0:4, 2:8])]
    ):
        seen[0, i], core, _ = see(
            ids[window], ids[window], inner, (0, 6 * i), 12, valid=valid[window]
        )
        cores.append(core)
    joined = join(seen, overlap=True, agreed=True)
    found = np.hstack([joined.ids[0, i][core] for i, core in enumerate(cores)])
    np.testing.assert_array_equal(found, np.where(valid, 1, 0))
    assert seen[0, 0].area.tolist() == [16]


@pytest.mark.parametrize(("common", "one"), [(3, False), (4, True), (5, True)])
def test_half_of_the_smaller_object_is_enough(common: int, one: bool) -> None:
    mine, theirs = np.zeros((1, 32), np.int32), np.zeros((1, 32), np.int32)
    mine[0, :8] = 1
    theirs[0, 8 - common : 20 - common] = 1  # 12 pixels, of which `common` are the other's
    pairs, agreed = _shared(mine, theirs)
    assert (pairs.tolist(), agreed.tolist()) == ([[1, 1]], [one])


@pytest.mark.parametrize(("common", "one"), [(CERTAIN - 1, False), (CERTAIN, True)])
def test_enough_pixels_make_one_of_what_shares_more_with_another(common: int, one: bool) -> None:
    mine, theirs = np.zeros((1, 64), np.int32), np.zeros((1, 64), np.int32)
    mine[0, :48] = 1
    theirs[0, :24] = 1
    theirs[0, 24 : 24 + common] = 2
    pairs, agreed = _shared(mine, theirs)
    assert (pairs.tolist(), agreed.tolist()) == ([[1, 1], [1, 2]], [True, one])


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 11)] * 2), max_size=14))
def test_few_pairs_are_grouped_as_many(given_pairs: list[tuple[int, int]]) -> None:
    pairs = np.array(given_pairs, np.int64).reshape(-1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segengine.instances.join.FEW", -1)
        wanted = groups_of(12, pairs)
    np.testing.assert_array_equal(groups_of(12, pairs), wanted)
