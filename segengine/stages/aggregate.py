"""The aggregate stage: measure masks, a record a shard, a frame or a volume, and merge them exactly.

Most are measured as soon as they are stored, while mask and label are in memory (`measuring`); what
is left is what needs whole frames, what an earlier run made, and what failed there.

A measure record is keyed by the masks' checksums, the truth's fingerprints and the metrics' names,
versions and options; one that no longer holds is made again from the stored mask, never by
segmenting again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any, NamedTuple, get_args

from segengine import asked, corrections
from segengine.dispatch.pool import Pool, Work
from segengine.errors import JobError
from segengine.fingerprint import digest
from segengine.guards.trust import may_use
from segengine.job import FaultsSpec, Job
from segengine.measuring import truth as truths
from segengine.measuring.corrected import Corrected
from segengine.measuring.measures import Asked, Fold, Kind, MeasureSpec
from segengine.planning.source import marked_options
from segengine.progress import Progress
from segengine.stages.outcomes import needed
from segengine.store.arrays import SceneArrays
from segengine.store.keys import CONFIDENCE, INSTANCES, MASK, PROBABILITIES
from segengine.store.kinds import FrameMeasures, MaskRecord, MeasureRecord, Record
from segengine.store.layouts import Layout
from segengine.store.records import RecordLog, SceneRecords
from segengine.store.seals import SealedObjects
from segengine.types import FrameRef, Place, Plugin, TruthRef, Window
from segengine.urls import public_values
from segengine.worker.measure import (
    LARGEST,
    LARGEST_VOLUME,
    NO_VOLUME,
    WITHOUT,
    MeasureTask,
    measure,
    read_payload,
)
from segengine.worker.tasks import Damaged, Measuring

Unknown = Mapping[Any, int]
"""Pixels of each value."""
DOUBTFUL = 100
"""A frame is not scored where more than one in so many pixels of its label is no class."""
NAMED = 4
"""Values that a reason names."""
_NONE = TruthRef("", "", "")
"""Of a frame that is deleted."""
_THERE = {
    MASK: ("labels", "pixels"),
    PROBABILITIES: ("probabilities", "confidence"),
    CONFIDENCE: ("confidence",),
    INSTANCES: ("instances", "objects"),
}
"""What a stored array lets be measured."""


@dataclass(slots=True)
class Measured:
    """Merged states of a run, a list over the spec's folds each."""

    overall: list[Any]
    scenes: dict[str, list[Any]] = field(default_factory=dict)
    frames: list[tuple[str, int, list[Any]]] = field(default_factory=list)
    """(scene, frame, closed states; None: not measured)"""
    missing: list[tuple[str, int, str]] = field(default_factory=list)
    """(scene, frame, why it has no truth)"""
    unknown: list[tuple[str, int, Unknown, int]] = field(default_factory=list)
    """(scene, frame, pixels of each value of its truth that is no class, pixels of its truth)"""


@dataclass(frozen=True, slots=True)
class _Merged:
    """What the records of a scene say, by frame."""

    states: dict[int, list[Any]]
    """One part a fold."""
    missing: dict[int, str]
    """Why it has no truth."""
    lacking: dict[int, str]
    """What its truth does not tell."""
    unknown: dict[int, Unknown]
    counted: dict[int, int]
    """Pixels of its truth, of a job with an area."""


class _Told(NamedTuple):
    """The truth of a frame."""

    truth: TruthRef
    told: str
    """By what a record says which truth it was: a fingerprint, and where frames share it, whose map."""


@dataclass(frozen=True, slots=True)
class _Masks:
    """The mask records of a scene, and what was lost of it."""

    checksums: dict[Place, str]
    lost: dict[Place, frozenset[int]]


