"""What is measured: the metrics and losses of a job, what each needs, and the states they share.

asked   iou, dice, boundary_f1, losses: dice      what the job names: one `Measure` each
folds   confusion,  boundary_f1, dice             one state each: views of one table share it
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from segengine import asked, registry
from segengine.errors import JobError, UntrustedError
from segengine.fingerprint import digest
from segengine.guards.trust import UNTRUSTED
from segengine.types import Framed, Labels, Metric, Pixels, Prediction, ScoringLoss, Steps, Truth

Group = Literal["metrics", "losses"]
Kind = Literal["measure", "frame", "volume"]
"""Of a measure record: of a shard's windows, of a whole frame, or of all slices of a volume."""
EVERY = "all"
"""Names every metric, or every loss, with its defaults."""
WANTS = {
    "truth": "truth; name label images under `truth`",
    "probabilities": "probabilities; set `store.probabilities: true` and use a segmenter that gives them",
    "instances": "instances, and this segmenter finds none",
    "objects": "instances, and this segmenter finds none",
    "pixels": "the images' pixels",
    "truth_instances": "truth with instances, and this one has only classes",
    "truth_objects": "truth with objects, and this one has only classes",
}
"""What each need is called where it is not met."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One metric or loss as a job names it."""

    group: Group
    name: str
    options: str = "{}"
    """JSON"""

    @property
    def label(self) -> str:
        """Its name, with the options that tell it from another of the same name."""
        options = json.loads(self.options)
        if not options or self.name == "compound":
            return self.name
        return f"{self.name}({', '.join(f'{k}={_text(v)}' for k, v in sorted(options.items()))})"

    @property
    def key(self) -> str:
        """Its label in a list of both: a loss that has a metric's name is told from it."""
        shared = self.group == "losses" and self.name in registry.names("metrics")
        return f"loss {self.label}" if shared else self.label


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Fold:
    """A metric's state, whatever of the optional protocol it has."""

    metric: Metric[Any]
    remap: tuple[int, ...] = ()
    """The segmenter's class of each true class, where the metric knows only the former."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What it needs beyond labels."""
        return asked.needs(self.metric)

    @property
    def uses(self) -> tuple[str, ...]:
        """What it needs, and what it takes where it is there."""
        return asked.uses(self.metric)

    @property
    def scored(self) -> bool:
        """True where it is measured against truth."""
        return any(need.startswith("truth") for need in self.needs)

    @property
    def whole(self) -> bool:
        """True where it must see whole frames."""
        return asked.sees_whole_frames(self.metric)

    @property
    def volume(self) -> bool:
        """True where it must see all slices of a volume."""
        return asked.sees_volumes(self.metric)

    def kind(self, cut: bool) -> Kind:
        """The kind of record it is in, where frames are `cut` over several shards and where not."""
        if self.volume:
            return "volume"
        return "frame" if cut and self.whole else "measure"

    def scaled(self, spacing: tuple[float, float] | None) -> Fold | None:
        """The same for a scene of that spacing (y, x); None: it cannot be measured there."""
        metric = asked.scaled(self.metric, spacing)
        return None if metric is None else replace(self, metric=metric)

    def in_volume(self, steps: Steps | None) -> Fold | None:
        """The same for a volume of such voxels; None: it cannot be measured there."""
        metric = asked.in_volume(self.metric, steps)
        return None if metric is None else replace(self, metric=metric)

    def part(
        self, prediction: Prediction, truth: Labels | Truth, pixels: Pixels | None = None
    ) -> Any:
        """What a window of one frame adds; `pixels` (1, y, x, band) where it needs them."""
        if self.remap and isinstance(truth, Truth):
            truth = replace(truth, labels=remapped(truth.labels, self.remap))
        if isinstance(self.metric, Framed):
            return self.metric.part(prediction, truth)
        more = (pixels,) if "pixels" in self.needs else ()
        return self.metric.update(self.metric.empty(), prediction, truth, *more)

    def join(self, a: Any, b: Any) -> Any:
        """Two windows of one frame."""
        return (self.metric.join if isinstance(self.metric, Framed) else self.metric.merge)(a, b)

    def close(self, part: Any, scene: str, frame: int) -> Any:
        """The state of one whole frame."""
        state = self.metric.close(part) if isinstance(self.metric, Framed) else part
        return asked.located(self.metric, state, scene, frame)


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric or loss that was asked for, and whose state it reads."""

    asked: Asked
    metric: Metric[Any]
    fold: int
    """Index in the folds."""


@dataclass(frozen=True)
class MeasureSpec:
    """All that a job measures: names, options, and the classes on both sides. Small; it travels."""

    asked: tuple[Asked, ...]
    classes: tuple[str, ...]
    truth_classes: tuple[str, ...]
    unmet: tuple[tuple[Asked, str], ...] = ()
    """What was asked for and cannot be measured here, and why."""

    @classmethod
    def of(
        cls,
        evaluate: Mapping[str, Any],
        classes: Sequence[str],
        truth_classes: Sequence[str] | None,
        there: Collection[str],
        also: Sequence[Asked] = (),
    ) -> MeasureSpec:
        """From a job's `evaluate` block; `there`: which of the keys of `WANTS` the run has.

        also: what is measured unasked, unless the job names it with options of its own.

        Raises JobError for a name or an option that is unknown.
        """
        asked = asked_for(evaluate)
        for one in also:
            asked = [a for a in asked if a != Asked(one.group, one.name)]
            if (one.group, one.name) not in {(a.group, a.name) for a in asked}:
                asked.append(one)
        spec = cls(tuple(asked), tuple(classes), tuple(truth_classes or classes))
        unmet = []
        for one in asked:
            reason = _unmet(spec, one, there)
            if reason:
                unmet.append((one, reason))
        lost = {one for one, _ in unmet}
        kept = tuple(one for one in asked if one not in lost)
        return cls(kept, spec.classes, spec.truth_classes, tuple(unmet))

    def create(self, one: Asked) -> Metric[Any]:
        """The metric behind a name. Raises JobError."""
        options = json.loads(one.options)
        try:
            if one.group == "losses":
                loss: ScoringLoss = registry.create("losses", one.name, options)
                return loss.statistic(self.classes)
            sides = {"classes": self.classes, "truth_classes": self.truth_classes}
            metric: Metric[Any] = registry.create("metrics", one.name, {**sides, **options})
            return metric
        except UntrustedError:
            raise
        except (JobError, ValueError) as error:
            raise JobError(f"evaluate.{one.group}: {error}") from error

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """What was asked for, in order."""
        return self._built[0]

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """The states that are kept."""
        return self._built[1]

    @cached_property
    def _built(self) -> tuple[tuple[Measure, ...], tuple[Fold, ...]]:
        measures: list[Measure] = []
        folds: list[Fold] = []
        for one in self.asked:
            metric = self.create(one)
            ordered = tuple(range(len(self.truth_classes)))
            remap = self.same_classes if one.group == "losses" else ordered
            fold = Fold(asked.base(metric), () if remap == ordered else remap)
            if fold not in folds:
                folds.append(fold)
            measures.append(Measure(one, metric, folds.index(fold)))
        return tuple(measures), tuple(folds)

    def needs(self) -> frozenset[str]:
        """What any of the folds needs."""
        return frozenset(need for fold in self.folds for need in fold.needs)

    def places(self, kind: str, *, cut: bool) -> tuple[int, ...]:
        """Which of the folds are in a kind's records, whose parts are in this order."""
        return tuple(i for i, fold in enumerate(self.folds) if fold.kind(cut) == kind)

    def key(self, kind: Kind, *, cut: bool) -> str:
        """Digest of names, versions, options and classes of the folds in a kind's records."""
        here = self.places(kind, cut=cut)
        named = [
            [m.asked.group, m.asked.name, m.asked.options, asked.version(m.metric)]
            for m in self.measures
            if m.fold in here
        ]
        return digest([named, self.classes, self.truth_classes])

    @cached_property
    def same_classes(self) -> tuple[int, ...]:
        """The segmenter's class of each true class, where each has one by name or by order."""
        found = class_map(self.classes, self.truth_classes)
        return () if found is None else found


