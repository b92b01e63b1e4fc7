"""What the engine asks of a plug-in beyond its protocol, in one place: nobody else looks for a part.

The parts are protocols of `segengine.types`; here is what their absence means.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from segengine import registry
from segengine.errors import JobError
from segengine.guards.parts import Parts
from segengine.instances.cleaning import Cleaning, clean_frame
from segengine.instances.join import BAND, components, renumbered
from segengine.instances.merging import merged_frames
from segengine.types import (
    CERTAIN,
    NO_CONFIDENCE,
    Agrees,
    Beyond,
    Bool,
    ChecksPixels,
    Color,
    Colored,
    Completes,
    Describes,
    Findings,
    FindsTruth,
    Follows,
    FrameRef,
    Frames,
    Headline,
    Inertia,
    KnowsFrames,
    Labels,
    LabelsAlone,
    LabelsConfidently,
    LabelsFrames,
    Learned,
    Linker,
    Lists,
    Locates,
    LowerIsBetter,
    Marks,
    Matches,
    Merger,
    Metric,
    Needs,
    Outputs,
    PerFrame,
    Pixels,
    Placed,
    Plugin,
    Prediction,
    Provenance,
    Remarks,
    Responds,
    Scaled,
    Scope,
    Seams,
    Segmenter,
    Site,
    Slow,
    Source,
    Steps,
    Surveyor,
    Trained,
    TruthInstances,
    Unmet,
    Uses,
    Versioned,
    View,
    Volumetric,
    Weighted,
    Whole,
    Within,
)

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from segengine.job import ComponentsSpec

BACKGROUND = frozenset(("background", "BG", "__background__", "not edge", "line"))
"""Classes that are no objects; Mask_RCNN and torchvision have their own words for them."""
SLACK = 1e-3
"""What rounding may add to a probability."""
OUTPUTS = ("labels", "probabilities", "instances", "objects", "confidence")
_BACKGROUND: Color = (32, 32, 36)


S = TypeVar("S")
_FINDINGS = Parts.of(Findings).values


@cache
def _parts(protocol: type) -> tuple[str, ...]:
    parts = Parts.of(protocol)
    return (*parts.values, *parts.methods)


def _has(plugin: object, protocol: type) -> bool:
    """`isinstance`, for what is asked of every frame: Python 3.11 takes 30 us to look at a protocol."""
    return all(hasattr(plugin, name) for name in _parts(protocol))


def surveys(plugin: object) -> TypeIs[Surveyor[Any]]:
    """True for what must survey before it can label."""
    return hasattr(plugin, "survey")


def scope(plugin: Plugin) -> Scope | None:
    """What must be surveyed before it can label; None for a plain segmenter."""
    return plugin.scope if surveys(plugin) else None


def check(plugin: object, kind: str) -> None:
    """Raise JobError where an object is neither a Segmenter nor a Surveyor."""
    parts = Parts.of(Surveyor if surveys(plugin) else Segmenter)
    missing = [name for name in (*parts.values, *parts.methods) if not hasattr(plugin, name)]
    if missing:
        raise JobError(
            f"segmenter.kind: {kind}: {type(plugin).__name__} is no segmenter: it has no "
            f"{', '.join(missing)}"
        )
    if not plugin.classes:  # type: ignore[attr-defined] # it is there
        raise JobError(f"segmenter.kind: {kind}: classes is empty")


def labeller(plugin: Plugin) -> Plugin:
    """What labels in the end: the segmenter, or what a surveyor says it will fit."""
    return plugin.segmenter if surveys(plugin) and isinstance(plugin, Completes) else plugin


def whole_frames(plugin: Plugin) -> bool:
    """True where a shard must cover the frame."""
    found = labeller(plugin)
    return not surveys(found) and found.halo is None


def links(plugin: Plugin) -> bool:
    """True where labels depend on pieces or regions that cross windows."""
    return isinstance(labeller(plugin), Linker | Merger)


def merger(plugin: object) -> Merger | None:
    """What parts frames in regions that are merged; None: it does not."""
    return plugin if _has(plugin, Merger) else None  # type: ignore[return-value]


def merged(found: Merger, pixels: Pixels, valid: Bool) -> Prediction:
    """The regions of whole frames (n, y, x, band), where valid (n, y, x)."""
    ids = merged_frames(found.connect(pixels, valid), valid, found.least, found.drops)
    return Prediction((ids > 0).view(np.uint8), instances=ids)


def keep(plugin: Plugin) -> int | None:
    """Draft value from which on a joined piece is kept; None where nothing is linked."""
    found = labeller(plugin)
    return found.keep if isinstance(found, Linker) else None


def band(plugin: Plugin) -> int:
    """Pixels beyond its shard by which a window's objects can be matched with its neighbours'."""
    found = labeller(plugin)
    return 0 if surveys(found) else min(BAND, found.halo or 0)


def agrees(plugin: Plugin) -> bool:
    """True where objects of two windows that share a pixel around their border are one, however few."""
    found = labeller(plugin)
    return isinstance(found, Agrees) and bool(found.agrees)


def context(plugin: Plugin) -> tuple[int | None, int]:
    """Halo and stride of what will label; of a surveyor that does not tell what it will fit, none."""
    found = labeller(plugin)
    return (0, 1) if surveys(found) else (found.halo, found.stride)


def background(classes: Sequence[str]) -> tuple[int, ...]:
    """Labels that are no objects, by their names."""
    return tuple(i for i, name in enumerate(classes) if name in BACKGROUND)


def with_components(found: Prediction, classes: Sequence[str], void: int) -> Prediction:
    """A prediction whose instances are the 8-connected regions of each class, but of no void."""
    without = (*background(classes), void)
    ids = [renumbered(components(labels, without).astype(np.uint32))[0] for labels in found.labels]
    return replace(found, instances=np.stack(ids), objects=None)


def cleaning(spec: ComponentsSpec | str | None, classes: Sequence[str]) -> Cleaning | None:
    """What a job's `instances` does to components; None: nothing. Raises JobError for a strange class."""
    if spec is None or isinstance(spec, str):
        return None
    for name in spec.classes or ():
        if name not in classes:
            known = ", ".join(classes)
            raise JobError(
                f"segmenter.instances.classes: {name!r} is no class; choose from {known}"
            )
    without = background(classes)
    labels = (
        [i for i in range(len(classes)) if i not in without]
        if spec.classes is None
        else sorted({classes.index(name) for name in spec.classes})
    )
    return Cleaning(
        classes=tuple(labels),
        connectivity=spec.connectivity,
        smooth=spec.smooth,
        holes=spec.holes,
        min_area=spec.min_area,
        split=spec.split or "",
        min_distance=spec.min_distance,
        height=spec.h,
    )


