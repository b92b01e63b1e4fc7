"""Merged states to the figures of `metrics.json`.

overall          the confusion table's figures, and `NAME: {...}` for every other metric; one whose
                 only figure has its own name (kappa) is that figure
losses           `NAME: {...}`: `loss` (mean over frames or pixels), `pooled` (all pixels at once)
scenes.S         the same for a scene: its figures, and `losses`; no curves, tables or other lists
corrected        true where what was put right by hand is part of the truth, and
corrected_frames in how many frames
frames, worst    the worst frames by mean IoU; by each metric's and loss's own figure
unknown_labels   pixels of the truth that are no class, by frame and value
not_measured     what was asked for and why it does not apply

In the last two a loss that has a metric's name is `loss NAME`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np

from segengine import asked
from segengine.measuring.measures import Measure
from segengine.stages.aggregate import Measured, Measurer
from segengine.worker.measure import LARGEST

WORST = 1000
"""Frames listed by mean IoU, worst first."""
EACH = 12
"""Frames listed by every other figure."""
_TABLE = "confusion"


def text(name: str) -> str:
    """A name as a table holds it: bytes that are not UTF-8 are shown as backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def add_figures(document: dict[str, Any], measurer: Measurer, merged: Measured) -> None:
    """Write a run's figures into `metrics.json`'s document."""
    spec = measurer.spec
    document["losses"] = {}
    document["truth"] = measurer.shown
    if measurer.corrected:
        document |= {"corrected": True, "corrected_frames": measurer.corrected_frames}
    for measure in spec.measures:
        matching = _matching(measure, merged)
        figures = _compute(measure, merged.overall[measure.fold], matching)
        if measure.asked.name == _TABLE and measure.asked.group == "metrics":
            document["confusion"] = figures["confusion"]
            document["matching"] = figures["matching"]
        put_figures(document, measure, figures)
        for scene, states in merged.scenes.items():
            own = document["scenes"].setdefault(scene, {})
            put_figures(own, measure, _lean(_compute(measure, states[measure.fold], matching)))
    document["frames"] = _frame_rows(measurer, merged)
    document["worst"] = _worst(measurer, merged)
    document["missing_truth"] = [
        {"scene": scene, "frame": frame, "name": _name(measurer, scene, frame), "reason": text(why)}
        for scene, frame, why in merged.missing
    ]
    document["unknown_labels"] = _unknown_rows(measurer, merged)
    document["not_measured"] = {one.key: why for one, why in spec.unmet}
    if measurer.too_large:
        named = ", ".join(_name(measurer, *place) for place in measurer.too_large[:EACH])
        count = len(measurer.too_large)
        for measure in spec.measures:
            if spec.folds[measure.fold].kind(cut=True) == "frame":
                document["not_measured"][measure.asked.key] = (
                    f"needs whole frames, and {count} are above {LARGEST:,} pixels: {named}"
                )


def _unknown_rows(measurer: Measurer, merged: Measured) -> list[dict[str, Any]]:
    """A row a frame and value of its truth that is no class, the worst frame first.

    Beyond `WORST` frames one row a frame, without value: labels of 10,000 frames that are all
    blurred would be the whole document.
    """
    frames = []
    for scene, frame, unknown, size in merged.unknown:
        ref = measurer.layouts[scene].frame(frame)
        frames.append((sum(unknown.values()) / size, scene, ref, unknown, size))
    frames.sort(key=lambda row: (-row[0], row[1], row[2].index))
    rows = []
    for i, (_, scene, ref, unknown, size) in enumerate(frames):
        values = unknown if i < WORST else {None: sum(unknown.values())}
        rows += [
            {
                "scene": scene,
                "frame": ref.index,
                "name": text(ref.name),
                "value": value,
                "pixels": count,
                "share": count / size,
            }
            for value, count in sorted(values.items(), key=lambda item: -item[1])
        ]
    return rows


def _name(measurer: Measurer, scene: str, frame: int) -> str:
    return text(measurer.layouts[scene].frame_name(frame))


def _matching(measure: Measure, merged: Measured) -> Any:
    """How the run's labels are matched to classes: its scenes and frames are scored alike."""
    return asked.matching(measure.metric, merged.overall[measure.fold])


def _compute(measure: Measure, state: Any, matching: Any) -> dict[str, Any]:
    return asked.figures(measure.metric, state, matching)


