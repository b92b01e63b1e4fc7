"""The report's pictures: frames with layers over them, as data URIs, as many as there is room for.

image       what the source gives, a JPEG; over it, as opaque as the reader likes, one of
mask        the classes' colours, clear at background
instances   the objects, drawn over the image
clusters    each cluster in the mean colour of its pixels
errors      what is wrong, by the truth
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from segengine.ahead import is_far, several
from segengine.errors import DamagedStoreError
from segengine.pictures import draw
from segengine.pictures.objects import pictured
from segengine.pictures.view import View, find_truths, look
from segengine.reader import Store
from segengine.store.columns import arrow_column, arrow_scalar

FRAMES = 12
SIDE = 512
"""Greatest side of a picture, in pixels."""
MOST = 1 << 25
"""Pixels of a frame above which, where a window can be read, only its middle is shown."""
LAYERS = ("mask", "instances", "clusters", "errors")
"""What may lie over an image, in the order in which a reader chooses."""


@dataclass(frozen=True, slots=True)
class Palette:
    """How the labels of a store are drawn, and held against its truth."""

    colors: Any
    """(class, 3) uint8"""
    clear: Sequence[int]
    """Labels that leave the image as it is."""
    matching: Mapping[int, int | None] | None
    """The true class of each label; None without truth."""
    truths: int
    """True classes."""

    @classmethod
    def of(cls, store: Store, matching: Mapping[int, int | None] | None) -> Palette:
        """That of a store."""
        return cls(
            colors=np.asarray(store.attributes["colors"], np.uint8),
            clear=[i for i, name in enumerate(store.classes) if name in draw.CLEAR],
            matching=matching,
            truths=0 if matching is None else len(store.metrics["confusion"]["rows"]),
        )


def gallery(
    store: Store, frames: Any, matching: Mapping[int, int | None] | None, room: int
) -> list[dict[str, Any]]:
    """A card a frame: the least sure ones, the worst by the truth, or spread evenly.

    `room`: bytes that all pictures may take; those that would take too much of it are halved.
    """
    chosen = _chosen(store.metrics, frames)
    palette = Palette.of(store, matching)
    share = room // max(1, len(chosen))
    cards = []
    # Pictures are drawn and encoded beside the reading of the next frame.
    with ThreadPoolExecutor(1, "segengine-drawing") as drawing:
        for row, view, shown in _seen(store, chosen, matching is not None):
            layout = store[row["scene"]].layout
            card = {
                "name": row["name"],
                "scene": row["scene"],
                "frame": row["frame"],
                "iou": row.get("iou"),
                "accuracy": row.get("accuracy"),
                "confidence": row.get("confidence"),
                "note": _note(view, layout.frame(row["frame"])),
                "width": view.labels.shape[1],
                "height": view.labels.shape[0],
                "small": max(view.labels.shape) < SIDE // 2,
            }
            cards.append((card, drawing.submit(_fitting, view, shown, palette, share)))
    return [{**card, "layers": drawn.result()} for card, drawn in cards]


def by_scene(cards: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Cards below their scenes, in the order in which these come; where none has two, below none."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for card in cards:
        groups.setdefault(card["scene"], []).append(card)
    if len(groups) == len(cards):
        return [("", list(cards))] if cards else []
    return list(groups.items())


def _seen(
    store: Store, chosen: Sequence[dict[str, Any]], truth: bool
) -> Iterator[tuple[dict[str, Any], View, list[draw.Drawn]]]:
    """Each frame with what is seen of it; without those of which the store is damaged."""
    places = [(row["scene"], row["frame"]) for row in chosen]
    found = find_truths(store, places) if truth else []
    objects = pictured(store, places)

    def view_of(i: int) -> View | None:
        scene, frame = places[i]
        try:
            return look(store[scene], frame, SIDE, truth=found[i] if found else None, most=MOST)
        except DamagedStoreError:  # its picture would be a lie; `verify` names it
            return None

    far = is_far(store.objects.root) or any(is_far(row.get("uri") or "") for row in chosen)
    # Here one after another: then the interpreter is what they would wait for.
    views = (
        several(range(len(chosen)), view_of, far=True) if far else map(view_of, range(len(chosen)))
    )
    for row, view in zip(chosen, views, strict=True):
        if view is not None:
            yield row, view, objects.of(store[row["scene"]], row["frame"], view)


def _chosen(metrics: Mapping[str, Any], frames: Any) -> list[dict[str, Any]]:
    measured = [row for row in metrics.get("frames", []) if row.get("iou") is not None]
    unsure = (metrics.get("confidence") or {}).get("frames", [])
    if unsure:
        scored = {(row["scene"], row["frame"]): row for row in measured}
        return [scored.get((row["scene"], row["frame"]), {}) | row for row in unsure[:FRAMES]]
    if measured:
        return measured[:FRAMES]
    import pyarrow as pa
    import pyarrow.compute as pc

    done = frames.filter(pc.equal(frames.column("status"), arrow_scalar("done", pa.string())))
    places = np.unique(np.linspace(0, done.num_rows - 1, FRAMES).round().astype(int))
    if not done.num_rows:
        return []
    rows: list[dict[str, Any]] = done.take(arrow_column(places.tolist(), pa.int64())).to_pylist()
    return rows


def _note(view: View, ref: Any) -> str:
    whole = f"{ref.width:,} x {ref.height:,} pixels"
    height, width = (s.stop - s.start for s in (view.rows, view.cols))
    if (height, width) != (ref.height, ref.width):
        whole = f"the middle {width:,} x {height:,} of {whole}"
    return f"{whole}; image cannot be read now: {view.reason}" if view.reason else whole


def _fitting(
    view: View, objects: list[draw.Drawn], palette: Palette, share: int
) -> list[dict[str, Any]]:
    """The layers of a view, in no more bytes than its share; halved for that, once or more often."""
    pictures = _layers(view, objects, palette)
    while True:
        layers = [
            {"title": title, "uri": _uri(title, picture)} for title, picture in pictures.items()
        ]
        small = max(next(iter(pictures.values())).shape[:2]) <= SIDE // 8
        if small or sum(len(layer["uri"]) for layer in layers) <= share:
            return layers
        pictures = {title: picture[::2, ::2] for title, picture in pictures.items()}


def _layers(view: View, objects: list[draw.Drawn], palette: Palette) -> dict[str, Any]:
    """By title, the image first: (y, x, 3), or (y, x, 4) where it is clear."""
    image = view.image
    if image is None:
        return {"mask": draw.colorize(view.labels, view.colors)}
    layers = {
        "image": image,
        "mask": draw.tint(view.labels, palette.colors, clear=palette.clear),
    }
    if objects:
        layers["instances"] = draw.instances(image, objects)
    if not np.array_equal(view.colors, palette.colors):
        layers["clusters"] = draw.colorize(view.labels, view.colors)
    if palette.matching is not None and view.truth is not None:
        layers["errors"] = draw.error_map(
            image, view.labels, view.truth, palette.matching, palette.truths
        )
    return layers


def _uri(title: str, picture: Any) -> str:
    # few colours, sharp borders: smaller and exact as PNG
    flat = title in ("mask", "clusters", "errors")
    kind, data = ("png", draw.encode_flat(picture)) if flat else ("jpeg", draw.encode_jpeg(picture))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
