"""Accuracy, mean IoU and mean Dice while a network trains: Keras metrics over one confusion table.

The formulas are those of `segengine.metrics.confusion`: void is not scored, and a class that is
neither true nor predicted is left out of a mean.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class Figure(keras.metrics.Metric):
    """One figure of labels (n, y, x) against scores (n, y, x, class), or (n, y, x, 1) logits."""

    def __init__(self, name: str, classes: int) -> None:
        """`name`: accuracy, mean_iou or mean_dice."""
        super().__init__(name=name)
        self.classes = classes
        self.table = self.add_weight(
            name="table", shape=(classes, classes), initializer="zeros", dtype="float64"
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch; true labels from `classes` on are void."""
        true = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        found = y_pred > 0 if y_pred.shape[-1] == 1 else ops.argmax(y_pred, axis=-1)
        found = ops.reshape(ops.cast(found, "int32"), (-1,))
        scored = ops.logical_and(true >= 0, true < self.classes)
        pair = ops.where(scored, true * self.classes + found, self.classes**2)
        counts = ops.bincount(pair, minlength=self.classes**2 + 1)[: self.classes**2]
        counts = ops.reshape(ops.cast(counts, "float64"), (self.classes, self.classes))
        self.table.assign_add(counts)

    def result(self) -> Any:
        """The figure of all batches since the last reset."""
        hits = ops.diagonal(self.table)
        true, found = ops.sum(self.table, axis=1), ops.sum(self.table, axis=0)
        if self.name == "accuracy":
            return ops.sum(hits) / ops.maximum(ops.sum(true), 1.0)
        seen = ops.cast(true + found > 0, "float64")
        if self.name == "mean_dice":
            ratios = 2 * hits / ops.maximum(true + found, 1.0)
        else:
            ratios = hits / ops.maximum(true + found - hits, 1.0)
        return ops.sum(ratios) / ops.maximum(ops.sum(seen), 1.0)

    def get_config(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {"name": self.name, "classes": self.classes}
