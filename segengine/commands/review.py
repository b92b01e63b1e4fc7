"""The review page of a store, or of a folder whose images have no masks yet.

A store's corrections lie in `review/` of the store; a folder's label images in a folder beside it.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import corrections
from segengine.asked import background, palette
from segengine.corrections import Files
from segengine.errors import CorruptInputError, JobError, StoreError, TransientInputError
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.reader import Store, open_store
from segengine.registry import reader
from segengine.review.desk import Desk, Item
from segengine.review.server import Server
from segengine.store.blobs import Objects, open_objects
from segengine.store.keys import INSTANCES, MASK, ROOT
from segengine.store.layouts import Layout
from segengine.types import Color, Tile, Unreadable

CLASSES = "classes.json"
"""In a folder of label images: what their values mean."""
_TOKEN = 24
"""Random bytes of the page's token."""
_VOID = 255


def review(
    path: str,
    port: int = 0,
    *,
    classes: Sequence[str] | None = None,
    labels: str | None = None,
    who: str | None = None,
    trust: bool | None = None,
) -> Server:
    """A server of the review page, not yet serving: `url` opens it, `serve_forever` serves.

    `path`: a store, or with `classes` a folder of images; then `labels` is the folder of its label
    images, by default `<path>-labels`. `who`: the name that saves have. `trust`: code that the store
    names may be used. Raises JobError, StoreError.
    """
    name = who or _user()
    if is_store(path):
        for option, value in (("classes", classes), ("labels", labels)):
            if value is not None:
                raise JobError(f"--{option}: {path} is a store, whose job says that; leave it out")
        desk = store_desk(open_store(path, trust), name)
    else:
        desk = folder_desk(path, classes, labels, name)
    if not desk.items:
        raise JobError(f"{path}: has no frame to review; run the job first")
    return Server(desk, secrets.token_urlsafe(_TOKEN), port)


def is_store(path: str) -> bool:
    """Whether a path is to be a store, not a folder of images."""
    return "://" in path or not os.path.exists(path) or open_objects(path).exists(ROOT)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return f"user {os.getuid()}"


# ------------------------------------------------------------------------------------------- stores


def store_desk(store: Store, who: str) -> Desk:
    """The frames of a store: the worst and the least sure first, then by name."""
    void = int(np.iinfo(_dtype(len(store.classes))).max)

    def window(array: str, item: Item, rows: slice, cols: slice) -> NDArray[Any] | None:
        scene = store[item.scene]
        if scene.array(array) is None:
            return None
        found = scene.read(array, item.frame, rows, cols)
        if array != MASK:
            return found
        other = np.iinfo(found.dtype).max
        return found if void == other else np.where(found == other, void, found)

    def facts(item: Item) -> Mapping[str, Any]:
        ref = store[item.scene].layout.frame(item.frame)
        return _facts(item) | {"scene": item.scene, "frame": item.frame, "input": ref.fingerprint}

    return Desk(
        title=store.path.rstrip("/").rpartition("/")[2],
        classes=store.classes,
        colors=_colors(store.attributes["colors"]),
        background=background(store.classes),
        void=void,
        items=_ranked(store),
        objects=store.objects.base,
        who=who,
        place=lambda item: corrections.files_of(item.scene, item.frame),
        pixels=lambda item, rows, cols: store[item.scene].pixels(item.frame, rows, cols),
        labels=lambda item, rows, cols: window(MASK, item, rows, cols),
        instances=lambda item, rows, cols: window(INSTANCES, item, rows, cols),
        facts=facts,
    )


def _dtype(classes: int) -> type[np.unsignedinteger[Any]]:
    """Of label images: a byte where it holds the classes and void. Raises JobError for too many."""
    if classes > 0xFFFF:
        raise JobError(f"review: {classes:,} classes are more than a label image holds")
    return np.uint8 if classes <= _VOID else np.uint16


def _colors(found: Sequence[Sequence[int]]) -> tuple[Color, ...]:
    return tuple((int(r), int(g), int(b)) for r, g, b in found)


def _facts(item: Item) -> dict[str, Any]:
    return {"name": _text(item.name), "height": item.height, "width": item.width}


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _ranked(store: Store) -> list[Item]:
    """Frames with a mask: by their figure, the worst first; then those without one, by name."""
    notes = _figures(store.metrics)
    worst = {place: i for i, place in enumerate(notes)}
    items = [
        Item(
            name=name,
            scene=scene,
            frame=frame,
            height=height,
            width=width,
            note=notes.get((scene, frame), ""),
        )
        for name, scene, frame, height, width in _frames(store)
    ]
    last = len(worst)

    def order(item: Item) -> tuple[int, bytes, str, int]:
        place = worst.get((item.scene, item.frame), last)
        return place, item.name.encode("utf-8", "surrogateescape"), item.scene, item.frame

    return sorted(items, key=order)


def _frames(store: Store) -> list[tuple[str, str, int, int, int]]:
    """(name, scene, frame, height, width) of every frame with a mask."""
    try:
        rows = store.frames.to_pylist()
    except StoreError:  # not published yet
        refs = [(scene, ref) for scene, own in store.scenes.items() for ref in own.frames]
        return [(r.name, s, r.index, r.height, r.width) for s, r in refs if not r.gone]
    keys = ("name", "scene", "frame", "height", "width")
    return [tuple(row[key] for key in keys) for row in rows if row["status"] == "done"]