def with_clean_components(found: Prediction, how: Cleaning, void: int) -> Prediction:
    """A prediction whose instances are its components, made clean; with the objects' own classes."""
    from segengine.instances.rows import objects_of, of_frames

    frames, tables = [], []
    for labels in found.labels:
        ids, classes, _ = clean_frame(labels, void, how)
        frames.append(ids)
        tables.append(objects_of(ids, classes=classes[1:]))
    return Prediction(found.labels, found.probabilities, np.stack(frames), of_frames(tables))


def check_pixels(plugin: Plugin, bands: int, dtype: str) -> None:
    """Raise ValueError where it cannot label pixels of so many bands and that dtype."""
    found = labeller(plugin)
    if isinstance(found, ChecksPixels):
        found.check_pixels(bands, dtype)


def labels_alone(segmenter: Segmenter, pixels: Pixels) -> Prediction:
    """Its labels, with nothing else in memory where it can do without."""
    return (segmenter.label if _has(segmenter, LabelsAlone) else segmenter.segment)(pixels)  # type: ignore[attr-defined]


def labels_confidently(segmenter: Segmenter, pixels: Pixels) -> Prediction:
    """Its labels and how sure it is of each, with no map (n, y, x, class) where it can do without.

    Raises ValueError for what gives no probabilities, or none that are.
    """
    if _has(segmenter, LabelsConfidently):
        found: Prediction = segmenter.label_confidently(pixels)  # type: ignore[attr-defined]
        return found
    return with_confidence(segmenter.segment(pixels))


