"""Cells tile the frames; draws give each class its turn."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segengine.training.patches import Cells, count_classes, survey

SHAPES = st.lists(st.tuples(st.integers(3, 40), st.integers(3, 40)), min_size=1, max_size=4)


def _frames(shapes: list[tuple[int, int]], seed: int) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return [rng.choice([0, 1, 2, 255], shape).astype(np.uint8) for shape in shapes]


def _survey(frames: list[NDArray[Any]], size: tuple[int, int]) -> Cells:
    return survey([f.shape[:2] for f in frames], size, 3, lambda i, r, c: frames[i][r, c])  # type: ignore[misc]


@given(SHAPES, st.tuples(st.integers(3, 12), st.integers(3, 12)), st.integers(0, 9))
def test_cells_cover_every_pixel_with_truth(
    shapes: list[tuple[int, int]], size: tuple[int, int], seed: int
) -> None:
    frames = _frames(shapes, seed)
    cells = _survey(frames, size)
    covered = [np.zeros(s, bool) for s in shapes]
    for (frame, top, left), counts in zip(cells.all(), cells.counts, strict=True):
        box = frames[frame][top : top + size[0], left : left + size[1]]
        np.testing.assert_array_equal(counts, [(box == c).sum() for c in range(3)])
        covered[frame][top : top + size[0], left : left + size[1]] = True
    for seen, frame in zip(covered, frames, strict=True):
        assert seen[frame < 3].all()


@given(SHAPES, st.integers(0, 9))
@settings(max_examples=25)
def test_patches_lie_inside_their_frames(shapes: list[tuple[int, int]], seed: int) -> None:
    frames = _frames(shapes, seed)
    cells = _survey(frames, (8, 6))
    if not len(cells):
        return
    rng = np.random.default_rng(seed)
    for frame, top, left in cells.draw(50, shapes, True, rng):
        height, width = shapes[frame]
        assert 0 <= top <= max(0, height - 8)
        assert 0 <= left <= max(0, width - 6)


def test_a_frame_without_truth_has_no_cells() -> None:
    cells = survey(
        [(8, 8), (8, 8)], (8, 8), 2, lambda i, r, c: None if i == 0 else np.zeros((8, 8), np.uint8)
    )
    assert cells.all() == [(1, 0, 0)]


def test_balanced_draws_see_each_class_equally_often() -> None:
    """A class that is in one cell of a hundred is in that cell for a third of the draws."""
    labels = np.zeros((80, 80), np.uint8)
    labels[:, 40:] = 1
    labels[8:16, 8:16] = 2
    cells = _survey([labels], (8, 8))
    chances = cells.chances(balance=True)
    totals = cells.counts.sum(axis=0)
    by_hand = [
        np.mean([counts[c] / totals[c] for c in range(3)]) for counts in cells.counts.tolist()
    ]
    np.testing.assert_allclose(chances, by_hand)
    rare = cells.counts[:, 2] > 0
    assert rare.sum() == 1
    assert chances[rare] == 1 / 3
    plain = cells.chances(balance=False)
    assert plain[rare] == 1 / 100
    drawn = cells.draw(2000, [(80, 80)], True, np.random.default_rng(0))
    near = [abs(top - 8) <= 4 and abs(left - 8) <= 4 for _, top, left in drawn]
    assert 0.3 < np.mean(near) < 0.45


def test_void_is_not_counted() -> None:
    assert count_classes(np.array([[0, 2, 255, 7, 2]], np.uint8), 3).tolist() == [1, 0, 2]
