"""A frame made small enough to look at: image, labels and truth on the same grid.

    frame     |---------- height x width ----------|      or a window in its middle
    view      |--- every `step`-th pixel ---|             labels from the pyramid's level for `step`

Everything is read in bands of rows, so that a scene larger than memory can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import (
    CorruptInputError,
    MissingTruthError,
    TransientInputError,
    UntrustedError,
)
from segengine.guards.trust import named_by_store
from segengine.measuring import truth as truths
from segengine.measuring.truth import TruthProvider
from segengine.pictures import draw
from segengine.reader import SceneStore, Store
from segengine.store.keys import level_path
from segengine.types import Bool, TruthRef
from segengine.urls import public

_BAND = 1 << 24
"""Pixels read at a time."""


@dataclass(frozen=True, slots=True)
class View:
    """A frame, or a window of it, decimated."""

    rows: slice
    cols: slice
    """What of the frame is seen, in its pixels."""
    step: int
    """A pixel of the view stands for step x step of the frame."""
    labels: NDArray[Any]
    """(y, x); above the classes: void."""
    colors: NDArray[np.uint8]
    """(class, 3)"""
    pixels: NDArray[Any] | None
    """(y, x, band) as the source gives them; None where it could not be read."""
    valid: Bool | None
    """(y, x), False at nodata; None: all valid, or no pixels."""
    reason: str = ""
    """Why there are no pixels."""
    truth: NDArray[Any] | None = None
    """(y, x) true classes; None where there are none."""

    @property
    def image(self) -> draw.RGB | None:
        """The pixels as a picture."""
        return None if self.pixels is None else draw.to_rgb(self.pixels, self.valid)


@dataclass(frozen=True, slots=True)
class FrameTruth:
    """A frame's truth, found."""

    provider: TruthProvider
    ref: TruthRef


def find_truths(store: Store, places: Sequence[tuple[str, int]]) -> list[FrameTruth]:
    """The truth of (scene, frame) places that the store was measured against; empty: none."""
    text = store.truth or str(store.metrics.get("truth") or "")
    if not store.truth and store.metrics.get("corrected"):
        text = truths.with_corrections(text, store.objects, store.classes)
    if not text or "confusion" not in store.metrics:
        return []
    try:
        with named_by_store(store.trust):
            provider = truths.from_json(text)
    except UntrustedError:
        return []
    refs = [(scene, store[scene].layout.frame(frame)) for scene, frame in places]
    return [FrameTruth(provider, ref) for ref in provider.find(refs)]


def look(
    scene: SceneStore,
    frame: int,
    size: int,
    *,
    truth: FrameTruth | None = None,
    most: int | None = None,
) -> View:
    """A view of at most `size` pixels a side.

    `truth`: what `find_truths` found for it. `most`: of a frame of more pixels whose source can be
    read in windows, only the middle is seen, at full resolution, instead of reading all of it.
    """
    ref = scene.layout.frame(frame)
    rows, cols = slice(0, ref.height), slice(0, ref.width)
    if most is not None and scene.layout.windowed and ref.height * ref.width > most:
        rows, cols = _middle(ref.height, size), _middle(ref.width, size)
    step = _step(max(rows.stop - rows.start, cols.stop - cols.start), size)
    pixels, valid, reason = _pixels(scene, frame, rows, cols, step)
    true = None
    if truth is not None:
        true = _truth(truth, scene, frame, rows, cols, step)
    labels = _labels(scene, frame, rows, cols, step)
    return View(
        rows=rows,
        cols=cols,
        step=step,
        labels=labels,
        colors=scene.colors(frame),
        pixels=pixels,
        valid=valid,
        reason=reason,
        truth=true,
    )


