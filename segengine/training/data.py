"""Samples of any source with truth, streamed: nothing holds more than a batch of pixels.

    source -> frames with truth -> two parts -> picks of an epoch -> batches (pixels, labels)

A pick is a whole frame, resized, or a patch. What an epoch picks, in which order, and how each pick
is changed follows from (seed, epoch, place in the epoch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from segengine import asked, registry
from segengine.errors import JobError, MissingTruthError, SegengineError
from segengine.measuring.truth import DataSetTruth, TruthProvider, from_json, of_job
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.planning.trained import side_of
from segengine.registry import reader
from segengine.training import patches, split
from segengine.training._scaling import nearest, neutral, resized, scaled
from segengine.training.augment import augment
from segengine.training.job import PartSpec, TrainJob
from segengine.types import Color, FrameRef, Source, TruthRef, Unreadable

TRIES = 3
"""Reads of a frame before a fault that may pass ends the training."""
_AUGMENT, _ORDER, _DRAW = range(3)  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame with truth, and how to read both."""

    ref: FrameRef
    group: str
    """Frames of one group lie in one part of the split."""
    bands: int
    source: Source
    truth: TruthRef
    provider: TruthProvider
    side: float | None = None
    """Metres a pixel; None: nothing tells."""
    band_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.ref.height, self.ref.width

    def labels(self, rows: slice, cols: slice) -> NDArray[Any]:
        """(y, x) true classes, its dtype's maximum where void. Raises MissingTruthError."""
        found: NDArray[Any] = self.provider.load(self.ref, self.truth, rows, cols).labels[0]
        return found


@dataclass(frozen=True, slots=True)
class Part:
    """The frames of one part of the split."""

    frames: tuple[Frame, ...]
    cells: patches.Cells | None
    """Patches: what they are drawn from."""


@dataclass(frozen=True, slots=True)
class Data:
    """All that is learned from and looked at."""

    train: Part
    validation: Part
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    bands: int
    notes: tuple[str, ...]
    """What was left out, and why."""
    resolution: float | None = None
    """Metres a pixel of all frames; None: they differ, or nothing tells."""
    band_names: tuple[str, ...] = ()
    """Of all frames; empty: they differ, or have none."""

    @property
    def void(self) -> int:
        """The label of pixels without a true class."""
        return 255 if len(self.classes) <= 255 else 65535


def open_data(job: TrainJob) -> Data:
    """List, split, and, for patches, survey the truth. Raises JobError where it cannot be."""
    spec = job.source.model_dump(exclude_none=True)
    train, validation = job.split.train, job.split.validation
    if isinstance(train, PartSpec) and isinstance(validation, PartSpec):
        chosen, notes = _named_parts(job, spec, {"train": train, "validation": validation})
    elif not isinstance(train, PartSpec) and not isinstance(validation, PartSpec):
        frames, notes = _frames(job, spec)
        groups = [f.group for f in frames]
        indices = split.parts(groups, train, validation, job.split.seed)
        chosen = [[frames[i] for i in part] for part in indices]
    else:
        raise JobError("split: give both parts as shares of all frames, or name both")
    classes, colors = _classes(chosen[0][0])
    bands = _bands(job, [*chosen[0], *chosen[1]])
    try:
        scaled(np.zeros((1, 1, bands)), job.input.scale)
    except ValueError as error:
        raise JobError(f"input.scale.{error}") from None
    learned, looked_at = (_part(job, frames, len(classes)) for frames in chosen)
    sides = {frame.side for part in chosen for frame in part}
    names = {frame.band_names for part in chosen for frame in part}
    return Data(
        train=learned,
        validation=looked_at,
        classes=classes,
        colors=colors,
        bands=bands,
        notes=tuple(dict.fromkeys(notes)),
        # What was made smaller has no resolution of its own.
        resolution=None if len(sides) > 1 or job.input.resize is True else sides.pop(),
        band_names=() if len(names) > 1 else names.pop(),
    )


def _named_parts(
    job: TrainJob, spec: Mapping[str, Any], parts: Mapping[str, PartSpec]
) -> tuple[list[list[Frame]], list[str]]:
    """The frames of each part, and what was left out."""
    listings: dict[str | None, tuple[list[Frame], list[str]]] = {}
    chosen = []
    for key, part in parts.items():
        if part.split not in listings:
            listings[part.split] = _frames(job, _with_split(spec, part, key))
        frames, _ = listings[part.split]
        chosen.append(_named(frames, part, f"split.{key}", job.split.seed))
    both = set.intersection(*({f.group for f in frames} for frames in chosen))
    if both:
        raise JobError(
            f"split: {len(both)} frames are both in train and in validation, the first {min(both)}"
        )
    return chosen, [note for _, notes in listings.values() for note in notes]


