"""Metrics: folds that merge exactly; reached by name through the registry."""

from __future__ import annotations

from typing import Any

from segengine import registry


def names() -> tuple[str, ...]:
    """Names of the metrics installed, sorted."""
    return registry.names("metrics")


def create(name: str, **options: Any) -> Any:
    """The metric of that name. Raises JobError for a name or an option it does not know.

    >>> create("confusion", classes=["sky", "tree"]).truth_classes
    ('sky', 'tree')
    """
    return registry.create("metrics", name, options)
