"""Losses as folds over windows, exact under any sharding: sums in fixed point, divided once.

    PixelStatistic    sum of terms, count of pixels
    RegionStatistic   sums of a frame's windows -> the frame's figure; their mean, and one of all sums
    ImageStatistic    figures of whole frames
    CompoundStatistic the folds of several losses, side by side

Truth that is no class (void) is not scored. A pixel that has a true class and no probabilities (NaN)
is not scored either, but counted as unpredicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.fixed_point import ONE, to_fixed, to_float, total
from segengine.losses._formulas import Formula, OfPixels, OfRegions
from segengine.losses.scored import Scored, smoothed
from segengine.types import Framed, Labels, Metric, Prediction, Truth, Whole

Sums = tuple[tuple[int, ...], ...]
"""Fixed-point sums by count and class; () before the first."""
_BLOCK = 1 << 18
"""Values looked at at a time, where the cut does not matter: some MB, whatever the window."""


class PixelState(NamedTuple):
    """Scored pixels and the fixed-point sum of their terms."""

    total: int = 0
    pixels: int = 0
    unpredicted: int = 0


class RegionPart(NamedTuple):
    """Sums over some of a frame's pixels."""

    sums: Sums = ()
    pixels: int = 0
    unpredicted: int = 0


class RegionState(NamedTuple):
    """Fixed-point sums, over frames, of a frame's figures and of what the figures are made of."""

    figures: Sums = ()
    pooled: Sums = ()
    frames: int = 0
    unpredicted: int = 0


class ImageState(NamedTuple):
    """Scored frames and the fixed-point sum of their figures."""

    total: int = 0
    frames: int = 0
    unpredicted: int = 0


@dataclass(frozen=True, slots=True)
class PixelStatistic:
    """Mean of a pixel loss over all scored pixels."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("probabilities", "truth")
    loss: OfPixels
    classes: tuple[str, ...]
    whole: bool = False
    """The terms depend on the whole frame."""

    def __post_init__(self) -> None:
        self.loss.check_channels(len(_channels(self)))

    def empty(self) -> PixelState:
        """No pixels."""
        return PixelState()

    def update(
        self, state: PixelState, prediction: Prediction, truth: Labels | Truth
    ) -> PixelState:
        """`state` and the pixels of some windows."""
        for scored, unpredicted in _score(self, prediction, truth, cut=not self.whole):
            terms = self.loss.weighted(scored)[scored.valid[..., 0] > 0]
            found = PixelState(total(to_fixed(terms)), len(terms), unpredicted)
            state = self.merge(state, found)
        return state

    def merge(self, a: PixelState, b: PixelState) -> PixelState:
        """Both."""
        return PixelState(*(i + j for i, j in zip(a, b, strict=True)))

    def compute(self, state: PixelState) -> dict[str, Any]:
        """`loss` (None where nothing was scored), `pixels`, `unpredicted_pixels`."""
        count = state.pixels
        if not self.loss.summed:
            count *= len(_channels(self))
        return {
            "loss": to_float(state.total, count) if count else None,
            "pixels": state.pixels,
            "unpredicted_pixels": state.unpredicted,
        }


@dataclass(frozen=True, slots=True)
class RegionStatistic:
    """Mean of a region loss over frames, and the same loss of all pixels pooled."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("probabilities", "truth")
    loss: OfRegions
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.loss.check_channels(len(_channels(self)))

    def empty(self) -> RegionState:
        """No frames."""
        return RegionState()

    def update(
        self, state: RegionState, prediction: Prediction, truth: Labels | Truth
    ) -> RegionState:
        """`state` and whole frames."""
        for frame in range(len(prediction.labels)):
            one = slice(frame, frame + 1), slice(None), slice(None)
            part = self.part(prediction.crop(one), _labels(truth)[one])
            state = self.merge(state, self.close(part))
        return state

    def merge(self, a: RegionState, b: RegionState) -> RegionState:
        """Both."""
        return RegionState(
            _add(a.figures, b.figures),
            _add(a.pooled, b.pooled),
            a.frames + b.frames,
            a.unpredicted + b.unpredicted,
        )

    def part(self, prediction: Prediction, truth: Labels | Truth) -> RegionPart:
        """Sums over one window of a frame."""
        part = RegionPart()
        for scored, unpredicted in _score(self, prediction, truth, cut=True):
            valid = scored.valid[..., 0] > 0
            fixed = [to_fixed(count[valid]) for count in self.loss.counts(scored)]
            sums = tuple(tuple(total(c[:, k]) for k in range(c.shape[1])) for c in fixed)
            part = self.join(part, RegionPart(sums, int(valid.sum()), unpredicted))
        return part

    def join(self, a: RegionPart, b: RegionPart) -> RegionPart:
        """Two windows of one frame."""
        return RegionPart(_add(a.sums, b.sums), a.pixels + b.pixels, a.unpredicted + b.unpredicted)

    def close(self, part: RegionPart) -> RegionState:
        """One whole frame; a frame without a scored pixel is none."""
        if not part.pixels:
            return RegionState(unpredicted=part.unpredicted)
        figures = tuple(round(figure * ONE) for figure in self._figures(part.sums))
        return RegionState((figures,), part.sums, 1, part.unpredicted)

    def compute(self, state: RegionState) -> dict[str, Any]:
        """`loss`, the mean over frames, and `pooled`, of all pixels, overall and by class.

        None where nothing was scored; class weights are in the two overall figures only.
        """
        names = _channels(self)
        loss: list[float] = []
        pooled: list[float] = []
        if state.frames:
            loss = [to_float(figure, state.frames) for figure in state.figures[0]]
            pooled = self._figures(state.pooled)
        return {
            "loss": self._mean(loss),
            "pooled": self._mean(pooled),
            "frames": state.frames,
            "unpredicted_pixels": state.unpredicted,
            "classes": {
                name: {"loss": loss[k], "pooled": pooled[k]} if loss else None
                for k, name in enumerate(names)
            },
        }

    def _figures(self, sums: Sums) -> list[float]:
        """The loss of each class."""
        floats = tuple(np.array([to_float(s) for s in of_classes]) for of_classes in sums)
        figures: list[float] = self.loss.figure(np, floats).tolist()
        return figures

    def _mean(self, figures: list[float]) -> float | None:
        return float(self.loss.mean_over_classes(np.array([figures]))[0]) if figures else None