def _with_split(spec: Mapping[str, Any], part: PartSpec, key: str) -> dict[str, Any]:
    if part.split is None:
        return dict(spec)
    kind = str(spec.get("kind", "auto"))
    if kind == "auto" or "split" not in registry.parameters("sources", kind):
        raise JobError(
            f"split.{key}: {kind} inputs have no split {part.split!r}; give shares or files"
        )
    return {**spec, "split": part.split}


def _frames(job: TrainJob, spec: Mapping[str, Any]) -> tuple[list[Frame], list[str]]:
    """Frames with truth, by name, and what is left out."""
    block = None if job.truth is None else job.truth.model_dump(mode="json")
    text = of_job({"source": dict(spec), "truth": block})
    if not text:
        raise JobError(
            f"truth: {spec['kind']} inputs have no truth of their own; name their label images in "
            "truth.paths"
        )
    provider = from_json(text)
    found = scan(spec, {}, (), Cut(512, 2048, every=job.source.every))
    layouts = found.layouts.values()
    refs = [(layout, ref) for layout in layouts for ref in layout.frames()]
    truths = provider.find([(layout.scene, ref) for layout, ref in refs])
    readers = {layout.kind: reader(layout.kind, spec) for layout in layouts}
    frames: list[Frame] = []
    looked, missing = "", 0
    for (layout, ref), true in zip(refs, truths, strict=True):
        if not true.uri:
            looked, missing = looked or true.looked, missing + 1
            continue
        group = ref.name if layout.stacked else layout.names[0]
        frames.append(
            Frame(
                ref=ref,
                group=group,
                bands=layout.bands,
                source=readers[layout.kind],
                truth=true,
                provider=provider,
                side=side_of(layout),
                band_names=tuple(layout.attributes.get("band_names") or ()),
            )
        )
    if not frames:
        raise JobError(
            f"truth: none of {missing} frames has truth; looked for {looked}"
            if missing
            else "source.paths: none of the inputs can be read"
        )
    notes = [f"{missing:,} frames have no truth and are left out"] if missing else []
    notes += [f"{bad.name} cannot be read and is left out: {bad.reason}" for bad in found.unplaced]
    notes += [f"{late.name} is still being written and is left out" for late in found.waiting]
    frames.sort(key=lambda f: (f.ref.name.encode("utf-8", "surrogateescape"), f.ref.position))
    return frames, notes


def _named(frames: Sequence[Frame], part: PartSpec, key: str, seed: int) -> list[Frame]:
    if part.files is not None:
        names = [f.ref.name for f in frames]
        frames = [frames[i] for i in split.listed(part.files, names, f"{key}.files")]
    if part.fraction is not None:
        groups = [f.group for f in frames]
        frames = [frames[i] for i in split.share(groups, part.fraction, seed)]
    if not frames:
        raise JobError(f"{key}: no frame with truth is in it")
    return list(frames)


def _classes(frame: Frame) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    classes = frame.provider.classes
    if classes is None:
        raise JobError("truth.classes: name the classes, in the order of their values")
    if len(classes) < 2:
        raise JobError(f"truth.classes: {', '.join(classes)} alone is nothing to tell apart")
    if isinstance(frame.provider, DataSetTruth):
        return tuple(classes), tuple(frame.provider.source.truth_colors)
    return tuple(classes), asked.palette(len(classes))


def _bands(job: TrainJob, frames: Sequence[Frame]) -> int:
    wanted = job.input.bands or frames[0].bands
    other = next((f for f in frames if f.bands != wanted), None)
    if other is not None:
        raise JobError(
            f"input.bands: {other.ref.name} has {other.bands} bands, not {wanted}; "
            "set source.color or source.bands"
        )
    return wanted


def _part(job: TrainJob, frames: Sequence[Frame], classes: int) -> Part:
    if job.input.resize is True:
        return Part(tuple(frames), None)

    def read(index: int, rows: slice, cols: slice) -> NDArray[Any] | None:
        try:
            return frames[index].labels(rows, cols)
        except MissingTruthError:
            return None

    cells = patches.survey([f.shape for f in frames], job.input.size, classes, read)
    if not len(cells):
        raise JobError(f"truth: not one pixel of {len(frames)} frames has a class")
    return Part(tuple(frames), cells)


def class_counts(data: Data, job: TrainJob) -> NDArray[np.int64]:
    """(class,) training pixels of each class, at the size that is trained on."""
    if data.train.cells is not None:
        return np.asarray(data.train.cells.counts.sum(axis=0))
    total = np.zeros(len(data.classes), np.int64)
    for frame in data.train.frames:
        try:
            labels = frame.labels(slice(0, frame.ref.height), slice(0, frame.ref.width))
        except MissingTruthError:
            continue
        total += patches.count_classes(nearest(labels, job.input.size), len(data.classes))
    return total


@dataclass(frozen=True, slots=True)
class Sample:
    """What the network learns from at once."""

    pixels: NDArray[np.float32]
    """(y, x, band), as read, at the network's size"""
    labels: NDArray[Any]
    """(y, x)"""


Pick = tuple[int, slice, slice]
"""Frame, rows, columns."""


