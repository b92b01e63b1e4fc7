"""Maps of a region proposal network so sure that most of its probabilities are 1.0 in float32.

NumPy only; drawn from a seed, so that torchvision's answer alone is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE = (256, 256)
"""Height and width of the input; P2 ... P6 are a 4th to a 64th of it."""
WINDOWS = ((256, 256), (200, 231))
"""What of it is image, for each of the two."""
SHAPES = tuple((SIZE[0] // stride, SIZE[1] // stride) for stride in (4, 8, 16, 32, 64))


@dataclass(frozen=True, slots=True)
class Case:
    """How many anchors a level brings, and how many proposals there may be."""

    pre_nms: int
    post_nms: int
    seed: int


CASES = {
    "few": Case(200, 1000, 1),
    "few_cut": Case(200, 100, 2),
    "many": Case(1000, 4000, 3),
    "many_cut": Case(1000, 1000, 4),
}
"""torchvision suppresses up to 1000 boxes on a CPU in one go, and more level by level."""

NEARLY_ONE = np.linspace(12, 17, 1001).astype(np.float32)
"""Logits whose probabilities are 1.0 to some multiples of the least difference there is."""


def maps(case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits (2, h, w, 3) and deltas (2, h, w, 12), x before y, of each level.

    No two logits of an image are alike. Two of three are over 16.7, where the sigmoid is 1.0.
    """
    rng = np.random.Generator(np.random.PCG64(case.seed))
    counts = [h * w * 3 for h, w in SHAPES]
    spread = np.linspace(-50, 150, sum(counts)).astype(np.float32)
    drawn = np.stack([rng.permutation(spread) for _ in WINDOWS])
    parts = np.split(drawn, np.cumsum(counts)[:-1], axis=1)
    logits = [part.reshape(-1, h, w, 3) for part, (h, w) in zip(parts, SHAPES, strict=True)]
    deltas = [
        0.2 * rng.standard_normal((len(WINDOWS), h, w, 12), dtype=np.float32) for h, w in SHAPES
    ]
    return logits, [level.astype(np.float32) for level in deltas]
