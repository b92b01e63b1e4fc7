"""YOLO-seg as Ultralytics exports it: boxes with scores a class and coefficients of mask prototypes.

    (1, 4 + classes + m, n)   middle x, middle y, width, height; a score a class; m coefficients
    (1, k, 6 + m)             with suppression inside: x1, y1, x2, y2, score, class; m coefficients
    (1, m, h, w)              prototypes: a mask is what its coefficients make of them, above 0

Frames are resized into the middle of the network's input, with gray around; boxes and masks come back to
the frame's own pixels. Source: ultralytics/utils/ops.py and nms.py (`non_max_suppression`, `scale_boxes`,
`process_mask_native`), ultralytics/data/augment.py (`LetterBox`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segengine.engines import Engine
from segengine.instances.pasting import held, steps
from segengine.networks.scale import Scale
from segengine.segmenters._found import Found
from segengine.segmenters._network import cast
from segengine.segmenters._overlaps import without_duplicates
from segengine.types import Cell, Pixels

Floats = NDArray[np.float32]
SIDE = 640
"""Of the input of a network that takes any, in pixels, where its file says nothing."""
MIN_SCORE, DUPLICATES = 0.25, 0.7
MOST, CANDIDATES = 300, 30_000
"""Objects a window, and boxes that are looked at for them."""
MULTIPLE = 32
"""Sides that a network of any size takes are multiples of it, in pixels."""
_GRAY = 114
_OUTPUTS = ("predictions", "prototypes")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame lies in the network's input."""

    size: Cell
    """(height, width) of the frame, in pixels."""
    into: Cell
    """(height, width) of the input."""
    gain: float
    """Pixels of the input a pixel of the frame."""

    @classmethod
    def fitted(cls, size: Cell, into: Cell) -> Frame:
        """As large as the input has room for."""
        return cls(size, into, min(into[0] / size[0], into[1] / size[1]))

    @property
    def inside(self) -> Cell:
        """(height, width) of the resized frame."""
        y, x = (round(n * self.gain) for n in self.size)
        return y, x

    @property
    def corner(self) -> Cell:
        """First row and column of the resized frame in the input."""
        y, x = (round((b - a) / 2 - 0.1) for a, b in zip(self.inside, self.into, strict=True))
        return y, x


@dataclass(frozen=True, slots=True, eq=False)
class YoloSeg:
    """The head of one such network."""

    engine: Engine
    names: tuple[str, str]
    """Of the outputs: predictions, prototypes."""
    size: Cell | None
    """(height, width) that frames are resized into; None: windows at their own size."""
    classes: int
    """Without background."""
    scale: Scale
    suppressed: bool
    """The network suppresses duplicates itself."""
    min_score: float = MIN_SCORE
    duplicates: float = DUPLICATES

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        return self.engine.provenance

    def find(self, window: Pixels) -> list[Found]:
        """The objects of a window (y, x, band), the best first."""
        frame = self._frame((window.shape[0], window.shape[1]))
        raw = self.engine.run(cast(self._fed(window, frame), self.engine.dtype))
        predictions, prototypes = (raw[name][0] for name in self.names)
        rows = as_rows(predictions, prototypes.shape[0], self.suppressed)
        rows = rows[(rows[:, 4] >= self.min_score) & np.isfinite(rows).all(axis=1)]
        rows = rows[(rows[:, 5] >= 0) & (rows[:, 5] < self.classes)]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")[:CANDIDATES]]
        overlap = 1.0 if self.suppressed else self.duplicates
        boxes = rows[:, :4].astype(np.float64)
        kept = without_duplicates(boxes, rows[:, 5].astype(np.int64), overlap, MOST)
        found = (self._object(row, prototypes, frame) for row in rows[kept])
        return [one for one in found if one is not None]

    def _frame(self, size: Cell) -> Frame:
        if self.size is not None:
            return Frame.fitted(size, self.size)
        own = self.engine.input_shape[2:4]
        y, x = (n or length + -length % MULTIPLE for n, length in zip(own, size, strict=True))
        return Frame(size, (y, x), 1.0)

    def _fed(self, window: Pixels, frame: Frame) -> Floats:
        """(1, band, y, x) the scaled pixels, with gray around."""
        import cv2

        image = window if window.dtype == np.uint8 else window.astype(np.float32)
        height, width = frame.inside
        if image.shape[:2] != frame.inside:
            planes = [cv2.resize(b, (width, height)) for b in np.moveaxis(image, -1, 0)]
            image = np.stack(planes, axis=-1)
        bands = image.shape[-1]
        if image.dtype == np.uint8:
            fill = self.scale.apply(np.full(bands, _GRAY, np.uint8))
        else:
            fill = np.full(bands, _GRAY / 255, np.float32)
        fed = np.empty((1, bands, *frame.into), np.float32)
        fed[...] = fill[:, None, None]
        y, x = frame.corner
        fed[0, :, y : y + height, x : x + width] = np.moveaxis(self.scale.apply(image), -1, 0)
        return fed

    def _object(self, row: Floats, prototypes: Floats, frame: Frame) -> Found | None:
        """A row x1, y1, x2, y2, score, class, coefficients; None where it has no pixel."""
        y0, x0 = frame.corner
        low = (row[[1, 0]].astype(np.float64) - (y0, x0)) / frame.gain
        high = (row[[3, 2]].astype(np.float64) - (y0, x0)) / frame.gain
        low, high = (np.clip(corner, 0, frame.size) for corner in (low, high))
        logits = np.tensordot(row[6:], prototypes, 1)
        mask = _unpadded(logits, frame)
        starts, stops = np.ceil(low).astype(int).tolist(), np.ceil(high).astype(int).tolist()
        y, x = (
            steps(mask.shape[axis], frame.size[axis], starts[axis], stops[axis]) for axis in (0, 1)
        )
        shown = held(mask, y, x) > 0
        if not shown.any():
            return None
        (top, left), (bottom, right) = low.tolist(), high.tolist()
        box = (left, top, right - left, bottom - top)
        return Found(int(row[5]) + 1, float(row[4]), box, (starts[0], starts[1]), shown)


