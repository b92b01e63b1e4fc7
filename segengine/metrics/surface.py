"""Distances between contours of each class: Hausdorff, HD95, ASSD, normalised surface Dice.

A contour is the pixels of a class with a 4-neighbour outside it, the frame's border being outside.
With d(a, B) the Euclidean distance of a contour pixel to the nearest one of the other side's, in
units of `spacing` (default: pixels; `scene`: millimetres of a volume's slices), of each frame and class

    hausdorff = max(max d(p, T), max d(t, P))          (Huttenlocher et al. 1993)
    hd95 = max(95th percentile of d(p, T), of d(t, P)), percentiles interpolated linearly
    assd = mean of all d(p, T) and d(t, P) together    (Heimann et al. 2009)
    nsd = share of all contour pixels, of both sides, with d <= tolerance    (Nikolov et al. 2018)

and the mean over frames, of each class and then over classes. Other programs take the percentile of
both sides' distances together for hd95. A frame where a class is on one side only has no distance:
it is counted in `missed` or `false`, by the side that lacks it, and is no part of the mean; its nsd
is 0. One where the class is on neither side is not counted. A distance is kept in fixed point and
is at most 2^24. Pixels that are not scored are of no class on either side. Frames are measured whole.

With `spacing: volume` (millimetres), or three numbers, the same of volumes, each time as one: a surface
is the voxels of a class with a 6-neighbour outside it, the volume's border being outside, and means are
over volumes. Where axes are not at right angles (a tilted gantry) distances are those of the affine.

All four are views of one state, so that contours are compared once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segengine.fixed_point import to_fixed
from segengine.metrics import _surfaces
from segengine.metrics._classes import Named, check_shape, labels_of
from segengine.metrics._contours import Spacing, check_spacing, distances, edge
from segengine.metrics._frames import class_boxes
from segengine.metrics._options import number
from segengine.metrics._rows import Rows, add, fixed_mean, over_classes, zeros
from segengine.types import Labels, Metric, Prediction, Steps, Truth

_SCENE = "scene"
_VOLUME = "volume"
Distances = NDArray[np.float64]
_FIGURES = ("hausdorff", "hd95", "assd", "nsd")


@dataclass(frozen=True, slots=True)
class Surface(Named):
    """All four distances between the contours of every class."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("truth",)
    whole: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = _FIGURES
    spacing: Spacing | Steps | Literal["scene", "volume"] = 1.0
    """Side of a pixel, or (y, x), in the unit that distances are to be in; scene: as the scene says it.

    Across slices: of a voxel (slice, y, x); volume: as the volume says it."""
    tolerance: float = 1.0
    """Distance within which a pixel of a contour, or a voxel of a surface, is right for nsd, in the unit
    of `spacing`."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        if self.spacing not in (_SCENE, _VOLUME) and not isinstance(self.spacing, Steps):
            object.__setattr__(self, "spacing", check_spacing(self.spacing))
        object.__setattr__(self, "tolerance", number("tolerance", self.tolerance, 0))

    @property
    def base(self) -> Surface:
        """The metric whose state this one shares."""
        return Surface(self.classes, self.truth_classes, self.spacing, self.tolerance)

    def scaled(self, spacing: tuple[float, float] | None) -> Surface | None:
        """With `scene`: the same in a scene's millimetres (y, x); None where these are not known."""
        if self.spacing != _SCENE:
            return self
        return None if spacing is None else replace(self, spacing=spacing)

    @property
    def volume(self) -> bool:
        """Whether distances are across slices."""
        return self.spacing == _VOLUME or (
            isinstance(self.spacing, tuple) and len(self.spacing) == 3
        )

    @property
    def per_frame(self) -> bool:
        """A slice by itself has no distance across slices."""
        return not self.volume

    def in_volume(self, steps: Steps | None) -> Surface | None:
        """With `volume`: the same in a volume's millimetres; None where these are not known."""
        if self.spacing != _VOLUME:
            return self
        return None if steps is None else replace(self, spacing=_surfaces.sides(steps))

    def empty(self) -> Rows:
        """Rows of frames with both contours, missed, false, and the four sums in fixed point."""
        return zeros(len(self.truth_classes), 3 + len(_FIGURES))

    def update(self, state: Rows, prediction: Prediction, truth: Labels | Truth) -> Rows:
        """`state` and whole frames (n, y, x); across slices: all of a volume."""
        check_shape(prediction.labels, truth)
        found = self._across if self.volume else self._frames
        rows = [list(row) for row in state]
        for index, row in found(prediction.labels, labels_of(truth)):
            rows[index] = [x + y for x, y in zip(rows[index], row, strict=True)]
        return tuple(tuple(row) for row in rows)

    def merge(self, a: Rows, b: Rows) -> Rows:
        """Both states' frames together."""
        return add(a, b)

    def compute(self, state: Rows) -> dict[str, Any]:
        """The figures of each class and their means over classes; None: in no frame on both sides."""
        rows = []
        counted = "volumes" if self.volume else "frames"
        for frames, missed, false, *sums in state:
            counts = dict.fromkeys(_FIGURES, frames) | {"nsd": frames + missed + false}
            means = {k: fixed_mean(s, counts[k]) for k, s in zip(_FIGURES, sums, strict=True)}
            shown = {key: means[key] for key in self.figures}
            rows.append({**shown, counted: frames, "missed": missed, "false": false})
        return over_classes(self.truth_classes, rows, self.figures)

    def _frames(self, labels: Labels, truth: Labels) -> Iterator[tuple[int, list[int]]]:
        """Each frame's row of each class."""
        # by itself it knows no scene
        spacing: Any = 1.0 if self.spacing == _SCENE else self.spacing
        for p, t in zip(*self.both(labels, truth), strict=True):
            for index, *masks in class_boxes(p, t):
                a, b = map(edge, masks)
                if a.any() and b.any():
                    yield index, self._row(distances(a, b, spacing), distances(b, a, spacing))
                else:
                    yield index, _one_sided(missed=not a.any())

    def _across(self, labels: Labels, truth: Labels) -> Iterator[tuple[int, list[int]]]:
        """A volume's row of each class."""
        spacing: Any = (1.0, 1.0, 1.0) if self.spacing == _VOLUME else self.spacing
        slices = (
            tuple(side[0] for side in self.both(labels[z : z + 1], truth[z : z + 1]))
            for z in range(len(labels))
        )
        for index, *sides in _surfaces.class_volumes(slices, labels.shape, len(self.truth_classes)):
            a, b = (_surfaces.surface(side, index) for side in sides)
            if len(a) and len(b):
                how = sides[0].shape, spacing
                row = self._row(_surfaces.distances(a, b, *how), _surfaces.distances(b, a, *how))
                yield index, row
            else:
                yield index, _one_sided(missed=not len(a))

    def _row(self, there: Distances, back: Distances) -> list[int]:
        """The row of a class that is on both sides."""
        both: Distances = np.concatenate([there, back])
        figures = [
            both.max(),
            max(np.percentile(there, 95), np.percentile(back, 95)),
            both.mean(),
            # as multiples of 2^-32: a distance of just the tolerance must not hang on its last bit
            np.count_nonzero(to_fixed(both) <= to_fixed(self.tolerance)) / len(both),
        ]
        return [1, 0, 0, *to_fixed(figures).tolist()]


def _one_sided(*, missed: bool) -> list[int]:
    """The row of a class that is on one side only."""
    return [0, int(missed), int(not missed), 0, 0, 0, 0]


@dataclass(frozen=True, slots=True)
class Hausdorff(Surface):
    """The greatest distance between the contours."""

    lower_is_better: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ("hausdorff",)


@dataclass(frozen=True, slots=True)
class Hd95(Surface):
    """The greater of both sides' 95th percentile of distances."""

    lower_is_better: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ("hd95",)


@dataclass(frozen=True, slots=True)
class Assd(Surface):
    """The average symmetric surface distance."""

    lower_is_better: ClassVar[bool] = True
    figures: ClassVar[tuple[str, ...]] = ("assd",)


@dataclass(frozen=True, slots=True)
class Nsd(Surface):
    """The normalised surface Dice at a tolerance."""

    figures: ClassVar[tuple[str, ...]] = ("nsd",)


_: type[Metric[Rows]] = Surface
