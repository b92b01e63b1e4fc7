"""Temperatures for a network, fitted on the truth of a store: its bundle again, as sure as it is right."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked, registry
from segengine.errors import JobError, MissingTruthError
from segengine.guards.trust import named_by_store, trusting
from segengine.job import FILES, Job
from segengine.measuring import truth as truths
from segengine.measuring.measures import class_map
from segengine.networks import bundles
from segengine.networks.temperature import Temperature, fit, likelihood
from segengine.outputs import Inputs, placed
from segengine.planning.plan import stored_plan
from segengine.planning.stored import stored_job
from segengine.reader import Store, open_store
from segengine.stages.aggregate import doubtful
from segengine.store.blobs import open_objects
from segengine.store.keys import PROBABILITIES
from segengine.store.kinds import MaskRecord
from segengine.store.layouts import Layout
from segengine.store.seals import SealedObjects
from segengine.store.shards import open_array, read_region
from segengine.types import FrameRef, Prediction, TruthRef
from segengine.worker.segment import segment_shard

HELD = 1 << 28
"""Bytes of probabilities that a temperature is fitted on; of more pixels some are taken, by their place."""
FIGURES = ("ece", "mce", "brier", "label_brier", "nll")
_WORSE = 1.01
"""By how much a figure grows where it is told to be worse."""
_PLAIN = {"scale": 1.0, "entropy": 0.0}
"""The temperature that changes nothing."""


@dataclass(frozen=True, slots=True)
class CalibrateReport:
    """What `calibrate` fitted."""

    store: str
    out: str | None
    """The bundle that was written; None: none."""
    temperature: Temperature
    pixels: int
    """It was fitted on."""
    frames: int
    """They are of."""
    before: Mapping[str, float]
    after: Mapping[str, float]
    notices: tuple[str, ...] = ()
    """Frames whose truth is not used, and why."""

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    @property
    def worse(self) -> tuple[str, ...]:
        """Figures that the temperature makes worse: what is fitted is the likelihood of all pixels."""
        return tuple(
            name
            for name in FIGURES
            if self.after[name] > max(_WORSE * self.before[name], self.before[name] + 1e-6)
        )

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "store": self.store,
            "out": self.out,
            "temperature": self.temperature.as_json(),
            "pixels": self.pixels,
            "frames": self.frames,
            "before": dict(self.before),
            "after": dict(self.after),
            "worse": list(self.worse),
            "notices": list(self.notices),
        }

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        numbers = ", ".join(f"{k}: {v:.6g}" for k, v in self.temperature.as_json().items())
        rows = [
            f"{name:12} {self.before[name]:10.6f} -> {self.after[name]:10.6f}" for name in FIGURES
        ]
        use = (
            f"segmenter: {{kind: model, path: {self.out}}}"
            if self.out
            else "in the segmenter's block"
        )
        return (
            f"{self.store}: {self.pixels:,} pixels of {self.frames:,} frames with truth",
            *rows,
            f"temperature: {{{numbers}}}",
            f"{'written' if self.out else 'to be set'}: {use}",
            *self._warned(),
            *(f"not used: {notice}" for notice in self.notices),
        )

    def _warned(self) -> Iterator[str]:
        if self.worse:
            figures = ", ".join(
                f"{name} ({self.before[name]:.4f} -> {self.after[name]:.4f})" for name in self.worse
            )
            yield (
                f"worse than before: {figures}; the numbers fit the likelihood (nll) of all pixels, and "
                "few pixels may count for less there: keep the network as it was where this figure matters"
            )


def calibrate(
    path: str, out: str | None = None, overwrite: bool = False, trust: bool | None = None
) -> CalibrateReport:
    """Fit the temperature of a store's network on the store's truth; write its bundle with it to `out`.

    Labels stay as they are. Where probabilities are stored these are taken; else the shards with truth
    are segmented again, beside the store. `trust`: as for `evaluate`. Raises JobError where there
    is no truth, no network that gives probabilities, or, with `out`, no bundle.
    """
    store = open_store(path, trust)
    with trusting(store.trust), named_by_store():
        stored = stored_job(store.attributes)
        if stored.left_out:
            raise JobError(f"{path}: {stored.left_out[0]} is not used without --trust")
        job = stored.job
        had, job = _without_temperature(job)
        bundle = _bundle(job, out)
        if out is not None:
            Inputs(store).check(Path(out) / bundles.META)
        objects = SealedObjects(store.objects.base)
        sample = _Sample(store, job, objects, kept=had is None)
        values, true, frames = sample.take()
    try:
        found = fit(values, true)
    except ValueError as error:
        raise JobError(f"{path}: cannot be calibrated: {error}") from error
    before = values if had is None else had.apply(values)
    classes = tuple(job.plugin.classes)
    figures = [_figures(classes, each, true) for each in (before, found.apply(values))]
    if out is not None and bundle is not None:
        _write(bundle, Path(out), found, dict(figures[1]), overwrite)
    return CalibrateReport(
        store=path,
        out=out,
        temperature=found,
        pixels=len(values),
        frames=frames,
        before=figures[0],
        after=figures[1],
        notices=tuple(sample.notices),
    )


def _without_temperature(job: Job) -> tuple[Temperature | None, Job]:
    """The temperature that the job's network has, and the job with that of a network that has none."""
    kind, options = job.segmenter.kind, job.segmenter.options
    if "temperature" not in registry.parameters("segmenters", kind):
        raise JobError(
            f"segmenter.kind: {kind} takes no temperature; only networks that give probabilities can be "
            "calibrated (of an ensemble, each member)"
        )
    if "probabilities" not in (asked.outputs(job.plugin) or ()):
        raise JobError(f"segmenter.kind: {kind} gives no probabilities, and cannot be calibrated")
    given = options.get("temperature")
    file = _model(options)
    if given is None and file is not None and bundles.is_bundle(file):
        given = bundles.read(file).inference.get("temperature")
    had = Temperature.of(given)
    block = {**job.segmenter.model_dump(), "temperature": _PLAIN, "instances": None}
    changed = {
        **job.model_dump(mode="json"),
        "segmenter": block if had is not None else {**block, "temperature": None},
    }
    changed["store"] |= {"probabilities": True, "confidence": False}
    return had, Job.model_validate(changed)


