"""Patches for DeepMask and SharpMask: objects centred at one size, and places where none is.

An object is put in the middle of a patch and scaled so that its longer side is 92 pixels, moved by up
to 16 pixels and scaled by up to 2^0.25 at random. A patch of nothing lies anywhere, at any scale that
objects have, but for an object's middle: nowhere within 32 pixels and a factor of 2 of one (Pinheiro
et al. 2015, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segengine.errors import JobError, MissingTruthError
from segengine.instances.rle import decode_rle
from segengine.models.deepmask import BORDER, INPUT, OBJECT
from segengine.training._objects import whole_truth
from segengine.training._scaling import grey, neutral
from segengine.training.data import Frame, read_pixels
from segengine.training.job import ScaleSpec
from segengine.types import Unreadable

Floats = NDArray[np.float32]

SHIFT, ZOOM = 16.0, 0.25
"""Greatest move of an object, in pixels of the patch, and change of its scale, in octaves."""
APART, OCTAVES = 32.0, 1.0
"""A patch of nothing is as far from each object's middle, or from its scale."""
STEP = 0.5
"""Of the pyramid of scales, in octaves."""
SMALLEST, LARGEST = OBJECT / 8, OBJECT * 64
"""Longer side of an object, in pixels: what some scale of a pyramid can find."""
VOID = 255
"""Of a mask, where it is not known."""
_TRIES = 64


@dataclass(frozen=True, slots=True)
class Things:
    """The objects of some frames: what patches are centred on, and what they keep away from."""

    frames: tuple[Frame, ...]
    starts: NDArray[np.int64]
    """(frame + 1,) the first object of each frame."""
    rows: NDArray[np.int32]
    """(object,) its row in the table of its frame's truth."""
    kinds: NDArray[np.int32]
    """(object,) its true class."""
    boxes: Floats
    """(object, 4) top, left, bottom, right in pixels of the frame."""
    crowds: NDArray[np.bool_]
    """(object,) whether it stands for many: nothing is learned in its box."""
    learned: NDArray[np.int64]
    """Those that patches are centred on."""
    surveyed: NDArray[np.int64]
    """Frames whose truth is known."""

    def frame_of(self, thing: int) -> int:
        """The frame that an object is in."""
        return int(np.searchsorted(self.starts, thing, side="right")) - 1

    def around(self, frame: int) -> tuple[Floats, Floats]:
        """(object, 4) boxes of a frame's objects, and of its crowds."""
        part = slice(self.starts[frame], self.starts[frame + 1])
        return self.boxes[part][~self.crowds[part]], self.boxes[part][self.crowds[part]]

    @property
    def sides(self) -> Floats:
        """(learned,) longer sides."""
        return longer(self.boxes[self.learned])


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a patch lies on a frame."""

    centre: tuple[float, float]
    """Row and column."""
    scale: float
    """Pixels of the patch for one of the frame."""


def survey(frames: Sequence[Frame], kinds: Sequence[int], part: str) -> Things:
    """The objects of frames that are of some true classes, crowds apart. Raises JobError for none."""
    starts, rows, found, boxes, crowds, surveyed = [0], [], [], [], [], []
    for index, frame in enumerate(frames):
        try:
            table = whole_truth(frame).objects
        except MissingTruthError:
            table = None
        if table is not None:
            surveyed.append(index)
            names = [name for name in ("class", "bbox", "crowd") if name in table.column_names]
            for row, each in enumerate(table.select(names).to_pylist()):
                x, y, width, height = each["bbox"]
                if each["class"] in kinds and min(width, height) > 0:
                    rows.append(row)
                    found.append(each["class"])
                    boxes.append((y, x, y + height, x + width))
                    crowds.append(bool(each.get("crowd")))
        starts.append(len(rows))
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    sides = longer(corners)
    many = np.array(crowds, np.bool_)
    learned = np.flatnonzero((sides >= SMALLEST) & (sides <= LARGEST) & ~many)
    if not len(learned):
        raise JobError(
            f"truth: of {len(rows):,} objects in {len(frames):,} {part} frames none can be learned; "
            f"their longer sides must be from {SMALLEST:g} to {LARGEST:,g} pixels"
        )
    return Things(
        frames=tuple(frames),
        starts=np.array(starts, np.int64),
        rows=np.array(rows, np.int32),
        kinds=np.array(found, np.int32),
        boxes=corners,
        crowds=many,
        learned=learned,
        surveyed=np.array(surveyed, np.int64),
    )


def longer(boxes: Floats) -> Floats:
    """(object,) longer sides of boxes (object, 4)."""
    sides: Floats = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    return sides


def pyramid(sides: Floats) -> tuple[float, ...]:
    """Scales, a factor of 2^0.5 apart, at one of which nearly every object has the patch's size.

    >>> [round(scale, 2) for scale in pyramid(np.array([46, 92, 130], np.float32))]
    [0.71, 1.0, 1.41, 2.0]
    """
    low, high = np.quantile(np.log2(OBJECT / sides), (0.01, 0.99)) / STEP
    return tuple(float(2.0 ** (k * STEP)) for k in range(round(low), round(high) + 1))


def centred(box: Floats, rng: np.random.Generator | None) -> Spot:
    """The patch of an object with a box (4,); `rng` None: in its middle, else moved at random."""
    top, left, bottom, right = box.tolist()
    move, zoom = np.zeros(2), 0.0
    if rng is not None:
        move, zoom = rng.uniform(-SHIFT, SHIFT, 2), float(rng.uniform(-ZOOM, ZOOM))
    scale = OBJECT / max(bottom - top, right - left) * 2.0**zoom
    y, x = np.array([top + bottom, left + right]) / 2 + move / scale
    return Spot((float(y), float(x)), scale)


def nothing(
    around: tuple[Floats, Floats],
    shape: tuple[int, int],
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> Spot | None:
    """A patch of a frame that no object is centred in; None: none was found.

    around: boxes (object, 4) of the frame's objects, and of its crowds, which no patch's middle is in.
    """
    boxes, crowds = around
    low, high = np.log2(scales).tolist()
    zooms = 2.0 ** rng.uniform(low, high, _TRIES)
    centres = rng.uniform(0, 1, (_TRIES, 2)) * shape
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = np.abs(centres[:, None] - middles).max(axis=2) * zooms[:, None] >= APART
    other = np.abs(np.log2(zooms[:, None] * longer(boxes) / OBJECT)) >= OCTAVES
    low, high = centres[:, None] >= crowds[:, :2], centres[:, None] <= crowds[:, 2:]
    inside = np.asarray((low & high).all(axis=2))
    free = np.flatnonzero((away | other).all(axis=1) & ~inside.any(axis=1))
    if not len(free):
        return None
    y, x = centres[free[0]].tolist()
    return Spot((y, x), float(zooms[free[0]]))


@dataclass(frozen=True, slots=True)
class Cutting:
    """The window of a frame that a patch is made of, and where it goes in the patch."""

    window: tuple[slice, slice]
    """Rows and columns of the frame; empty where the patch lies beside it."""
    inside: tuple[slice, slice]
    """Of the patch."""

    @classmethod
    def of(cls, place: Spot, shape: tuple[int, int]) -> Cutting:
        """On a frame of a shape."""
        side = max(1, round(INPUT / place.scale))
        windows, insides = [], []
        for middle, length in zip(place.centre, shape, strict=True):
            first = round(middle - side / 2)
            start, stop = max(0, first), min(length, first + side)
            stop = max(start, stop)
            windows.append(slice(start, stop))
            ends = [round((at - first) * INPUT / side) for at in (start, stop)]
            insides.append(slice(*ends))
        return cls((windows[0], windows[1]), (insides[0], insides[1]))

    @property
    def empty(self) -> bool:
        """Nothing of the frame is in the patch."""
        return any(part.stop <= part.start for part in (*self.window, *self.inside))

    def fill(self, patch: Floats, values: Floats) -> None:
        """Put the window's values (y, x) or (y, x, band) in a patch (192, 192), or with bands."""
        import cv2

        rows, cols = self.inside
        size = (cols.stop - cols.start, rows.stop - rows.start)
        how = cv2.INTER_AREA if size[0] < values.shape[1] else cv2.INTER_LINEAR
        if values.ndim == 2:
            patch[rows, cols] = cv2.resize(np.ascontiguousarray(values), size, interpolation=how)
            return
        for band in range(values.shape[2]):  # OpenCV's means are of 4 bands at most
            self.fill(patch[..., band], values[..., band])


