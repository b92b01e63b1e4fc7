"""The survey stage on the driver: batches of shards out, merged states in, fits committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from segengine import asked
from segengine.ahead import requested
from segengine.dispatch.pool import InProcess, Outcome, Pool, Work
from segengine.errors import SegengineError
from segengine.fingerprint import digest
from segengine.job import FaultsSpec
from segengine.planning.fits import Fit, take_fit
from segengine.planning.plan import Plan
from segengine.progress import Progress
from segengine.stages.budget import Budget
from segengine.stages.outcomes import outcomes
from segengine.store.keys import FITS, fit_key, surveys_folder
from segengine.store.kinds import FrameFailure
from segengine.store.layouts import Layout
from segengine.store.values import decode
from segengine.types import Place
from segengine.worker.fits import Committed, read_committed
from segengine.worker.survey import fit_states, survey_batch
from segengine.worker.tasks import FitTask, Fitted, Surveyed, SurveyTask

MOST_SHARDS = 32
"""Shards in a batch, at most: what is surveyed again after a kill."""


@dataclass(slots=True)
class _Group:
    """What one fit is made from."""

    name: str
    layouts: list[Layout] = field(default_factory=list)
    frame: int | None = None
    batches: list[SurveyTask] = field(default_factory=list)
    found: dict[str, Surveyed] = field(default_factory=dict)
    lost: bool = False
    """A batch of it was given up."""

    @property
    def is_surveyed(self) -> bool:
        """Whether nothing of it is left to survey."""
        return self.lost or len(self.found) == len(self.batches)


def survey(
    plan: Plan, pool: Pool, faults: FaultsSpec, budget: Budget | None = None
) -> Iterator[Progress]:
    """Survey and fit what has no committed fit; afterwards `plan.fits` is complete.

    Except where `budget` ends it before: `plan.unsurveyed` has what is left to a later run, which
    takes up what is surveyed.
    """
    budget = budget or Budget()
    groups = _groups(plan)
    if not groups:
        return
    _refuse_held(plan, groups)
    by_batch: dict[str, _Group] = {}
    shards = sum(
        layout.shards if group.frame is None else len(layout.frame_shards(group.frame))
        for group in groups
        for layout in group.layouts
    )
    size = max(1, min(MOST_SHARDS, shards // (pool.workers * 8)))
    for group in groups:
        group.batches = list(_batches(plan, group, size))
        _resume(plan, group)
        by_batch.update((b.key, group) for b in group.batches)
    total = sum(len(g.batches) for g in groups) + len(groups)
    done = sum(len(g.found) for g in groups)
    pixels = 0
    works = (
        Work(b.key, survey_batch, b) for g in groups for b in g.batches if b.key not in g.found
    )
    for outcome in budget.outcomes("survey", pool, works, faults):
        group = by_batch[outcome.work.key]
        done += 1
        if outcome.status == "done":
            found: Surveyed = outcome.value
            group.found[found.key] = found
            pixels += found.pixels
            _refuse_errors(plan, found)
        else:
            scene = outcome.work.task.shards[0].scene
            _lose(plan, group, outcome, f"survey: {outcome.status} in a batch of scene {scene}")
        yield Progress("survey", done, total, pixels=pixels)
    left = [group for group in groups if not group.is_surveyed or budget.is_over(pool.workers)]
    plan.unsurveyed = frozenset(group.name for group in left)
    groups = [group for group in groups if group.name not in plan.unsurveyed]
    # Workers write the fits: what lies there must not be taken for a damaged one meanwhile.
    plan.objects.open([fit_key(group.name) for group in groups])
    for outcome in _fit(plan, groups, pool, faults):
        done += 1
        yield Progress(
            "survey",
            done,
            total,
            pixels=pixels,
            message=f"fitted {outcome.work.key.removeprefix(fit_key(''))}",
        )
    for group in groups:
        plan.objects.adopt(fit_key(group.name))
    plan.objects.commit()
    for group in groups:
        plan.objects.delete_tree(surveys_folder(group.name))
    for scene in {layout.scene for g in groups for layout in g.layouts if g.frame is None}:
        plan.refresh(scene)


def _groups(plan: Plan) -> list[_Group]:
    """Fits that shards still to do are waiting for."""
    found: dict[str, _Group] = {}
    if asked.scope(plan.plugin) == "frame":
        _take_fits_of_frames(plan)
    for layout in plan.layouts.values():
        if asked.scope(plan.plugin) == "frame":
            for frame in sorted({place[0] for place in plan.pending_places(layout)}):
                name = plan.group(layout, frame)
                known = name is None or name in plan.fits
                if name is not None and not known and not layout.frame(frame).gone:
                    found[name] = _Group(name, [layout], frame)
        else:
            name = plan.group(layout, 0)
            if name is not None and name not in plan.fits and not layout.gone.all():
                found.setdefault(name, _Group(name)).layouts.append(layout)
    return [
        group
        for group in found.values()
        if group.frame is not None or any(plan.states[la.scene].todo.any() for la in group.layouts)
    ]


def _take_fits_of_frames(plan: Plan) -> None:
    """Fits that an earlier run made of just these frames, and ended before their shards were done."""
    there = set(plan.objects.children(FITS)[1])
    wanted = {
        name: layout.frame(frame)
        for layout in plan.layouts.values()
        if there and layout.cut
        for frame in sorted({place[0] for place in plan.pending_places(layout)})
        if (name := plan.group(layout, frame)) is not None and name in there
    }

    def look(name: str) -> Committed | None:
        return read_committed(plan.objects, fit_key(name))

    found = requested(list(wanted), look, plan.objects.root)
    for (name, ref), fit in zip(wanted.items(), found, strict=True):
        same = {"job": plan.fingerprint, "inputs": {ref.name: ref.fingerprint}}
        if fit is not None and all(fit.about[key] == value for key, value in same.items()):
            take_fit(plan, name, fit)


def _batches(plan: Plan, group: _Group, size: int) -> Iterator[SurveyTask]:
    """Shards in batches; a batch never mixes the frames of a scene whose frames are cut."""
    for layout in group.layouts:
        _, rows, columns = layout.grid
        rows_of_frames = range(layout.grid[0]) if group.frame is None else [group.frame]
        run: list[Place] = []
        for f in rows_of_frames:
            if layout.cut and layout.frame(f).gone:
                continue
            for place in layout.frame_shards(f):
                run.append(place)
                full = len(run) == size
                if full or (layout.cut and place[1:] == (rows - 1, columns - 1)):
                    yield _batch(plan, group, layout, run)
                    run = []
        if run:
            yield _batch(plan, group, layout, run)


def _batch(plan: Plan, group: _Group, layout: Layout, places: list[Place]) -> SurveyTask:
    tasks = tuple(plan.task(layout, place) for place in places)
    # Frames lost for want of a fit are the very ones that are surveyed here.
    tasks = tuple(replace(t, lost=()) for t in tasks)
    name = digest(
        [
            plan.fingerprint,
            layout.scene,
            places,
            [t.inputs for t in tasks],
            [[f.gone for f in t.frames] for t in tasks],
        ]
    )
    return SurveyTask(tasks, f"{surveys_folder(group.name)}/{name}")


def _resume(plan: Plan, group: _Group) -> None:
    """Take up the states an earlier run has committed."""
    there = set(plan.objects.keys(surveys_folder(group.name)))
    trusted = (type(plan.plugin).__module__.partition(".")[0],)
    for batch in group.batches:
        if batch.key in there:
            data = plan.objects.get(batch.key)
            try:
                state = None if data is None else decode(data, trusted)
            except ValueError:  # damaged: surveyed again
                continue
            if state is not None:
                found: Surveyed = state["found"]
                if not any(f.kind == "error" for _, f in found.failures):
                    group.found[batch.key] = found


def _refuse_held(plan: Plan, groups: Iterable[_Group]) -> None:
    """The same of one that cannot be looked at now."""
    reasons = {each.name: each.reason for each in plan.scan.unplaced}
    for layout in (la for group in groups if group.frame is None for la in group.layouts):
        mosaic = layout.mosaic
        names = layout.names if mosaic is None else [member.name for member in mosaic.members]
        for name in names:
            if name in plan.scan.held:
                raise SegengineError(
                    f"survey: {name}: {reasons.get(name, 'cannot be looked at now')}; the fit would "
                    "miss it: mend it or run again later"
                )


def _refuse_errors(plan: Plan, found: Surveyed) -> None:
    """A frame that may be readable tomorrow must not be left out of a fit that lasts."""
    if asked.scope(plan.plugin) == "frame":
        return
    for _, failure in found.failures:
        if failure.kind == "error":
            raise SegengineError(
                f"survey: {failure.reason}; the fit would miss it: mend it or run again later"
            )


def _lose(plan: Plan, group: _Group, outcome: Outcome, what: str) -> None:
    """Give a frame up that has no fit of its own; raise where the fit is of more than a frame."""
    if group.frame is None:
        raise SegengineError(
            f"{what}: {outcome.reason}; nothing is segmented without it: mend it or run again later"
        )
    group.lost = True
    layout = group.layouts[0]
    name = layout.frame_name(group.frame)
    plan.lost[layout.scene, group.frame] = FrameFailure(
        group.frame, outcome.status, f"{name}: {what.partition(':')[0]}: {outcome.reason}"
    )


def _fit(plan: Plan, groups: list[_Group], pool: Pool, faults: FaultsSpec) -> Iterator[Outcome]:
    works = [w for w in (_fit_work(plan, group) for group in groups) if w is not None]
    by_key = {fit_key(g.name): g for g in groups}
    # The run's fit is made here, so that all workers are free and its memory is the driver's.
    here = InProcess() if asked.scope(plan.plugin) == "run" else pool
    for outcome in outcomes(here, works, faults):
        task: FitTask = outcome.work.task
        group = by_key[task.key]
        if outcome.status != "done":
            _lose(plan, group, outcome, f"fit: {outcome.status} of {group.name}")
        else:
            fitted: Fitted = outcome.value
            if fitted.digest:
                plan.fits[group.name] = Fit(fitted.key, fitted.digest, task.about)
        yield outcome


def _fit_work(plan: Plan, group: _Group) -> Work | None:
    layouts = {layout.scene: layout for layout in group.layouts}
    bad = {
        (scene, failure.frame): failure
        for found in group.found.values()
        for scene, failure in found.failures
    }
    plan.lost.update(bad)
    if group.frame is not None and (group.layouts[0].scene, group.frame) in plan.lost:
        return None
    states, seen = [], {}
    for batch in group.batches:
        found = group.found[batch.key]
        shard = batch.shards[0]
        # All windows of a frame or none: what a fit saw must not depend on the cuts.
        if layouts[shard.scene].cut and (shard.scene, shard.place[0]) in bad:
            continue
        states.append(batch.key)
        for item in found.seen:
            scene, _, index = item.partition("\n")
            frame = layouts[scene].frame(int(index))
            seen[frame.name] = frame.fingerprint
            if frame.mosaic is not None:
                seen.update((each.name, each.fingerprint) for each in frame.mosaic.members)
    if not seen:
        return None
    about = {"job": plan.fingerprint, "inputs": seen}
    spec = plan.task(group.layouts[0], (0, 0, 0)).segmenter
    spec = replace(spec, fit="", digest="")
    key, writer = fit_key(group.name), plan.objects.writer
    task = FitTask(
        store=plan.objects.root,
        segmenter=spec,
        states=tuple(states),
        key=key,
        about=about,
        writer=writer,
    )
    return Work(task.key, fit_states, task)