def _model(options: Mapping[str, Any]) -> Path | None:
    """The file of the network."""
    names = (options.get(name) for name in FILES)
    return next((Path(name) for name in names if isinstance(name, str)), None)


def _bundle(job: Job, out: str | None) -> Path | None:
    """The bundle that `out` will be a copy of. Raises JobError where there is none."""
    file = _model(job.segmenter.options)
    if out is None:
        return None
    if "://" in out:
        raise JobError(f"--out {out}: bundles go to a local folder; copy it from there")
    if file is None or not bundles.is_bundle(file):
        raise JobError(
            f"--out: {file} is no bundle of `segengine train`, and cannot hold a temperature; leave "
            "--out away, and set `temperature` in the segmenter's block as this command says it"
        )
    return file


@dataclass(slots=True)
class _Frame:
    """What is taken of a frame, and what its truth holds that is no class."""

    values: list[NDArray[np.float32]] = field(default_factory=list)
    true: list[NDArray[np.intp]] = field(default_factory=list)
    unknown: dict[Any, int] = field(default_factory=dict)


class _Sample:
    """Probabilities and true classes of a store's pixels, in the order of frames.

    Which pixels follows from their places in their frames: the same however these are cut.
    """

    def __init__(self, store: Store, job: Job, objects: SealedObjects, kept: bool) -> None:
        """kept: the stored probabilities are those of the job's network."""
        self.store, self.objects = store, objects
        self.notices: list[str] = []
        """Why truth that is there is not used."""
        self.plan = stored_plan(job, objects)
        text = truths.of_job(job.model_dump(mode="json"), job.plugin.classes)
        if not text:
            raise JobError(
                f"{store.path}: has no truth; name label images under `truth` and run again"
            )
        self.provider = truths.from_json(text)
        self.classes = tuple(job.plugin.classes)
        named = class_map(self.classes, self.provider.classes or self.classes)
        if named is None:
            raise JobError(
                f"{store.path}: the truth's classes are not those of the segmenter, by name or by number"
            )
        self.named = np.array([*named, -1], np.intp)
        made = store.attributes["fingerprints"]["weights"]
        if made != asked.weights(job.plugin):
            raise JobError(
                f"{store.path}: the model is not the one that made its masks; run again first"
            )
        self.kept = kept and bool(store.job["store"].get("probabilities"))

    def take(self) -> tuple[NDArray[np.float32], NDArray[np.intp], int]:
        """(pixel, class) float32, (pixel,), and of how many frames. Raises JobError for no truth."""
        found = self._truths()
        pixels = sum(ref.height * ref.width for refs in found.values() for ref, _ in refs.values())
        if not pixels:
            raise JobError(f"{self.store.path}: no frame has truth")
        one_in = -(-pixels * 4 * len(self.classes) // HELD)
        values, true, frames = [], [], 0
        for scene, refs in sorted(found.items()):
            for index, frame in sorted(self._scene(self.plan.layouts[scene], refs, one_in).items()):
                ref = refs[index][0]
                if doubtful(frame.unknown, ref.height * ref.width):
                    self.notices.append(f"{ref.name}: its label holds values that are no class")
                    continue
                frames += 1
                values += frame.values
                true += frame.true
        if not values:
            raise JobError(f"{self.store.path}: no pixel has a probability and a true class")
        return np.concatenate(values), np.concatenate(true), frames

    def _truths(self) -> dict[str, dict[int, tuple[FrameRef, TruthRef]]]:
        """By scene and frame, those with truth whose input is there."""
        layouts = self.plan.layouts
        refs = [
            (s, ref) for s, layout in layouts.items() for ref in layout.frames() if not ref.gone
        ]
        found: dict[str, dict[int, tuple[FrameRef, TruthRef]]] = {}
        for (scene, ref), truth in zip(refs, self.provider.find(refs), strict=True):
            if truth.uri:
                found.setdefault(scene, {})[ref.index] = ref, truth
        return found

    def _scene(
        self, layout: Layout, refs: Mapping[int, tuple[FrameRef, TruthRef]], one_in: int
    ) -> dict[int, _Frame]:
        frames: dict[int, _Frame] = {}
        for record in self.store.records(layout.scene, MaskRecord.KIND):
            if not isinstance(record, MaskRecord) or record.status != "done":
                continue
            first, top, left, last, bottom, right = record.box
            lost = {failure.frame for failure in record.failures}
            here = [i for i in range(first, last) if i in refs and i not in lost]
            for index, block in self._probabilities(layout, record, here):
                ref, truth = refs[index]
                rows, cols = slice(top, min(bottom, ref.height)), slice(left, min(right, ref.width))
                if rows.stop <= rows.start or cols.stop <= cols.start:
                    continue
                try:
                    told = self.provider.load(ref, truth, rows, cols)
                except MissingTruthError as error:
                    self.notices.append(f"{ref.name}: {error}")
                    continue
                frame = frames.setdefault(index, _Frame())
                for value, count in told.unknown.items():
                    frame.unknown[value] = frame.unknown.get(value, 0) + count
                height, width = told.labels.shape[1:]
                labels = np.minimum(told.labels[0].astype(np.int64), len(self.named) - 1)
                true = self.named[labels]
                values = block[:, :height, :width]
                chosen = (true >= 0) & ~np.isnan(values[0]) & _chosen(rows, cols, one_in)
                frame.values.append(np.ascontiguousarray(values[:, chosen].T))
                frame.true.append(true[chosen])
        return frames

    def _probabilities(
        self, layout: Layout, record: MaskRecord, frames: list[int]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(frame, (class, y, x)) of a shard's window."""
        if not frames:
            return
        (_, top, left), (_, bottom, right) = record.box[:3], record.box[3:]
        spec = self.plan.arrays[layout.scene][PROBABILITIES]

        def read(root: str, index: int) -> NDArray[np.float32]:
            array = open_array(root, layout.scene, spec)
            where = slice(index, index + 1), slice(None), slice(top, bottom), slice(left, right)
            return np.asarray(read_region(open_objects(root), array, where)[0])

        if self.kept:
            for index in frames:
                yield index, read(self.objects.root, index)
            return
        with tempfile.TemporaryDirectory(prefix="segengine-calibrate-") as target:
            task = self.plan.task(layout, record.shard, target=target, last=True)
            again = segment_shard(replace(task, had="", lost=record.failures, measuring=None))
            if not isinstance(again, MaskRecord):
                raise JobError(
                    f"{self.store.path}: {layout.scene}: {getattr(again, 'reason', again)}"
                )
            for failure in again.failures:
                if failure.frame in frames:
                    raise JobError(f"{self.store.path}: {failure.reason}")
            for index in frames:
                yield index, read(target, index)


def _chosen(rows: slice, cols: slice, one_in: int) -> NDArray[np.bool_]:
    """(y, x) of a window, about one pixel in so many, by its place in the frame."""
    if one_in == 1:
        return np.ones((rows.stop - rows.start, cols.stop - cols.start), np.bool_)
    y = np.arange(rows.start, rows.stop, dtype=np.uint32)[:, None]
    x = np.arange(cols.start, cols.stop, dtype=np.uint32)[None]
    mixed = (y * np.uint32(0x9E3779B1)) ^ (x * np.uint32(0x85EBCA77))
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0xC2B2AE3D)
    return np.asarray((mixed ^ (mixed >> np.uint32(13))) < np.uint32((1 << 32) // one_in))


def _figures(
    classes: tuple[str, ...], values: NDArray[np.float32], true: NDArray[np.intp]
) -> dict[str, float]:
    """Of probabilities (pixel, class), as the metric `calibration` has them, and the likelihood."""
    metric = registry.create("metrics", "calibration", {"classes": classes})
    dtype = np.uint8 if len(classes) < 255 else np.uint16
    labels = values.argmax(axis=-1).astype(dtype)[None, None]
    state = metric.update(
        metric.empty(), Prediction(labels, values[None, None]), true.astype(dtype)[None, None]
    )
    found = {name: value for name, value in metric.compute(state).items() if name in FIGURES}
    return {**found, "nll": likelihood(values, true)}


def _write(
    source: Path, out: Path, found: Temperature, metrics: dict[str, float], overwrite: bool
) -> None:
    """A copy of a bundle that holds a temperature, and the figures it was fitted to."""
    try:
        with bundles.opened(source) as (bundle, weights), tempfile.TemporaryDirectory() as made:
            fresh = replace(
                bundle,
                inference={**bundle.inference, "temperature": found.as_json()},
                metrics={**bundle.metrics, **{f"calibrated_{k}": v for k, v in metrics.items()}},
            )
            Path(made, bundles.META).write_text(fresh.to_json(), encoding="utf-8")
            shutil.copyfile(weights, Path(made, weights.name))
            card = source / "README.md"
            if card.is_file():
                shutil.copyfile(card, Path(made, card.name))
            placed(out, Path(made), overwrite=overwrite)
    except (OSError, ValueError) as error:
        raise JobError(f"{source}: {error}") from error
