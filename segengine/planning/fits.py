"""Committed fits that a run goes on using."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segengine import asked
from segengine.store.keys import fit_key
from segengine.store.layouts import Layout
from segengine.worker.fits import Committed, read_committed

if TYPE_CHECKING:
    from segengine.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Fit:
    """A committed fit as the driver knows it."""

    key: str
    digest: str
    about: Mapping[str, Any]


def take_committed_fits(plan: Plan) -> None:
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
