"""Superpixels: small regions that keep to the borders of a picture, for a click to fill.

SLIC (Achanta et al. 2012, doi:10.1109/TPAMI.2012.120) as scikit-image has it, one tile at a time, so
that a large frame asks for no more than a small one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TILE = 512
"""Pixels of a tile along rows and columns."""
AREA = 400
"""Pixels of a superpixel, more or less."""
COMPACTNESS = 10.0


def superpixels(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Numbers from 1 of the superpixels of a picture (y, x, 3) of at most `TILE` a side."""
    from skimage.segmentation import slic

    count = max(1, image.shape[0] * image.shape[1] // AREA)
    found = slic(
        image, n_segments=count, compactness=COMPACTNESS, sigma=1, start_label=1, channel_axis=-1
    )
    return np.asarray(found, np.uint16)
