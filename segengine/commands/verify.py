"""Compare what is stored with its records, and a sample of masks with what segmenting gives again."""

from __future__ import annotations

import glob
import os
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from segengine import asked, corrections
from segengine.errors import HEAL, CorruptInputError, MissingTruthError, TransientInputError
from segengine.guards.trust import UNTRUSTED, is_code, named_by_store
from segengine.job import Job
from segengine.planning.damage import differences, misplaced, object_key, stored_records, unreadable
from segengine.planning.plan import Plan, stored_plan
from segengine.planning.stored import foreign_code, stored_job
from segengine.reader import Store, open_lost
from segengine.registry import reader
from segengine.store.blobs import Objects, open_objects
from segengine.store.keys import (
    CONFIDENCE,
    MASK,
    PROBABILITIES,
    ROOT,
    ROWS,
    array_folder,
    is_correction,
)
from segengine.store.kinds import LabelRecord, MaskRecord, Record
from segengine.store.layouts import Layout, load_layouts
from segengine.store.records import RecordLog
from segengine.store.sealbook import CHANGED
from segengine.store.seals import named
from segengine.store.shards import open_array, read_region
from segengine.types import NO_CONFIDENCE, FrameRef
from segengine.worker.tasks import Retry, ShardTask, SplitComponents

UNRECORDED = "no record vouches for it: it does not count, and a run computes it again"
SAMPLE = 4
"""Shards that are segmented again."""
ROUNDING = 1e-5
"""By how much probabilities may differ then."""
_ROUNDED = {PROBABILITIES: ROUNDING, CONFIDENCE: 1.0}
"""By how much these maps may."""


class Difference(NamedTuple):
    """A stored object that is not what was committed."""

    object: str
    """Its path in the store."""
    what: str


