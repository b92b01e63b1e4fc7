"""From inputs, layouts and records to what is left to do."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked, following
from segengine.ahead import is_far, requested
from segengine.fingerprint import digest, mask_keys, require_area
from segengine.instances.cleaning import Cleaning
from segengine.job import Job
from segengine.planning.checks import (
    check_followed,
    check_layouts,
    check_prompts,
    check_readers,
    check_still,
)
from segengine.planning.fits import Fit, take_committed_fits, take_fit
from segengine.planning.followed import check_follows
from segengine.planning.held import waits
from segengine.planning.layout import Cut
from segengine.planning.notices import notices
from segengine.planning.outputs import outputs_of
from segengine.planning.redo import Redo, redone
from segengine.planning.scan import Scan, scanning
from segengine.planning.source import lays_out_alike, marked_options, reaches_alike, source_json
from segengine.planning.standing import kept
from segengine.planning.state import SceneState, Wanted, read_state
from segengine.planning.stored import StandIn
from segengine.progress import Progress, result_of
from segengine.store.arrays import SceneArrays, scene_arrays
from segengine.store.keys import RELAYING, fit_key, pack_key
from segengine.store.kinds import FrameFailure
from segengine.store.layouts import Layout, Reads, load_layouts, load_outside, load_unplaced
from segengine.store.records import RecordLog, batches
from segengine.store.root import attributes_or_lost
from segengine.store.seals import SEALED, SealedObjects
from segengine.store.tombstones import Tombstones
from segengine.types import Place, Plugin
from segengine.worker.fits import read_committed
from segengine.worker.reading import Box
from segengine.worker.sampled import is_sampled
from segengine.worker.still import first_needed
from segengine.worker.tasks import SegmenterSpec, ShardTask


@dataclass(slots=True)
class Plan:
    """One execution of a job, laid out."""

    job: Job
    objects: SealedObjects
    scan: Scan
    fingerprint: str
    """Of the job's parts that can change a mask."""
    keys: dict[str, Any]
    outputs: tuple[str, ...]
    arrays: dict[str, SceneArrays]
    states: dict[str, SceneState]
    fits: dict[str, Fit]
    source_json: str
    """The `source` block for workers."""
    unread: dict[str, str] = field(default_factory=dict)
    """Fits that are whole, and of a class that is not here: why."""
    lost: dict[tuple[str, int], FrameFailure] = field(default_factory=dict)
    """Frames whose own survey failed, by scene and frame."""
    notices: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()
    """Scenes with stored masks that no record vouches for: damage has taken their records."""
    unsurveyed: frozenset[str] = frozenset()
    """Fits that are left to a later run: the budget ended the survey before."""
    undrafted: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Shards that are left to draft, over the grid of each scene whose shards are drafted."""
    redo: tuple[Redo, ...] = ()
    """What is done and will be done again, and why."""
    broken: frozenset[tuple[str, Place]] = frozenset()
    """Shards whose stored bytes are not those of their record, where that is to be repaired."""

    @property
    def source(self) -> Mapping[str, Any]:
        """The `source` block for workers."""
        return dict(json.loads(self.source_json))

    @property
    def plugin(self) -> Plugin:
        """The job's segmenter or surveyor."""
        return self.job.plugin

    @property
    def components(self) -> bool:
        """Connected regions of a class are its instances."""
        return self.job.segmenter.instances is not None

    @property
    def cleaning(self) -> Cleaning | None:
        """What is done to them; None: nothing."""
        return asked.cleaning(self.job.segmenter.instances, self.plugin.classes)

    @property
    def layouts(self) -> dict[str, Layout]:
        """Scenes by name."""
        return self.scan.layouts

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.plugin.classes)

    @property
    def shards(self) -> int:
        """Shards of all scenes."""
        return sum(layout.shards for layout in self.layouts.values())

    @property
    def counts(self) -> dict[str, int]:
        """Shards of each scene."""
        return {scene: layout.shards for scene, layout in self.layouts.items()}

    @property
    def pending(self) -> int:
        """Shards left to do."""
        return sum(state.pending for state in self.states.values())

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's `segengine` attributes."""
        return {
            "version": 1,
            SEALED: True,
            "job": self.job.as_json(),
            "fingerprints": {
                "job": self.fingerprint,
                "weights": asked.weights(self.plugin),
                "segmenter_version": asked.version(self.plugin),
                "keys": self.keys,
            },
            "classes": list(self.plugin.classes),
            "colors": [list(c) for c in asked.colors(self.plugin)],
        }

    def drafts(self, layout: Layout) -> bool:
        """True where a scene's shards are drafted first and decided by the stitch stage."""
        return layout.cut and (asked.links(self.plugin) or "instances" in self.outputs)

    def overlaps(self, layout: Layout) -> bool:
        """True where a worker reads and stores while it computes: it would wait for a network, or its
        segmenter for both."""
        remote = any("://" in uri for uri in layout.files) or is_far(self.objects.root)
        return remote or asked.is_slow(self.plugin)

    def group(self, layout: Layout, frame: int) -> str | None:
        """Which fit labels a frame; None: its shard fits it itself, or nothing needs fitting."""
        scope = asked.scope(self.plugin)
        if scope == "run":
            return f"run-{layout.dtype}-{layout.bands}"
        if scope == "scene":
            return f"scene-{layout.scene}"
        if scope == "frame" and layout.cut:
            return f"frame-{layout.scene}-{frame}"
        return None

    def group_of(self, task: ShardTask) -> str | None:
        """Which fit labels a task's frames."""
        return self.group(self.layouts[task.scene], task.window.start[0])

    def reads(self, layout: Layout, place: Place) -> Reads | None:
        """Rows and columns of a map that label a shard: those of its scenes that lie there are its
        inputs. None: all of the frame."""
        if layout.mosaic is None or (asked.scope(self.plugin) == "frame" and layout.cut):
            return None  # what the frame is fitted on are all of its scenes
        window = layout.window(place)
        box = Box.of(window, layout.frame(window.start[0]), *asked.context(self.plugin))
        return None if box is None else box.slices

    def pending_of(self, layout: Layout) -> int:
        """Shards of a scene left to do."""
        return self.states[layout.scene].pending

    def pending_places(self, layout: Layout) -> Iterator[Place]:
        """Shards of a scene that this run can work on, in raster order."""
        for f, y, x in np.argwhere(self.states[layout.scene].todo):
            yield int(f), int(y), int(x)

    def task(self, layout: Layout, place: Place, **extra: Any) -> ShardTask:
        """What a worker needs for a shard."""
        window, reads = layout.window(place), self.reads(layout, place)
        first, last = window.start[0], window.stop[0]
        group = self.group(layout, first)
        fit = self.fits.get(group) if group is not None else None
        lost = () if group is None or fit is not None else self._lost(layout, first, last)
        spec = self.job.segmenter
        still = None if layout.times is None else self.job.still
        had = self.states[layout.scene].had[place]
        return ShardTask(
            store=self.objects.root,
            scene=layout.scene,
            place=place,
            window=window,
            frames=layout.frames(first, last, reads),
            inputs=layout.inputs(first, last, reads),
            kind=layout.kind,
            windowed=layout.windowed,
            source=self.source_json,
            segmenter=SegmenterSpec(
                spec.kind,
                json.dumps(spec.options),
                "" if fit is None else fit.key,
                "" if fit is None else fit.digest,
            ),
            arrays=self.arrays[layout.scene],
            classes=self.classes,
            outputs=self.outputs,
            job=self.fingerprint,
            weights=asked.weights(self.plugin),
            version=asked.version(self.plugin),
            had=("", "single", "packed")[had],
            lost=lost,
            cut=layout.cut,
            skips_empty=layout.cut and (self.job.source.skip is None or self.job.source.skip.empty),
            samples=is_sampled(_number(place, layout.grid), layout.shards),
            still=still,
            before=layout.frames(self._first_needed(layout, first), first),
            components=self.components,
            cleaning=self.cleaning,
            writer=self.objects.writer,
            ground=layout.placing.ground,
            **extra,
        )

    def _first_needed(self, layout: Layout, first: int) -> int:
        """The frame from which on a shard that begins at `first` looks at its video."""
        follows = asked.follows(self.plugin)
        if follows is not None:
            return following.first_needed(first, follows)
        still = layout.times is not None and self.job.still is not None
        return first_needed(first) if still else first

    def _lost(self, layout: Layout, first: int, last: int) -> tuple[FrameFailure, ...]:
        """Frames of a shard that no fit could be made for."""
        return tuple(
            self.lost.get((layout.scene, i))
            or FrameFailure(
                i, "corrupt", f"{layout.frame_name(i)}: no readable frame to fit the segmenter on"
            )
            for i in range(first, last)
            if not layout.frame(i).gone
        )

    def refresh(self, scene: str) -> None:
        """Read the state of a scene's shards again (its fit has changed)."""
        log = RecordLog(self.objects)
        singles, packed = log.scenes()
        layout = self.layouts[scene]
        self.states[scene] = _state(self, layout, log, scene in singles, scene in packed)