def with_confidence(found: Prediction) -> Prediction:
    """A prediction whose labels have their confidence, from its probabilities. Raises ValueError."""
    if found.confidence is not None:
        return found
    if found.probabilities is None:
        raise ValueError("store.confidence: the prediction has no probabilities")
    pairs = zip(found.labels, found.probabilities, strict=True)
    return replace(found, confidence=np.stack([confidence(a, b) for a, b in pairs]))


def confidence(labels: Labels, probabilities: NDArray[Any]) -> NDArray[np.uint8]:
    """(...) round(254 p) of probabilities (..., class), p that of the label; 255 where it is NaN.

    The product is exact, ties go to even. Raises ValueError for values that are no probabilities.

    >>> confidence(np.uint8([0, 1, 0]), np.float32([[1, 0], [0.25, 0.75], [np.nan, np.nan]])).tolist()
    [254, 190, 255]
    """
    chosen = np.take_along_axis(probabilities, labels[..., None].astype(np.intp), -1)[..., 0]
    values = np.rint(as_probabilities(chosen).astype(np.float64) * CERTAIN)
    return np.asarray(np.where(np.isnan(values), NO_CONFIDENCE, values), np.uint8)


def placed(
    segmenter: Segmenter,
    corner: tuple[int, int],
    size: tuple[int, int],
    frames: Frames | None = None,
) -> Segmenter:
    """It, for windows whose first pixel is at (y, x) of frames of (height, width).

    `frames`: which they are; None: of pictures that are no frames of a run.
    """
    found: Segmenter = segmenter.at(corner, size) if _has(segmenter, Placed) else segmenter  # type: ignore[attr-defined]
    if frames is not None and _has(found, KnowsFrames):
        found = found.of_frames(frames)  # type: ignore[attr-defined]
    return found


def is_by_name(plugin: Plugin) -> bool:
    """True where frames of the same pixels may get other labels, by their names."""
    found = labeller(plugin)
    return isinstance(found, KnowsFrames) and bool(found.by_name)


def remarks(plugin: Plugin, sites: Iterable[Site]) -> Iterator[str]:
    """What it says of all scenes that it is to label, where it says anything; each names its option."""
    found = labeller(plugin)
    if isinstance(found, Remarks):
        yield from found.remarks(sites)


def follows(plugin: Plugin) -> Follows | None:
    """What labels a frame by those before it; None: it looks at each frame by itself."""
    found = labeller(plugin)
    return found if isinstance(found, Follows) else None


def label_frame(
    surveyor: Surveyor[S], pixels: Pixels, valid: Bool
) -> tuple[Segmenter, Prediction | None]:
    """What a surveyor fits to a frame, and its labels, where it gives both at once."""
    if _has(surveyor, LabelsFrames):
        found: tuple[Segmenter, Prediction] = surveyor.label_frame(pixels, valid)  # type: ignore[attr-defined]
        return found
    return surveyor.fit(surveyor.survey(pixels, valid)), None


def provenance(plugin: Plugin) -> str:
    """Engine and version behind its labels, where it says so; never compared."""
    return str(plugin.provenance or "") if _has(plugin, Provenance) else ""  # type: ignore[union-attr]


def description(plugin: Plugin) -> tuple[str, ...]:
    """Lines on what it is made of and will do, where it says so."""
    found = labeller(plugin)
    return tuple(found.describe()) if isinstance(found, Describes) else ()


def is_slow(plugin: Plugin) -> bool:
    """True where labelling takes so long that reading beside it costs nothing (networks)."""
    found = labeller(plugin)
    return isinstance(found, Slow) and bool(found.slow)


def seams(plugin: Plugin) -> int | None:
    """Pixels from one window to the next where those of a network only fade into one another."""
    found = labeller(plugin)
    return found.seams if isinstance(found, Seams) else None


def trained(plugin: object) -> Trained | None:
    """What its model says of the images that it learned from; None: nothing."""
    return plugin.trained if isinstance(plugin, Learned) else None