def matching(
    classes: Sequence[str], truths: Sequence[str], named: Mapping[str, str | None] | None
) -> dict[int, int | None]:
    """The true class of each label, by the names in `metrics.json`; None: each keeps its name."""
    place = {name: i for i, name in enumerate(truths)}
    names = {name: name for name in classes} if named is None else named
    return {i: place.get(names.get(name) or "") for i, name in enumerate(classes)}


def _middle(length: int, size: int) -> slice:
    start = max(0, (length - size) // 2)
    return slice(start, min(length, start + size))


def _step(side: int, size: int) -> int:
    """Smallest power of two that brings `side` down to `size`: the pyramid has those."""
    step = 1
    while -(-side // step) > size:
        step *= 2
    return step


def _bands(rows: slice, width: int, step: int) -> Iterator[slice]:
    """Rows in bands of whole steps."""
    height = max(step, _BAND // max(1, width) // step * step)
    for start in range(rows.start, rows.stop, height):
        yield slice(start, min(start + height, rows.stop))


def _sampled(block: NDArray[Any], step: int) -> NDArray[Any]:
    """The pixel in the middle of each step x step box; boxes at the end may be smaller."""
    y, x = (np.minimum(np.arange(0, n, step) + step // 2, n - 1) for n in block.shape[:2])
    return block if step == 1 else block[y][:, x]


def _labels(scene: SceneStore, frame: int, rows: slice, cols: slice, step: int) -> NDArray[Any]:
    # a pyramid has the levels 1, 2, 4, ... and is whole once the scene was published
    level = 0
    if (rows.start, cols.start) == (0, 0):
        level = min(step.bit_length(), len(scene.levels)) - 1
    scale = 1 << level
    rows, cols = (slice(s.start // scale, -(-s.stop // scale)) for s in (rows, cols))
    step //= scale
    parts = [
        _sampled(scene.read(level_path(level), frame, part, cols), step)
        for part in _bands(rows, cols.stop - cols.start, step)
    ]
    return np.concatenate(parts)


def _pixels(
    scene: SceneStore, frame: int, rows: slice, cols: slice, step: int
) -> tuple[NDArray[Any] | None, Bool | None, str]:
    parts, masks = [], []
    bands = _bands(rows, cols.stop - cols.start, step) if scene.layout.windowed else [rows]
    try:
        for part in bands:
            tile = scene.pixels(frame, part, cols)
            parts.append(_reduced(tile.pixels, tile.valid, step))
            if tile.valid is not None:
                masks.append(_sampled(tile.valid, step))
            else:
                masks.append(np.ones(parts[-1].shape[:2], np.bool_))
    except (CorruptInputError, TransientInputError, OSError) as error:
        return None, None, public(str(error))
    valid = np.concatenate(masks)
    return np.concatenate(parts), None if valid.all() else valid, ""


def _reduced(pixels: NDArray[Any], valid: Bool | None, step: int) -> NDArray[Any]:
    """Mean of each box where every pixel of a photo counts, else the pixel in its middle."""
    if step == 1 or valid is not None or pixels.dtype != np.uint8:
        return _sampled(pixels, step)
    import cv2

    height, width = (n // step * step for n in pixels.shape[:2])
    result = _sampled(pixels, step).copy()
    if height and width:
        size = (width // step, height // step)
        inner = pixels[:height, :width]
        planes = [
            cv2.resize(np.ascontiguousarray(inner[..., b]), size, interpolation=cv2.INTER_AREA)
            for b in range(pixels.shape[-1])
        ]
        result[: size[1], : size[0]] = np.stack(planes, axis=-1)
    return result


def _truth(
    truth: FrameTruth, scene: SceneStore, frame: int, rows: slice, cols: slice, step: int
) -> NDArray[Any] | None:
    ref = scene.layout.frame(frame)
    parts = []
    for part in _bands(rows, cols.stop - cols.start, step):
        try:
            labels = truth.provider.load(ref, truth.ref, part, cols).labels[0]
        except MissingTruthError:
            return None
        parts.append(_sampled(labels, step))
    return np.concatenate(parts)
