"""What the report says of metrics beside the confusion table, and of losses, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CURVES = 24
"""Classes whose curve is drawn, those with the least average precision first."""
SIDE = 160
"""Of a curve's box, in the units of its SVG."""
ROWS = 200
"""Classes listed of a metric."""
_CURVE = {"recall", "precision", "average_precision", "best_f1", "best_threshold"}
_BIN = {"confidence", "accuracy", "pixels"}


def measures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Tables, losses, curves, worst frames, and what was asked for in vain."""
    overall = metrics.get("overall") or {}
    flat = {key: value for key, value in overall.items() if _is_figure(value)}
    tables: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    reliability = []
    for label, figures in overall.items():
        if label == "classes" or not isinstance(figures, dict):
            continue
        if not _is_view(figures, flat) or not metrics.get("confusion"):
            tables += _tables(label, figures)
        if _is_curves(figures):
            curves.append({"name": label, "curves": _curves(figures["classes"])})
        if _is_reliability(figures):
            reliability.append({"name": label, **_reliability(figures)})
    if flat and not metrics.get("confusion"):
        tables.insert(0, {"name": "all pixels", "figures": flat, "columns": [], "rows": []})
    return {
        "tables": tables,
        "losses": metrics.get("losses") or {},
        "curves": [one for one in curves if one["curves"]],
        "reliability": [one for one in reliability if one["bins"]],
        "worst": metrics.get("worst") or {},
        "not_measured": metrics.get("not_measured") or {},
    }


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_view(figures: Mapping[str, Any], flat: Mapping[str, Any]) -> bool:
    """True for figures that the confusion table shows already."""
    own = {key: value for key, value in figures.items() if key != "classes"}
    return bool(own) and all(key in flat and flat[key] == value for key, value in own.items())


def _is_curves(figures: Mapping[str, Any]) -> bool:
    """True for precisions and recalls of each class; another metric may have thresholds too."""
    classes = figures.get("classes")
    return (
        isinstance(figures.get("thresholds"), list)
        and isinstance(classes, dict)
        and all(isinstance(one, dict) and one.keys() >= _CURVE for one in classes.values())
    )


def _is_reliability(figures: Mapping[str, Any]) -> bool:
    bins = figures.get("bins")
    return (
        "ece" in figures
        and isinstance(bins, list)
        and all(isinstance(one, dict) and one.keys() >= _BIN for one in bins)
    )


def _tables(name: str, figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A table of a metric, and one of each kind or tolerance that it tells apart."""
    single = {key: value for key, value in figures.items() if _is_figure(value)}
    classes = {k: v for k, v in (figures.get("classes") or {}).items() if isinstance(v, dict)}
    inner = [(k, v) for k, v in figures.items() if k != "classes" and isinstance(v, dict)]
    first: dict[str, Any] = next(iter(classes.values()), {})
    columns = [key for key, value in first.items() if _is_figure(value)]
    if single and (classes or not inner):
        rows = [
            {"name": k, "bar": _share(v.get(columns[0])), "values": [v.get(c) for c in columns]}
            for k, v in list(classes.items())[:ROWS]
            if columns
        ]
        yield {"name": name, "figures": single, "columns": columns, "rows": rows}
    yield from _listed(name, figures)
    for key, more in inner:
        # the table of `regions` and other columns of numbers are no figures
        if not all(isinstance(value, list) for value in more.values()):
            yield from _tables(name if key == "tolerances" else f"{name} {key}", more)


def _listed(name: str, figures: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A table of each list of rows of figures, as of a matching at its thresholds."""
    for listed in figures.values():
        if not (isinstance(listed, list) and listed and all(isinstance(r, dict) for r in listed)):
            continue
        first, *columns = [key for key, value in listed[0].items() if _is_figure(value)] or [""]
        if columns and not _is_reliability(figures):
            rows = [
                {
                    "name": f"{first} {r.get(first)}",
                    "bar": None,
                    "values": [r.get(c) for c in columns],
                }
                for r in listed[:ROWS]
            ]
            yield {"name": name, "figures": {}, "columns": columns, "rows": rows}


def _share(value: Any) -> float | None:
    """Length of a bar; None where the figure is no share."""
    return value if isinstance(value, float) and 0 <= value <= 1 else None


def _reliability(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy over confidence, a bin a point as large as its share; both in a box of SIDE."""
    bins = [one for one in figures["bins"] if one["pixels"]]
    most = max((one["pixels"] for one in bins), default=1)
    points = [
        {
            "x": round(one["confidence"] * SIDE, 1),
            "y": round((1 - one["accuracy"]) * SIDE, 1),
            "r": round(1.5 + 3.5 * (one["pixels"] / most) ** 0.5, 1),
            **one,
        }
        for one in bins
    ]
    line = " L".join(f"{one['x']},{one['y']}" for one in points)
    kinds = ("ece", "mce", "brier", "label_brier")
    return {"bins": points, "path": f"M{line}", **{kind: figures.get(kind) for kind in kinds}}


def _curves(classes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Precision over recall of each class as a path."""
    found = []
    for name, figures in classes.items():
        points = [
            f"{recall * SIDE:.1f},{(1 - precision) * SIDE:.1f}"
            for recall, precision in zip(figures["recall"], figures["precision"], strict=True)
            if recall is not None and precision is not None
        ]
        if points:
            found.append(
                {
                    "name": name,
                    "path": f"M{' L'.join(points)}",
                    "ap": figures["average_precision"],
                    "f1": figures["best_f1"],
                    "threshold": figures["best_threshold"],
                }
            )
    return sorted(found, key=lambda one: one["ap"] or 0.0)[:CURVES]
