"""What runs on workers to measure masks: parts of every fold, for the frames of a shard or one frame.

A record of kind `measure` holds the parts of a shard's windows, one of kind `frame` those of a frame
that is cut over several shards and that some metric must see whole, one of kind `volume` those of all
slices of one time of a volume, as parts of its first frame.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.errors import (
    CorruptInputError,
    MissingTruthError,
    TooLargeError,
    TransientInputError,
)
from segengine.instances.rows import SCHEMA, merged, scored, shard_rows
from segengine.measuring import truth as truths
from segengine.measuring.measures import Fold, Kind, MeasureSpec, built
from segengine.registry import reader
from segengine.store.access import store_access
from segengine.store.arrays import SceneArrays
from segengine.store.blobs import NOBODY, Writer, open_objects
from segengine.store.keys import CONFIDENCE, INSTANCES, MASK, PROBABILITIES, array_folder
from segengine.store.kinds import (
    FrameMeasures,
    MaskRecord,
    MeasureRecord,
    ShardMeasures,
    VolumeMeasures,
)
from segengine.store.shards import open_array, read_region
from segengine.store.values import decode, encode
from segengine.types import (
    Bool,
    FrameRef,
    Labels,
    Pixels,
    Place,
    Prediction,
    Steps,
    Truth,
    TruthRef,
    Unreadable,
    Window,
)
from segengine.worker.attempts import recorded
from segengine.worker.reading import read_frames
from segengine.worker.tasks import Damaged, Retry, ShardTask

LARGEST_VOLUME = 1 << 28
"""Voxels of a volume above which metrics that need it whole are not computed: a worker's memory."""
LARGEST = 1 << 26
"""Pixels of a frame above which metrics that need it whole are not computed: a worker's memory."""
HELD = 1 << 27
"""Bytes of a stored map up to which several frames are read at once: a request each costs more."""


@dataclass(frozen=True, slots=True)
class MeasureTask:
    """Measure stored masks: of a shard, of one whole frame, or of all slices of a volume."""

    kind: Kind
    store: str
    scene: str
    place: Place
    """Of the shard; of a whole frame, or of a volume that begins with it: (frame, 0, 0)."""
    window: Window
    frames: tuple[FrameRef, ...]
    """Those with a mask."""
    truths: tuple[TruthRef, ...]
    """One a frame; none where nothing is measured against truth."""
    truth: str = field(repr=False)
    """How truth is read, as JSON; empty: there is none."""
    spec: MeasureSpec
    arrays: SceneArrays
    places: tuple[Place, ...]
    """Shards whose rows of instances belong to the window."""
    inputs: str
    """Fingerprints of the truth."""
    checksum: str
    """Of the masks."""
    key: str
    """Of the metrics."""
    cut: bool = False
    """A frame lies in more than this shard."""
    source: str = field(default="", repr=False)
    """How the images are read, as JSON, where a metric needs them."""
    area: str = field(default="", repr=False)
    """The same where only what lies in the job's area is scored."""
    spacing: tuple[float, float] | None = None
    """Of pixels (y, x), in millimetres; None: not known."""
    steps: Steps | None = None
    """Of a whole volume's voxels; None: not known."""
    writer: Writer = NOBODY
    """Who writes, and whether it is flushed."""
    attempt: int = 1
    last: bool = False

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The folds it computes, in the spec's order."""
        spec = built(self.spec)
        return tuple(spec.folds[i] for i in spec.places(self.kind, cut=self.cut))


def measure(
    task: MeasureTask, held: Mapping[str, NDArray[Any]] | None = None
) -> MeasureRecord | Retry | Damaged:
    """Parts of all folds for each frame of a task, committed as one record.

    held: by path, maps of the whole window that are still in memory.
    """
    return recorded(task.store, task.writer, task.attempt, lambda _: _measured(task, held or {}))


