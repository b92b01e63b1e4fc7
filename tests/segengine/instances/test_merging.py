"""Regions over windows: joined and merged as in the whole frame, by a rule that is said in plain words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.instances.merging import merge, merged_frames, parcels_of
from segengine.types import Connected


def connected(seed, height, width, alike):
    """A frame whose neighbours are linked as chance has it."""
    rng = np.random.default_rng(seed)
    links = (rng.random((1, height, width)) < alike) * 1 + (
        rng.random((1, height, width)) < alike
    ) * 2
    values = rng.integers(-4, 5, (1, height, width, 2)).astype(np.int32)
    valid = rng.random((1, height, width)) < 0.92
    return Connected(links.astype(np.uint8), values), valid


def touching(shape):
    """Each pixel with its right (bit 1) and its lower (bit 2) neighbour."""
    for y, x in np.ndindex(*shape):
        for bit, there in ((1, (y, x + 1)), (2, (y + 1, x))):
            if there[0] < shape[0] and there[1] < shape[1]:
                yield bit, (y, x), there


def by_words(found, valid, least, drops):
    """Ids (y, x) of a frame: sets of pixels, merged one by one."""
    links, values, valid = found.links[0], found.values[0].astype(float), valid[0]
    of = {tuple(at): {tuple(at)} for at in np.argwhere(valid).tolist()}

    def one(a, b):
        both = of[a] | of[b]
        of.update(dict.fromkeys(both, both))

    def regions():
        return sorted({min(r): r for r in of.values()}.values(), key=min)

    def mean(region):
        return np.array([sum(values[at][b] for at in region) / len(region) for b in (0, 1)])

    for bit, here, there in touching(valid.shape):
        if links[here] & bit and valid[here] and valid[there]:
            one(here, there)
    if drops:
        kept = [r for r in regions() if len(r) >= least]
    else:
        for size in range(1, least):
            now = [r for r in regions() if len(r) == size]
            pairs = []
            for region in now:
                beside = {}
                for _, here, there in touching(valid.shape):
                    for a, b in ((here, there), (there, here)):
                        if a in region and b in of and b not in region:
                            beside[min(of[b])] = of[b]
                far = [
                    (((mean(region) - mean(r)) ** 2).sum(), first) for first, r in beside.items()
                ]
                if far:
                    pairs.append((min(region), min(far)[1]))
            for a, b in pairs:
                one(a, b)
        kept = regions()
    ids = np.zeros(valid.shape, np.uint32)
    for i, region in enumerate(kept, 1):
        ids[tuple(np.transpose(list(region)))] = i
    return ids


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    alike=st.sampled_from([0.1, 0.4, 0.6]),
    least=st.sampled_from([1, 2, 5, 30]),
    side=st.integers(1, 6),
    drops=st.booleans(),
)
def test_windows_together_give_what_the_words_say(seed, shape, alike, least, side, drops):
    found, valid = connected(seed, *shape, alike)
    wanted = by_words(found, valid, least, drops)
    assert np.array_equal(merged_frames(found, valid, least, drops)[0], wanted)
    windows, numbers, cells = {}, {}, {}
    for y in range(0, shape[0], side):
        for x in range(0, shape[1], side):
            inner = slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1]))
            cell = y // side, x // side
            cells[cell] = inner
            windows[cell], numbers[cell] = parcels_of(
                found, valid[0], inner, (y, x), shape[1], least
            )
    merged = merge(windows, least, drops)
    for cell, inner in cells.items():
        assert np.array_equal(merged[cell].ids[numbers[cell]], wanted[inner])
    several = [
        i for i in range(1, wanted.max() + 1)
        if sum((wanted[inner] == i).any() for inner in cells.values()) > 1
    ]  # fmt: skip
    told = {
        int(i)
        for one in merged.values()
        for i, part in zip(one.ids, one.parts, strict=True)
        if part and i
    }
    assert told == set(several)


@pytest.mark.parametrize("drops", [False, True])
def test_the_regions_beside_a_window_that_is_missing_are_numbered(drops):
    found, valid = connected(4, 8, 12, 0.6)
    windows, numbers = {}, {}
    for column in range(3):
        inner = slice(0, 8), slice(4 * column, 4 * column + 4)
        windows[0, column], numbers[0, column] = parcels_of(
            found, valid[0], inner, (0, 4 * column), 12, 5
        )
    del windows[0, 1]
    merged = merge(windows, 5, drops)
    assert merged.keys() == {(0, 0), (0, 2)}
    ids = np.concatenate([merged[0, c].ids[numbers[0, c]] for c in (0, 2)], axis=1)
    assert set(np.unique(ids[ids > 0])) == set(range(1, ids.max() + 1))
    assert ids.max() > 1
    assert not any(one.parts.any() for one in merged.values())
