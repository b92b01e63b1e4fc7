"""Maps taken by their runs, against the compiled loops, and against what scikit-image finds of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from skimage.measure import label

from segengine.instances import along, cleaning
from segengine.instances.along import figures_of, look_up
from segengine.instances.cleaning import VOID, Cleaning, clean, clean_frame
from segengine.store.values import decode, encode
from segengine.worker.drafts import WindowParts, read_numbers

maps = npst.arrays(
    np.uint16,
    npst.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.integers(0, 5),
)


@settings(max_examples=60)
@given(maps, st.integers(0, 63))
def test_figures_are_those_of_the_compiled_loop(ids: np.ndarray, which: int) -> None:
    boxed = np.array([which >> i & 1 for i in range(6)], np.bool_)
    few, some = figures_of(ids, 5), figures_of(ids, 5, boxed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(along, "RUNS", 0)
        many = figures_of(ids, 5)
    for mine, theirs in zip(few, many, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(some.area, few.area)
    np.testing.assert_array_equal(some.first, few.first)
    boxed[0] = False
    np.testing.assert_array_equal(some.boxes[boxed], few.boxes[boxed])


@settings(max_examples=60)
@given(maps, st.integers(1, 64))
def test_a_map_is_looked_up_strip_by_strip(ids: np.ndarray, strip: int) -> None:
    table = np.array([0, 70_000, 5, 5, 9, 1], np.uint32)
    found = np.full(ids.shape, 7, np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(along, "STRIP", strip)
        look_up(ids, table, found)
    np.testing.assert_array_equal(found, table[ids])
    look_up(ids, table % 7, ids)
    np.testing.assert_array_equal(ids, found % 7)


def test_more_objects_than_16_bits_hold() -> None:
    """Of one class, of two of which each would fit, and with holes that others decide on."""
    y, x = np.indices((300, 500))
    kinds = np.where((y + x) % 2, 1, 0).astype(np.uint16)
    assert clean(kinds.copy(), Cleaning((0,))).ids.dtype == np.int32
    kinds[kinds == 1] = 1 + (y * 500 + x)[kinds == 1] % 4 // 2
    kinds[0, :3] = 0
    found = clean(kinds.copy(), Cleaning((0, 1), holes=2), (True,) * 4)
    assert found.ids.dtype == np.int32
    assert len(found.kind) > 1 << 16
    ids, classes, _ = clean_frame((2 - kinds).astype(np.uint8), 9, Cleaning((0, 1)))
    wanted = label(kinds, connectivity=1)
    assert len(classes) - 1 == wanted.max()
    np.testing.assert_array_equal(ids, wanted)


@settings(max_examples=60)
@given(
    npst.arrays(np.uint16, (12, 14), elements=st.sampled_from([0, 0, 1, 2, VOID])),
    st.integers(1, 2),
    st.integers(1, 9),
)
def test_holes_are_those_of_the_compiled_loop(
    kinds: np.ndarray, connectivity: int, holes: int
) -> None:
    how = Cleaning((0, 1), connectivity, holes=holes)
    sides = (True, False, True, True)
    few = kinds.copy()
    found = clean(few, how, sides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "PIXELS", -1)
        many = kinds.copy()
        wanted = clean(many, how, sides)
    np.testing.assert_array_equal(few, many)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@settings(max_examples=40)
@given(npst.arrays(np.uint16, (9, 11), elements=st.integers(0, 40)))
def test_kinds_of_many_classes_are_looked_for_in_the_map(kinds: np.ndarray) -> None:
    every = Cleaning(tuple(range(40)))
    few = Cleaning(tuple(v - 1 for v in np.unique(kinds[kinds > 0]).tolist()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "FEW", 50)
        wanted = clean(kinds.copy(), few)
    for mine, theirs in zip(clean(kinds.copy(), every), wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@settings(max_examples=40)
@given(npst.arrays(np.uint16, (9, 11), elements=st.integers(0, 2)), st.booleans())
def test_drafted_numbers_are_read_again(kinds: np.ndarray, noise: bool) -> None:
    found = clean(kinds, Cleaning((0, 1)))
    with pytest.MonkeyPatch.context() as patch:
        if noise:
            patch.setattr(along, "RUNS", 0)
        window = WindowParts.of(found, (True,) * 4, (0, 0), 11)
    again = read_numbers(decode(encode(window.stored())))
    assert isinstance(again, np.ndarray) == noise
    np.testing.assert_array_equal(
        again if isinstance(again, np.ndarray) else again.map(), found.ids
    )
