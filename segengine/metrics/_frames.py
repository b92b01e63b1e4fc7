"""Windows one by one, and what is found on each: instance ids, their classes, rows of objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.metrics._classes import check_shape
from segengine.types import Labels, Prediction, Truth

if TYPE_CHECKING:
    import pyarrow as pa


def each(prediction: Prediction, truth: Labels | Truth) -> Iterator[tuple[Prediction, Truth]]:
    """Each of the n windows with its truth.

    Objects of several windows need a column `frame` (0 to n - 1) that tells whose they are. Raises
    ValueError where they have none.
    """
    whole = truth if isinstance(truth, Truth) else Truth(truth)
    check_shape(prediction.labels, whole)
    count = len(prediction.labels)
    for i in range(count):
        at = (slice(i, i + 1), slice(None), slice(None))
        a, b = prediction.crop(at), whole.crop(at)
        if count > 1:
            a = Prediction(a.labels, a.probabilities, a.instances, _of_frame(a.objects, i))
            b = Truth(b.labels, b.instances, _of_frame(b.objects, i))
        yield a, b


def needed(value: Any, option: str, what: str) -> Any:
    """`value`. Raises ValueError where it is None."""
    if value is None:
        raise ValueError(f"{option}: {what}")
    return value


def class_boxes(
    predicted: NDArray[np.int32], true: NDArray[np.int32]
) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
    """(class, predicted, true): both masks (y, x) of each class on either side of a frame.

    Cropped to where the class is, with a margin of one pixel that the frame's border cuts: a mask
    that reaches the edge of its crop reaches that of the frame.
    """
    from scipy.ndimage import find_objects

    boxes = [find_objects(side + 1) for side in (predicted, true)]
    for index in range(max(map(len, boxes))):
        found = [side[index] for side in boxes if index < len(side) and side[index] is not None]
        if not found:
            continue
        rows, cols = (
            slice(
                max(0, min(box[axis].start for box in found) - 1),
                min(true.shape[axis], max(box[axis].stop for box in found) + 1),
            )
            for axis in (0, 1)
        )
        yield index, predicted[rows, cols] == index, true[rows, cols] == index


def instance_classes(
    instances: NDArray[np.uint32], classes: NDArray[np.int32]
) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Ids of a frame (y, x), ascending, and the class of each: its first pixel's."""
    ids, first = np.unique(instances, return_index=True)
    keep = ids > 0
    return ids[keep], classes.reshape(-1)[first[keep]]


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of numbers. Raises ValueError where one is missing."""
    found = table.column(name)
    if found.null_count:
        raise ValueError(f"objects: {name} is missing in {found.null_count} rows")
    return np.asarray(found.to_numpy())


def boxes_of(table: pa.Table) -> NDArray[np.float64]:
    """(row, 4) of x, y, width, height."""
    flat = table.column("bbox").combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False), np.float64).reshape(-1, 4)


def crowd_of(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows are crowds; none where nothing says so."""
    if "crowd" not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    return column(table, "crowd").astype(np.bool_)


def _of_frame(objects: pa.Table | None, index: int) -> pa.Table | None:
    if objects is None:
        return None
    if "frame" not in objects.column_names:
        raise ValueError(
            "objects: those of several windows need a column `frame`; give one window at a time"
        )
    return objects.filter(column(objects, "frame") == index)