def _lasting(
    objects: Objects, found: Iterable[tuple[Record, str, str]]
) -> Iterator[tuple[Record, str, str]]:
    """Without those that a run beside this has written meanwhile: their record is another one now."""
    now: dict[str, set[Record]] = {}
    for record, array, what in found:
        if record.scene not in now:
            now[record.scene] = set(RecordLog(objects).read(record.scene))
        if record in now[record.scene]:
            yield record, array, what


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found."""

    store: str
    objects: int
    """Stored objects compared with their records."""
    sampled: int
    """Shards segmented again."""
    problems: tuple[Difference, ...]
    skipped: tuple[str, ...]
    """Shards that could not be segmented again, and why."""

    @property
    def exit_code(self) -> int:
        """0, or 4 where anything differs."""
        return 4 if self.problems else 0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "store": self.store,
            "checked": self.objects,
            "different": [problem._asdict() for problem in self.problems],
            "sampled": self.sampled,
            "not_sampled": list(self.skipped),
        }

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        found = [
            f"{self.store}: {self.objects} stored objects compared with their checksums, "
            f"{self.sampled} shards segmented again"
        ]
        if self.problems:
            found.append(f"{len(self.problems)} differ:")
        for problem in self.problems:
            found += [problem.object, f"    {problem.what}"]
        found += [f"not segmented again: {s}" for s in self.skipped]
        if not self.problems:
            found.append("no difference")
        elif not all(is_correction(problem.object) for problem in self.problems):
            found.append(HEAL)  # of a correction its own line says what to do
        return tuple(found)


def verify(
    path: str, sample: int = SAMPLE, seed: int | None = None, trust: bool | None = None
) -> VerifyReport:
    """Recompute the checksums of everything stored, and segment `sample` shards again.

    `trust`: code that the store's own job names may be used; without it, where that is the
    segmenter or the source, nothing is segmented again.
    """
    store = open_lost(path, trust)
    objects = store.objects
    count = len(objects.book.seals) + sum(len(r.objects) for r in stored_records(objects))
    found = list(_lasting(objects, differences(objects)))
    problems = [Difference(*item) for item in objects.check()]
    problems += [
        Difference(key, CHANGED) for _, key in unreadable(objects, {p.object for p in problems})
    ]
    problems += [Difference(key, CHANGED) for key in store.log.damaged()]
    problems += _unvouched(store)
    layouts = load_layouts(objects)
    checked, damaged = _corrections(
        objects, layouts, len(store.classes) if store.attributes else None
    )
    count += checked
    problems += damaged
    problems += [
        Difference(object_key(r, array), what + _vanished(r, layouts)) for r, array, what in found
    ]
    spoiled = {(r.scene, r.shard) for r, _, _ in found}
    sampled, skipped = 0, []
    masks = [
        r
        for r in stored_records(objects)
        if isinstance(r, MaskRecord)
        and r.status == "done"
        and r.scene in layouts
        and (r.scene, r.shard) not in spoiled
    ]
    if not store.attributes:
        reason = f"the sample: {ROOT} is lost, which holds the job"
    else:
        reason = "" if store.trust else _untrusted(store.attributes, layouts)
    if reason:
        return VerifyReport(store.path, count, 0, tuple(problems), (reason,))
    job = stored_job(store.attributes, store.trust).job
    for record in random.Random(seed).sample(masks, min(sample, len(masks))):
        try:
            with named_by_store(store.trust):
                same = _same_again(store, job, layouts[record.scene], record)
        except Exception as error:  # noqa: BLE001 - an input that is gone is no difference
            skipped.append(f"{record.scene} {record.shard}: {error}")
            continue
        sampled += 1
        if not same:
            key = object_key(record, MASK)
            problems.append(Difference(key, "segmenting again gives other labels"))
    return VerifyReport(store.path, count, sampled, tuple(problems), tuple(skipped))


def _corrections(
    objects: Objects, layouts: Mapping[str, Layout], classes: int | None
) -> tuple[int, list[Difference]]:
    """How many images were corrected by hand, and those that are not as they were saved."""
    count, found = 0, []
    for scene in corrections.scenes_corrected(objects):
        for frame, with_objects in corrections.corrected(objects, scene).items():
            if scene not in layouts or frame >= layouts[scene].shape[0]:
                continue  # of a scene that a run has laid out anew
            ref, place = layouts[scene].frame(frame), corrections.files_of(scene, frame)
            for key in (place.labels, place.objects if with_objects else None):
                count += key is not None
                try:
                    if key is not None:
                        corrections.read(objects, place, key, (ref.height, ref.width), classes)
                except MissingTruthError as error:
                    what = str(error).removeprefix(f"{objects.root}/{key}: ")
                    found.append(Difference(str(key), what))
    return count, found


def _vanished(record: Record, layouts: Mapping[str, Layout]) -> str:
    """What more there is to say of a damaged mask whose input is not there any more."""
    layout = layouts.get(record.scene)
    if layout is None or not isinstance(record, MaskRecord):
        return ""
    frames = layout.frames(record.box[0], record.box[3])
    there = (ref for ref in frames if not ref.pruned)
    names = {ref.name: None for ref in there if ref.gone or any(map(_is_away, _files_of(ref)))}
    if not names:
        return ""
    return (
        f"; its input has vanished ({named(names)}): put it back first, or --repair makes it void"
    )


def _files_of(ref: FrameRef) -> list[str]:
    """uris of the files that a frame is read from."""
    if ref.mosaic is not None:
        return list(ref.mosaic.files)
    return list(dict.fromkeys(part.uri for part in ref.parts)) or [ref.uri]


def _is_away(uri: str) -> bool:
    return "://" not in uri and not os.path.exists(uri)


def _unvouched(store: Store) -> Iterator[Difference]:
    """What is lost, and what nothing vouches for, where the seals that would tell are lost too."""
    for key in misplaced(store.objects.base):
        what = store.objects.base.obstacle(key)
        yield Difference(key.removesuffix("/*"), what)
    if not store.attributes and ROOT not in store.objects.book.seals:
        yield Difference(ROOT, store.objects.lost(ROOT))
    if store.objects.unsealed:
        for scene in store.log.unrecorded(set().union(*store.log.scenes())):
            yield Difference(array_folder(scene, MASK), UNRECORDED)


def _untrusted(attributes: Mapping[str, Any], layouts: Mapping[str, Layout]) -> str:
    """Why nothing of a store is segmented again: code that it names is not used. Empty: it can be."""
    named = [n for n in foreign_code(attributes) if n.startswith(("segmenter.", "source."))]
    named += sorted({f"source {la.kind}" for la in layouts.values() if is_code(la.kind)})
    return f"the sample: {named[0]} {UNTRUSTED}" if named else ""


def _same_again(store: Store, job: Job, layout: Layout, record: MaskRecord) -> bool:
    """Segment a shard again into a folder of its own; compare checksums, and rounded maps by value."""
    from segengine.stages.stitch import finish_tasks, splits_of
    from segengine.worker.segment import finish_shard, segment_shard
    from segengine.worker.splits import split_components

    plan = stored_plan(job, store.objects)
    if reason := _made_otherwise(plan, record):
        raise RuntimeError(reason)
    reads = plan.reads(layout, record.shard)
    if layout.inputs(record.box[0], record.box[3], reads) != record.inputs:
        raise RuntimeError("an input of it has changed")
    _check_inputs(layout.frames(record.box[0], record.box[3], reads), layout.kind, plan.job)
    group = plan.group(layout, record.box[0])
    if record.fit and group is not None and group not in plan.fits:
        raise RuntimeError(f"the fit {group} cannot be read: {plan.unread.get(group, CHANGED)}")
    if record.fit and group is not None and plan.fits[group].digest != record.fit:
        raise RuntimeError("made by an earlier fit; not compared")
    with tempfile.TemporaryDirectory(prefix="segengine-verify-") as target:
        if plan.drafts(layout):
            for place in layout.frame_shards(record.shard[0]):
                task = plan.task(layout, place, draft=True, target=target, last=True)
                _checked(segment_shard(replace(task, had="")))
            f, drafts = record.shard[0], open_objects(target)
            splits = {
                split.place: _split(split_components(split))
                for split in splits_of(plan, layout, f, drafts, target)
            }
            finishes = finish_tasks(plan, layout, f, drafts, True, splits)
            mine = next(t for t in finishes if t.shard.place == record.shard)
            shard = replace(mine.shard, target=target, had="")
            task = shard
            again = _checked(finish_shard(replace(mine, shard=shard)))
        else:
            task = plan.task(layout, record.shard, target=target, last=True)
            again = _checked(segment_shard(replace(task, had="", lost=record.failures)))
        known = {failure.frame for failure in record.failures}
        for failure in again.failures:
            if failure.frame not in known:  # the input is as it was: it is not read here and now
                raise RuntimeError(failure.reason)
        new, old = (
            {o.array: o.checksum for o in r.objects if o.array != ROWS} for r in (again, record)
        )
        other = {name for name in {*new, *old} if new.get(name) != old.get(name)}
        return other <= _ROUNDED.keys() and all(
            _alike(store, open_objects(target), task, record, path) for path in sorted(other)
        )


def _made_otherwise(plan: Plan, record: MaskRecord) -> str:
    """Why a run would make a mask again, so that it is no difference. Empty: it would not."""
    version, weights = asked.version(plan.plugin), asked.weights(plan.plugin)
    if record.version != version:
        made = f"made by version {record.version} of the segmenter"
        return f"{made}, this release has version {version}; not compared"
    if record.weights != weights:
        return "made with other weights; not compared"
    if record.job != plan.fingerprint:
        return "made by the job as it was before; not compared"
    return ""


def _alike(store: Store, again: Objects, task: ShardTask, record: MaskRecord, path: str) -> bool:
    """Whether a map is the same but for rounding: a network's sums depend on its threads."""
    first, top, left, last, bottom, right = record.box
    spec = task.arrays[path]
    between = (slice(None),) * (len(spec.shape) - 3)  # the classes
    index = (slice(first, last), *between, slice(top, bottom), slice(left, right))
    a, b = (
        read_region(objects, open_array(objects.root, record.scene, spec), index)
        for objects in (again, store.objects)
    )
    if path == CONFIDENCE and not np.array_equal(a == NO_CONFIDENCE, b == NO_CONFIDENCE):
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    return bool(np.allclose(a, b, rtol=0, atol=_ROUNDED[path], equal_nan=True))