def pixels_of(frame: Frame, place: Spot, bands: int, spec: ScaleSpec) -> tuple[Floats, str]:
    """A patch (192, 192, band) as read, grey beyond the frame; and why it is lost, if it is."""
    patch = np.broadcast_to(grey(spec), (INPUT, INPUT, bands)).astype(np.float32)
    cutting = Cutting.of(place, frame.shape)
    if cutting.empty:
        return patch, ""
    tile = read_pixels(frame, *cutting.window)
    if isinstance(tile, Unreadable):
        return patch, tile.reason
    values = tile.pixels.astype(np.float32)
    values[~np.isfinite(values).all(axis=-1)] = neutral(spec)
    cutting.fill(patch, values)
    return patch, ""


def mask_of(frame: Frame, row: int, place: Spot) -> NDArray[np.uint8]:
    """The mask (192, 192) of an object, a row of its frame's truth. Raises MissingTruthError."""
    patch = np.zeros((INPUT, INPUT), np.float32)
    cutting = Cutting.of(place, frame.shape)
    table = whole_truth(frame).objects
    if table is None or row >= len(table):
        raise MissingTruthError(f"{frame.ref.name}: its truth has changed")
    if not cutting.empty:
        mask = decode_rle(table.column("rle")[row].as_py(), frame.shape)
        cutting.fill(patch, mask[cutting.window].astype(np.float32))
    return (patch >= 0.5).astype(np.uint8)


def target(mask: NDArray[np.uint8], side: int) -> NDArray[np.int32]:
    """(side, side) of a patch's mask (192, 192), without the border that a network sees beside it."""
    import cv2

    inner = mask[BORDER:-BORDER, BORDER:-BORDER]
    object_, unknown = (
        cv2.resize((inner == value).astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        for value in (1, VOID)
    )
    found = (object_ >= 0.5).astype(np.int32)
    found[unknown >= 0.5] = VOID
    return found