def responds(plugin: object) -> TypeIs[Responds]:
    """True where it has a signed response of each direction to show."""
    return isinstance(plugin, Responds)


def inertia(segmenter: Segmenter) -> float | None:
    """Sum of squared distances to the centres that a fit found; None where it has none."""
    return float(segmenter.inertia) if _has(segmenter, Inertia) else None  # type: ignore[attr-defined]


def findings(segmenter: Segmenter) -> dict[str, Any]:
    """What a fit found, by the names of `Findings`, as JSON has it."""
    found = {name: getattr(segmenter, name, None) for name in _FINDINGS}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in found.items()
        if value is not None and not callable(value)
    }


def version(plugin: object) -> int:
    """The algorithm version: its file raises it when the output can change."""
    return int(plugin.version) if isinstance(plugin, Versioned) else 1


def weights(plugin: Plugin) -> str:
    """Digest of the weights, empty where there are none."""
    return str(plugin.weights or "") if isinstance(plugin, Weighted) else ""


def lists_inputs(kind: str) -> bool:
    """True where a source of a kind finds its inputs itself."""
    return _gives(kind, Lists)


def lister(source: Source) -> Lists | None:
    """A source that finds its inputs itself; None: the paths are files."""
    return source if isinstance(source, Lists) else None


def within(source: Source, ref: FrameRef, rows: slice, cols: slice) -> Bool | None:
    """(y, x) of a window, what of it counts; None: all."""
    return source.within(ref, rows, cols) if isinstance(source, Within) else None


def beyond(source: Source, ref: FrameRef, side: int) -> Bool | None:
    """(y, x) squares of `side` pixels that are known to count nowhere; None: nothing is known."""
    return source.beyond(ref, side) if isinstance(source, Beyond) else None


def mark(source: Source, ref: FrameRef) -> str | None:
    """The fingerprint that a frame has now, of a source that finds its inputs itself; None: its file's."""
    return source.mark(ref) if isinstance(source, Marks) else None


def has_truth(kind: str) -> bool:
    """True where a source of a kind knows the truth of what it reads."""
    return _gives(kind, FindsTruth)


def has_truth_instances(source: Source) -> bool:
    """True where a source's truth tells objects apart."""
    return isinstance(source, TruthInstances) and bool(source.truth_instances)


def _gives(kind: str, part: type) -> bool:
    if kind == "auto":
        return False
    found: object = registry.load("sources", kind)
    return isinstance(found, type) and issubclass(found, part)


def needs(metric: Metric[Any]) -> tuple[str, ...]:
    """What a metric needs beyond labels."""
    return tuple(metric.needs) if isinstance(metric, Needs) else ("truth",)


def uses(metric: Metric[Any]) -> tuple[str, ...]:
    """What a metric needs, and what it takes where it is there."""
    return (*needs(metric), *(metric.uses if isinstance(metric, Uses) else ()))


def scaled(metric: Metric[Any], spacing: tuple[float, float] | None) -> Metric[Any] | None:
    """A metric for a scene of that spacing (y, x), in millimetres; None: it cannot be measured there."""
    return metric.scaled(spacing) if isinstance(metric, Scaled) else metric


def sees_volumes(metric: Metric[Any]) -> bool:
    """True where `update` must see all slices of a volume."""
    return isinstance(metric, Volumetric) and bool(metric.volume)


def in_volume(metric: Metric[Any], steps: Steps | None) -> Metric[Any] | None:
    """A metric for a volume of such voxels; None: it cannot be measured there."""
    return metric.in_volume(steps) if isinstance(metric, Volumetric) else metric


def unmet(metric: Metric[Any]) -> str:
    """Why a metric cannot be computed with its classes; empty: it can."""
    return str(metric.unmet or "") if isinstance(metric, Unmet) else ""


def sees_whole_frames(metric: Metric[Any]) -> bool:
    """True where `update` must see whole frames."""
    return isinstance(metric, Whole) and bool(metric.whole)


def base(metric: Metric[Any]) -> Metric[Any]:
    """The metric whose state is kept: itself, or what it is a view of."""
    return metric.base if isinstance(metric, View) else metric


