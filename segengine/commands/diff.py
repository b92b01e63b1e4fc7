"""Two stores of the same inputs, or two states of one: where their masks differ, and which is better."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segengine.commands._diffpage import diff_page
from segengine.commands._paired import Paired, figures
from segengine.differences.changes import write_changes
from segengine.differences.frames import (
    Differences,
    FrameDifference,
    Matched,
    Matches,
    compared,
    matched,
    of_classes,
    transitions,
)
from segengine.differences.promotion import AGREEMENT, Condition, Pair, parsed, require_known
from segengine.outputs import Output, claimed
from segengine.reader import Store, open_store
from segengine.urls import public

WORST = 1000
"""Frames named, those that differ most first."""
NAMED = 10
"""Frames, transitions and scenes on the terminal."""
PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class DiffReport:
    """How two stores differ."""

    a: str
    b: str
    found: Differences
    matches: Matches
    figures: Mapping[str, Paired]
    scored: int
    """Frames that the intervals are of."""
    promote_if: str = ""
    promoted: bool | None = None
    """Whether that holds; None where nothing was asked."""
    written: tuple[str, ...] = ()
    worst: tuple[FrameDifference, ...] = field(default=())

    @property
    def exit_code(self) -> int:
        """0, or 4 where what was asked of B does not hold."""
        return 4 if self.promoted is False else 0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        names = self.found.classes.names
        rows = ("a", "b", "gained", "lost")
        return {
            "a": self.a,
            "b": self.b,
            "agreement": self.found.agreement,
            "classes": dict(of_classes(self.found)),
            "figures": {name: one.as_json() for name, one in self.figures.items()},
            "transitions": {
                name: {other: count for other, count in zip(names, row, strict=True) if count}
                for name, row in zip(names, self.found.both.tolist(), strict=True)
            },
            "void": {
                "a": int(self.found.table[-1, :-1].sum()),
                "b": int(self.found.table[:-1, -1].sum()),
            },
            "scenes": {
                scene: {
                    name: dict(zip(rows, counts, strict=True))
                    for name, counts in zip(names, table.tolist(), strict=True)
                }
                for scene, table in sorted(self.found.scenes.items())
            },
            "frames": [
                {
                    "name": one.pair.name,
                    "scene": one.pair.scene,
                    "agreement": one.agreement,
                    "pixels": one.valid,
                    "changed": one.valid - one.same,
                }
                for one in self.worst
            ],
            "compared": len(self.found.frames),
            "only_a": self.matches.only_a,
            "only_b": self.matches.only_b,
            "unlike": list(self.matches.unlike),
            "scored": self.scored,
            "promoted": self.promoted,
            "written": list(self.written),
        }

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        found = [f"A: {self.a}", f"B: {self.b}", f"{len(self.found.frames):,} frames in both"]
        found[-1] += f"; agreement {_share(self.found.agreement)}"
        found += self.left_out()
        classes = of_classes(self.found)
        width = max(5, *map(len, classes))
        found.append(f"{'class':{width}} {'A':>15} {'B':>15} {'B - A':>15} {'IoU':>8}")
        for name, one in classes.items():
            a, b = int(one["a"] or 0), int(one["b"] or 0)
            found.append(f"{name:{width}} {a:15,} {b:15,} {b - a:+15,} {_number(one['iou']):>8}")
        found += [f"  {line}" for line in transitions(self.found)[:NAMED]]
        found += self._figure_lines()
        changed = [one for one in self.worst if one.same < one.valid]
        if changed:
            found.append("frames that differ most:")
            found += [f"  {one.pair.name}: {_share(one.agreement)}" for one in changed[:NAMED]]
        found += self.written
        if self.promoted is not None:
            found.append(f"{self.promote_if}: {'holds' if self.promoted else 'does not hold'}")
        return tuple(found)

    def left_out(self) -> Iterator[str]:
        """Lines on what is not compared."""
        if self.matches.unlike:
            count, named = len(self.matches.unlike), ", ".join(self.matches.unlike[:NAMED])
            yield f"{count:,} left out, of another size or place in B: {named}"
        for side, count in (("A", self.matches.only_a), ("B", self.matches.only_b)):
            if count:
                yield f"{count:,} only in {side}"

    def _figure_lines(self) -> Iterator[str]:
        shown = [(n, one) for n, one in self.figures.items() if None not in (one.a, one.b)]
        width = max([6, *(len(name) for name, _ in shown)])
        if shown:
            yield f"{'figure':{width}} {'A':>12} {'B':>12} {'B - A':>12}  95 % of {self.scored:,} frames"
        for name, one in shown:
            within = "" if one.low is None else f"{one.low:+.6f} to {one.high:+.6f}"
            yield f"{name:{width}} {one.a:12.6f} {one.b:12.6f} {one.difference:+12.6f}  {within}".rstrip()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def diff(
    a: str,
    b: str,
    out: str | None = None,
    promote_if: str | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> DiffReport:
    """Compare two stores, frame by frame by name, and write a page and what changed on the ground.

    `out`: a folder for those; without it nothing is written. `promote_if`: a condition on the figures,
    as `segengine.differences.promotion` has it. `seed`: of the intervals. Raises JobError, StoreError.
    """
    condition = None if promote_if is None else parsed(promote_if)
    one, other = open_store(a), open_store(b)
    matches = matched(one, other)
    found = None
    for found in compared(one, other, matches):  # noqa: B007 - the last is all of it
        pass
    assert found is not None
    paired, scored = figures(one, other, matches.pairs, seed)
    promoted = None if condition is None else _holds(condition, found, paired)
    worst = sorted(found.frames, key=lambda f: (f.agreement is None, f.agreement, f.pair.name))
    report = DiffReport(
        a=public(one.path),
        b=public(other.path),
        found=found,
        matches=matches,
        figures=paired,
        scored=scored,
        promote_if=promote_if or "",
        promoted=promoted,
        worst=tuple(worst[:WORST]),
    )
    if out is None:
        return report
    written = _written(one, other, report, out, overwrite)
    return DiffReport(**{**_fields(report), "written": tuple(written)})


def _fields(report: DiffReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}


def _holds(condition: Condition, found: Differences, paired: Mapping[str, Paired]) -> bool:
    pairs = {name: Pair(one.a, one.b) for name, one in paired.items()}
    pairs[AGREEMENT] = Pair(found.agreement, found.agreement)
    require_known(condition, pairs)
    return condition.holds(pairs)


# -------------------------------------------------------------------------------------------- files


def _written(a: Store, b: Store, report: DiffReport, out: str, overwrite: bool) -> list[str]:
    folder = Path(out)
    placed = [pair for pair in report.matches.pairs if _is_placed(a, pair)]
    maps = {pair: _files(folder, pair, i) for i, pair in enumerate(placed)}
    paths = [folder / PAGE, *(path for both in maps.values() for path in both)]
    claimed(b, out, paths, overwrite=overwrite)
    output = claimed(a, out, paths, overwrite=overwrite)
    for pair, (raster, vectors) in maps.items():
        _write_maps(output, a, b, pair, report, raster, vectors)
    with output.replacing(folder / PAGE) as partial:
        partial.write_text(diff_page(a, b, report), encoding="utf-8")
    output.close()
    return [os.fspath(path) for path in paths]


def _is_placed(a: Store, pair: Matched) -> bool:
    return a[pair.scene].layout.placing.georeferenced


def _files(folder: Path, pair: Matched, number: int) -> tuple[Path, Path]:
    """The GeoTIFF and the polygons of a frame's changes."""
    name = f"{pair.scene}-{pair.frame}" if pair.frame else pair.scene
    return folder / f"changes/{name}.tif", folder / f"changes/{name}.geojson"


def _write_maps(
    output: Output,
    a: Store,
    b: Store,
    pair: Matched,
    report: DiffReport,
    raster: Path,
    vectors: Path,
) -> None:
    with output.replacing(vectors) as polygons, output.replacing(raster) as values:
        write_changes(a, b, pair, report.found.classes, values, polygons)