def _lean(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures without the lists among them: of 10,000 scenes they would be the whole document."""
    return {
        key: _lean(value) if isinstance(value, Mapping) else value
        for key, value in figures.items()
        if not isinstance(value, list)
    }


def put_figures(place: dict[str, Any], measure: Measure, figures: Mapping[str, Any]) -> None:
    """Figures of the confusion table, and metrics of one figure, lie flat; others under their name."""
    if measure.asked.group == "losses":
        place.setdefault("losses", {})[measure.asked.label] = dict(figures)
        return
    flat = place.get("overall", place)
    label = measure.asked.label
    if measure.asked.name == _TABLE:
        flat |= {k: v for k, v in figures.items() if k not in ("confusion", "matching")}
    else:
        # `kappa` beside the table's own `kappa` is the same figure in the same place
        flat[label] = figures[label] if list(figures) == [label] else dict(figures)


def _frame_rows(measurer: Measurer, merged: Measured) -> list[dict[str, Any]]:
    """Frames with their accuracy and mean IoU, the worst first."""
    table = next((m for m in measurer.spec.measures if m.asked.name == _TABLE), None)
    if table is None:
        return []
    scored = [(s, f, states[table.fold]) for s, f, states in merged.frames]
    scored = [row for row in scored if row[2] is not None]
    if not scored:
        return []
    states = np.stack([state for _, _, state in scored])
    confusion: Any = table.metric
    accuracy, iou = confusion.scores(states, confusion.match(merged.overall[table.fold]))
    order = np.argsort(np.where(np.isnan(iou), np.inf, iou), kind="stable")[:WORST]
    return [
        {
            "scene": scored[k][0],
            "frame": scored[k][1],
            "name": _name(measurer, scored[k][0], scored[k][1]),
            "accuracy": float(accuracy[k]),
            "iou": float(iou[k]),
        }
        for k in order
    ]


def _worst(measurer: Measurer, merged: Measured) -> dict[str, list[dict[str, Any]]]:
    """The worst frames by each measure's headline figure."""
    found: dict[str, list[dict[str, Any]]] = {}
    for measure in measurer.spec.measures:
        if measure.asked.name == _TABLE or not asked.per_frame(measure.metric):
            continue
        matching = _matching(measure, merged)
        rows: list[tuple[float, str, int]] = []
        for scene, frame, states in merged.frames:
            if states[measure.fold] is None:
                continue
            value = headline(measure, _compute(measure, states[measure.fold], matching))
            if value is not None:
                rows.append((value, scene, frame))
        best = heapq.nlargest if lower_is_better(measure) else heapq.nsmallest
        found[measure.asked.key] = [
            {"scene": scene, "frame": frame, "name": _name(measurer, scene, frame), "value": value}
            for value, scene, frame in best(EACH, rows)
        ]
    return {label: rows for label, rows in found.items() if rows}


def lines(document: Mapping[str, Any]) -> list[str]:
    """The figures of `metrics.json` as text: one a line, those of a class in one."""
    overall, losses = document.get("overall", {}), document.get("losses", {})
    found = [_line(name, value) for name, value in overall.items() if isinstance(value, float)]
    found += _of_classes(overall)
    for name, figures in overall.items():
        if name != "classes" and isinstance(figures, Mapping) and not _is_part(figures, overall):
            found += _named(name, figures)
    for name, figures in losses.items():
        found += _singles(f"loss {name}", figures)
    return found


def unknown_labels(document: Mapping[str, Any]) -> list[str]:
    """Frames whose truth holds values that are no class: a line each, its share and its values."""
    frames: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in document.get("unknown_labels", []):
        frames.setdefault((row["scene"], row["frame"]), []).append(row)
    if not frames:
        return []
    found = ["label pixels that are no class, and are not scored:"]
    for rows in list(frames.values())[:EACH]:
        share = sum(row["share"] for row in rows)
        named = ", ".join(f"{row['value']} ({row['share']:.2%})" for row in rows[:EACH])
        more = f" and {len(rows) - EACH} more" if len(rows) > EACH else ""
        found.append(f"  {rows[0]['name']}: {share:.2%}: values {named}{more}")
    if len(frames) > EACH:
        found.append(f"  and {len(frames) - EACH:,} more frames; metrics.json names them all")
    return found


def unmeasured(document: Mapping[str, Any]) -> list[str]:
    """What was asked for and does not apply: a line a reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in document.get("not_measured", {}).items():
        reasons.setdefault(reason, []).append(name)
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not measured: {reason}"
        for reason, names in reasons.items()
    ]


def _named(name: str, figures: Mapping[str, Any]) -> list[str]:
    """Lines of one metric, and of its classes."""
    classes = _of_classes(figures)
    return (_singles(name, figures) or [f"{name}:"] * bool(classes)) + classes


def _singles(name: str, figures: Mapping[str, Any]) -> list[str]:
    return [_line(f"{name}: {k}", v) for k, v in figures.items() if isinstance(v, float)]


def _line(name: str, value: float) -> str:
    return f"{name:40} {value:.6f}"


def _of_classes(figures: Mapping[str, Any]) -> list[str]:
    rows = figures.get("classes", {})
    shown = {
        name: ", ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))
        for name, row in rows.items()
        if isinstance(row, Mapping)
    }
    return [f"  {name}: {row}" for name, row in shown.items() if row]


def _is_part(figures: Mapping[str, Any], overall: Mapping[str, Any]) -> bool:
    """True for a view of the confusion table where the table itself is shown."""
    single = [k for k, v in figures.items() if not isinstance(v, Mapping)]
    return bool(single) and all(k in overall and overall[k] == figures[k] for k in single)


def headline(measure: Measure, figures: Mapping[str, Any]) -> float | None:
    """The one figure that stands for all: the metric's own choice, else the first there is."""
    chosen = asked.headline(measure.metric)
    if chosen is not None:
        value = figures.get(chosen)
        return value if isinstance(value, float) else None
    return next((v for v in figures.values() if isinstance(v, float)), None)


def lower_is_better(measure: Measure) -> bool:
    """True for losses, distances and errors."""
    return measure.asked.group == "losses" or asked.lower_is_better(measure.metric)
