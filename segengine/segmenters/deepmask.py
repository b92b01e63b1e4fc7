"""DeepMask (Pinheiro 2015): proposals of objects of any kind, each with a mask and a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segengine.segmenters import _proposals


def create(
    weights: str,
    bands: Sequence[int] | int = 3,
    scale: Mapping[str, Any] | None = None,
    pyramid: Sequence[float] | None = None,
    most: int = 100,
    min_score: float = 0.5,
    threshold: float = 0.2,
    duplicates: float = 1.0,
) -> _proposals.Proposer:
    """Proposals of a trained network.

    weights: its `.keras` or `.weights.h5` file. bands: 1-based numbers of the raster's bands, or
    their count. scale: as for `model`; of 3 bands ImageNet's by default. pyramid: scales at which
    objects of about 128 pixels are looked for; by default 2^-2.5 to 2^0.5 in steps of 2^0.5. most:
    proposals a frame. min_score: the least that counts. threshold: probability above which a pixel
    belongs to a mask. duplicates: a proposal goes whose box overlaps a better one's with a greater
    IoU; 1: none goes.
    """
    return _proposals.create(
        "deepmask", weights, bands, scale, pyramid, most, min_score, threshold, duplicates
    )
