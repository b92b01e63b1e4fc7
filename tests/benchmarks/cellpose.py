"""Cellpose's own steps beside ours, on the same flows: those that it makes of StarDist's 125 nuclei.

    pip install cellpose==4.2.1.1
    ATEN_CPU_CAPABILITY=default python -m tests.benchmarks.cellpose

Flows are of length 5, and rougher by a Gaussian of a share of that; objects are compared with them at
several thresholds. No network is run.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _cellpose
from segengine.segmenters._cellflows import consistent
from segengine.segmenters._found import Found
from tests.benchmarks.table import Row, show

Ids = NDArray[Any]
ROUGH = (0.0, 0.2, 0.4, 0.8)
THRESHOLDS = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.4)
"""`flow_threshold`; 0: off."""
LOGIT = 4.0
"""Of what is inside; outside its negative."""


def rows() -> list[Row]:
    """How many objects either finds, and the share of pixels that both give to the same object."""
    from cellpose import dynamics, utils  # type: ignore[import-not-found]
    from scipy.ndimage import binary_dilation
    from stardist.data import test_image_nuclei_2d as nuclei  # type: ignore[import-untyped]

    truth = nuclei(return_mask=True)[1].astype(np.int32)
    flows = 5 * dynamics.labels_to_flows([truth])[0][2:4].astype(np.float32)
    inside = binary_dilation(truth > 0)
    logit = np.where(inside, LOGIT, -LOGIT).astype(np.float32)
    probability = 1 / (1 + np.exp(-logit.astype(np.float64)))
    rng = np.random.default_rng(1)
    told = []
    for rough in ROUGH:
        given = (flows + 5 * rough * rng.normal(size=flows.shape)).astype(np.float32)
        ids = _cellpose.masks(given, inside)
        for threshold in THRESHOLDS:
            theirs = dynamics.compute_masks(given, logit, flow_threshold=threshold, min_size=-1)
            theirs = utils.fill_holes_and_remove_small_masks(theirs, min_size=15)
            kept = consistent(ids, given, threshold) if threshold else ids
            found = _cellpose.objects(kept, probability)
            ours = drawn(found, truth.shape)
            what = f"nuclei by flows, rough by {rough}, flow_threshold {threshold}"
            both = len(found), int(theirs.max())
            told.append(Row(f"{what}: objects", *both, "", (both[0] or 1) / (both[1] or 1), "1"))
            share = alike(ours, theirs)
            told.append(Row(f"{what}: pixels alike", share, 1, "", share, "1"))
    return told


def drawn(found: list[Found], size: tuple[int, ...]) -> Ids:
    """(y, x) numbers of objects."""
    ids = np.zeros(size, np.int64)
    for number, one in enumerate(found, 1):
        y, x = one.corner
        ids[y : y + one.mask.shape[0], x : x + one.mask.shape[1]][one.mask] = number
    return ids


def alike(ours: Ids, theirs: Ids) -> float:
    """Of pixels that either marks, the share whose objects share most of their pixels."""
    either = (ours > 0) | (theirs > 0)
    if not either.any():
        return 1.0
    pairs = np.stack([ours[either], theirs[either].astype(np.int64)])
    (own, other), counts = np.unique(pairs, axis=1, return_counts=True)
    best = {}
    for i in np.argsort(counts):
        best[own[i]] = i
    return float(sum(counts[i] for n, i in best.items() if n and other[i])) / either.sum()


if __name__ == "__main__":
    show(rows())
