"""K-means clustering of colours: one survey of the pixels, a fit, then the nearest centre of each.

The objective is that of `cv2.kmeans` with `KMEANS_PP_CENTERS`: K centres, several attempts, the
least sum of squared distances. The survey is a histogram of colours (`_cells`), exact for pictures
of few colours and with exact colour sums in each cell for all of 8 and 16 bits; it merges exactly,
so the fit does not depend on how the pixels were cut. The fit starts on coarser cells, where an
attempt is cheap, and ends on the histogram itself (`_lloyd`). Labels are the exactly nearest
centres (`_nearest`).

Labels ascend with the brightness of their centre, then with the centre. For hsv and lab, where a
centre need not be a colour, the brightness is that of the mean colour of the cluster.

Where there are fewer distinct colours than clusters, the missing centres repeat the brightest, and
their labels, the highest, never occur. Without a valid pixel all centres are zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from segengine.segmenters import _cells, _lloyd
from segengine.segmenters._cells import Cells
from segengine.segmenters._colorspace import PLAIN, Space, brightness, check_bands, embedded
from segengine.segmenters._labboxes import WORTH, label_lab16
from segengine.segmenters._nearest import (
    STEP,
    Centres,
    label_colors,
    label_dtype,
    label_pixels,
    label_points,
)
from segengine.types import Bool, Color, Labels, Pixels, Prediction, Scope

Floats = NDArray[np.float64]
COARSE = 256
"""Most cells a cluster on which the attempts are made; few clusters need fewer."""
SWAPPED = 6
"""Best attempts that are improved by swaps."""
SWAPS = 16
"""Most swaps tried on each; few clusters need fewer."""
POLISHED = 3
"""Best of those that go on to finer cells; the best of them ends on all."""
FINER = 1024
"""Most cells a cluster of those."""
_BLOCK = 1 << 14  # pixels converted to another space at a time
_MANY = 1 << 19  # 8-bit pixels of which each colour is converted once; tables cost more for few


@dataclass(frozen=True, slots=True)
class KMeans:
    """Fitted clusters; labels each pixel with the nearest centre, the lowest label on ties."""

    space: Space
    """In which distances are measured."""
    centres: Centres
    """One a cluster, in the coordinates of the space; 8 and 16 bit values rounded to 1/256."""
    colors: tuple[Color, ...]
    """Mean colour of each cluster. Of 3 or more bands the first three, else the first as gray;
    other than 8 bit stretched so that 2 % of the pixels' values are darkest and 2 % brightest."""
    inertia: float
    """Sum of squared distances of the surveyed pixels to the centre of their cell. In rgb and bands
    of 8 and 16 bit the spread inside the cells is included, exactly."""
    pixels: int
    """Number of valid pixels surveyed."""

    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _names(len(self.centres))

    @property
    def halo(self) -> int:
        return 0

    @property
    def stride(self) -> int:
        return 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels (n, y, x) of pixels (n, y, x, band); a pixel with NaN gets label 0."""
        if self.space in PLAIN:
            return Prediction(label_pixels(pixels, self.centres))
        if pixels.dtype == np.uint8 and pixels.size > 3 * _MANY:
            return Prediction(label_colors(pixels, self._label))
        flat = pixels.reshape(-1, 3)
        if self.space == "lab" and len(flat) > WORTH:
            labels = label_lab16(flat, self.centres, self._label)
        else:
            labels = self._label(flat)
        return Prediction(labels.reshape(pixels.shape[:-1]))

    def _label(self, colors: Pixels) -> Labels:
        """(m,) labels of colours (m, 3), in another space."""
        labels = np.zeros(len(colors), label_dtype(len(self.centres)))
        for start in range(0, len(colors), _BLOCK):
            part = slice(start, start + _BLOCK)
            axes = embedded(colors[part], self.space, colors.dtype)
            labels[part] = label_points(axes, self.centres)
        return labels


@dataclass(frozen=True, slots=True)
class KMeansSurveyor:
    """Counts the colours of a frame, a scene or the run, and fits clusters to them."""

    clusters: int
    space: Space = "rgb"
    scope: Scope = "frame"
    seed: int = 0
    attempts: int = 10

    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels",)

    @property
    def classes(self) -> tuple[str, ...]:
        return _names(self.clusters)

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError for bands, or a dtype, that have no such colours."""
        check_bands(self.space, bands, np.dtype(dtype))

    def survey(self, pixels: Pixels, valid: Bool) -> Cells:
        """Colours of pixels (n, y, x, band) where valid (n, y, x) and finite."""
        check_bands(self.space, pixels.shape[-1], pixels.dtype)
        return _cells.count(pixels, valid)

    def merge(self, a: Cells, b: Cells) -> Cells:
        """Both surveys' pixels together."""
        return a + b

    def fit(self, state: Cells) -> KMeans:
        """The clusters of a survey; equal surveys give equal clusters, bit for bit."""
        values = state.means()
        dtype = np.dtype(state.dtype)
        if not len(values):
            bands = max(1, state.bands)
            zero = ((0.0,) * bands,) * self.clusters
            return KMeans(self.space, zero, ((0, 0, 0),) * self.clusters, 0.0, 0)
        axes = embedded(values, self.space, dtype)
        centres = self._centres(state, axes)
        if self.space in PLAIN and _cells.exact(dtype):
            centres = np.rint(centres * STEP) / STEP
        points = _lloyd.Points(axes, state.counts.astype(np.float64))
        labels = label_points(axes, _tuples(centres)).astype(np.intp)
        used, labels = np.unique(labels, return_inverse=True)
        centres, means = centres[used], _means(values, points.weights, labels)
        plain = self.space in PLAIN
        order = np.lexsort([*centres.T[::-1], brightness(centres if plain else means)])
        inertia = _inertia(state, points, centres, labels, plain)
        # The clusters that no colour is nearest to repeat the brightest.
        order = np.append(order, np.repeat(order[-1], self.clusters - len(order)))
        colors = _colors(means, values, points.weights, dtype)
        return KMeans(
            self.space,
            _tuples(centres[order]),
            tuple(colors[i] for i in order),
            inertia,
            state.pixels,
        )

    def _centres(self, state: Cells, axes: Floats) -> Floats:
        """(cluster, dimension) of the best attempt, for the embedded means (dimension, cell)."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        k = self.clusters
        # Around the origin and not too large, for the sake of `_lloyd`'s arithmetic.
        scale = float(np.ldexp(1.0, int(np.frexp(np.abs(axes).max())[1])))
        middle = np.average(axes / scale, axis=1, weights=state.counts)[:, None]

        def points(limit: int) -> _lloyd.Points:
            means, counts = state.summary(limit)
            axes = embedded(means, self.space, np.dtype(state.dtype))
            return _lloyd.Points(axes / scale - middle, counts.astype(np.float64))

        rough = points(max(COARSE, min(COARSE, 32 * k) * k))
        starts = (_lloyd.seeds(rough, k, rng) for _ in range(self.attempts))
        fits = _best((_lloyd.lloyd(rough, start, 30, 1e-3) for start in starts), SWAPPED)
        # Swaps pay while K is small; for many clusters the attempts themselves take the time.
        trials = min(k * k // 3, SWAPS, (1 << 21) // (k * len(rough)))
        fits = _best((_lloyd.swapped(rough, fit, trials, rng) for fit in fits), POLISHED)

        finer = points(FINER * max(2, k))
        (fit,) = _best((_lloyd.lloyd(finer, fit.centres, 50, 1e-4) for fit in fits), 1)
        fit = _lloyd.lloyd(points(len(state.counts)), fit.centres, 50, 1e-4)
        return (fit.centres + middle.T) * scale


def create(
    clusters: int,
    space: Space = "rgb",
    scope: Scope = "frame",
    seed: int = 0,
    attempts: int = 10,
) -> KMeansSurveyor:
    """K-means clustering of colours into `clusters` classes.

    clusters: how many. space: rgb (1 or 3 bands as they are), bands (any number as they are), hsv or
    lab (8 or 16 bit sRGB). scope: what one fit is made of, a frame, a scene or the run. seed: of the
    random starts. attempts: starts the best is taken of.
    """
    integers: tuple[tuple[str, object, int, int], ...] = (
        ("clusters", clusters, 1, 65534),
        ("seed", seed, 0, 2**63 - 1),
        ("attempts", attempts, 1, 1000),
    )
    for name, value, least, most in integers:
        # A YAML true is a Python int.
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{name}: must be an integer from {least} to {most}, not {value!r}")
    for name, given, known in (
        ("space", space, get_args(Space)),
        ("scope", scope, get_args(Scope)),
    ):
        if given not in known:
            raise ValueError(f"{name}: must be one of {', '.join(known)}, not {given!r}")
    return KMeansSurveyor(clusters, space, scope, seed, attempts)


def _names(clusters: int) -> tuple[str, ...]:
    return tuple(f"cluster {i}" for i in range(clusters))


def _tuples(centres: Floats) -> Centres:
    # Adding zero makes -0.0 a 0.0, so that equal centres have equal bytes.
    return tuple(tuple(row) for row in (centres + 0.0).tolist())


def _best(fits: Iterable[_lloyd.Fit], most: int) -> list[_lloyd.Fit]:
    """The best `most` fits, leaving out those as good as one before: likely the same optimum."""
    kept: list[_lloyd.Fit] = []
    for fit in sorted(fits, key=lambda fit: fit.inertia):
        if not kept or fit.inertia > kept[-1].inertia * (1 + 1e-4):
            kept.append(fit)
    return kept[:most]


def _means(values: Floats, weights: Floats, labels: NDArray[np.intp]) -> Floats:
    """(cluster, band) mean of values (m, band) by label; every label occurs."""
    total = np.bincount(labels, weights)
    return np.stack([np.bincount(labels, v * weights) / total for v in values.T], axis=1)


def _inertia(
    state: Cells, points: _lloyd.Points, centres: Floats, labels: NDArray[np.intp], plain: bool
) -> float:
    if not plain or not _cells.exact(np.dtype(state.dtype)):
        squared = ((points.axes - centres[labels].T) ** 2).sum(axis=0)
        return float((squared * points.weights).sum())
    # sum of (x - c)^2 = sum of x^2 - 2 c x + c^2, in units of 1 / STEP^2, exactly.
    total = state.squares * STEP**2
    for label, centre in enumerate(np.rint(centres * STEP).astype(np.int64).tolist()):
        members = labels == label
        count, sums = int(state.counts[members].sum()), state.sums[members].sum(axis=0).tolist()
        total += sum(count * c * c - 2 * STEP * c * x for c, x in zip(centre, sums, strict=True))
    return total / STEP**2


def _colors(
    means: Floats, values: Floats, weights: Floats, dtype: np.dtype[np.generic]
) -> tuple[Color, ...]:
    """8-bit colours of means (cluster, band), given the values (m, band) they are means of."""
    shown = slice(0, 3 if values.shape[1] >= 3 else 1)
    low, high = 0.0, 255.0
    if dtype != np.uint8:
        pooled = values[:, shown].T.reshape(-1)
        order = np.argsort(pooled, kind="stable")
        below = np.cumsum(np.tile(weights, len(pooled) // len(weights))[order])
        low, high = pooled[order[np.searchsorted(below, below[-1] * np.array([0.02, 0.98]))]]
    span = high - low if high > low else 1.0
    scaled = np.rint(np.clip((means[:, shown] - low) / span, 0, 1) * 255).astype(int)
    r, g, b = np.broadcast_to(scaled, (len(scaled), 3)).T.tolist()
    return tuple(zip(r, g, b, strict=True))
