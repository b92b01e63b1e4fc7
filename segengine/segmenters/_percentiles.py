"""Values by the percentiles of what is fed, as networks for microscopy are trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segengine.networks.scale import Scale
from segengine.types import Pixels


def scaled(
    pixels: Pixels, scale: Scale | None, percentiles: tuple[float, float], each: bool = False
) -> NDArray[np.float32]:
    """Pixels (y, x, band) by a scale; without one two percentiles become 0 and 1.

    each: of every band by itself, and not of all together.
    """
    if scale is not None:
        return scale.apply(pixels)
    values = Scale().apply(pixels)
    low, high = np.percentile(values, percentiles, axis=(0, 1) if each else None)
    found: NDArray[np.float32] = ((values - low) / np.maximum(high - low, 1e-20)).astype(np.float32)
    return found