def located(metric: Metric[Any], state: Any, scene: str, frame: int) -> Any:
    """The state of one whole frame, which knows where it lies if the metric asks for that."""
    return metric.locate(state, scene, frame) if isinstance(metric, Locates) else state


def matching(metric: Metric[Any], state: Any) -> Any:
    """How the run's labels stand for true classes; None: by name."""
    return metric.match(state) if isinstance(metric, Matches) else None


def figures(metric: Metric[Any], state: Any, matching: Any) -> dict[str, Any]:
    """A metric's figures, with the run's matching where there is one."""
    if matching is None or not isinstance(metric, Matches):
        return dict(metric.compute(state))
    return dict(metric.compute(state, matching))


def headline(metric: Metric[Any]) -> str | None:
    """The key of the one figure that stands for all, where a metric says so."""
    return metric.headline if isinstance(metric, Headline) else None


def lower_is_better(metric: Metric[Any]) -> bool:
    """True where a metric says that its headline is an error or a distance."""
    return isinstance(metric, LowerIsBetter) and bool(metric.lower_is_better)


def per_frame(metric: Metric[Any]) -> bool:
    """False where a metric says that a single frame has no figure."""
    return not isinstance(metric, PerFrame) or bool(metric.per_frame)


def as_probabilities(values: NDArray[Any]) -> NDArray[Any]:
    """The values, what rounding has left outside of 0 to 1 brought back.

    Raises ValueError for values that are none; NaN, where nothing is known, is let through.
    """
    low, high = (float(f.reduce(values, axis=None, initial=0)) for f in (np.fmin, np.fmax))
    if low < -SLACK or high > 1 + SLACK:
        raise ValueError(
            f"its values go from {low:.3g} to {high:.3g}, which are no probabilities; set "
            "`activation` to what makes them such, sigmoid or softmax"
        )
    return np.clip(values, 0, 1) if low < 0 or high > 1 else values


def outputs(plugin: Plugin) -> tuple[str, ...] | None:
    """What it predicts, where it says so."""
    return tuple(plugin.outputs) if isinstance(plugin, Outputs) else None


def probed_outputs(prediction: Prediction) -> tuple[str, ...]:
    """What a segmenter that does not say so turned out to predict."""
    maps = (
        prediction.labels,
        prediction.probabilities,
        prediction.instances,
        prediction.objects,
        prediction.confidence,
    )
    return tuple(n for n, value in zip(OUTPUTS, maps, strict=True) if value is not None)


def colors(plugin: Plugin) -> tuple[Color, ...]:
    """One colour a class: its own, or a palette of well-separated hues on a dark background."""
    own = plugin.colors if _has(plugin, Colored) else None  # type: ignore[union-attr]
    if own is not None and len(own) == len(plugin.classes):
        return tuple((int(r), int(g), int(b)) for r, g, b in own)
    return palette(len(plugin.classes))


def palette(classes: int) -> tuple[Color, ...]:
    """`classes` colours: the first dark, then hues a golden angle apart."""
    found = [_BACKGROUND] if classes > 1 else []
    for i in range(classes - len(found)):
        hue = (0.02 + i * 0.61803398875) % 1.0
        r, g, b = colorsys.hsv_to_rgb(hue, 0.62 + 0.2 * (i % 2), 0.95 - 0.2 * (i // 7 % 2))
        found.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(found)


def as_prediction(value: Any, segmenter: Segmenter, shape: tuple[int, int, int]) -> Prediction:
    """Check what `segment` returned. Raises TypeError or ValueError naming what is wrong."""
    if not isinstance(value, Prediction):
        raise TypeError(f"segment returned {type(value).__name__}, not a Prediction")
    labels = np.asarray(value.labels)
    if labels.shape != shape:
        raise ValueError(f"segment returned labels {labels.shape} for pixels {shape}")
    if labels.dtype.kind not in "ub":
        raise TypeError(f"segment returned {labels.dtype} labels; they must be unsigned")
    if labels.size and int(labels.max()) >= len(segmenter.classes):
        raise ValueError(f"segment returned label {labels.max()}, above its classes")
    return value
