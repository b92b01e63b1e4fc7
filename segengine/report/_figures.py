"""The report's pictures: a gallery of frames as data URIs, throughput as an SVG path."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np

from segengine.errors import DamagedStoreError
from segengine.pictures import draw
from segengine.pictures.objects import pictured
from segengine.pictures.view import View, find_truths, look
from segengine.reader import Store
from segengine.store.columns import arrow_column, arrow_scalar, numbers_of

FRAMES = 12
SIDE = 512
"""Greatest side of a picture, in pixels."""
MOST = 1 << 25
"""Pixels of a frame above which, where a window can be read, only its middle is shown."""
GAP = 900.0
"""Seconds without a shard that part one run from the next."""
_BINS = 72
WIDTH, HEIGHT = 960, 180


def gallery(
    store: Store, frames: Any, matching: Mapping[int, int | None] | None
) -> list[dict[str, Any]]:
    """A card a frame, with its panels: the least sure ones, the worst by the truth, or spread evenly."""
    metrics = store.metrics
    truths = metrics["confusion"]["rows"] if matching is not None else []
    clear = [i for i, name in enumerate(store.classes) if name in draw.CLEAR]
    colors = np.asarray(store.attributes["colors"], np.uint8)
    cards = []
    chosen = _chosen(metrics, frames)
    places = [(row["scene"], row["frame"]) for row in chosen]
    found = find_truths(store, places) if matching is not None else []
    objects = pictured(store, places)

    def panels(view: View, shown: list[draw.Drawn]) -> list[dict[str, Any]]:
        return [
            {"title": title, "uri": _uri(title, picture), "shape": picture.shape}
            for title, picture in _panels(view, shown, colors, clear, matching, len(truths))
        ]

    # Pictures are drawn and encoded beside the reading of the next frame.
    with ThreadPoolExecutor(1, "segengine-drawing") as drawing:
        for i, row in enumerate(chosen):
            scene, frame = places[i]
            truth = found[i] if found else None
            try:
                view = look(store[scene], frame, SIDE, truth=truth, most=MOST)
            except DamagedStoreError:  # its picture would be a lie; `verify` names it
                continue
            shown = objects.of(store[scene], frame, view)
            card = {
                "name": row["name"],
                "scene": scene,
                "frame": frame,
                "iou": row.get("iou"),
                "accuracy": row.get("accuracy"),
                "confidence": row.get("confidence"),
                "note": _note(view, store[scene].layout.frame(frame)),
                "small": max(view.labels.shape) < SIDE // 2,
            }
            cards.append((card, drawing.submit(panels, view, shown)))
    return [{**card, "panels": drawn.result()} for card, drawn in cards]


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


def _panels(
    view: View,
    objects: list[draw.Drawn],
    colors: Any,
    clear: list[int],
    matching: Mapping[int, int | None] | None,
    truths: int,
) -> list[draw.Panel]:
    image = view.image
    mask = draw.colorize(view.labels, view.colors)
    if image is None:
        return [("mask", mask)]
    panels = [
        ("image", image),
        ("overlay", draw.overlay(image, view.labels, colors, clear=clear)),
        ("mask", mask),
    ]
    if objects:
        panels[1] = ("instances", draw.instances(image, objects))
    if matching is not None and view.truth is not None:
        error = draw.error_map(image, view.labels, view.truth, matching, truths)
        panels[2:] = [("errors", error)]
    return panels


def _uri(title: str, picture: draw.RGB) -> str:
    flat = title in ("mask", "errors")  # few colours, sharp borders: smaller and exact as PNG
    kind, data = ("png", draw.encode_png(picture)) if flat else ("jpeg", draw.encode_jpeg(picture))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def throughput(shards: Any) -> dict[str, Any] | None:
    """Pixels a second over the last run, by when shards were finished; None before the first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    done = shards.filter(pc.greater(shards.column("pixels"), arrow_scalar(0, pa.int64())))
    if not done.num_rows:
        return None
    ends, pixels, seconds = (
        numbers_of(done.column(name).combine_chunks()) for name in ("finished", "pixels", "seconds")
    )
    order = np.argsort(ends)
    ends, pixels, seconds = ends[order], pixels[order].astype(np.float64), seconds[order]
    first = int(np.flatnonzero(np.diff(ends, prepend=-np.inf) > GAP)[-1])
    earlier, ends, pixels, seconds = first, ends[first:], pixels[first:], seconds[first:]
    start, stop = float((ends - seconds).min()), float(ends[-1])
    span = max(stop - start, 1e-3)
    bins = int(min(_BINS, max(4, ends.size)))
    # a shard's pixels are spread over the time it took, else a chart of few shards is all spikes
    edges = start + span * np.arange(bins + 1) / bins
    total = np.zeros(bins)
    for a, b, n in zip(ends - np.maximum(seconds, 1e-3), ends, pixels, strict=True):
        overlap = np.minimum(edges[1:], b) - np.maximum(edges[:-1], a)
        total += n * np.clip(overlap, 0, None) / (b - a)
    rate = total / (span / bins)
    return {
        **step_chart(rate),
        "peak": float(rate.max()),
        "mean": float(pixels.sum() / span),
        "seconds": span,
        "start": datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "stop": datetime.fromtimestamp(stop, UTC).strftime("%H:%M:%S UTC"),
        "shards": int(ends.size),
        "earlier": earlier,
    }


def step_chart(rate: Any) -> dict[str, Any]:
    """Line and area of a step chart, in a box of WIDTH x HEIGHT."""
    top = float(rate.max()) * 1.08 or 1.0
    y = HEIGHT - rate / top * HEIGHT
    x = np.linspace(0, WIDTH, len(rate) + 1)
    points = []
    for i, value in enumerate(y):
        points += [f"{x[i]:.1f},{value:.1f}", f"{x[i + 1]:.1f},{value:.1f}"]
    line = "M" + " L".join(points)
    return {
        "line": line,
        "area": f"{line} L{WIDTH},{HEIGHT} L0,{HEIGHT} Z",
        "width": WIDTH,
        "height": HEIGHT,
        "grid": [{"y": HEIGHT - HEIGHT * k / 4, "rate": top * k / 4} for k in range(1, 4)],
    }
