"""Frames with instance truth as Mask R-CNN learns from them, and as it is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine import asked
from segengine.errors import JobError, MissingTruthError
from segengine.instances.rle import decode_rle
from segengine.instances.rows import objects_of
from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.postprocess import to_units
from segengine.models.maskrcnn.preprocess import Prepared, prepare, to_bytes
from segengine.models.maskrcnn.targets import MINI, Truths, mini_masks
from segengine.training.augment import augment
from segengine.training.data import Data, Frame, read_pixels
from segengine.training.job import AugmentSpec, TrainJob
from segengine.types import Truth, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

PACKED = 64
"""Masks that one map of 64-bit pixels holds."""


def class_names(data: Data) -> tuple[str, ...]:
    """The network's classes: the background, then the truth's that can be objects."""
    without = asked.background(data.classes)
    return ("background", *(c for i, c in enumerate(data.classes) if i not in without))


def check_truth(data: Data, architecture: str) -> None:
    """Raise JobError where the truth has no instances."""
    if "truth_instances" not in data.train.frames[0].provider.gives:
        raise JobError(
            f"truth: {architecture} learns from instances, and label images have none; use a "
            "source with instances of its own, such as {kind: coco}"
        )


def check_unused(job: TrainJob, keys: Mapping[str, str]) -> None:
    """Raise JobError for the first key of a job that is set in vain; of each key the reason."""
    for key, reason in keys.items():
        if key in job.model_fields_set:
            raise JobError(f"{key}: {reason}; leave it out")


@dataclass(frozen=True, slots=True)
class Objects:
    """A frame and what is in it, as read."""

    pixels: NDArray[np.uint8]
    """(y, x, band)"""
    masks: NDArray[np.bool_]
    """(object, y, x)"""
    classes: NDArray[np.int32]
    """(object,) the network's, from 1 on."""
    crowd: NDArray[np.bool_]
    """(object,)"""


def whole_truth(frame: Frame) -> Truth:
    """A frame's truth, with a table of its objects. Raises MissingTruthError."""
    truth = frame.provider.load(
        frame.ref, frame.truth, slice(0, frame.ref.height), slice(0, frame.ref.width)
    )
    if truth.objects is not None or truth.instances is None:
        return truth
    return replace(truth, objects=objects_of(truth.instances[0], truth.labels[0]))


def read_objects(frame: Frame, data: Data) -> tuple[Objects, str]:
    """A frame's objects, and why it takes no part, empty where it does."""
    shape = frame.shape
    tile = read_pixels(frame, slice(0, shape[0]), slice(0, shape[1]))
    reason = tile.reason if isinstance(tile, Unreadable) else ""
    truth: Truth | None = None
    if not reason:
        try:
            truth = whole_truth(frame)
        except MissingTruthError as error:
            reason = str(error)
    if truth is None or truth.objects is None:
        # A crowd wherever one looks: nothing is learned, neither objects nor background.
        pixels = np.zeros((*shape, data.bands), np.uint8)
        everything = np.ones((1, *shape), np.bool_)
        return Objects(pixels, everything, np.ones(1, np.int32), np.ones(1, np.bool_)), reason
    return _objects(to_bytes(tile.pixels, data.bands), truth.objects, data), ""


def _objects(pixels: NDArray[np.uint8], table: pa.Table, data: Data) -> Objects:
    numbers = {name: i for i, name in enumerate(class_names(data))}
    rows = [
        (decode_rle(row["rle"], pixels.shape[:2]), numbers[name], bool(row.get("crowd")))
        for row in table.to_pylist()
        if row["class"] < len(data.classes) and (name := data.classes[row["class"]]) in numbers
    ]
    return Objects(
        pixels,
        np.array([mask for mask, _, _ in rows], np.bool_).reshape(-1, *pixels.shape[:2]),
        np.array([kind for _, kind, _ in rows], np.int32),
        np.array([crowd for _, _, crowd in rows], np.bool_),
    )


def changed(found: Objects, spec: AugmentSpec, seed: Sequence[int]) -> Objects:
    """Pixels and masks changed alike at random, as `augment` changes pixels and labels."""
    if spec == AugmentSpec():
        return found
    pixels, masks = found.pixels.astype(np.float32), []
    moved = pixels
    for start in range(0, max(1, len(found.masks)), PACKED):
        some = found.masks[start : start + PACKED]
        bits = np.arange(len(some), dtype=np.uint64)[:, None, None]
        packed = np.bitwise_or.reduce(some.astype(np.uint64) << bits, axis=0)
        rng = np.random.default_rng(seed)  # the same for each: the same change
        moved, packed = augment(pixels, packed, spec, rng, 0)
        masks.append((packed >> bits & np.uint64(1)).astype(np.bool_))
    eight = np.rint(np.clip(moved, 0, 255)).astype(np.uint8)
    return replace(found, pixels=eight, masks=np.concatenate(masks))


def as_learned(found: Objects, config: Config) -> tuple[Prepared, Truths]:
    """A frame as the network takes it, and its objects that have a pixel."""
    prepared = prepare(config, found.pixels)
    seen = found.masks.any(axis=(1, 2))
    masks = found.masks[seen]
    boxes = np.array([_box(mask) for mask in masks], np.int64).reshape(-1, 4)
    small = mini_masks(masks, boxes) if len(masks) else np.zeros((0, MINI, MINI), np.float32)
    units = to_units(config, prepared, boxes.astype(np.float32))
    return prepared, Truths(units, found.classes[seen], small, found.crowd[seen])


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def stacked(prepared: Sequence[Prepared]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images (n, y, x, band), padded at the bottom and right to the greatest, and windows (n, 4)."""
    sides = np.array([one.image.shape[:2] for one in prepared]).max(axis=0)
    images: list[Any] = []
    for one in prepared:
        below, right = sides - one.image.shape[:2]
        images.append(np.pad(one.image, ((0, below), (0, right), (0, 0))))
    return np.stack(images), np.array([one.window for one in prepared], np.float32)