def class_map(classes: Sequence[str], truths: Sequence[str]) -> tuple[int, ...] | None:
    """The class of each true class: by name, the rest in order where both sides have equally many.

    None where a true class has none.

    >>> class_map(["background", "object"], ["object", "background"])
    (1, 0)
    >>> class_map(["a", "b"], ["b", "y"])
    (1, 0)
    """
    place = {name: i for i, name in enumerate(classes)}
    found = [place.get(name) for name in truths]
    if len(classes) == len(truths):
        rest = (i for i, name in enumerate(classes) if name not in truths)
        found = [next(rest) if i is None else i for i in found]
    named = tuple(i for i in found if i is not None)
    return named if len(named) == len(found) else None


def remapped(labels: Labels, classes: Sequence[int]) -> Labels:
    """True labels as the segmenter's; what is no true class keeps being none."""
    void = np.iinfo(labels.dtype).max
    table = np.full(int(void) + 1, void, labels.dtype)
    table[: len(classes)] = classes
    found: Labels = table[labels]
    return found


def asked_for(evaluate: Mapping[str, Any]) -> list[Asked]:
    """What a job's `evaluate` block names, each once. Raises JobError for what names nothing."""
    found: list[Asked] = []
    default: dict[Group, list[str]] = {"metrics": ["confusion"], "losses": []}
    for group, names in default.items():
        for item in evaluate.get(group) or names:
            found += [one for one in _asked(group, item) if one not in found]
    return found


