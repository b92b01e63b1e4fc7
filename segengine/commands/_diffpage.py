"""The page of two stores side by side: masks that flicker from one to the other, tables beside them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segengine.differences.frames import Differences, FrameDifference, of_classes, transitions
from segengine.errors import DamagedStoreError
from segengine.pictures import draw
from segengine.pictures.view import View, look
from segengine.reader import Store
from segengine.report import rendered

if TYPE_CHECKING:
    from segengine.commands.diff import DiffReport

SHOWN = 24
"""Frames with pictures, and transitions."""
SIDE = 512
"""Greatest side of a picture, in pixels."""
MOST = 1 << 25
"""Pixels of a frame above which, where a window can be read, only its middle is shown."""
TABLE = 40
"""Classes up to which the page has the whole table of transitions."""
SCENES = 200
"""Rows of the table of scenes."""


def diff_page(a: Store, b: Store, report: DiffReport) -> str:
    """HTML without a script, in the style of the report; whatever came from a file is escaped."""
    names = report.found.classes.names
    colors = _colors(a, b, names)
    rows = []
    for name, one in of_classes(report.found).items():
        rows.append({"name": name, "color": colors[name], **one})
    changed = [one for one in report.worst if one.same < one.valid]
    cards = [card for one in changed[:SHOWN] if (card := _card(a, b, one)) is not None]
    table = None
    if len(names) <= TABLE:
        table = [
            {
                "name": name,
                "cells": [
                    {"count": count, "share": count / total if (total := sum(row)) else 0.0}
                    for count in row
                ],
            }
            for name, row in zip(names, report.found.both.tolist(), strict=True)
        ]
    values = report.as_json()
    return rendered(
        "diff.html",
        {
            "a": report.a,
            "b": report.b,
            "job_a": a.job.get("name", "segengine"),
            "job_b": b.job.get("name", "segengine"),
            "agreement": report.found.agreement,
            "frames": len(report.found.frames),
            "changed": len([f for f in report.found.frames if f.same < f.valid]),
            "rows": rows,
            "names": names,
            "table": table,
            "transitions": transitions(report.found)[:SHOWN],
            "figures": [
                (name, one) for name, one in report.figures.items() if None not in (one.a, one.b)
            ],
            "scored": report.scored,
            "scenes": _scene_rows(report.found),
            "scene_count": len(report.found.scenes),
            "cards": cards,
            "worst": values["frames"][:100],
            "notes": list(report.left_out()),
            "promote_if": report.promote_if,
            "promoted": report.promoted,
            "change_color": draw.WRONG,
        },
    )


def _colors(a: Store, b: Store, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for store in (b, a):
        for name, color in zip(store.classes, store.attributes["colors"], strict=False):
            found[name] = (int(color[0]), int(color[1]), int(color[2]))
    return {name: found.get(name, (128, 128, 128)) for name in names}


def _scene_rows(found: Differences) -> list[dict[str, Any]]:
    """Scenes by the share of their pixels that changed, the most first."""
    rows = []
    for scene, table in found.scenes.items():
        pixels, lost = int(table[:, 0].sum()), int(table[:, 3].sum())
        top = int(np.argmax(table[:, 2] + table[:, 3]))
        gained, gone = int(table[top, 2]), int(table[top, 3])
        row = {
            "name": scene,
            "pixels": pixels,
            "changed": lost,
            "share": lost / pixels if pixels else 0.0,
            "class": found.classes.names[top] if gained or gone else None,
            "gained": gained,
            "lost": gone,
        }
        rows.append((-lost / max(1, pixels), scene, row))
    return [row for _, _, row in sorted(rows, key=lambda r: r[:2])[:SCENES]]


def _card(a: Store, b: Store, one: FrameDifference) -> dict[str, Any] | None:
    pair = one.pair
    try:
        first = look(a[pair.scene], pair.frame, SIDE, most=MOST)
        second = look(b[pair.scene_b], pair.frame_b, SIDE, most=MOST)
    except DamagedStoreError:  # its picture would be a lie; `verify` names it
        return None
    if first.labels.shape != second.labels.shape:
        return None
    named = {i: a.classes.index(n) if n in a.classes else None for i, n in enumerate(b.classes)}
    image = first.image
    if image is None:
        image = np.full((*first.labels.shape, 3), 255, np.uint8)
    truth = np.where(first.labels == a[pair.scene].void, -1, first.labels.astype(np.int64))
    pictures = [
        _picture(a, first, first),
        _picture(b, second, first),
        draw.error_map(image, second.labels, truth, named, len(a.classes)),
    ]
    uris = [_uri(picture) for picture in pictures]
    height, width = first.labels.shape
    return {
        "name": pair.name,
        "scene": pair.scene,
        "agreement": one.agreement,
        "changed": one.valid - one.same,
        "a": uris[0],
        "b": uris[1],
        "change": uris[2],
        "width": width,
        "height": height,
    }


def _picture(store: Store, view: View, first: View) -> draw.RGB:
    """A mask over the picture that both are of, so that only masks flicker."""
    if first.image is None:
        return draw.colorize(view.labels, view.colors)
    clear = [i for i, name in enumerate(store.classes) if name in draw.CLEAR]
    colors = np.asarray(store.attributes["colors"], np.uint8)
    return draw.overlay(first.image, view.labels, colors, clear=clear)


def _uri(picture: draw.RGB) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(draw.encode_jpeg(picture)).decode()}"
