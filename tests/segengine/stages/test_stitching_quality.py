"""Panoptic quality of tiles put together again, on objects of every kind; the benchmark has it at size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segengine import metrics
from segengine.instances.join import BAND, Seen, first_pixels, join, renumber, see
from segengine.types import Prediction, Truth

SIZE, SIDE = 512, 64


def discs(gap: int) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    row, x = y // (40 + gap), x + y // (40 + gap) * 17
    far = (y % (40 + gap) - 19.5) ** 2 + (x % (40 + gap) - 19.5) ** 2
    return np.where(far <= 20**2, row * 1000 + x // (40 + gap) + 1, 0)


def cells() -> np.ndarray:
    points = np.random.default_rng(1).integers(0, SIZE, (64, 2))
    marks = np.ones((SIZE, SIZE), bool)
    marks[tuple(points.T)] = False
    owner = np.zeros((SIZE, SIZE), int)
    owner[tuple(points.T)] = np.arange(1, 65)
    nearest = ndimage.distance_transform_edt(marks, return_distances=False, return_indices=True)
    return owner[tuple(nearest)]


def lines() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    along = 3 * x + 7 * y
    return np.where(along % 140 < 15, along // 140 + 1, 0)  # 15 / hypot(3, 7) is 2 pixels


def stitched(truth: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of tiles that know the true objects but for `noise`; where that fell."""
    seen: dict[tuple[int, int], Seen] = {}
    cores, void = {}, np.zeros(truth.shape, bool)
    tiles = SIZE // SIDE
    for r, c in np.ndindex(tiles, tiles):
        y, x = r * SIDE, c * SIDE
        top, left = max(0, y - BAND), max(0, x - BAND)
        part = truth[top : y + SIDE + BAND, left : x + SIDE + BAND]
        inner = (slice(y - top, y - top + SIDE), slice(x - left, x - left + SIDE))
        rng = np.random.default_rng([r, c])
        hit = rng.random(part.shape) < noise
        # half of the noise is a hole, half is what lies three pixels aside
        other = np.where(rng.random(part.shape) < 0.5, 0, np.roll(part, 3, axis=1))
        ids = np.where(hit, other, part)
        void[y : y + SIDE, x : x + SIDE] = hit[inner]
        labels = (ids > 0).astype(np.uint8)
        seen[r, c], cores[r, c], _ = see(ids, labels, inner, (y, x), SIZE)
    ids_of = join(seen, overlap=True).ids
    return np.block([[ids_of[r, c][cores[r, c]] for c in range(tiles)] for r in range(tiles)]), void


@pytest.mark.parametrize(("noise", "least"), [(0, 0.999), (0.05, 0.98)])
@pytest.mark.parametrize("shape", [lambda: discs(6), lambda: discs(0), cells, lines])
def test_objects_are_whole_again(
    shape: Callable[[], np.ndarray], noise: float, least: float
) -> None:
    truth = shape()
    found, void = stitched(truth, noise)
    quality = metrics.create("panoptic_quality", classes=("nothing", "object"))
    labels = np.where(void, 255, truth > 0).astype(np.uint8)
    state = quality.update(
        quality.empty(),
        Prediction((found > 0).astype(np.uint8)[None], instances=found[None]),
        Truth(labels[None], truth[None].astype(np.uint32)),
    )
    assert quality.compute(state)["classes"]["object"]["pq"] >= least


def test_a_pixel_astray_joins_nothing() -> None:
    truth = np.ones((20, 40), int)
    truth[10:] = 2
    seen = {}
    for c, columns in enumerate((slice(0, 22), slice(18, 40))):
        part = truth[:, columns].copy()
        if c == 0:
            part[4, 19:21] = 2  # two pixels of the lower object, in the middle of the upper one
        inner = (slice(0, 20), slice(0, 20) if c == 0 else slice(2, 22))
        seen[0, c], _, _ = see(part, np.ones_like(part, np.uint8), inner, (0, 20 * c), 40)
    joined = join(seen, overlap=True)
    assert [ids[1:].tolist() for ids in joined.ids.values()] == [[1, 2], [1, 2]]


def test_an_object_that_one_window_sees_in_two_is_one() -> None:
    arms = np.zeros((40, 40), int)
    arms[5:35, 4:20] = arms[5:15, 20:30] = arms[22:35, 20:30] = 1  # joined in the left window only
    seen = {}
    for c, columns in enumerate((slice(0, 22), slice(18, 40))):
        part = arms[:, columns].copy()
        if c == 1:
            part[20:][part[20:] > 0] = 2
            part[5:15, :2], part[22:35, :2] = 1, 2
            part[15:22] = 0
        inner = (slice(0, 40), slice(0, 20) if c == 0 else slice(2, 22))
        seen[0, c], _, _ = see(part, (part > 0).astype(np.uint8), inner, (0, 20 * c), 40)
    joined = join(seen, overlap=True)
    assert joined.label.tolist() == [1]
    assert joined.parts.tolist() == [3]


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([3, 50, 10**6, 2**32 - 1]), st.integers(1, 12))
def test_ids_are_renumbered_in_their_order(seed: int, top: int, side: int) -> None:
    ids = np.random.default_rng(seed).integers(0, top + 1, (side, 7), dtype=np.uint32)
    dense, values = renumber(ids)
    np.testing.assert_array_equal(values[dense], ids)
    assert values.tolist() == sorted({0, *ids.ravel().tolist()})
    place = first_pixels(dense, len(values))
    for number in range(len(values)):
        here = np.flatnonzero(dense.ravel() == number)
        assert place[number] == (here[0] if here.size else -1)
    assert place[-1] == -1