def _asked(group: Group, item: Any) -> list[Asked]:
    """A name, a mapping with options, or `all`."""
    single = group.removesuffix("s") if group == "metrics" else "loss"
    if item == EVERY:
        names = registry.names(group)
        return [Asked(group, name) for name in names if name != "compound"]
    if isinstance(item, str):
        return [Asked(group, item)]
    options = dict(item)
    name = options.pop(single, options.pop("name", None))
    if name is None and len(options) == 1:  # `compound: [...]`, or `tversky: {alpha: 0.7}`
        name, value = next(iter(options.items()))
        options = value if isinstance(value, dict) else {"losses": value}
    if not isinstance(name, str):
        raise JobError(f"evaluate.{group}: {item}: write `{single}: NAME` and its options")
    return [Asked(group, name, json.dumps(options, sort_keys=True))]


def _unmet(spec: MeasureSpec, one: Asked, there: Collection[str]) -> str:
    """Why it cannot be measured here; empty: it can."""
    try:
        metric = spec.create(one)
    except UntrustedError:
        return UNTRUSTED
    fold = Fold(asked.base(metric))
    told = {*there}
    if "confidence" in fold.uses and "confidence" in there:
        told.add("probabilities")  # that of each label is what it makes do with
    lacking = [need for need in fold.needs if need not in told]
    if lacking:
        return f"needs {WANTS.get(lacking[0], lacking[0])}"
    if reason := asked.unmet(metric):
        return reason
    if fold.volume and {*fold.needs} != {"truth"}:
        return "it sees whole volumes, of which there are labels and truth alone"
    if one.group == "losses" and class_map(spec.classes, spec.truth_classes) is None:
        return "the truth's classes are not those of the segmenter, by name or by number"
    return ""


@lru_cache(maxsize=4)
def built(spec: MeasureSpec) -> MeasureSpec:
    """The same spec, its metrics built once a process."""
    return spec