def picks(part: Part, job: TrainJob, epoch: int | None) -> list[Pick]:
    """What an epoch trains on, in order; None: what is looked at, always the same."""
    frames = part.frames
    if part.cells is None:
        found = [(i, slice(0, f.ref.height), slice(0, f.ref.width)) for i, f in enumerate(frames)]
    else:
        if epoch is None:
            places = part.cells.all()
        else:
            rng = np.random.default_rng([job.seed, epoch, _DRAW])
            shapes = [f.shape for f in frames]
            count = job.input.patches or len(part.cells)
            places = part.cells.draw(count, shapes, job.input.balance, rng)
        height, width = job.input.size
        found = [
            (
                i,
                slice(top, min(top + height, frames[i].ref.height)),
                slice(left, min(left + width, frames[i].ref.width)),
            )
            for i, top, left in places
        ]
    if epoch is None:
        return found
    rng = np.random.default_rng([job.seed, epoch, _ORDER])
    return [found[i] for i in order(len(found), job.window, rng)]


def order(count: int, window: int, rng: np.random.Generator) -> list[int]:
    """0 ... count - 1, each drawn at random among the next `window`; 0: among all.

    >>> order(3, 1, np.random.default_rng(0))
    [0, 1, 2]
    """
    if window == 0 or window >= count:
        return rng.permutation(count).tolist()
    buffer, drawn = list(range(window)), []
    for following in range(window, count):
        at = int(rng.integers(window))
        drawn.append(buffer[at])
        buffer[at] = following
    return drawn + [buffer[i] for i in rng.permutation(window)]


class Samples(keras.utils.PyDataset):
    """The batches of one epoch: pixels (n, y, x, band) float32 and labels (n, y, x) int32."""

    def __init__(self, data: Data, job: TrainJob, epoch: int | None) -> None:
        """`epoch` None: the validation part, as it is."""
        super().__init__()
        self.data, self.job, self.epoch = data, job, epoch
        self.part = data.validation if epoch is None else data.train
        self.picks = picks(self.part, job, epoch)
        self.lost: dict[str, str] = {}
        """Frames that could not be read, and why; they take part as void."""

    def __len__(self) -> int:
        return -(-len(self.picks) // self.job.batch)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        first = index * self.job.batch
        last = min(first + self.job.batch, len(self.picks))
        samples = [self.prepared(place) for place in range(first, last)]
        return (
            np.stack([s.pixels for s in samples]),
            np.stack([s.labels for s in samples]).astype(np.int32),
        )

    def prepared(self, place: int) -> Sample:
        """A sample as the network takes it: changed at random where it is trained on, and scaled."""
        sample = self.sample(place)
        pixels, labels = sample.pixels, sample.labels
        if self.epoch is not None:
            rng = np.random.default_rng([self.job.seed, self.epoch, _AUGMENT, place])
            pixels, labels = augment(pixels, labels, self.job.augment, rng, self.data.void)
        return Sample(scaled(pixels, self.job.input.scale), labels)

    def sample(self, place: int) -> Sample:
        """A pick as read, at the network's size."""
        index, rows, cols = self.picks[place]
        frame, size, void = self.part.frames[index], self.job.input.size, self.data.void
        empty = Sample(
            np.zeros((*size, self.data.bands), np.float32), np.full(size, void, np.uint16)
        )
        tile = read_pixels(frame, rows, cols)
        if isinstance(tile, Unreadable):
            self.lost[frame.ref.name] = tile.reason
            return empty
        try:
            true = frame.labels(rows, cols)
        except MissingTruthError as error:
            self.lost[frame.ref.name] = str(error)
            return empty
        labels = np.where(true < len(self.data.classes), true, void).astype(np.uint16)
        pixels = tile.pixels.astype(np.float32)
        known = np.isfinite(pixels).all(axis=-1)
        # As in inference: NaN is 0 to the network, and nodata is what was read.
        pixels[~known] = neutral(self.job.input.scale)
        if tile.valid is not None:
            known &= tile.valid
        labels[~known] = void
        if self.part.cells is None:
            return Sample(resized(pixels, size), nearest(labels, size))
        below, right = size[0] - labels.shape[0], size[1] - labels.shape[1]
        if below or right:  # a frame smaller than a patch
            edges = ((0, below), (0, right))
            labels = np.pad(labels, edges, constant_values=void)
            pixels = np.pad(pixels, (*edges, (0, 0)), mode="edge")
        return Sample(pixels, labels)


def read_pixels(frame: Frame, rows: slice, cols: slice) -> Any:
    """A tile, or why the frame is corrupt. Raises SegengineError for a fault that may pass."""
    reason = ""
    for _ in range(TRIES):
        (tile,) = frame.source.read((frame.ref,), rows, cols)
        if not isinstance(tile, Unreadable) or tile.kind == "corrupt":
            return tile
        reason = tile.reason
    raise SegengineError(f"{frame.ref.name}: {reason}; the same command goes on where it ended")