def measure_stored(
    shard: ShardTask, record: MaskRecord, maps: Mapping[str, NDArray[Any]], writer: Writer
) -> None:
    """Measure a shard's mask that has just been committed.

    What fails is left to the aggregate stage, which tries again and says whose fault it is. So is a
    shard that is tried again: its first attempt may have ended in here.
    """
    how = shard.measuring
    if how is None or shard.attempt > 1:
        return
    lost = {failure.frame for failure in record.failures}
    frames_there = enumerate(shard.frames)
    here = [i for i, ref in frames_there if ref.index not in lost and not ref.pruned]
    frames = tuple(shard.frames[i] for i in here)
    truths = tuple(how.truths[i] for i in here) if how.truths else ()
    task = MeasureTask(
        kind="measure",
        store=shard.store,
        scene=shard.scene,
        place=shard.place,
        window=shard.window,
        frames=frames,
        truths=truths,
        truth=how.truth,
        spec=how.spec,
        arrays=shard.arrays,
        places=(shard.place,),
        inputs=" ".join(how.told[i] for i in here) if how.told else "",
        checksum=record.checksum,
        key=how.key,
        cut=shard.cut,
        area=how.area,
        spacing=how.spacing,
        writer=writer,
    )
    measure(task, maps)


def _measured(task: MeasureTask, held: Mapping[str, NDArray[Any]]) -> MeasureRecord:
    payload = _volume_payload(task) if task.kind == "volume" else _payload(task, held)
    return _RECORDS[task.kind](
        scene=task.scene,
        shard=task.place,
        box=(*task.window.start, *task.window.stop),
        truth=task.inputs,
        metrics=task.key,
        masks=task.checksum,
        states=base64.b64encode(encode(payload)).decode(),
    )


_RECORDS = {"measure": ShardMeasures, "frame": FrameMeasures, "volume": VolumeMeasures}

_OBJECTS = frozenset(("objects", "truth_objects"))
WITHOUT = "distances across slices leave it out"
NO_VOLUME = f"its scene is no volume; {WITHOUT}"
NO_SPACING = "its scene says no spacing; figures in millimetres leave it out"
LACKING = "its truth has only classes; figures of instances leave it out"


def read_payload(record: MeasureRecord) -> dict[str, Any]:
    """`states`: by frame, one part a fold of its kind (None: not here; release 0.2 wrote None for the
    folds of other kinds too); `missing`: by frame, why it has no truth;
    `unknown`: by frame, pixels of each of the truth's values that is no class; `lacking`: by frame,
    what its truth does not tell some of the folds; `counted`, where a job has an area: by frame, pixels
    of its truth that lie in it."""
    found: dict[str, Any] = decode(base64.b64decode(record.states))
    return found