def _figures(metrics: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """What is known of frames against truth, else of how sure they are, from the worst on."""
    found: dict[tuple[str, int], tuple[float, str]] = {}
    unsure = (metrics.get("confidence") or {}).get("frames") or []
    for rows, key, what in (
        (unsure, "confidence", "confidence"),
        (metrics.get("frames") or [], "iou", "mean IoU"),
    ):
        for row in rows:
            value = row.get(key)
            if isinstance(value, float) and value == value:
                found[row["scene"], row["frame"]] = value, f"{what} {value:.2f}"
    return {place: text for place, (_, text) in sorted(found.items(), key=lambda item: item[1][0])}


# ------------------------------------------------------------------------------------------ folders


def folder_desk(path: str, classes: Sequence[str] | None, labels: str | None, who: str) -> Desk:
    """The images of a folder, without masks; what is drawn becomes label images in `labels`."""
    folder = os.path.abspath(path)
    target = os.path.abspath(labels) if labels else f"{folder.rstrip('/')}-labels"
    inside = os.path.realpath(target) + "/"
    if inside.startswith(os.path.realpath(folder).rstrip("/") + "/"):
        raise JobError(f"--labels: {target} lies in {folder}, of which it would be an image itself")
    objects = open_objects(target)
    names = _classes(objects, classes, folder)
    spec = {"kind": "auto", "paths": [folder]}
    layouts = scan(spec, {}, (), Cut(512, 2048)).layouts
    places = {
        (layout.scene, ref.index): _label_place(layout, ref.name, ref.position)
        for layout in layouts.values()
        for ref in layout.frames()
    }
    _require_distinct(places)
    read = _reading(layouts, spec)
    items = [
        Item(
            name=ref.name,
            scene=layout.scene,
            frame=ref.index,
            height=ref.height,
            width=ref.width,
        )
        for layout in layouts.values()
        for ref in layout.frames()
    ]
    void = int(np.iinfo(_dtype(len(names))).max)
    return Desk(
        title=os.path.basename(folder.rstrip("/")),
        classes=names,
        colors=palette(len(names)),
        background=background(names),
        void=void,
        items=sorted(items, key=lambda item: item.name.encode("utf-8", "surrogateescape")),
        objects=objects,
        who=who,
        place=lambda item: places[item.scene, item.frame],
        pixels=read,
        labels=_nothing,
        instances=_nothing,
        facts=_facts,
    )


def _nothing(item: Item, rows: slice, cols: slice) -> None:
    return None


def _label_place(layout: Layout, name: str, position: int) -> Files:
    """`<path>.png` of an image, `<path>/<index>.png` of a file with several frames."""
    path = PurePosixPath(name)
    if not layout.stacked and layout.shape[0] > 1:
        path = PurePosixPath(layout.names[0])
        stem = f"{path.with_suffix('')}/{position}"
    else:
        stem = str(path.with_suffix(""))
    return Files(f"{stem}.png", f"{stem}.json")


def _require_distinct(places: Mapping[tuple[str, int], Files]) -> None:
    seen: set[str] = set()
    for place in places.values():
        if place.labels in seen:
            raise JobError(
                f"{place.labels}: would be the label image of two images, whose names differ in "
                "their suffixes alone; rename one, or review each in a folder of its own"
            )
        seen.add(place.labels)


def _reading(
    layouts: Mapping[str, Layout], spec: Mapping[str, Any]
) -> Callable[[Item, slice, slice], Tile]:
    @lru_cache(maxsize=8)
    def source(kind: str) -> Any:
        return reader(kind, dict(spec))

    def read(item: Item, rows: slice, cols: slice) -> Tile:
        layout = layouts[item.scene]
        (tile,) = source(layout.kind).read((layout.frame(item.frame),), rows, cols)
        if isinstance(tile, Unreadable):
            kind = CorruptInputError if tile.kind == "corrupt" else TransientInputError
            raise kind(f"{item.name}: {tile.reason}")
        found: Tile = tile
        return found

    return read


def _classes(objects: Objects, given: Sequence[str] | None, folder: str) -> tuple[str, ...]:
    """Those of the label images: as given, which may add to those there are, else as there."""
    there = _known_classes(objects)
    if given is None and not there:
        raise JobError(
            f"{folder}: is no store; to draw masks over its images, name their classes: "
            "--classes background,tree"
        )
    names = tuple(given) if given is not None else there
    if len(set(names)) != len(names) or not all(names):
        raise JobError(f"--classes: {', '.join(names)}: each must have a name of its own")
    if names[: len(there)] != there:
        raise JobError(
            f"--classes: {objects.root} has label images of {', '.join(there)}; name these first, "
            "in this order, or another folder with --labels"
        )
    if names != there:
        document = {"classes": list(names), "void": int(np.iinfo(_dtype(len(names))).max)}
        objects.put(CLASSES, json.dumps(document, indent=1).encode())
    return names


def _known_classes(objects: Objects) -> tuple[str, ...]:
    data = objects.get(CLASSES)
    if data is None:
        return ()
    try:
        found = json.loads(data)["classes"]
        if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
            return tuple(found)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise JobError(f"{objects.root}/{CLASSES}: does not list classes; mend it, or delete it")