def as_rows(predictions: Floats, coefficients: int, suppressed: bool) -> Floats:
    """(n, 6 + m) x1, y1, x2, y2, score, class and coefficients of a network's predictions.

    predictions: (4 + classes + m, n), or (k, 6 + m) where it suppresses duplicates itself.
    """
    if suppressed:
        return predictions
    table = predictions.T
    scores = table[:, 4 : table.shape[1] - coefficients]
    best = scores.argmax(axis=1)
    half = table[:, 2:4] / 2
    corners = table[:, :2] - half, table[:, :2] + half
    score = np.take_along_axis(scores, best[:, None], 1)
    more = table[:, table.shape[1] - coefficients :]
    rows = np.concatenate([*corners, score, best[:, None].astype(np.float32), more], axis=1)
    return rows.astype(np.float32)


def _unpadded(logits: Floats, frame: Frame) -> Floats:
    """The part of a map of prototypes that the frame lies in."""
    height, width = logits.shape
    gain = frame.gain * height / frame.into[0]
    spare = (height - frame.size[0] * gain) / 2, (width - frame.size[1] * gain) / 2
    top, left = (round(n - 0.1) for n in spare)
    bottom, right = height - round(spare[0] + 0.1), width - round(spare[1] + 0.1)
    return logits[top : max(bottom, top + 1), left : max(right, left + 1)]


def layout(
    shapes: dict[str, tuple[int, ...]], outputs: dict[str, str]
) -> tuple[tuple[str, str], bool, int] | None:
    """Names of the outputs, whether duplicates are gone already, and the classes; None: no YOLO-seg.

    shapes: of the outputs for one window. Of the classes of a network that suppresses nothing can be
    said: 0.
    """
    names = {key: outputs.get(key) for key in _OUTPUTS}
    for name, shape in shapes.items():
        if name not in outputs.values():
            key = {3: "predictions", 4: "prototypes"}.get(len(shape))
            if key is not None and names[key] is None:
                names[key] = name
    predictions, prototypes = (names[key] for key in _OUTPUTS)
    if predictions is None or prototypes is None:
        return None
    table, maps = shapes[predictions], shapes[prototypes]
    if len(table) != 3 or len(maps) != 4:
        return None
    if table[2] == 6 + maps[1]:
        return (predictions, prototypes), True, 0
    classes = table[1] - 4 - maps[1]
    return ((predictions, prototypes), False, classes) if classes > 0 else None


def named(classes: Sequence[str] | None, own: Sequence[str], count: int) -> tuple[str, ...]:
    """Background, and a name a class: the job's, the file's, or numbers. Raises ValueError."""
    chosen = list(classes) if classes is not None else list(own)
    if chosen[:1] == ["background"] and len(chosen) != count:
        chosen = chosen[1:]
    if not chosen and count:
        chosen = [f"class {i}" for i in range(count)]
    if not chosen:
        raise ValueError("classes: the model does not say its classes; name them in order")
    if count and len(chosen) != count:
        raise ValueError(f"classes: {len(chosen)} are named and the model tells {count} apart")
    return ("background", *chosen)
