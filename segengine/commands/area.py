"""Areas of a map's classes and its accuracy, from reference points that were drawn from each class.

A map adds up its own errors; a stratified sample tells how large they are, and areas without them, with
intervals. The estimators are those of `segengine.areas.olofsson`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from segengine.areas.features import read_geojson
from segengine.areas.olofsson import Estimate, Z, estimate
from segengine.areas.points import Point, distinct, points_of
from segengine.areas.sited import Sites, unlike
from segengine.areas.strata import Strata, left_out
from segengine.errors import JobError
from segengine.outputs import claimed
from segengine.reader import Store, open_store
from segengine.report.areas import areas_page
from segengine.sources._files import is_url
from segengine.urls import public

SHOWN = 60
"""Points that the map calls otherwise, shown on the page."""


@dataclass(frozen=True, slots=True)
class AreaReport:
    """What reference points say of a map."""

    store: str
    classes: Mapping[str, Mapping[str, float | None]]
    overall: Mapping[str, float]
    confusion: Mapping[str, Mapping[str, int]]
    """Points by class of the map, then of the reference."""
    mapped: Mapping[str, float]
    """Square metres of each class on the map."""
    points: int
    """That have a label."""
    unlabelled: int
    page: str
    notices: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Always 0."""
        return 0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints; None where a sample says nothing."""
        return {
            "store": self.store,
            "classes": {name: dict(one) for name, one in self.classes.items()},
            "overall": dict(self.overall),
            "confusion": {name: dict(row) for name, row in self.confusion.items()},
            "mapped": dict(self.mapped),
            "points": self.points,
            "unlabelled": self.unlabelled,
            "page": self.page,
            "notices": list(self.notices),
        }

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal: ± are of 95 % intervals, areas in square kilometres."""
        accuracy, se = self.overall["accuracy"], self.overall["se"]
        width = max(5, *map(len, self.classes))
        found = [f"{self.points:,} points; overall accuracy {accuracy:.2%} ± {Z * se:.2%}"]
        found.append(
            f"{'class':{width}} {'km2':>14} {'±':>11} {'on the map':>14} {'user':>7} {'±':>6} "
            f"{'producer':>9} {'±':>6}"
        )
        for name, one in self.classes.items():
            area, error = one["area"] or 0.0, one["se"] or 0.0
            found.append(
                f"{name:{width}} {area / 1e6:14,.4f} {Z * error / 1e6:11,.4f} "
                f"{self.mapped[name] / 1e6:14,.4f} {_share(one['users']):>7} "
                f"{_share(one['users_se'], Z):>6} {_share(one['producers']):>9} "
                f"{_share(one['producers_se'], Z):>6}"
            )
        return (*found, *self.notices, f"page: {self.page}")


def _share(value: float | None, times: float = 1.0) -> str:
    return "-" if value is None else f"{value * times:.3f}"


def area(
    store_path: str, points: str, *, page: str | None = None, overwrite: bool = False
) -> AreaReport:
    """Estimate areas and accuracy from a GeoJSON of labelled points, and write a page beside it.

    `points`: features with the properties `stratum` and `label`, both names of classes; those whose
    label is null or empty are left out, and a place that is there several times counts once. `page`:
    another place for it. `overwrite`: also a file that no command wrote. Raises JobError, StoreError.
    """
    store = open_store(store_path)
    path = Path(page if page is not None else _beside(points))
    document, features = read_geojson(points)
    points = public(points)
    every = list(points_of(points, features, store.classes))
    if all(point.label is None for point in every):
        raise JobError(f"{points}: no point has a label yet; fill in the property `label`")
    strata = Strata.of(store)
    sites = Sites.of(every, strata, document)
    found = distinct(points, every, store.classes, sites.pixels)
    labelled = [point for point in found if point.label is not None]
    empty = len(features) - len(every)
    mapped = np.array(strata.areas)
    again = len(every) - len(found)
    unlabelled = len(found) - len(labelled) + empty
    notices = list(_notices(strata, again, unlabelled, len(labelled)))
    drawn = _drawn(points, document, store.classes)
    changed = drawn is not None and not np.allclose(drawn, mapped, rtol=1e-9)
    if drawn is not None and changed:
        notices.append(
            "the map has changed since the points were drawn; this is of the map as it was"
        )
        mapped = drawn
    notices += _misplaced(points, store, found, every, sites, changed=changed)
    counts = np.zeros((len(store.classes),) * 2, np.int64)
    for point in labelled:
        counts[point.stratum, point.label] += 1
    _check(points, store, counts, mapped)
    if path.suffix.lower() not in (".html", ".htm"):
        raise JobError(f"--page: {path} ends in neither .html nor .htm")
    output = claimed(store, os.fspath(path.parent), [path], overwrite=overwrite)
    report = _report(
        store,
        estimate(counts, mapped),
        counts,
        mapped,
        len(found) + empty,
        os.fspath(path),
        notices,
    )
    with output.replacing(path) as partial:
        partial.write_text(_page(report, store, labelled, points, path), encoding="utf-8")
    output.close()
    return report