def measurer(
    job: Job,
    objects: SealedObjects,
    layouts: Mapping[str, Layout],
    arrays: Mapping[str, SceneArrays],
    plugin: Plugin,
    corrected: bool = True,
) -> Measurer | None:
    """What measures a job's masks; None where nothing can be measured and nothing was asked for.

    `corrected`: what was put right by hand prevails over the job's truth.
    Where a network's windows fade into one another, that includes how well they do, unasked; where
    confidence is stored and there is truth, how far it is from accuracy.
    Raises JobError for a metric, a loss or an option that is unknown.
    """
    stored = job.model_dump(mode="json")
    text = truths.of_job(stored, plugin.classes)
    if corrected:
        text = truths.with_corrections(text, objects, plugin.classes)
    provider = truths.from_json(text) if text else None
    there = {"labels"}
    for scene in arrays.values():
        for path, names in _THERE.items():
            if path in scene:
                there.update(names)
    if provider is not None:
        there |= provider.gives
    if not all(may_use(layout.kind) for layout in layouts.values()):
        there.discard("pixels")
    spec = MeasureSpec.of(
        stored["evaluate"],
        plugin.classes,
        None if provider is None else provider.classes,
        there,
        (*_seams(plugin), *_calibration(provider is not None, arrays)),
    )
    if "evaluate" not in job.model_fields_set:
        if not spec.asked:
            return None
        if provider is None:
            spec = replace(spec, unmet=())  # nobody asked for what needs truth
    shown = truths.of_job({**stored, "trust": False}, plugin.classes)
    shown = json.dumps(public_values(json.loads(shown)), sort_keys=True) if shown else ""
    return Measurer(objects, layouts, arrays, text, spec, json.dumps(marked_options(job)), shown)


def _seams(plugin: Plugin) -> tuple[Asked, ...]:
    every = asked.seams(plugin)
    return () if every is None else (Asked("metrics", "seams", json.dumps({"every": every})),)


def _calibration(truth: bool, arrays: Mapping[str, SceneArrays]) -> tuple[Asked, ...]:
    """What confidence is worth is measured unasked, where it is stored and there is truth."""
    stored = any(CONFIDENCE in scene for scene in arrays.values())
    return (Asked("metrics", "calibration"),) if truth and stored else ()


def _called(work: Work) -> str:
    return f"aggregate: {work.task.scene} {work.task.place}"


def _read(records: SceneRecords) -> tuple[_Masks, dict[tuple[str, Place], MeasureRecord]]:
    masks = _Masks({}, {})
    measures: dict[tuple[str, Place], MeasureRecord] = {}
    for record in records.of(Record):
        if isinstance(record, MaskRecord) and record.status == "done":
            masks.checksums[record.shard] = record.checksum
            masks.lost[record.shard] = frozenset(f.frame for f in record.failures)
        elif isinstance(record, MeasureRecord):
            measures[record.kind, record.shard] = record
    return masks, measures


