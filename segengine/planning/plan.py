"""From inputs, layouts and records to what is left to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked, following
from segengine.ahead import is_far, requested
from segengine.errors import JobError, SegengineError, UntrustedError
from segengine.fingerprint import area_mark, changes, digest, mask_keys, require_area
from segengine.guards.trust import UNTRUSTED, is_code
from segengine.instances.cleaning import Cleaning
from segengine.job import Job
from segengine.planning.followed import check_follows, costs
from segengine.planning.held import waits
from segengine.planning.layout import Cut
from segengine.planning.places import oddities
from segengine.planning.redo import Redo, lines, redone
from segengine.planning.remarks import remarks
from segengine.planning.scan import Scan, scanning
from segengine.planning.standing import kept
from segengine.planning.state import SceneState, Wanted, read_state
from segengine.planning.stored import StandIn
from segengine.planning.trained import mismatches
from segengine.progress import Progress, result_of
from segengine.registry import reader
from segengine.store.arrays import SceneArrays, scene_arrays
from segengine.store.keys import RELAYING, fit_key, pack_key
from segengine.store.kinds import FrameFailure
from segengine.store.layouts import Layout, Reads, load_layouts, load_outside, load_unplaced
from segengine.store.records import RecordLog, batches
from segengine.store.root import attributes_or_lost
from segengine.store.seals import SEALED, SealedObjects, named, scenes_called
from segengine.store.tombstones import Tombstones
from segengine.types import Place, Plugin, Segmenter, Unreadable
from segengine.worker.fits import Committed, read_committed
from segengine.worker.reading import Box, read_frames
from segengine.worker.sampled import is_sampled
from segengine.worker.still import first_needed
from segengine.worker.tasks import SegmenterSpec, ShardTask, retry_of

_LAID_OUT_BY: Mapping[str, Any] = {
    "kind": "auto", "bands": None, "color": None, "every": 1, "resolution": None, "crs": None,
    "assets": None, "mosaic": None, "window": None, "tissue": False,
}  # fmt: skip
"""Keys of `source` that change what a header is told to say, with their defaults."""


UNFINISHED = ("a prune of this store was not finished; run the same `segengine prune` again",)
_TOP = {
    "newest": "newest",
    "oldest": "oldest",
    "cloud": "least cloudy",
    "path": "first of source.paths",
}
"""Which scene of a map is on top, in words."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A committed fit as the driver knows it."""

    key: str
    digest: str
    about: Mapping[str, Any]


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


def _laid_out(key: str, value: Any) -> Any:
    """What of an option a layout depends on: not which scene of a map is on top."""
    return value is not None if key == "mosaic" else value


def source_json(job: Job) -> str:
    """The `source` block for workers: without the paths, which frames carry themselves, unless a file
    among them may name others."""
    options = marked_options(job)
    kind, paths = options.pop("kind"), options["paths"]
    if kind not in ("auto", "raster") or not any(map(_may_name_others, paths)):
        del options["paths"]
    options.pop("search", None)  # what it found is told by the frames as well
    return json.dumps(options)


def marked_options(job: Job) -> dict[str, Any]:
    """The `source` block as readers of this run take it: its area may not change under way."""
    mark = area_mark(job) if isinstance(job.source.area, str) else ""
    return {**job.source_options(), **({"area_mark": mark} if mark else {})}


