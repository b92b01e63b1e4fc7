"""Pictures, masks and truth to try plug-ins on: random, with flat ground, edges, ties and void."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segengine.instances.join import components, renumbered
from segengine.instances.rows import objects_of
from segengine.types import Pixels, Prediction, Truth

_STEP = 5
"""Side of the flat parts."""


def picture(seed: int, size: tuple[int, int], bands: int = 3, dtype: str = "uint8") -> Pixels:
    """(y, x, band): flat parts with noise."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(0, 6, (height // _STEP + 1, width // _STEP + 1, bands))
    image = coarse.repeat(_STEP, 0).repeat(_STEP, 1)[:height, :width] * 40
    image = image + rng.integers(0, 25, (height, width, bands))
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (image / 255).astype(kind)
    return (image * (np.iinfo(kind).max // 255)).astype(kind)


def scored(
    seed: int, classes: int, truths: int, size: tuple[int, int] = (14, 17)
) -> tuple[Prediction, Truth]:
    """One frame's prediction and truth (1, y, x), with all that a metric or loss may need."""
    rng = np.random.default_rng(seed)
    labels, true = _blocks(rng, classes, size), _blocks(rng, truths, size)
    alike = rng.random(size) < 0.5
    true[alike] = np.minimum(labels, truths - 1)[alike]
    true[rng.random(size) < 0.05] = 255
    probabilities = rng.random((*size, classes)).astype(np.float32)
    probabilities /= probabilities.sum(-1, keepdims=True)
    probabilities[labels == 255] = np.nan
    ids, true_ids = _instances(labels), _instances(true)
    objects, true_objects = objects_of(ids, labels), objects_of(true_ids, true)
    scores = rng.integers(0, 4, objects.num_rows) / 4  # many ties
    objects = objects.set_column(
        objects.schema.get_field_index("score"), "score", pa.array(scores, pa.float32())
    )
    crowd = pa.array(rng.random(true_objects.num_rows) < 0.2, pa.bool_())
    return (
        Prediction(labels[None], probabilities[None], ids[None], objects),
        Truth(true[None], true_ids[None], true_objects.drop_columns("score").append_column("crowd", crowd)),
    )  # fmt: skip


def together(pairs: Sequence[tuple[Prediction, Truth]]) -> tuple[Prediction, Truth]:
    """Several frames as the n windows of one call."""
    ours, theirs = zip(*pairs, strict=True)
    return (
        Prediction(
            _stacked(p.labels for p in ours),
            _stacked(p.probabilities for p in ours),
            _stacked(p.instances for p in ours),
            _tables(p.objects for p in ours),
        ),
        Truth(
            _stacked(t.labels for t in theirs),
            _stacked(t.instances for t in theirs),
            _tables(t.objects for t in theirs),
        ),
    )


def _blocks(rng: np.random.Generator, classes: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    coarse = rng.integers(0, classes, (size[0] // 3 + 1, size[1] // 3 + 1)).astype(np.uint8)
    labels = coarse.repeat(3, 0).repeat(3, 1)[: size[0], : size[1]].copy()
    labels[rng.random(size) < 0.05] = 255
    return labels


def _instances(labels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Ids of the pieces of all classes but the first."""
    return renumbered(components(labels, (0, 255)).astype(np.uint32))[0]


def _stacked(maps: Any) -> Any:
    return np.concatenate(list(maps))


def _tables(tables: Any) -> pa.Table:
    return pa.concat_tables(
        table.append_column("frame", pa.array([i] * table.num_rows, pa.int64()))
        for i, table in enumerate(tables)
    )
