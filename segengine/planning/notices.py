"""What a plan tells whoever runs it: what is done again, left out or odd, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from segengine import asked
from segengine.fingerprint import changes
from segengine.measuring.paths import absent
from segengine.planning.followed import costs, outside
from segengine.planning.places import oddities
from segengine.planning.redo import lines
from segengine.planning.remarks import remarks
from segengine.planning.trained import mismatches
from segengine.store.seals import named, scenes_called

if TYPE_CHECKING:
    from segengine.planning.plan import Plan

UNFINISHED = "a prune of this store was not finished; run the same `segengine prune` again"
_TOP = {
    "newest": "newest",
    "oldest": "oldest",
    "cloud": "least cloudy",
    "path": "first of source.paths",
}
"""Which scene of a map is on top, in words."""


def notices(plan: Plan, old: dict[str, Any] | None, *, unfinished: bool) -> Iterator[str]:
    """A line each; `old`: the root's attributes before, `unfinished`: a prune was."""
    if unfinished:
        yield UNFINISHED
    yield from _left_to_do(plan, old)
    yield from mismatches(plan)
    yield from oddities(plan)
    yield from remarks(plan)


def _left_to_do(plan: Plan, old: dict[str, Any] | None) -> Iterator[str]:
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
    yield from outside(plan.job, plan.layouts)
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
    yield from broken_off(plan)
    yield from _truth(plan)
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


def _noted(plan: Plan) -> Iterator[str]:
    """What is odd about where volumes lie, each oddness once."""
    by_note: dict[str, list[str]] = {}
    for name, layout in plan.layouts.items():
        for note in layout.attributes.get("volume", {}).get("notes", ()):
            by_note.setdefault(note, []).append(name)
    for note, names in by_note.items():
        volumes = "1 volume has" if len(names) == 1 else f"{len(names)} volumes have"
        yield f"{volumes} {note} ({named(names)}): masks are in its slices as they are"


def broken_off(plan: Plan) -> Iterator[str]:
    """Videos that break off: what is there is whole, and a header need not be right."""
    for name, layout in plan.layouts.items():
        cut = layout.attributes.get("cut")
        if cut and not layout.gone.all():
            yield f"{name}: {_where_cut(cut)}"


def _where_cut(cut: dict[str, Any]) -> str:
    if "said" in cut:
        return f"ends after {cut['ends']:.1f} s of the {cut['said']:.1f} s that its header says"
    if "of" in cut:
        lost = (
            f", and {cut['lost']:,} of {cut['frames']:,} frames are lost" if "lost" in cut else ""
        )
        return (
            f"breaks off: its file has {cut['bytes']:,} bytes of the {cut['of']:,} that it says{lost}; "
            "what would follow has no mask"
        )
    return f"breaks off inside a {cut['inside']}: what would follow has no mask"


def _truth(plan: Plan) -> Iterator[str]:
    """Truth that the job names and that no frame can have."""
    if plan.job.truth is not None:
        for key, wrong in absent(plan.job.truth).items():
            what = "objects of no frame are" if key == "instances" else "no frame is"
            yield f"truth.{key}: {wrong}; {what} scored"


def _bands(plan: Plan) -> Iterator[str]:
    """Scenes of several files whose bands are not the same, where the job does not say which it means."""
    source = plan.job.source
    if source.bands is not None or getattr(source, "assets", None):
        return
    found = Counter(
        names
        for layout in plan.layouts.values()
        if "volume" not in layout.attributes  # its parts are slices
        and len(layout.frame(0).parts) > 1
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