def _number(place: Place, grid: tuple[int, int, int]) -> int:
    """Of a shard among all of a scene, in raster order."""
    return (place[0] * grid[1] + place[1]) * grid[2] + place[2]


def make_plan(
    job: Job,
    objects: SealedObjects,
    *,
    refit: bool = False,
    repair: frozenset[tuple[str, Place]] = frozenset(),
) -> Plan:
    """As `planning`, for those whom its progress is nothing to."""
    return result_of(planning(job, objects, refit=refit, repair=repair))


def planning(
    job: Job,
    objects: SealedObjects,
    *,
    refit: bool = False,
    repair: frozenset[tuple[str, Place]] = frozenset(),
) -> Generator[Progress, None, Plan]:
    """Scan the inputs, lay them out, and read from the records what is done; yields how far it is.

    `repair`: shards whose stored bytes are not those of their record. Raises JobError.
    """
    asked.check(job.plugin, job.segmenter.kind)
    check_prompts(job)
    require_area(job)
    old = attributes_or_lost(objects)
    whole = asked.whole_frames(job.plugin)
    cut = Cut(job.store.chunk, job.store.shard, job.store.frames, whole, job.source.every)
    previous = load_layouts(objects) if old is not None else {}
    check_readers(job, previous)
    source = marked_options(job)
    # Without root or seals nothing tells which options the layouts were made with.
    sealed = isinstance(objects, SealedObjects)
    known = old != {} and not (sealed and objects.unsealed) and objects.get(RELAYING) is None
    same_source = known and lays_out_alike(job, old or {})
    same_reach = reaches_alike(job, old or {})
    unplaced = load_unplaced(objects) if old and same_reach else ()
    outside = load_outside(objects) if old and same_reach else ()
    pruned = Tombstones.read(objects) if old is not None else None
    found = yield from scanning(source, previous, unplaced, cut, same_source, outside, pruned)
    check_follows(job, found.layouts)
    check_layouts(job, found.layouts, whole)
    outputs = outputs_of(job, found)
    check_still(job, found.layouts)
    check_followed(job, found.layouts, outputs)
    keys = mask_keys(job, outputs)
    keys = kept(keys, job.source.crs, old, previous, found.layouts)
    plan = _unread(job, objects, found, keys, digest(keys), outputs)
    plan.broken = repair
    scope = asked.scope(job.plugin)
    if scope in ("run", "scene") and not refit:
        take_committed_fits(plan)
    log = RecordLog(objects)
    singles, packed = log.scenes()
    for batch in batches(plan.counts):

        def look(name: str) -> SceneState:
            return _state(plan, plan.layouts[name], log, name in singles, name in packed)

        plan.states |= zip(batch, requested(batch, look, objects.root), strict=True)
    plan.unrecorded = tuple(_unrecorded(plan)) if sealed else ()
    laid_out = sum(previous[scene].shards for scene in found.dropped if scene in previous)
    plan.redo = redone(plan, old, laid_out)
    unfinished = pruned is not None and not pruned.complete
    plan.notices = tuple(notices(plan, old, unfinished=unfinished))
    return plan


