"""Superpixels and grown regions on one core: Mpx/s beside scikit-image's, the same pixels and settings.

Regions of a grid stand beside what a user of scikit-image has for it: a watershed of the gradient from as
many markers. A single seed is beside its `flood`, of which it has all pixels and no others.
"""

import cv2
import numpy as np
import skimage.color
import skimage.data
import skimage.filters
from skimage.segmentation import felzenszwalb, flood, slic, watershed

from segengine.segmenters import regions, superpixels
from tests.benchmarks.kernels import row
from tests.benchmarks.kmeans import one_thread
from tests.benchmarks.table import Row, show

SIDE = 1024


def rows(side: int = SIDE) -> list[Row]:
    """Best of some runs each, ours and theirs by turns."""
    photo = cv2.resize(skimage.data.coffee(), (side, side), interpolation=cv2.INTER_CUBIC)
    gray = cv2.resize(skimage.data.camera(), (side, side), interpolation=cv2.INTER_CUBIC)
    pieces, markers = (side // 16) ** 2, np.zeros((side, side), np.int32)
    markers[8::16, 8::16] = np.arange(1, pieces + 1).reshape(side // 16, -1)
    ours = {turns: superpixels.create("slic", iterations=turns) for turns in (5, 10)}
    merged = superpixels.create("felzenszwalb", scale=300.0, space="bands", min_size=50)
    grid = regions.create()
    seeded = regions.create(30 / 255, seeds=[[side // 2, side // 2]])

    def their_regions() -> None:
        relief = skimage.filters.sobel(skimage.color.rgb2gray(photo))
        watershed(relief, markers)  # type: ignore[no-untyped-call]

    with one_thread():
        return [
            *(
                row(
                    f"slic, {turns} iterations, lab, against scikit-image's",
                    side,
                    lambda segmenter=segmenter: segmenter.segment(photo[None]),
                    lambda turns=turns: slic(photo, pieces, max_num_iter=turns),
                    ">= 1",
                )
                for turns, segmenter in ours.items()
            ),
            row(
                "felzenszwalb, against scikit-image's",
                side,
                lambda: merged.segment(photo[None]),
                lambda: felzenszwalb(photo, scale=300, sigma=0.8, min_size=50),
                ">= 1",
            ),
            row(
                "regions of a grid, against scikit-image's Sobel and watershed from one",
                side,
                lambda: grid.segment(photo[None]),
                their_regions,
                ">= 1",
            ),
            row(
                "a region of one seed, against scikit-image's flood",
                side,
                lambda: seeded.segment(gray[None, ..., None]),
                lambda: flood(gray, (side // 2, side // 2), connectivity=1, tolerance=30),
                ">= 1",
            ),
        ]


if __name__ == "__main__":
    show(rows())
