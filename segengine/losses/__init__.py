"""Losses by name: `names()`, `create(name, **options)`."""

from __future__ import annotations

from typing import Any

from segengine import registry


def names() -> tuple[str, ...]:
    """Losses installed."""
    return registry.names("losses")


def create(name: str, **options: Any) -> Any:
    """A loss by name. Raises JobError for an unknown name or option."""
    return registry.create("losses", name, options)
