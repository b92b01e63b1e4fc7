"""torchvision's own proposals where most probabilities are 1.0, which a sort may leave in any order.

What a level keeps, torchvision finds by a stable sort of probabilities behind one of logits: by
logit. Up to 1000 boxes of an image (on a CPU) are ordered by that stable sort between levels too:
by probability, then level, then logit. Of more, its last sort is not stable: the boxes kept are
sure, the order of equal probabilities is not, and so neither is which of them `post_nms` cuts off.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from segengine.models.maskrcnn.config import preset
from segengine.models.maskrcnn.proposals import Proposals, probability

from .sure import CASES, NEARLY_ONE, SIZE, WINDOWS, Case, maps

WANTED = dict(np.load(Path(__file__).parent / "fixtures" / "large_logits.npz"))
PIXELS = 1e-3
"""Greatest difference of a side."""


def propose(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    """Our regions and scores of each image."""
    config = preset("torchvision", pre_nms=case.pre_nms, post_nms=case.post_nms)
    image = np.zeros((len(WINDOWS), *SIZE, 3), np.float32)
    window = np.array([[0, 0, *window] for window in WINDOWS], np.float32)
    logits, deltas = maps(case)
    found = Proposals(config)([image, window, *logits, *deltas])
    regions, scores = found["regions"].numpy(), found["scores"].numpy()
    counts = (scores >= 0).sum(axis=1)
    assert not any(rest[count:].any() for rest, count in zip(regions, counts, strict=True))
    return [(r[:count], s[:count]) for r, s, count in zip(regions, scores, counts, strict=True)]


def theirs(name: str, image: int) -> tuple[np.ndarray, np.ndarray]:
    return WANTED[f"{name}/{image}/regions"], WANTED[f"{name}/{image}/scores"]


def places(regions: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of the regions is among others; no two in one place."""
    apart = np.abs(regions[:, None] - among[None]).max(axis=2)
    assert apart.min(axis=1).max() <= PIXELS
    found = apart.argmin(axis=1)
    assert len(np.unique(found)) == len(regions)
    return found


@pytest.mark.parametrize(
    ("name", "counts"), [("few", (571, 484)), ("few_cut", (100, 100))], ids=["few", "few_cut"]
)
def test_up_to_1000_boxes_are_proposed_in_torchvisions_order(
    name: str, counts: tuple[int, int]
) -> None:
    for image, (regions, scores) in enumerate(propose(CASES[name])):
        wanted, probabilities = theirs(name, image)
        assert len(regions) == len(wanted) == counts[image]
        assert (probabilities == 1).mean() > 0.9
        np.testing.assert_allclose(regions, wanted, atol=PIXELS)
        np.testing.assert_allclose(scores, probabilities, rtol=1e-6)


def test_of_more_the_same_are_proposed() -> None:
    for image, (regions, scores) in enumerate(propose(CASES["many"])):
        wanted, probabilities = theirs("many", image)
        assert len(regions) == len(wanted) == (1964, 1663)[image]
        assert (probabilities == 1).mean() > 0.9
        np.testing.assert_allclose(scores, probabilities, rtol=1e-6)
        np.testing.assert_allclose(scores[places(wanted, regions)], probabilities, rtol=1e-6)


def test_of_more_the_cut_takes_others_that_are_as_sure() -> None:
    case = CASES["many_cut"]
    everything = propose(dataclasses.replace(case, post_nms=4000))
    for image, (regions, scores) in enumerate(propose(case)):
        wanted, probabilities = theirs("many_cut", image)
        assert len(regions) == len(wanted) == 1000
        assert (probabilities == 1).all()
        assert (scores == 1).all()
        places(wanted, everything[image][0])
        np.testing.assert_array_equal(regions, everything[image][0][:1000])


def test_probabilities_are_alike_where_torchvisions_are() -> None:
    """TensorFlow's own sigmoid rounds otherwise, which would be another order between levels."""
    np.testing.assert_array_equal(probability(NEARLY_ONE), WANTED["nearly_one"])
    assert len(np.unique(WANTED["nearly_one"])) < 100
    assert (WANTED["nearly_one"] == 1).any()
