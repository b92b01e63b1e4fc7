"""Metrics by name: `names()`, `create(name, **options)`; folds that merge exactly.

Labels and truth are integers (n, y, x), an index into the classes each; the maximum of the dtype is
not scored.
"""

from __future__ import annotations

from typing import Any

from segengine import registry


def names() -> tuple[str, ...]:
    """Names of the metrics installed, sorted."""
    return registry.names("metrics")


def create(name: str, **options: Any) -> Any:
    """The metric of that name: `empty`, `update`, `merge`, `compute`, as `segengine.types.Metric`.

    `options`: `classes`, names in the order of the labels; `truth_classes` where the truth's are
    others; and the metric's own. Raises JobError for a name or an option it does not know.

    >>> create("confusion", classes=["sky", "tree"]).truth_classes
    ('sky', 'tree')
    """
    return registry.create("metrics", name, options)