# -------------------------------------------------------------------------------------------- points


def _beside(points: str) -> Path:
    """The page of points: beside them, or of a URL in the working directory."""
    local = points.removeprefix("file://")
    if not is_url(local):
        return Path(local).with_suffix(".html")
    name = Path(unquote(public(points).rpartition("/")[2])).name
    if "\0" in name or not Path(name).stem.strip("."):
        raise JobError(f"{public(points)}: names no file; say where the page goes with --page FILE")
    return Path(name).with_suffix(".html")


def _drawn(
    path: str, document: Mapping[str, Any], classes: Sequence[str]
) -> NDArray[np.float64] | None:
    """Areas of the map as `sample` wrote them beside the points; None: nothing is written."""
    about = document.get("segengine")
    if not isinstance(about, dict) or not isinstance(about.get("areas"), dict):
        return None
    areas = about["areas"]
    values = [areas.get(name) for name in classes]
    if set(areas) != set(classes) or not all(
        isinstance(v, int | float) and math.isfinite(v) and v >= 0 for v in values
    ):
        raise JobError(f"{path}: its member `segengine.areas` is not of the classes of this store")
    return np.array(values, np.float64)


def _misplaced(
    path: str,
    store: Store,
    found: Sequence[Point],
    every: Sequence[Point],
    sites: Sites,
    *,
    changed: bool,
) -> Iterator[str]:
    """What of the points is not as the map has it; JobError where they cannot have been drawn from it."""
    if sites.away:
        (point, why), count = sites.away[0], len(sites.away)
        more = f" (and {count - 1:,} more such points)" if count > 1 else ""
        if not changed:
            raise JobError(
                f"{path}: point {point.number} is not of this map: {why}{more}; name the store that the "
                "points were drawn from"
            )
        yield f"point {point.number} is not on the map as it is: {why}{more}"
    pixels = {point.number: own for point, own in zip(every, sites.pixels, strict=True)}
    other = unlike(store, found, pixels)
    if other:
        point, label = other[0]
        there = repr(store.classes[label]) if label < len(store.classes) else "nothing"
        count = len(other)
        what = "1 point is" if count == 1 else f"{count:,} points are"
        first = ":" if count == 1 else ", the first"
        yield (
            f"{what} of another stratum than the map has there{first} point {point.number}, of "
            f"{store.classes[point.stratum]!r} where the map has {there}; are they of another map, or "
            "were lines mixed up?"
        )


def _notices(strata: Strata, again: int, unlabelled: int, labelled: int) -> Iterator[str]:
    if again:
        yield (
            f"{again:,} {'points are' if again > 1 else 'point is'} there again, at the same place with "
            "the same label: each place counts once"
        )
    if unlabelled:
        yield (
            f"{unlabelled:,} points have no label yet: this is of the other {labelled:,}, as if they "
            "were a sample themselves"
        )
    if strata.unplaced:
        yield left_out(strata.unplaced)
    if strata.unfinished:
        yield f"{strata.unfinished:,} shards are not done: no part of the map"


def _check(path: str, store: Store, counts: NDArray[np.int64], areas: NDArray[np.float64]) -> None:
    total = areas.sum()
    for name, row, size in zip(
        store.classes, counts.sum(axis=1).tolist(), areas.tolist(), strict=True
    ):
        if size > 0 and row < 2:
            raise JobError(
                f"{path}: {row} labelled point{'s' if row != 1 else ''} in the stratum {name!r}, which is "
                f"{size / total:.2%} of the map; two are needed"
            )
        if not size and row:
            raise JobError(
                f"{path}: {row} points in the stratum {name!r}, of which the map has nothing; they are "
                "of another map"
            )


