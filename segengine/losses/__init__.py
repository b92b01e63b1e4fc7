"""Losses by name: `names()`, `groups()`, `create(name, **options)`.

Each loss is one formula used twice: as a Keras loss in training, and as an exactly mergeable
statistic in the aggregate stage, which imports neither Keras nor TensorFlow.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from segengine import registry

GROUPS = ("distribution", "region", "boundary", "compound")
"""What a loss compares: pixels one by one, areas, outlines, or a weighted sum of others."""


def names() -> tuple[str, ...]:
    """Losses installed."""
    return registry.names("losses")


def groups() -> dict[str, tuple[str, ...]]:
    """Names of each group, without importing any loss; those of other packages are under `other`."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for point in sorted(entry_points(group="segengine.losses"), key=lambda point: point.name):
        package, _, group = point.module.rpartition(".")
        ours = package == __name__ and group in GROUPS
        found.setdefault(group if ours else "other", []).append(point.name)
    return {group: tuple(members) for group, members in found.items()}


def create(name: str, **options: Any) -> Any:
    """The `keras.losses.Loss` of a name: `(y_true, y_pred)`, for `model.compile`.

    `y_pred` is (n, y, x, class); `y_true` the same, or integers (n, y, x) or (n, y, x, 1). Raises
    JobError for an unknown name or option.
    """
    return registry.create("losses", name, options).keras()
