"""What a model says of the images that it learned from, beside those that the job reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from segengine import asked
from segengine.networks.scale import Scale
from segengine.sources._grid import Grid, side_in_metres
from segengine.store.layouts import Layout
from segengine.store.seals import scenes_called

if TYPE_CHECKING:
    from segengine.planning.plan import Plan
    from segengine.types import Trained

_ALIKE = 0.01
"""By how much sides of pixels may differ and be told as one."""


def mismatches(plan: Plan) -> Iterator[str]:
    """A line for each way in which the job reads other images than its model learned from."""
    trained = asked.trained(plan.plugin)
    if trained is not None:
        for doubt in trained.doubts:
            yield f"the model says {doubt} ({trained.by}), which is not used: set it in the job"
        yield from _resolution(trained, plan.layouts)
        yield from _bands(trained, plan)
        yield from _scale(trained, plan)


def _resolution(trained: Trained, layouts: dict[str, Layout]) -> Iterator[str]:
    wanted = trained.resolution
    if not wanted:
        return
    others: dict[float, list[str]] = {}
    unknown: list[str] = []
    for name, layout in layouts.items():
        if layout.gone.all():
            continue
        side = side_of(layout)
        if side is None:
            unknown.append(name)
        elif abs(side / wanted - 1) > _ALIKE:
            others.setdefault(float(f"{side:.3g}"), []).append(name)
    said = f"the model was trained at {wanted:g} m a pixel ({trained.by})"
    for side, scenes in sorted(others.items()):
        yield f"{said}; the job reads {side:g} m: {scenes_called(scenes)}"
    if unknown:
        yield f"{said}; nothing tells metres, and pixels are read as they are: {scenes_called(unknown)}"


def side_of(layout: Layout) -> float | None:
    """Metres a pixel of a scene; None: nothing tells."""
    placing = layout.placing
    if not placing.georeferenced:
        return None
    a, b, c, d, e, f = map(float, placing.transform)
    return side_in_metres(Grid(*layout.shape[1:], (a, b, c, d, e, f), placing.wkt))


def _bands(trained: Trained, plan: Plan) -> Iterator[str]:
    source = plan.job.source
    read = getattr(source, "assets", None) or source.bands
    if not read or not trained.bands or not all(isinstance(name, str) for name in read):
        return
    if tuple(read) not in (trained.bands, trained.common):
        names = ", ".join(trained.bands[:12])
        yield (
            f"the model was trained on the bands {names} ({trained.by}); the job reads "
            f"{', '.join(map(str, read[:12]))}"
        )


def _scale(trained: Trained, plan: Plan) -> Iterator[str]:
    given: Any = plan.job.segmenter.options.get("scale")
    if given is None or (trained.scale is None and not trained.unscaled):
        return
    if trained.scale is None or Scale.of(given) != Scale.of(trained.scale):
        told = trained.unscaled or f"scales values by {_shown(trained.scale)}"
        who = f"the model ({trained.by})" if not trained.unscaled else trained.by
        yield f"{who} {told}; the job scales them by {_shown(given)}"


def _shown(scale: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in dict(scale).items())[:300]