class Measurer:
    """Measures what has no current measure record, and merges all records."""

    def __init__(
        self,
        objects: SealedObjects,
        layouts: Mapping[str, Layout],
        arrays: Mapping[str, SceneArrays],
        truth: str,
        spec: MeasureSpec,
        source: str,
        shown: str,
    ) -> None:
        """`truth`: how it is read, as JSON; `shown`: the same without credentials; `source`: the
        job's block as JSON."""
        self.objects, self.layouts, self.arrays = objects, layouts, arrays
        self.truth, self.spec, self.source, self.shown = truth, spec, source, shown
        self.log = RecordLog(objects)
        self.current: dict[str, dict[tuple[str, Place], MeasureRecord]] = {}
        self.too_large: list[tuple[str, int]] = []
        """(scene, frame) that metrics cannot see whole."""
        self.left_out: dict[tuple[str, int], str] = {}
        """(scene, first frame) of volumes that are not measured as such, and why."""
        self.damaged: list[tuple[str, int, str]] = []
        """(scene, frame, what is damaged) of masks that cannot be measured."""
        self.computed = 0

    @property
    def corrected(self) -> bool:
        """Whether what was put right by hand is part of its truth."""
        return bool(self.truth) and isinstance(truths.from_json(self.truth), Corrected)

    @property
    def corrected_frames(self) -> int:
        """How many of the store's frames somebody has put right."""
        scenes = self.layouts.keys() & set(corrections.scenes_corrected(self.objects))
        return sum(len(corrections.corrected(self.objects, scene)) for scene in scenes)

    def measure(
        self, pool: Pool, faults: FaultsSpec, stale: list[MeasureTask]
    ) -> Iterator[Progress]:
        """Measure; the records are committed by the workers."""
        works = (Work(f"{t.kind} {t.scene}/{t.place}", measure, t) for t in stale)
        for task, found in needed(pool, works, faults, self.objects, _called):
            self.computed += 1
            if isinstance(found, Damaged):
                reason = f"its mask is damaged: {found.key}: {found.what}"
                self.damaged += [(task.scene, ref.index, reason) for ref in task.frames]
            else:
                self.current[task.scene][task.kind, task.place] = found
            yield Progress("aggregate", self.computed, len(stale))

    def stale(self) -> list[MeasureTask]:
        """Shards and frames with a mask and no measure record that fits mask, truth and metrics."""
        if not self.spec.folds:
            return []
        found: list[MeasureTask] = []
        shards = {scene: self.layouts[scene].shards for scene in self._truths}
        for batch in self.log.together(shards):
            for scene, records in batch.items():
                found += self._stale(self.layouts[scene], records, self._truths[scene])
        return found

    def _stale(
        self, layout: Layout, records: SceneRecords, own: list[_Told]
    ) -> Iterator[MeasureTask]:
        """Those of a scene; what fits is kept."""
        masks, measures = _read(records)
        current = self.current.setdefault(layout.scene, {})
        for task in self._tasks(layout, masks, own):
            old = measures.get((task.kind, task.place))
            wanted = (task.inputs, task.key, task.checksum)
            if old is not None and (old.truth, old.metrics, old.masks) == wanted:
                current[task.kind, task.place] = old
            else:
                yield task

    def measuring(self, layout: Layout, window: Window) -> Measuring | None:
        """How a shard's mask is measured as soon as it is stored; None: that is not to be.

        What sees whole frames waits for them, and images are no longer in memory by then.
        """
        here = self._folds("measure", layout)
        if not here or any("pixels" in fold.needs for fold in here):
            return None
        own = self._truths[layout.scene][window.start[0] : window.stop[0]]
        return Measuring(
            truths=tuple(one.truth for one in own),
            told=tuple(one.told for one in own),
            truth=self.truth,
            spec=self.spec,
            key=self._key(layout, "measure"),
            area=self._area(layout),
            spacing=layout.spacing,
        )

    @cached_property
    def _truths(self) -> dict[str, list[_Told]]:
        """The truth of each scene's frames, all found in one pass; nothing where there is none."""
        refs = [(s, layout.frames()) for s, layout in self.layouts.items()]
        flat = [(scene, ref) for scene, frames in refs for ref in frames if not ref.pruned]
        try:
            found = iter(truths.from_json(self.truth).find(flat) if self.truth else [])
        except ValueError as error:
            raise JobError(f"source.{error}") from error
        return {
            scene: _told(frames, [_NONE if ref.pruned else next(found) for ref in frames])
            if self.truth
            else []
            for scene, frames in refs
        }

    def _tasks(self, layout: Layout, masks: _Masks, own: list[_Told]) -> Iterator[MeasureTask]:
        if self._folds("measure", layout):
            key = self._key(layout, "measure")
            for place, checksum in sorted(masks.checksums.items()):
                window = layout.window(place)
                refs = self._here(layout, window, masks.lost[place])
                yield self._task("measure", layout, place, window, refs, own, checksum, key)
        if self._folds("frame", layout):
            key = self._key(layout, "frame")
            for frame in range(layout.shape[0]):
                task = self._frame_task(layout, frame, masks, own, key)
                if task is not None:
                    yield task
        if self._folds("volume", layout):
            yield from self._volume_tasks(layout, masks, own)

    @cached_property
    def _keys(self) -> dict[tuple[Kind, bool], str]:
        """Of the metrics in each kind of record, where frames are cut and where not."""
        # Before, objects and values without a class counted outside an area too.
        area = ["area/2"] if self._has_area else []
        return {
            (kind, cut): digest([self.spec.key(kind, cut=cut), self.shown, truths.VERSION, *area])
            for kind in get_args(Kind)
            for cut in (False, True)
        }

    def _folds(self, kind: Kind, layout: Layout) -> list[Fold]:
        """Those in a kind's records of a scene."""
        return [self.spec.folds[i] for i in self.spec.places(kind, cut=layout.cut)]

    def _key(self, layout: Layout, kind: Kind) -> str:
        """That of the metrics in a scene, whose spacing may be in their figures."""
        key = self._keys[kind, layout.cut]
        folds = self._folds(kind, layout)
        if kind == "volume":
            placed = layout.steps is not None and any(f.in_volume(None) is None for f in folds)
            return digest([key, layout.steps]) if placed else key
        scaled = layout.spacing is not None and any(f.scaled(None) is None for f in folds)
        return digest([key, layout.spacing]) if scaled else key

    def _frame_task(
        self, layout: Layout, frame: int, masks: _Masks, own: list[_Told], key: str
    ) -> MeasureTask | None:
        """One whole frame; None where a part of it has no mask, or where it is too large."""
        places = layout.frame_shards(frame // layout.shard[0])
        if any(p not in masks.checksums or frame in masks.lost[p] for p in places):
            return None
        ref = layout.frame(frame)
        if ref.pruned:
            return None
        if ref.height * ref.width > LARGEST:
            self.too_large.append((layout.scene, frame))
            return None
        window = Window((frame, 0, 0), (frame + 1, *layout.shape[1:]))
        checksum = digest([masks.checksums[p] for p in places])
        task = self._task("frame", layout, (frame, 0, 0), window, (ref,), own, checksum, key)
        return replace(task, places=tuple(places))

    def _volume_tasks(
        self, layout: Layout, masks: _Masks, own: list[_Told]
    ) -> Iterator[MeasureTask]:
        """Each time of a volume; those that cannot be measured are named instead."""
        if layout.slices is None:
            self.left_out[layout.scene, 0] = NO_VOLUME
            return
        key = self._key(layout, "volume")
        for first in range(0, layout.shape[0], layout.slices):
            window = Window((first, 0, 0), (first + layout.slices, *layout.shape[1:]))
            deep, tall, wide = window.shape
            side = layout.shard[0]
            rows = range(first // side, -(-(first + deep) // side))
            places = [place for row in rows for place in layout.frame_shards(row)]
            frames = range(first, first + deep)
            lost = {f for p in places for f in masks.lost.get(p, frames)} & {*frames}
            if deep * tall * wide > LARGEST_VOLUME:
                why = f"it has more than {LARGEST_VOLUME:,} voxels; {WITHOUT}"
                self.left_out[layout.scene, first] = why
            elif lost:
                why = f"slices have no mask ({_few(lost)}); {WITHOUT}"
                self.left_out[layout.scene, first] = why
            else:
                refs = layout.frames(first, first + deep)
                checksum = digest([masks.checksums[p] for p in places])
                place = (first, 0, 0)
                task = self._task("volume", layout, place, window, refs, own, checksum, key)
                yield replace(task, places=tuple(places), steps=layout.steps)

    def _left_out(self, layout: Layout, found: _Merged) -> dict[int, str]:
        """By first frame, volumes that are not measured as such, and why."""
        if not self._folds("volume", layout):
            return {}
        why = {first: r for (scene, first), r in self.left_out.items() if scene == layout.scene}
        if layout.slices is not None:
            for first in range(0, layout.shape[0], layout.slices):
                frames = range(first, first + layout.slices)
                unscored = [frame for frame in frames if frame in found.missing]
                if unscored:
                    reason = f"slices are not scored ({_few(unscored)}); {WITHOUT}"
                    why.setdefault(first, reason)
        return why

    def _here(self, layout: Layout, window: Window, lost: frozenset[int]) -> tuple[FrameRef, ...]:
        _, rows, cols = window.slices
        frames = layout.frames(window.start[0], window.stop[0], (rows, cols))
        return tuple(ref for ref in frames if ref.index not in lost and not ref.pruned)

    def _task(
        self,
        kind: Kind,
        layout: Layout,
        place: Place,
        window: Window,
        refs: tuple[FrameRef, ...],
        own: list[_Told],
        checksum: str,
        key: str,
    ) -> MeasureTask:
        here = tuple(own[r.index].truth for r in refs) if own else ()
        pixels = "pixels" in self.spec.needs()
        inputs = " ".join(own[r.index].told for r in refs) if own else ""
        if pixels:
            inputs += " " + " ".join(r.fingerprint for r in refs)
        return MeasureTask(
            kind=kind,
            store=self.objects.root,
            scene=layout.scene,
            place=place,
            window=window,
            frames=refs,
            truths=here,
            truth=self.truth,
            spec=self.spec,
            spacing=layout.spacing,
            arrays=self.arrays[layout.scene],
            places=(place,),
            inputs=inputs,
            checksum=checksum,
            key=key,
            cut=layout.cut,
            source=self._reading(layout) if pixels else "",
            area=self._area(layout),
            writer=self.objects.writer,
        )

    def _reading(self, layout: Layout) -> str:
        return json.dumps([layout.kind, json.loads(self.source)])

    def _area(self, layout: Layout) -> str:
        """How it is known what of a scene is scored; empty: all of it."""
        taken = layout.mosaic is not None and layout.mosaic.taken
        return self._reading(layout) if self._has_area or taken else ""

    @cached_property
    def _has_area(self) -> bool:
        return json.loads(self.source).get("area") is not None

    def merge(self) -> Measured:
        """Merge all current records: exactly, in any order."""
        folds = self.spec.folds
        empty: list[Any] = [fold.metric.empty() for fold in folds]
        result = Measured(list(empty))
        for scene, records in sorted(self.current.items()):
            layout = self.layouts[scene]
            found = self._frames(layout, records.values())
            for frame, unknown in sorted(found.unknown.items()):
                ref = layout.frame(frame)
                size = found.counted.get(frame, ref.height * ref.width)
                result.unknown.append((scene, frame, unknown, size))
                if doubtful(unknown, size):
                    found.missing[frame] = _why(unknown, size)
            left_out = self._left_out(layout, found)
            closed = {
                frame: [
                    None
                    if part is None
                    or (fold.scored and frame in (left_out if fold.volume else found.missing))
                    else fold.close(part, scene, frame)
                    for fold, part in zip(folds, parts, strict=True)
                ]
                for frame, parts in sorted(found.states.items())
            }
            result.frames += [(scene, frame, states) for frame, states in closed.items()]
            total = [
                reduce(
                    fold.metric.merge,
                    (s[i] for s in closed.values() if s[i] is not None),
                    empty[i],
                )
                for i, fold in enumerate(folds)
            ]
            result.scenes[scene] = total
            result.overall = [
                fold.metric.merge(a, b)
                for fold, a, b in zip(folds, result.overall, total, strict=True)
            ]
            said = found.lacking | found.missing
            result.missing += [(scene, f, reason) for f, reason in sorted(said.items())]
            result.missing += [(scene, f, reason) for f, reason in sorted(left_out.items())]
        result.missing += sorted(
            {(scene, f): (scene, f, r) for scene, f, r in self.damaged}.values()
        )
        return result

    def _frames(self, layout: Layout, records: Iterable[MeasureRecord]) -> _Merged:
        """Parts by frame, joined over its windows."""
        folds = self.spec.folds
        found = _Merged({}, {}, {}, {}, {})
        whole: dict[int, Unknown] = {}
        whole_counted: dict[int, int] = {}
        for record in records:
            body = read_payload(record)
            found.missing.update(body["missing"])
            found.lacking.update(body.get("lacking", {}))
            for frame, unknown in body["unknown"].items():
                if isinstance(record, FrameMeasures):  # counts again what its shards did
                    whole[frame] = unknown
                else:
                    found.unknown[frame] = _summed(found.unknown.get(frame, {}), unknown)
            for frame, pixels in body.get("counted", {}).items():
                if isinstance(record, FrameMeasures):
                    whole_counted[frame] = pixels
                else:
                    found.counted[frame] = found.counted.get(frame, 0) + pixels
            here = self.spec.places(record.kind, cut=layout.cut)
            for frame, parts in _own(body["states"], here, len(folds)).items():
                joined = found.states.setdefault(frame, [None] * len(folds))
                for i, part in zip(here, parts, strict=True):
                    joined[i] = _joined(folds[i].join, joined[i], part)
        found.unknown.update(whole)
        found.counted.update(whole_counted)
        return found


def _told(frames: Sequence[FrameRef], own: list[TruthRef]) -> list[_Told]:
    """Each frame's truth. Release 0.1 measured frames that share a file against its first map."""
    uses = Counter(truth.uri for truth in own)
    told = []
    for truth, ref in zip(own, frames, strict=True):
        shared = truth.uri and uses[truth.uri] > 1
        place = truths.place_of(ref) if shared else 0
        told.append(_Told(truth, (truth.fingerprint or "-") + (f"#{place}" if place else "")))
    return told


def doubtful(unknown: Unknown, size: int) -> bool:
    """Whether more of a label of so many pixels is no class than a stray one."""
    return DOUBTFUL * sum(unknown.values()) > size


def _why(unknown: Unknown, size: int) -> str:
    common = sorted(unknown.items(), key=lambda item: -item[1])
    named = ", ".join(f"{value} ({n / size:.2%})" for value, n in common[:NAMED])
    more = f" and {len(common) - NAMED} more" if len(common) > NAMED else ""
    return (
        f"{sum(unknown.values()) / size:.2%} of its label is no class, more than {1 / DOUBTFUL:.0%}: "
        f"values {named}{more}; name them in truth.classes and truth.values, or one as truth.void"
    )


def _summed(a: Unknown, b: Unknown) -> Unknown:
    """Pixels of both; of so many values the smallest, as each of the two has them."""
    both = dict(a)
    for value, count in b.items():
        both[value] = both.get(value, 0) + count
    return dict(sorted(both.items(), key=lambda item: item[0])[: truths.MANY])


def _own(
    states: Mapping[int, list[Any]], here: Sequence[int], count: int
) -> Mapping[int, Sequence[Any]]:
    """By frame, the parts of the folds of a record's kind: those at `here` of `count`.

    Release 0.2 wrote None for the others too, of which there may be more or fewer now.
    """
    written = {len(parts) for parts in states.values()}
    if written <= {len(here)}:
        return states
    some = {i for parts in states.values() for i, part in enumerate(parts) if part is not None}
    places = sorted(some) if len(some) == len(here) else here if written == {count} else ()
    return {
        frame: [parts[i] for i in places] or [None] * len(here) for frame, parts in states.items()
    }


def _few(frames: Iterable[int]) -> str:
    """Some of a volume's frames."""
    named = sorted(frames)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return ", ".join(map(str, named[:NAMED])) + more


def _joined(join: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return join(a, b)