def _may_name_others(path: str) -> bool:
    """True of a folder, a glob or a VRT, whose sources may lie among all of the job's paths."""
    return any(c in path for c in "*?[") or PurePosixPath(path).suffix.lower() in ("", ".vrt")


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
    require_area(job)
    old = attributes_or_lost(objects)
    whole = asked.whole_frames(job.plugin)
    cut = Cut(job.store.chunk, job.store.shard, job.store.frames, whole, job.source.every)
    previous = load_layouts(objects) if old is not None else {}
    _check_readers(job, previous)
    source = marked_options(job)
    old_source = (old or {}).get("job", {}).get("source", {})
    # Without root or seals nothing tells which options the layouts were made with.
    sealed = isinstance(objects, SealedObjects)
    same_source = old != {} and not (sealed and objects.unsealed) and objects.get(RELAYING) is None
    same_source &= all(
        _laid_out(k, old_source.get(k, d)) == _laid_out(k, source.get(k, d))
        for k, d in _LAID_OUT_BY.items()
    )
    if job.source.mosaic is not None:  # whose extent is the area's
        keys = (old or {}).get("fingerprints", {}).get("keys", {})
        same_source &= keys.get("source.area", "") == area_mark(job)
    # What a file named in vain may be among the paths now, or be trusted.
    same_reach = (old or {}).get("job", {}).get("trust", False) == job.trust and set(
        old_source.get("paths", ())
    ) == set(source["paths"])
    unplaced = load_unplaced(objects) if old and same_reach else ()
    outside = load_outside(objects) if old and same_reach else ()
    pruned = Tombstones.read(objects) if old is not None else None
    found = yield from scanning(source, previous, unplaced, cut, same_source, outside, pruned)
    check_follows(job, found.layouts)
    _check_layouts(job, found.layouts, whole)
    outputs = _outputs(job, found)
    _check_still(job, found.layouts)
    _check_followed(job, found.layouts, outputs)
    keys = mask_keys(job, outputs)
    keys = kept(keys, job.source.crs, old, previous, found.layouts)
    plan = _unread(job, objects, found, keys, digest(keys), outputs)
    plan.broken = repair
    scope = asked.scope(job.plugin)
    if scope in ("run", "scene") and not refit:
        _take_committed_fits(plan)
    log = RecordLog(objects)
    singles, packed = log.scenes()
    for batch in batches(plan.counts):

        def look(name: str) -> SceneState:
            return _state(plan, plan.layouts[name], log, name in singles, name in packed)

        plan.states |= zip(batch, requested(batch, look, objects.root), strict=True)
    plan.unrecorded = tuple(_unrecorded(plan)) if sealed else ()
    laid_out = sum(previous[scene].shards for scene in found.dropped if scene in previous)
    plan.redo = redone(plan, old, laid_out)
    unfinished = UNFINISHED if pruned is not None and not pruned.complete else ()
    plan.notices = (
        *unfinished,
        *_notices(plan, old),
        *mismatches(plan),
        *oddities(plan),
        *remarks(plan),
    )
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
        outputs = _outputs(job, found)
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


