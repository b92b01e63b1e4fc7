"""What of a truth counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segengine.types import Bool, Truth


def scored(truth: Truth, inside: Bool | None) -> Truth:
    """The maps of a window's truth where it counts (y, x) alone; None: everywhere."""
    if inside is None or inside.all():
        return truth
    labels, instances = truth.labels.copy(), truth.instances
    labels[:, ~inside] = np.iinfo(labels.dtype).max
    if instances is not None:
        instances = np.where(inside, instances, np.uint32(0))
    return replace(truth, labels=labels, instances=instances)
