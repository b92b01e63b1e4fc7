"""What a person looks at while a network trains: samples with their masks, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.pictures import draw
from segengine.types import Color

_WIDTH, _HEIGHT, _MARGIN = 520, 260, 44
_LEAST = 192
_INK, _GRID, _PAPER = (32, 34, 40), (225, 226, 230), (255, 255, 255)
_TRAIN, _VALIDATION = (30, 110, 200), (226, 120, 30)


def sample_picture(
    pixels: NDArray[Any],
    true: NDArray[Any],
    found: NDArray[Any],
    classes: Sequence[str],
    colors: Sequence[Color],
) -> draw.RGB:
    """A sample beside its masks: pixels (y, x, band) 0 to 255 or any range, labels (y, x)."""
    eight = pixels.min() >= 0 and pixels.max() <= 255 and pixels.max() > 1
    image = draw.to_rgb(np.rint(pixels).astype(np.uint8) if eight else pixels)
    panels = [
        ("Input Image", image),
        ("True Mask", draw.colorize(true, colors)),
        ("Predicted Mask", draw.colorize(found, colors)),
    ]
    panels = [(caption, draw.enlarge(picture, _LEAST)) for caption, picture in panels]
    return draw.sheet(panels, list(zip(classes, colors, strict=True)))


def history_picture(history: Mapping[str, Sequence[float]]) -> draw.RGB:
    """Curves over epochs, one panel a figure: training in blue, validation (`val_...`) in orange."""
    names = [n for n in history if not n.startswith("val_") and n != "learning_rate"]
    panels = [_chart(name, history[name], history.get(f"val_{name}", ())) for name in names]
    if "learning_rate" in history:
        panels.append(_chart("learning_rate", history["learning_rate"], ()))
    if not panels:
        panels.append(_chart("no epoch yet", (), ()))
    return np.concatenate(panels, axis=0)


def _chart(name: str, train: Sequence[float], validation: Sequence[float]) -> draw.RGB:
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    pen.text((_MARGIN + 8, 8), name, fill=_INK, font=font)
    legend = [("training", _TRAIN), ("validation", _VALIDATION)] if validation else []
    for i, (text, color) in enumerate(legend):
        pen.text((_WIDTH - 180 + 80 * i, 8), text, fill=color, font=font)
    values = [v for v in (*train, *validation) if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or abs(high) or 1.0
    low, high = low - 0.05 * span, high + 0.05 * span
    epochs = max(len(train), len(validation), 2)
    left, top, right, bottom = _MARGIN + 16, 32, _WIDTH - 16, _HEIGHT - 30

    def at(epoch: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * epoch / (epochs - 1)
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    for value in np.linspace(low, high, 5).tolist():
        y = at(0, value)[1]
        pen.line([(left, y), (right, y)], fill=_GRID)
        pen.text((4, y - 7), f"{value:.3g}", fill=_INK, font=font)
    for epoch in sorted({round(e) for e in np.linspace(0, epochs - 1, 6).tolist()}):
        pen.text((at(epoch, low)[0] - 4, bottom + 6), str(epoch + 1), fill=_INK, font=font)
    for series, color in ((train, _TRAIN), (validation, _VALIDATION)):
        points = [at(i, v) for i, v in enumerate(series) if math.isfinite(v)]
        if len(points) > 1:
            pen.line(points, fill=color, width=2)
        for x, y in points:
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=color)
    return np.asarray(canvas)


def model_picture(model: Any) -> draw.RGB:
    """The network's layers from input to output, as `keras.utils.plot_model` shows them.

    Drawn without Graphviz: a box a layer, its output's shape and its parameters; an arc on the
    right where a layer takes its input from farther up (a skip connection).
    """
    from PIL import Image, ImageDraw, ImageFont

    step, width, left = 30, 430, 12
    layers = list(model.layers)
    place = {layer.name: i for i, layer in enumerate(layers)}
    skips = [
        (place[source], i)
        for i, layer in enumerate(layers)
        for source in _sources(layer)
        if source in place and place[source] < i - 1
    ]
    lanes = _lanes(skips)
    right = left + width
    canvas = Image.new(
        "RGB", (right + 24 + 10 * (max(lanes, default=0) + 1), step * len(layers) + 16), _PAPER
    )
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for (start, stop), lane in zip(skips, lanes, strict=True):
        x = right + 10 * (lane + 1)
        y0, y1 = start * step + 18, stop * step + 18
        pen.line([(right, y0), (x, y0), (x, y1), (right, y1)], fill=_VALIDATION)
        pen.polygon([(right, y1), (right + 6, y1 - 3), (right + 6, y1 + 3)], fill=_VALIDATION)
    for i, layer in enumerate(layers):
        top = i * step + 8
        pen.rectangle([left, top, right, top + 20], outline=_INK, fill=(244, 246, 250))
        shape = " x ".join("any" if n is None else str(n) for n in _shape(layer))
        text = f"{layer.name} ({type(layer).__name__})"
        pen.text((left + 6, top + 3), text[:44], fill=_INK, font=font)
        pen.text((left + 275, top + 3), shape, fill=_TRAIN, font=font)
        if layer.count_params():
            pen.text((left + 370, top + 3), f"{layer.count_params():,}", fill=_INK, font=font)
        if i and i - 1 in {place.get(s) for s in _sources(layer)}:
            x = left + 130
            pen.line([(x, top - 10), (x, top)], fill=_INK)
    return np.asarray(canvas)


def _sources(layer: Any) -> list[str]:
    """Names of the layers whose output a layer takes."""
    return [
        tensor._keras_history.operation.name
        for node in layer._inbound_nodes[:1]
        for tensor in node.input_tensors
    ]


def _shape(layer: Any) -> tuple[int | None, ...]:
    output = getattr(layer, "output", None)
    first = output[0] if isinstance(output, list | tuple) else output
    return () if first is None else tuple(first.shape[1:])


def _lanes(skips: Sequence[tuple[int, int]]) -> list[int]:
    """The column of each arc, so that arcs that overlap lie side by side."""
    lanes: list[int] = []
    for i, (start, stop) in enumerate(skips):
        taken = {lanes[k] for k, (a, b) in enumerate(skips[:i]) if a <= stop and start <= b}
        lanes.append(next(lane for lane in range(len(skips)) if lane not in taken))
    return lanes