def _check_readers(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise UntrustedError where a scene in the store names code that reads it, and not the job's."""
    for layout in layouts.values():
        if is_code(layout.kind) and layout.kind != job.source.kind and not job.trust:
            raise UntrustedError(
                f"store.path: scene {layout.scene} is read by {layout.kind}, which {UNTRUSTED}; "
                "name it in source.kind, or write to a new store.path"
            )


def _outputs(job: Job, found: Scan) -> tuple[str, ...]:
    """What is stored: what the segmenter says it predicts, or what one probed window shows."""
    outputs = asked.outputs(job.plugin)
    if outputs is None and not asked.surveys(job.plugin):
        outputs = _probe_outputs(job, found, job.plugin)
    outputs = outputs or ("labels",)
    if job.segmenter.instances is not None:
        if "instances" in outputs or asked.links(job.plugin):
            raise JobError(
                f"segmenter.instances: {job.segmenter.kind} with these options finds its own "
                "objects, or links its labels; leave the key out"
            )
        asked.cleaning(job.segmenter.instances, job.plugin.classes)  # or a class is none
        outputs = (*outputs, "instances")
    unsure = "probabilities" not in outputs
    if job.store.probabilities and unsure:
        raise JobError(
            f"store.probabilities: {job.segmenter.kind} predicts no probabilities; leave the key out"
        )
    if job.store.confidence and unsure and "confidence" not in outputs:
        raise JobError(
            f"store.confidence: {job.segmenter.kind} predicts no probabilities, of which confidence is "
            "made; leave the key out"
        )
    optional = {"probabilities": job.store.probabilities, "confidence": job.store.confidence}
    kept = [o for o in outputs if o not in optional]
    return (*kept, *(name for name, wanted in optional.items() if wanted))


def _probe_outputs(job: Job, found: Scan, segmenter: Segmenter) -> tuple[str, ...] | None:
    for layout in found.layouts.values():
        ref = layout.frame(0)
        if ref.gone:
            continue
        side = 64 if segmenter.halo is not None else max(ref.height, ref.width)
        source = reader(layout.kind, job.source_options())
        rows, cols = slice(0, min(side, ref.height)), slice(0, min(side, ref.width))
        for _, tile in read_frames(source, (ref,), rows, cols):
            if isinstance(tile, Unreadable):
                break
            pad = [(0, -n % segmenter.stride) for n in tile.pixels.shape[:2]]
            pixels = np.pad(tile.pixels[None], [(0, 0), *pad, (0, 0)], mode="reflect")
            try:
                return asked.probed_outputs(segmenter.segment(pixels))
            except Exception as error:
                raise SegengineError(
                    f"segmenter.kind: {job.segmenter.kind} fails on a window of {ref.name}: "
                    f"{retry_of(error).reason}"
                ) from error
    return None


def _check_pixels(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise JobError for scenes that cannot be labelled; of a surveyor, where that is all of them: else
    those fail by name, and the rest goes on."""
    wrong: list[JobError] = []
    for layout in layouts.values():
        try:
            asked.check_pixels(job.plugin, layout.bands, layout.dtype)
        except ValueError as error:
            wrong.append(JobError(f"segmenter.{error} (scene {layout.scene})"))
    if wrong and (len(wrong) == len(layouts) or not asked.surveys(job.plugin)):
        raise wrong[0]


def _check_resolution(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise JobError for one that leaves nothing to see."""
    side = job.source.resolution
    if side is not None and layouts and all(la.shape[1:] == (1, 1) for la in layouts.values()):
        raise JobError(
            f"source.resolution: {side} makes one pixel of all that there is; a number is in units of the "
            "CRS, as degrees, and 10 m is metres"
        )


def _check_layouts(job: Job, layouts: Mapping[str, Layout], whole: bool) -> None:
    _check_pixels(job, layouts)
    _check_resolution(job, layouts)
    for layout in layouts.values() if whole else ():
        if layout.cut:
            raise JobError(
                f"segmenter.kind: {job.segmenter.kind} needs whole frames, and scene {layout.scene} "
                f"is stored in shards of {layout.shard[1]} pixels; write to a new store.path"
            )
        _, height, width = layout.shape
        size = height * width * (layout.bands * np.dtype(layout.dtype).itemsize + 64)
        limit = _worker_memory(job)
        if size > limit:
            raise SegengineError(
                f"scene {layout.scene}: {job.segmenter.kind} needs the whole frame of {height} x "
                f"{width} pixels in memory, about {size / 2**30:.1f} GiB, and a worker has "
                f"{limit / 2**30:.1f} GiB; use fewer workers or smaller scenes"
            )


def _check_still(job: Job, layouts: Mapping[str, Layout]) -> None:
    """Raise JobError where frames that do not move are to be skipped, and cannot be."""
    if job.still is None:
        return
    if layouts and all(layout.times is None for layout in layouts.values()):
        raise JobError("source.skip.still: source.paths has no video; leave the key out")
    if asked.is_by_name(job.plugin):
        raise JobError(
            f"source.skip.still: {job.segmenter.kind} with these options is asked for other objects in "
            "each frame, by its name: none keeps the mask of another; leave the key out"
        )
    if job.still and asked.scope(job.plugin) == "frame":
        raise JobError(
            f"source.skip.still: {job.segmenter.kind} with these options looks at each frame by "
            "itself: only 0 is possible"
        )


def _check_followed(job: Job, layouts: Mapping[str, Layout], outputs: tuple[str, ...]) -> None:
    """Raise JobError where objects are to be followed, and there are none, or nothing they go through."""
    found = list(layouts.values())
    for block, asked_for, through, missing in (
        ("tracks", job.tracks, [la.times is not None for la in found], "no video"),
        ("solids", job.solids, [la.slices is not None for la in found], "no volume"),
    ):
        if asked_for is None:
            continue
        if "instances" not in outputs:
            raise JobError(
                f"{block}: {job.segmenter.kind} finds no objects; set segmenter.instances: components, "
                "or leave the block out"
            )
        if found and not any(through):
            raise JobError(f"{block}: source.paths has {missing}; leave the block out")


def _worker_memory(job: Job) -> float:
    import psutil

    from segengine.cores import cores

    told = job.cluster.worker_bytes
    if told is not None:
        return float(told)
    return float(psutil.virtual_memory().total) / job.cluster.most(cores())


def _take_committed_fits(plan: Plan) -> None:
    """Fits of scope run or scene that this run goes on using."""
    groups = {plan.group(layout, 0): layout for layout in plan.layouts.values()}
    for group, layout in groups.items():
        fit = None if group is None else read_committed(plan.objects, fit_key(group))
        if group is None or fit is None or fit.about["job"] != plan.fingerprint:
            continue
        if asked.scope(plan.plugin) == "scene" and not _still_seen(fit.about, layout):
            continue
        take_fit(plan, group, fit)


def take_fit(plan: Plan, group: str, fit: Committed) -> None:
    """Note a fit that holds, or why what it holds cannot be read."""
    try:
        fit.segmenter(plan.plugin)
    except (ValueError, KeyError, TypeError) as error:
        plan.unread[group] = str(error)
    else:
        plan.fits[group] = Fit(fit_key(group), fit.about["digest"], fit.about)


def _still_seen(about: Mapping[str, Any], layout: Layout) -> bool:
    """True while any frame the scene's fit saw is unchanged."""
    seen = about["inputs"]
    if not layout.stacked:  # one file, whose frames have names of their own
        now = [layout.fingerprints[0]]
        if layout.mosaic is not None:
            now += [member.fingerprint for member in layout.mosaic.members]
        return bool(layout.gone[0]) or not set(now).isdisjoint(seen.values())
    return bool(layout.gone.all()) or any(
        seen.get(name) == fingerprint
        for name, fingerprint in zip(layout.names, layout.fingerprints, strict=True)
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


def _noted(plan: Plan) -> Iterator[str]:
    """What is odd about where volumes lie, each oddness once."""
    by_note: dict[str, list[str]] = {}
    for name, layout in plan.layouts.items():
        for note in layout.attributes.get("volume", {}).get("notes", ()):
            by_note.setdefault(note, []).append(name)
    for note, names in by_note.items():
        volumes = "1 volume has" if len(names) == 1 else f"{len(names)} volumes have"
        yield f"{volumes} {note} ({named(names)}): masks are in its slices as they are"


def _notices(plan: Plan, old: dict[str, Any] | None) -> Iterator[str]:
    stale = sum(s.stale for s in plan.states.values())
    retried = sum(s.retried for s in plan.states.values())
    if plan.unread and plan.pending:
        fits = "1 fit" if len(plan.unread) == 1 else f"{len(plan.unread)} fits"
        yield (
            f"{fits} cannot be read, and will be made again: {named(plan.unread)} "
            f"({min(plan.unread.values())})"
        )
    if stale:
        before = (old or {}).get("fingerprints", {})
        why = changes(before.get("keys", {}), plan.keys)
        if before.get("weights", "") != asked.weights(plan.plugin):
            why.append("the weights changed")
        reason = "; ".join(why) if why else "inputs or the fit changed"
        theirs = [name for name, state in plan.states.items() if state.stale]
        shards = f"{stale} of {plan.shards} shards are stale and will be done again"
        yield f"{shards}: {reason} ({scenes_called(theirs, aside=True)})"
    yield from lines(plan.redo)
    if plan.unrecorded:
        yield (
            f"the records of {len(plan.unrecorded)} scenes are lost, and their masks are computed "
            f"again: {named(plan.unrecorded)}"
        )
    if retried:
        yield f"{retried} shards failed in an earlier run and are tried once more"
    gone = sum(int((la.gone & ~la.pruned).sum()) for la in plan.layouts.values() if la.gone.any())
    if gone:
        inputs = "1 input has" if gone == 1 else f"{gone} inputs have"
        yield f"{inputs} vanished; the masks stay, marked gone"
    yield from _bands(plan)
    if plan.scan.pruned:
        inputs = "1 input was" if plan.scan.pruned == 1 else f"{plan.scan.pruned:,} inputs were"
        yield f"{inputs} pruned by name, and left out"
    held = sorted(plan.scan.held)
    if held:
        inputs = "1 input" if len(held) == 1 else f"{len(held):,} inputs"
        yield f"{inputs} cannot be looked at now: what is stored of them stays ({named(held)})"
    yield from costs(plan.plugin, plan.layouts)
    yield from _maps(plan)
    pointed = [name for name, layout in plan.layouts.items() if layout.placing.pointed]
    if pointed:
        scenes = "1 scene has" if len(pointed) == 1 else f"{len(pointed)} scenes have"
        yield (
            f"{scenes} ground control points or RPCs and no transform ({named(pointed)}): masks, areas "
            "and polygons are in the scene's own pixels; `gdalwarp` the scenes first, or the "
            "exported COGs, which keep the points"
        )
    for each in plan.scan.waiting:
        yield f"{each.name} waits for the next run: {each.reason}"
    yield from _noted(plan)
    if plan.scan.outside:
        inputs = "1 input lies" if plan.scan.outside == 1 else f"{plan.scan.outside:,} inputs lie"
        yield f"{inputs} outside source.area, without a place in the store"
    yield from plan.scan.notices
    skipped = plan.scan.skipped
    if skipped:
        from segengine.sources.listing import counted

        total = sum(skipped.values())
        files = "1 file is" if total == 1 else f"{total:,} files are"
        yield f"{files} skipped, which by their suffix are no input: {counted(skipped)}"


def _bands(plan: Plan) -> Iterator[str]:
    """Scenes of several files whose bands are not the same, where the job does not say which it means."""
    source = plan.job.source
    if source.bands is not None or getattr(source, "assets", None):
        return
    found = Counter(
        names
        for layout in plan.layouts.values()
        if len(layout.frame(0).parts) > 1
        and all(names := tuple(part.name for part in layout.frame(0).parts))
    )
    if len(found) > 1:
        told = "; ".join(
            f"{', '.join(names)} in {count:,}" for names, count in found.most_common(3)
        )
        key = "assets" if source.kind == "stac" else "bands"
        yield f"scenes have unlike bands ({told}); name those that are meant in source.{key}"


def _maps(plan: Plan) -> Iterator[str]:
    """What maps of many scenes are made of."""
    count = plan.scan.vanished
    if count:
        scenes = "1 scene has" if count == 1 else f"{count:,} scenes have"
        yield f"{scenes} vanished from a map: what it showed of them is made anew from the others, or void"
    from segengine.sources._grid import turn_of

    how = plan.job.source.mosaic
    for name, layout in plan.layouts.items():
        mosaic = layout.mosaic
        if mosaic is None or layout.gone[0]:
            continue
        count, (_, height, width) = len(mosaic.members), layout.shape
        scenes = "1 scene" if count == 1 else f"{count:,} scenes"
        yield f"{name}: {scenes} on one grid of {width:,} x {height:,} pixels, the {_TOP[how or '']} on top"
        turn = turn_of(layout.placing.wkt) if layout.placing.wkt else 0.0
        across = sum(member.width * abs(member.transform[0]) for member in mosaic.members)
        if turn and width * abs(mosaic.transform[0]) > turn / 2 > across:
            yield (
                f"{name}: its scenes lie on both sides of the date line, and it is all around the earth; "
                "set source.crs to one of their place, as a UTM zone's"
            )
        if how == "cloud" and all(member.clouds is None for member in mosaic.members):
            yield f"{name}: nothing tells the clouds of its scenes, which lie in the order of their names"