def _check_inputs(frames: Sequence[FrameRef], kind: str, job: Job) -> None:
    """Raise RuntimeError where a frame's file is not the one that was segmented."""
    source = reader(kind, job.source_options())
    alone = (own for r in frames for own in _apart(r))
    for ref in {(r.uri, r.parts, r.fingerprint): r for r in alone}.values():
        if ref.pruned:
            continue  # nothing of it is read, here and there
        if ref.gone:
            raise RuntimeError(f"{ref.name}: the input is gone")
        try:
            mark = asked.mark(source, ref)
            if mark is None:
                mark = _mark_of(ref, job.source.kind)
        except (CorruptInputError, TransientInputError) as error:
            why = str(error).removeprefix(f"{ref.name}: ")
            raise RuntimeError(f"{ref.name}: the input cannot be read: {why}") from error
        except ValueError as error:  # its path names nothing
            raise RuntimeError(f"{ref.name}: the input is gone") from error
        if ref.fingerprint != mark:
            raise RuntimeError(f"{ref.name}: the input has changed")


def _apart(ref: FrameRef) -> Iterator[FrameRef]:
    """A frame, or each of the scenes that it is made of."""
    if ref.mosaic is None or ref.gone:
        yield ref
    else:
        yield from (member.ref for member in ref.mosaic.members)


def _mark_of(ref: FrameRef, kind: str) -> str:
    """The fingerprint that a frame has now, by its files."""
    from segengine.sources._fields import fingerprint
    from segengine.sources.listing import list_entries

    found = {uri: list_entries([_literal(uri)], kind).entries for uri in _files_of(ref)}
    marks = {uri: next((each.fingerprint for each in found[uri]), "") for uri in found}
    return fingerprint(ref.parts, marks) if ref.parts else marks[ref.uri]


def _literal(uri: str) -> str:
    return uri if "://" in uri else glob.escape(uri)


def _split(result: SplitComponents | Retry) -> SplitComponents:
    if isinstance(result, Retry):
        raise RuntimeError(result.reason)
    return result


def _checked(result: Any) -> LabelRecord:
    if not isinstance(result, LabelRecord):
        raise RuntimeError(str(getattr(result, "reason", result)))
    return result