@dataclass(frozen=True, slots=True)
class ImageStatistic:
    """Mean over frames of a loss that sees whole ones."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("probabilities", "truth")
    whole: ClassVar[bool] = True
    loss: Formula
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.loss.check_channels(len(_channels(self)))

    def empty(self) -> ImageState:
        """No frames."""
        return ImageState()

    def update(
        self, state: ImageState, prediction: Prediction, truth: Labels | Truth
    ) -> ImageState:
        """`state` and whole frames; a frame without a scored pixel is none."""
        for scored, unpredicted in _score(self, prediction, truth, cut=False):
            values, counted = self.loss.values(scored)
            found = ImageState(round(float(values[0]) * ONE), int(counted[0]), unpredicted)
            state = self.merge(state, found)
        return state

    def merge(self, a: ImageState, b: ImageState) -> ImageState:
        """Both."""
        return ImageState(*(i + j for i, j in zip(a, b, strict=True)))

    def compute(self, state: ImageState) -> dict[str, Any]:
        """`loss` (None where nothing was scored), `frames`, `unpredicted_pixels`."""
        return {
            "loss": to_float(state.total, state.frames) if state.frames else None,
            "frames": state.frames,
            "unpredicted_pixels": state.unpredicted,
        }


@dataclass(frozen=True, slots=True)
class CompoundStatistic:
    """Weighted sum of losses, each merged by itself. A state is a tuple of theirs."""

    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("probabilities", "truth")
    names: tuple[str, ...]
    weights: tuple[float, ...]
    folds: tuple[Any, ...]

    @property
    def whole(self) -> bool:
        """One of the losses must see whole frames."""
        return any(isinstance(fold, Whole) and fold.whole for fold in self.folds)

    def empty(self) -> tuple[Any, ...]:
        """Nothing."""
        return tuple(fold.empty() for fold in self.folds)

    def update(
        self, state: tuple[Any, ...], prediction: Prediction, truth: Labels | Truth
    ) -> tuple[Any, ...]:
        """`state` and some frames."""
        return self._each("update", state, [prediction] * len(state), [truth] * len(state))

    def merge(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        """Both."""
        return self._each("merge", a, b)

    def compute(self, state: tuple[Any, ...]) -> dict[str, Any]:
        """`loss`, the weighted sum (None where nothing was scored), and the figures of each loss."""
        found = self._each("compute", state)
        scored = all(figures["loss"] is not None for figures in found)
        return {
            "loss": sum(w * f["loss"] for w, f in zip(self.weights, found, strict=True))
            if scored
            else None,
            "losses": [
                {"name": name, "weight": weight, **figures}
                for name, weight, figures in zip(self.names, self.weights, found, strict=True)
            ],
        }

    def _each(self, method: str, *arguments: Any) -> tuple[Any, ...]:
        """A method of every fold, with its share of each argument."""
        shares = zip(*arguments, strict=True)
        return tuple(
            getattr(fold, method)(*share) for fold, share in zip(self.folds, shares, strict=True)
        )


@dataclass(frozen=True, slots=True)
class FramedCompoundStatistic(CompoundStatistic):
    """The same where some of the losses are means over frames and none needs whole ones."""

    def part(self, prediction: Prediction, truth: Labels | Truth) -> tuple[Any, ...]:
        """What one window of a frame adds to it."""
        return tuple(
            fold.part(prediction, truth)
            if isinstance(fold, Framed)
            else fold.update(fold.empty(), prediction, truth)
            for fold in self.folds
        )

    def join(self, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        """Two windows of one frame."""
        return tuple(
            fold.join(i, j) if isinstance(fold, Framed) else fold.merge(i, j)
            for fold, i, j in zip(self.folds, a, b, strict=True)
        )

    def close(self, part: tuple[Any, ...]) -> tuple[Any, ...]:
        """The state of one whole frame."""
        return tuple(
            fold.close(share) if isinstance(fold, Framed) else share
            for fold, share in zip(self.folds, part, strict=True)
        )


def _channels(fold: PixelStatistic | RegionStatistic | ImageStatistic) -> tuple[str, ...]:
    """Names of the classes that are scored.

    Of two classes, a loss of yes-or-no questions asks for the second.
    """
    two = fold.loss.elementwise and len(fold.classes) == 2
    return fold.classes[1:] if two else fold.classes


def _score(
    fold: PixelStatistic | RegionStatistic | ImageStatistic,
    prediction: Prediction,
    truth: Labels | Truth,
    cut: bool,
) -> Iterator[tuple[Scored, int]]:
    """Each frame (or, where it may be `cut`, blocks of its rows), and its unpredicted pixels."""
    probability, labels = prediction.probabilities, _labels(truth)
    if probability is None:
        raise ValueError(f"{fold.loss.name}: needs probabilities, and the prediction has none")
    expected = (*labels.shape, len(fold.classes))
    if probability.shape != expected:
        raise ValueError(
            f"{fold.loss.name}: probabilities are {probability.shape}, expected {expected}"
        )
    _, height, width, classes = expected
    rows = max(1, _BLOCK // max(1, width * classes)) if cut else max(1, height)
    for frame in range(len(labels)):
        for top in range(0, height, rows):
            here = slice(frame, frame + 1), slice(top, top + rows)
            yield _score_block(fold, probability[here], labels[here])


def _score_block(
    fold: PixelStatistic | RegionStatistic | ImageStatistic,
    probability: NDArray[np.float32],
    labels: Labels,
) -> tuple[Scored, int]:
    known = (labels >= 0) & (labels < len(fold.classes))
    predicted = ~np.isnan(probability).any(axis=-1)
    scored = (known & predicted)[..., None]
    first = len(fold.classes) - len(_channels(fold))
    # contiguous: NumPy takes logarithms by another routine, with other bits, where it has to stride
    values = np.where(scored, probability, 0).astype(np.float64)
    values = np.ascontiguousarray(values[..., first:])
    hard = (labels[..., None] == np.arange(first, len(fold.classes))) & scored
    hard = hard.astype(np.float64)
    yes_or_no = fold.loss.elementwise or values.shape[-1] == 1
    truth = smoothed(hard, fold.loss.label_smoothing, yes_or_no)
    valid = scored.astype(np.float64)
    unpredicted = int((known & ~predicted).sum())
    return Scored(
        xp=np, hard=hard, truth=truth, probability=values, valid=valid, on_host=_on_host
    ), unpredicted


def _on_host(function: Any, *maps: Any) -> Any:
    return function(*maps)


def _labels(truth: Labels | Truth) -> Labels:
    return truth.labels if isinstance(truth, Truth) else truth


def _add(a: Sums, b: Sums) -> Sums:
    """Both, sum by sum; () is nothing."""
    if not (a and b):
        return a or b
    return tuple(
        tuple(i + j for i, j in zip(of_a, of_b, strict=True))
        for of_a, of_b in zip(a, b, strict=True)
    )


_: tuple[type[Metric[Any]], ...] = (
    PixelStatistic, RegionStatistic, ImageStatistic, CompoundStatistic, FramedCompoundStatistic
)  # fmt: skip
