"""Measurements of every region: area, perimeter, centroid, box, mean intensity; needs no truth.

A region is an instance, its class that of its first pixel in raster order; where the prediction has
no instances, an 8-connected component of one label, numbered in a frame by first pixel in raster
order (void is none). Frames are measured whole. The table has a row a region:

    scene, frame, id, class
    area        pixels
    perimeter   pixels: length of the line through the centres of the border pixels, those with a
                4-neighbour outside the region (Benkrid, Crookes 2000; `skimage.measure.perimeter`)
    y, x        centroid, in pixels; a pixel's centre is at whole numbers
    top, left, bottom, right    the box, half-open
    intensity   mean of each band over the region, where pixels are given; None where one is not finite
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.metrics import _keyed
from segengine.metrics._classes import Classed
from segengine.metrics._frames import instance_classes
from segengine.metrics._keyed import Entries
from segengine.types import Labels, Metric, Pixels, Prediction, Truth

_COLUMNS = (
    *("scene", "frame", "id", "class", "area", "perimeter"),
    *("y", "x", "top", "left", "bottom", "right"),
)
_CODES = 50
"""Codes of a border pixel: 1, plus 2 for each border pixel at its sides, 10 for each at its corners."""


@dataclass(frozen=True, slots=True)
class Regions(Classed):
    """A table of region measurements."""

    version: ClassVar[int] = 1
    whole: ClassVar[bool] = True
    per_frame: ClassVar[bool] = False
    uses: ClassVar[tuple[str, ...]] = ("instances",)
    """What is taken where there is any."""
    intensity: bool = False
    """Whether to measure the mean intensity of every band, which needs the pixels."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Pixels where intensity is asked for."""
        return ("pixels",) if self.intensity else ()

    def empty(self) -> Entries:
        """The table of no frame."""
        return ()

    def update(
        self,
        state: Entries,
        prediction: Prediction,
        truth: Labels | Truth | None = None,
        pixels: Pixels | None = None,
    ) -> Entries:
        """`state` and whole frames (n, y, x), with pixels (n, y, x, band) for the intensity."""
        if self.intensity and pixels is None:
            raise ValueError("pixels: intensity is asked for, and there are none")
        first = _keyed.next_frame(state)
        added = []
        for i, labels in enumerate(prediction.labels):
            ids = None if prediction.instances is None else prediction.instances[i]
            values = pixels[i] if self.intensity and pixels is not None else None
            rows = tuple(_measured(*_regions(labels, ids, len(self.classes)), values))
            added.append(("", first + i, rows))
        return _keyed.merge(state, tuple(added))

    def locate(self, state: Entries, scene: str, frame: int) -> Entries:
        """The state of one frame, with its place."""
        return _keyed.locate(state, scene, frame)

    def merge(self, a: Entries, b: Entries) -> Entries:
        """Both states' frames, in order of scene and frame."""
        return _keyed.merge(a, b)

    def compute(self, state: Entries) -> dict[str, Any]:
        """The table, a list a column, and number and area of every class's regions."""
        rows = [(scene, frame, *row) for scene, frame, found in state for row in found]
        table: dict[str, list[Any]] = {
            name: [row[i] for row in rows] for i, name in enumerate(_COLUMNS)
        }
        areas = dict.fromkeys(range(len(self.classes)), (0, 0))
        for index, area in zip(table["class"], table["area"], strict=True):
            areas[index] = (areas[index][0] + 1, areas[index][1] + area)
        table["class"] = [self.classes[index] for index in table["class"]]
        if self.intensity:
            table["intensity"] = [
                [value if math.isfinite(value) else None for value in row[-1]] for row in rows
            ]
        return {
            "classes": {
                name: {"regions": areas[i][0], "area": areas[i][1]}
                for i, name in enumerate(self.classes)
            },
            "regions": table,
        }


def _regions(
    labels: Labels, instances: NDArray[np.uint32] | None, classes: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Ids of the regions, the class of each, and the region of each pixel: 1, 2 ..., 0 for none."""
    if instances is None:
        from skimage import measure

        inside = (labels >= 0) & (labels < classes)
        pieces = np.where(inside, labels.astype(np.int64) + 1, 0)
        instances = np.asarray(measure.label(pieces, connectivity=2))  # type: ignore[no-untyped-call]
    ids, found = instance_classes(instances, labels)
    keep = (found >= 0) & (found < classes)
    ids, found = ids[keep], found[keep]
    place = np.searchsorted(ids, instances)
    known = np.append(ids, 0)[place] == instances
    return ids, found, np.where(known & (instances > 0), place + 1, 0)


def _measured(
    ids: NDArray[Any],
    classes: NDArray[Any],
    regions: NDArray[np.int64],
    pixels: Pixels | None,
) -> Iterator[tuple[Any, ...]]:
    """A row (id, class, area ... right, intensity) a region, in order of their ids."""
    from scipy.ndimage import find_objects

    count = len(ids)
    y, x = np.nonzero(regions)
    of = regions[y, x] - 1
    area = np.bincount(of, minlength=count)
    # float64 sums of whole numbers, and of pixels in raster order: the same for any run
    ys, xs = np.bincount(of, y, count), np.bincount(of, x, count)
    around = _perimeters(regions, count)
    means = np.empty((count, 0))
    if pixels is not None:
        bands = pixels[y, x].astype(np.float64)
        means = np.stack([np.bincount(of, band, count) for band in bands.T], axis=1) / area[:, None]
    for i, box in enumerate(find_objects(regions, count)):
        yield (
            *(int(ids[i]), int(classes[i]), int(area[i]), float(around[i])),
            *(float(ys[i] / area[i]), float(xs[i] / area[i])),
            *(box[0].start, box[1].start, box[0].stop, box[1].stop),
            tuple(means[i].tolist()),
        )


def _perimeters(regions: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """The perimeter of each region of a map (y, x) of 1, 2 ... `count`.

    Every border pixel adds the length of the line through it, by how many border pixels of its
    region touch its sides and how many its corners.
    """
    padded = np.pad(regions, 1)
    inner = np.ones(regions.shape, np.bool_)
    for dy, dx in _SIDES:
        inner &= _shifted(padded, dy, dx) == regions
    border = np.where(inner, 0, regions)
    padded = np.pad(border, 1)
    y, x = np.nonzero(border)
    of = border[y, x]
    code = np.ones(len(of), np.int64)
    for weight, steps in ((2, _SIDES), (10, _CORNERS)):
        for dy, dx in steps:
            code += weight * (padded[y + 1 + dy, x + 1 + dx] == of)
    found = np.bincount((of - 1) * _CODES + code, minlength=count * _CODES)
    lengths = np.zeros(_CODES)
    lengths[[5, 7, 15, 17, 25, 27]] = 1
    lengths[[21, 33]] = math.sqrt(2)
    lengths[[13, 23]] = (1 + math.sqrt(2)) / 2
    total: NDArray[np.float64] = (found.reshape(count, _CODES) * lengths).sum(axis=1)
    return total


_SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def _shifted(padded: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
    height, width = padded.shape
    return padded[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx]


_: type[Metric[Entries]] = Regions
