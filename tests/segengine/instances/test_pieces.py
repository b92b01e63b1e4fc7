"""Pieces across windows against scipy's labelling of the whole draft."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segengine.instances.pieces import Pieces, find_pieces, kept_pieces

EIGHT = np.ones((3, 3), int)


def kept_whole(draft: np.ndarray, keep: int) -> np.ndarray:
    """Pixels of the 8-connected pieces of the whole draft that reach `keep`."""
    ids, count = ndimage.label(draft > 0, EIGHT)
    best = ndimage.maximum(draft, ids, np.arange(count + 1))
    return np.asarray((ids > 0) & (np.asarray(best) >= keep)[ids])


def kept_tiled(
    draft: np.ndarray, side: tuple[int, int], keep: int, lost: set[object]
) -> np.ndarray:
    """The same from windows that only know their own pieces."""
    boxes, windows, ids = {}, {}, {}
    for row, y in enumerate(range(0, draft.shape[0], side[0])):
        for column, x in enumerate(range(0, draft.shape[1], side[1])):
            if (row, column) not in lost:
                box = np.s_[y : y + side[0], x : x + side[1]]
                boxes[row, column] = box
                windows[row, column], ids[row, column] = find_pieces(draft[box])
    found = np.zeros(draft.shape, bool)
    for place, kept in kept_pieces(windows, keep).items():
        chosen = windows[place].strength >= keep
        chosen[kept] = True
        chosen[0] = False
        found[boxes[place]] = chosen[ids[place]]
    return found


@st.composite
def drafts(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    share = draw(st.sampled_from([0.1, 0.3, 0.5]))
    weak = rng.random(shape) < share
    return (weak * np.where(rng.random(shape) < 0.05, 2, 1)).astype(np.uint8)


sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=200)
@given(drafts(), sides, st.sampled_from([1, 2]))
def test_windows_agree_with_the_whole(draft: np.ndarray, side: tuple[int, int], keep: int) -> None:
    np.testing.assert_array_equal(kept_tiled(draft, side, keep, set()), kept_whole(draft, keep))


@settings(max_examples=60)
@given(drafts(), sides, st.data())
def test_a_missing_window_joins_nothing(
    draft: np.ndarray, side: tuple[int, int], data: st.DataObject
) -> None:
    rows, columns = (-(-n // s) for n, s in zip(draft.shape, side, strict=True))
    places = [(r, c) for r in range(rows) for c in range(columns)]
    lost = set(data.draw(st.lists(st.sampled_from(places), max_size=2)))
    without = draft.copy()
    for row, column in lost:
        y, x = row * side[0], column * side[1]
        without[y : y + side[0], x : x + side[1]] = 0
    np.testing.assert_array_equal(kept_tiled(draft, side, 2, set(lost)), kept_whole(without, 2))


def test_the_strength_is_the_greatest_value() -> None:
    pieces, ids = find_pieces(np.array([[1, 0, 3], [1, 0, 2]], np.uint8))
    assert sorted(pieces.strength.tolist()) == [0, 1, 3]
    assert pieces.strength[ids[1, 2]] == 3
    assert isinstance(pieces, Pieces)