def stored_plan(job: Job, objects: SealedObjects) -> Plan:
    """The plan of a store as it stands: its own layouts, nothing scanned, nothing probed anew."""
    layouts = load_layouts(objects)
    unplaced = load_unplaced(objects)
    beyond = load_outside(objects)
    found = Scan(
        layouts,
        tuple(u for u in unplaced if not u.waits),
        frozenset(),
        0,
        waiting=tuple(u for u in unplaced if u.waits),
        outside=len(beyond),
        beyond=beyond,
    )
    if isinstance(job.plugin, StandIn):
        outputs = job.plugin.outputs(objects, layouts)
        keys, fingerprint = dict(job.plugin.keys), job.plugin.fingerprint
    else:
        outputs = outputs_of(job, found)
        old = attributes_or_lost(objects)
        keys = kept(mask_keys(job, outputs), job.source.crs, old, layouts, layouts)
        fingerprint = digest(keys)
    plan = _unread(job, objects, found, keys, fingerprint, outputs)
    scope = asked.scope(job.plugin)
    for layout in layouts.values():
        for frame in range(layout.shape[0]) if scope == "frame" and layout.cut else (0,):
            group = plan.group(layout, frame)
            found_fit = read_committed(objects, fit_key(group)) if group else None
            if group is not None and found_fit is not None:
                take_fit(plan, group, found_fit)
        plan.states[layout.scene] = SceneState.empty(layout.grid, done=True)
    return plan


