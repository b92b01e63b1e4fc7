"""A store, a scene and its figures as a notebook shows them: a picture, and a few lines of HTML.

What names of files, classes and scenes say is text, never markup.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 256
"""Pixels of a picture's longer side, at most."""
MOST = 12
"""Scenes, or figures, that are shown; the rest is counted."""
Cells = Sequence[object]


class Figures(dict[str, Any]):
    """`metrics.json`, a dict like any other; a notebook shows the overall figures and the classes'."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {_number(value)}" for name, value in self._overall())
        return f"<figures: {shown or 'none; give the job truth, or ask segengine evaluate'}>"

    def _repr_html_(self) -> str:
        overall, classes = self._overall(), self._classes()
        found = [_table(("figure", "value"), [(n, _number(v)) for n, v in overall[:MOST]])]
        if classes:
            names = sorted({name for _, own in classes for name in own})
            rows = [(label, *(_number(own.get(name)) for name in names)) for label, own in classes]
            found.append(_table(("class", *names), rows))
        if areas := self.get("areas"):
            rows = [(label, f"{_pixels(area):,}") for label, area in areas.items()]
            found.append(_table(("class", "pixels on the map"), rows))
        return _box("".join(found))

    def _overall(self) -> list[tuple[str, float]]:
        return [(n, v) for n, v in (self.get("overall") or {}).items() if _is_number(v)]

    def _classes(self) -> list[tuple[str, dict[str, float]]]:
        found = (self.get("overall") or {}).get("classes") or {}
        return [
            (label, {n: v for n, v in own.items() if _is_number(v)})
            for label, own in found.items()
            if isinstance(own, Mapping)
        ]


def store_html(
    path: str, classes: Sequence[str], scenes: Sequence[str], first: str, figures: Figures
) -> str:
    """A store: where it lies, its classes and scenes, `first`, the picture of one, and its figures."""
    more = f" and {len(scenes) - MOST:,} more" if len(scenes) > MOST else ""
    about = [
        ("store", path),
        ("classes", ", ".join(classes)),
        (f"{len(scenes):,} scene{'s' * (len(scenes) != 1)}", ", ".join(scenes[:MOST]) + more),
    ]
    return _box(_table((), about) + first) + (figures._repr_html_() if figures else "")


def scene_html(
    name: str,
    shape: tuple[int, int, int],
    labels: NDArray[Any] | None,
    colors: NDArray[np.uint8],
    classes: Sequence[str],
    about: Mapping[str, str],
) -> str:
    """A scene: its first frame's labels (y, x) in the colours (class, 3), void see-through."""
    frames, height, width = shape
    rows: list[Cells] = [
        ("scene", name),
        ("frames", f"{frames:,} of {height:,} x {width:,} pixels"),
    ]
    rows += about.items()
    drawn = "" if labels is None else _picture(labels, colors) + _legend(labels, colors, classes)
    return _box(_table((), rows) + drawn)


def thinned(height: int, width: int) -> int:
    """How many pixels become one for a picture of so many.

    >>> thinned(100, 256), thinned(100, 257), thinned(10_000, 10)
    (1, 2, 40)
    """
    return -(-max(height, width, 1) // SIDE)


def _picture(labels: NDArray[Any], colors: NDArray[np.uint8]) -> str:
    import cv2

    known = np.minimum(labels, len(colors))
    table = np.zeros((len(colors) + 1, 4), np.uint8)
    table[:-1, :3], table[:-1, 3] = colors[:, ::-1], 255
    done, png = cv2.imencode(".png", table[known])
    assert done, "a picture of a few pixels"
    text = base64.b64encode(png.tobytes()).decode()
    return (
        f'<img alt="mask" style="image-rendering:pixelated;max-width:100%" '
        f'src="data:image/png;base64,{text}">'
    )


def _legend(labels: NDArray[Any], colors: NDArray[np.uint8], classes: Sequence[str]) -> str:
    there = [int(i) for i in np.unique(labels) if i < min(len(colors), len(classes))]
    keys = [
        f'<span style="background:rgb{tuple(map(int, colors[i]))}">&emsp;</span> {escape(classes[i])}'
        for i in there[:MOST]
    ]
    more = f" and {len(there) - MOST:,} more" if len(there) > MOST else ""
    return f"<div>{' &ensp; '.join(keys)}{more}</div>"


def _table(head: Cells, rows: Iterable[Cells]) -> str:
    lines = [f"<tr>{''.join(f'<th>{escape(str(cell))}</th>' for cell in head)}</tr>"] * bool(head)
    lines += [
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def _box(inside: str) -> str:
    return f'<div class="segengine">{inside}</div>'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _pixels(area: object) -> int:
    return int(area.get("pixels") or 0) if isinstance(area, Mapping) else 0