def _payload(task: MeasureTask, held: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    states: dict[int, list[Any]] = {}
    missing: dict[int, str] = {}
    unknown: dict[int, dict[int | float | str, int]] = {}
    counted: dict[int, int] = {}
    lacking: dict[int, str] = {}
    provider = truths.from_json(task.truth) if task.truth else None
    folds = [fold.scaled(task.spacing) for fold in task.folds]
    unscaled = None in folds
    maps = _Maps(task, held)
    (_, y0, x0), (_, y1, x1) = task.window.start, task.window.stop
    for i, ref in enumerate(task.frames):
        rows, cols = slice(y0, min(y1, ref.height)), slice(x0, min(x1, ref.width))
        if rows.stop <= rows.start or cols.stop <= cols.start:
            continue
        truth: Truth | None = None
        inside = None if provider is None else _within(task, ref, rows, cols)
        if provider is not None:
            try:
                truth = provider.load(ref, task.truths[i], rows, cols, inside)
            except MissingTruthError as error:
                missing[ref.index] = str(error)
            else:
                if truth.unknown:
                    unknown[ref.index] = dict(truth.unknown)
                if inside is not None:
                    counted[ref.index] = int(np.count_nonzero(inside))
        todo = [f if f is not None and _can(f, truth) else None for f in folds]
        if truth is not None and any(f and not can for f, can in zip(folds, todo, strict=True)):
            lacking[ref.index] = LACKING
        elif unscaled:
            lacking[ref.index] = NO_SPACING
        if not any(todo):
            continue
        needs = {need for fold in todo if fold is not None for need in fold.uses}
        prediction = _prediction(maps, ref, rows, cols, needs)
        if inside is not None and (prediction.objects is not None or needs & _OBJECTS):
            whole = _within(task, ref, slice(0, ref.height), slice(0, ref.width))
            truth, prediction = _objects_within(truth, prediction, whole)
        nothing = Truth(np.full(prediction.labels.shape, 255, np.uint8))
        pixels = _pixels(task, ref, rows, cols) if "pixels" in needs else None
        states[ref.index] = [
            None if fold is None else fold.part(prediction, truth or nothing, pixels)
            for fold in todo
        ]
    found = {"states": states, "missing": missing, "unknown": unknown, "lacking": lacking}
    return found | ({"counted": counted} if counted else {})


def _volume_payload(task: MeasureTask) -> dict[str, Any]:
    """What `_payload` gives, of all slices at once: one part a fold, for the first of them."""
    first = task.frames[0].index
    folds = [fold.in_volume(task.steps) for fold in task.folds]
    found: dict[str, dict[int, Any]] = {
        name: {} for name in ("states", "missing", "unknown", "lacking", "counted")
    }
    if None in folds:
        found["lacking"][first] = NO_SPACING
    slices = _slices(task, found) if any(folds) else None
    if slices is not None:
        try:
            parts = [None if fold is None else fold.part(*slices) for fold in folds]
            found["states"][first] = parts
        except TooLargeError as error:
            found["lacking"][first] = f"{error}; {WITHOUT}"
    return found


def _slices(task: MeasureTask, found: dict[str, dict[int, Any]]) -> tuple[Prediction, Truth] | None:
    """Labels and truth of a volume; None where a slice has no truth. What that says goes into `found`."""
    labels, true = [], []
    maps = _Maps(task, {})
    provider = truths.from_json(task.truth)
    for ref, own in zip(task.frames, task.truths, strict=True):
        rows, cols = slice(0, ref.height), slice(0, ref.width)
        inside = _within(task, ref, rows, cols)
        try:
            truth = provider.load(ref, own, rows, cols, inside)
        except MissingTruthError as error:
            found["missing"][ref.index] = str(error)
            continue
        if truth.unknown:
            found["unknown"][ref.index] = dict(truth.unknown)
        if inside is not None:
            found["counted"][ref.index] = int(np.count_nonzero(inside))
        if not found["missing"]:
            true.append(truth.labels)
            labels.append(maps.read(MASK, ref, rows, cols))
    if found["missing"]:
        return None
    return Prediction(np.concatenate(labels)), Truth(_together(true))


def _together(labels: Sequence[Labels]) -> Labels:
    """Labels of several frames (n, y, x), whose void is the dtype's maximum: dtypes may differ."""
    dtype = np.result_type(*labels)
    found = np.concatenate(labels, dtype=dtype)
    for i, one in enumerate(labels):
        if one.dtype != dtype:
            found[i][one[0] == np.iinfo(one.dtype).max] = np.iinfo(dtype).max
    return found


def _within(task: MeasureTask, ref: FrameRef, rows: slice, cols: slice) -> Bool | None:
    """(y, x) what of a window lies in the job's area; None: there is none."""
    if not task.area:
        return None
    kind, spec = json.loads(task.area)
    try:
        return asked.within(reader(kind, spec), ref, rows, cols)
    except (CorruptInputError, TransientInputError) as error:
        raise OSError(f"{ref.name}: {error}") from error


def _objects_within(
    truth: Truth | None, prediction: Prediction, inside: Bool | None
) -> tuple[Truth | None, Prediction]:
    """Both without what of their objects lies outside the job's area."""
    from segengine.instances.inside import objects_inside

    if inside is None or inside.all():
        return truth, prediction
    if truth is not None and truth.objects is not None:
        truth = replace(truth, objects=objects_inside(truth.objects, inside))
    if prediction.objects is not None:
        prediction = replace(prediction, objects=objects_inside(prediction.objects, inside))
    return truth, prediction


def _pixels(task: MeasureTask, ref: FrameRef, rows: slice, cols: slice) -> Pixels:
    kind, spec = json.loads(task.source)
    ((_, tile),) = read_frames(reader(kind, spec), (ref,), rows, cols)
    if isinstance(tile, Unreadable):
        raise OSError(f"{ref.name}: {tile.reason}")
    return tile.pixels[None]


def _can(fold: Fold, truth: Truth | None) -> bool:
    if not fold.scored:
        return True
    if truth is None:
        return False
    lacks = {"truth_instances": truth.instances is None, "truth_objects": truth.objects is None}
    return not any(lacks.get(need) for need in fold.needs)


class _Maps:
    """The stored maps of a task, read for as many of its frames at once as memory allows."""

    def __init__(self, task: MeasureTask, held: Mapping[str, NDArray[Any]]) -> None:
        self.task = task
        first = task.window.start[0]
        self._held: dict[str, tuple[int, Any]] = {p: (first, block) for p, block in held.items()}
        """By path: the first frame held, and its block."""

    def read(self, path: str, ref: FrameRef, rows: slice, cols: slice) -> Any:
        """(1, y, x) or (1, class, y, x) of a frame's window."""
        (_, y0, x0), (f1, y1, x1) = self.task.window.start, self.task.window.stop
        first, block = self._held.get(path, (0, ()))
        if not first <= ref.index < first + len(block):
            with store_access(f"{self.task.store}/{array_folder(self.task.scene, path)}"):
                array = open_array(self.task.store, self.task.scene, self.task.arrays[path])
                spans = (slice(None),) * (array.ndim - 3) + (slice(y0, y1), slice(x0, x1))
                size = math.prod(array.shape[1:-2]) * (y1 - y0) * (x1 - x0) * array.dtype.itemsize
                first, last = ref.index, min(f1, ref.index + max(1, HELD // size))
                index = (slice(first, last), *spans)
                block = read_region(open_objects(self.task.store), array, index)
            self._held[path] = first, block
        inside = (slice(s.start - o, s.stop - o) for s, o in ((rows, y0), (cols, x0)))
        return block[ref.index - first : ref.index - first + 1, ..., *inside]


def _prediction(
    maps: _Maps, ref: FrameRef, rows: slice, cols: slice, needs: set[str]
) -> Prediction:
    """What is stored of a frame's window, with what the folds need."""
    probabilities = instances = objects = confidence = None
    if "probabilities" in needs and PROBABILITIES in maps.task.arrays:
        found = maps.read(PROBABILITIES, ref, rows, cols)
        probabilities = np.ascontiguousarray(np.moveaxis(found, 1, -1))
    elif "confidence" in needs and CONFIDENCE in maps.task.arrays:
        confidence = maps.read(CONFIDENCE, ref, rows, cols)
    if "instances" in needs and INSTANCES in maps.task.arrays:
        instances = maps.read(INSTANCES, ref, rows, cols)
    if "objects" in needs and INSTANCES in maps.task.arrays:
        objects = _objects(maps.task, ref)
    labels = maps.read(MASK, ref, rows, cols)
    return Prediction(labels, probabilities, instances, objects, confidence)


@lru_cache(maxsize=4)
def _rows(root: str, scene: str, places: tuple[Place, ...], checksum: str) -> Any:
    """Rows of shards; `checksum` tells them from what they were before."""
    return shard_rows(open_objects(root), scene, places)


def _objects(task: MeasureTask, ref: FrameRef) -> Any:
    import pyarrow.compute as pc

    rows = _rows(task.store, task.scene, task.places, task.checksum)
    rows = rows.filter(pc.equal(rows.column("frame"), ref.index))
    return scored(merged(rows, (ref.height, ref.width))).select(SCHEMA.names)