def _unread(
    job: Job,
    objects: SealedObjects,
    found: Scan,
    keys: dict[str, Any],
    fingerprint: str,
    outputs: tuple[str, ...],
) -> Plan:
    """A plan of what lies where; what is done is yet to be read."""
    scope = asked.scope(job.plugin)
    fitted_colors = None if scope is None else scope == "frame"
    classes = len(job.plugin.classes)
    return Plan(
        job=job,
        objects=objects,
        scan=found,
        fingerprint=fingerprint,
        keys=keys,
        outputs=outputs,
        arrays={
            name: scene_arrays(layout, classes, outputs, fitted_colors)
            for name, layout in found.layouts.items()
        },
        states={},
        fits={},
        source_json=source_json(job),
    )


def _state(
    plan: Plan, layout: Layout, log: RecordLog, has_singles: bool, packed: bool
) -> SceneState:
    fit = plan.fits.get(plan.group(layout, 0) or "")
    wanted = Wanted(
        layout=layout,
        job=plan.fingerprint,
        weights=asked.weights(plan.plugin),
        fits=asked.scope(plan.plugin) in ("run", "scene"),
        fit="" if fit is None else fit.digest,
        drafts=plan.drafts(layout),
        broken=frozenset(place for scene, place in plan.broken if scene == layout.scene),
        reads=None if layout.mosaic is None else partial(plan.reads, layout),
    )
    state = read_state(wanted, log, has_singles, packed)
    if plan.scan.held and state.pending:
        left = [(f, y, x) for f, y, x in np.argwhere(~state.done).tolist()]
        state.held = waits(plan.scan.held, layout, left, partial(plan.reads, layout))
    return state


def _unrecorded(plan: Plan) -> list[str]:
    packs = (pack_key(scene) in plan.objects.damaged for scene in plan.states)
    if not plan.objects.unsealed and not any(packs):
        return []
    known = {scene for scene, state in plan.states.items() if state.had.any()}
    return [s for s in RecordLog(plan.objects).unrecorded(known) if s in plan.states]
