"""The seam score: 1 where tiles fit, more where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from segengine import metrics
from segengine.types import Prediction


def blobs(seed: int, size: int = 256) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((size, size))
    return (ndimage.gaussian_filter(noise, 3) > 0).astype(np.uint8)


def score(labels: np.ndarray, every: int = 32) -> float:
    seams = metrics.create("seams", classes=["a", "b"], every=every)
    found = seams.compute(seams.update(seams.empty(), Prediction(labels[None])))
    return float(found["seam_score"])


def test_whole_frames_have_none() -> None:
    scores = [score(blobs(seed)) for seed in range(8)]
    assert np.mean(scores) == pytest.approx(1, abs=0.15)


def test_tiles_that_do_not_fit_show() -> None:
    frame = blobs(0)
    for y in range(0, 256, 64):
        for x in range(0, 256, 64):
            if (y + x) // 64 % 2:
                frame[y : y + 64, x : x + 64] = np.roll(frame[y : y + 64, x : x + 64], 9)
    assert score(frame, 64) > 1.8


@given(st.integers(0, 1000), st.integers(2, 40))
def test_it_counts_every_pair_once_and_no_void(seed: int, every: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (2, 17, 23)).astype(np.uint8)
    labels[labels == 2] = 255
    seams = metrics.create("seams", classes=["a", "b"], every=every)
    state = seams.update(seams.empty(), Prediction(labels))
    wanted = [0, 0, 0, 0]
    for frame in labels:
        for y in range(17):
            for x in range(23):
                for dy, dx in ((1, 0), (0, 1)):
                    if y + dy < 17 and x + dx < 23:
                        a, b = frame[y, x], frame[y + dy, x + dx]
                        if 255 not in (a, b):
                            line = (y + dy if dy else x + dx) % every == 0
                            wanted[0 if line else 2] += int(a != b)
                            wanted[1 if line else 3] += 1
    assert list(state) == wanted
    halves = [seams.update(seams.empty(), Prediction(labels[i : i + 1])) for i in (1, 0)]
    assert seams.merge(*halves) == state


def test_nothing_that_changes_has_no_score() -> None:
    seams = metrics.create("seams", classes=["a"])
    state = seams.update(seams.empty(), Prediction(np.zeros((1, 9, 9), np.uint8)))
    assert seams.compute(state)["seam_score"] is None