# -------------------------------------------------------------------------------------------- report


def _report(
    store: Store,
    found: Estimate,
    counts: NDArray[np.int64],
    mapped: NDArray[np.float64],
    points: int,
    page: str,
    notices: Sequence[str],
) -> AreaReport:
    total = float(mapped.sum())
    classes = {}
    for i, name in enumerate(store.classes):
        own, error = total * float(found.shares[i]), total * float(found.shares_se[i])
        classes[name] = {
            "share": float(found.shares[i]),
            "area": own,
            "se": error,
            "low": own - Z * error,
            "high": own + Z * error,
            "users": _known(found.users[i]),
            "producers": _known(found.producers[i]),
            "users_se": _known(found.users_se[i]),
            "producers_se": _known(found.producers_se[i]),
        }
    labelled = int(counts.sum())
    return AreaReport(
        store=store.path,
        classes=classes,
        overall={"accuracy": found.accuracy, "se": found.accuracy_se},
        confusion={
            name: dict(zip(store.classes, row, strict=True))
            for name, row in zip(store.classes, counts.tolist(), strict=True)
        },
        mapped=dict(zip(store.classes, mapped.tolist(), strict=True)),
        points=labelled,
        unlabelled=points - labelled,
        page=page,
        notices=tuple(notices),
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _page(
    report: AreaReport, store: Store, labelled: Sequence[Point], points: str, path: Path
) -> str:
    names = list(store.classes)
    total = sum(report.mapped.values())
    largest = max(
        max(one["high"] or 0.0 for one in report.classes.values()), *report.mapped.values()
    )
    rows = []
    for i, name in enumerate(names):
        one, own = report.classes[name], report.confusion[name]
        drawn = sum(own.values())
        low, high = max(0.0, one["low"] or 0.0), one["high"] or 0.0
        rows.append(
            {
                **one,
                "name": name,
                "color": store.attributes["colors"][i],
                "mapped": report.mapped[name],
                "half": Z * (one["se"] or 0.0),
                "left": round(100 * low / largest, 2),
                "wide": round(100 * (high - low) / largest, 2),
                "middle": round(100 * (one["area"] or 0.0) / largest, 2),
                "mark": round(100 * report.mapped[name] / largest, 2),
                "points": drawn,
                "users_half": _times(one["users_se"]),
                "producers_half": _times(one["producers_se"]),
                "cells": [
                    {
                        "count": count,
                        "within": count / drawn if drawn else 0.0,
                        "share": report.mapped[name] / total * count / drawn if drawn else 0.0,
                        "right": other == name,
                    }
                    for other, count in own.items()
                ],
            }
        )
    wrong = [point for point in labelled if point.label != point.stratum]
    beside = os.path.realpath(path.parent) == os.path.realpath(Path(points).parent)
    return areas_page(
        {
            "name": Path(points).stem,
            "store": store.path,
            "points": report.points,
            "unlabelled": report.unlabelled,
            "overall": report.overall,
            "total": total,
            "notices": report.notices,
            "rows": rows,
            "wrong_count": len(wrong),
            "wrong": [
                {
                    "number": point.number,
                    "label": names[point.label or 0],
                    "stratum": names[point.stratum],
                    "picture": _picture(point, Path(points)) if beside else "",
                    "where": _where(point),
                }
                for point in wrong[:SHOWN]
            ],
        }
    )


def _times(se: float | None) -> float | None:
    return None if se is None else Z * se


def _picture(point: Point, points: Path) -> str:
    """The picture that `sample` made of a point; empty: there is none. No other file is shown."""
    named = str(point.properties.get("picture") or "")
    ours = re.fullmatch(r"[^/\\]+-pictures/\d+\.png", named)
    if ours is None or not (points.parent / named).is_file():
        return ""
    return quote(named)


def _where(point: Point) -> str:
    named = point.properties
    return ", ".join(
        f"{key} {named[key]}" for key in ("scene", "frame", "row", "column") if key in named
    )
