"""Network architectures by name: `names()`, `build(name, bands=, classes=, size=, ...)`.

Importing this package loads Keras and registers the layers of ours that a saved model may hold, so
that plain `keras.models.load_model` reads it.
"""

from __future__ import annotations

from typing import Any

from segengine import registry
from segengine.errors import JobError
from segengine.models import layers

__all__ = ["build", "layers", "names"]


def names() -> tuple[str, ...]:
    """Architectures installed, sorted."""
    return registry.names("models")


def build(
    name: str,
    *,
    bands: int = 3,
    classes: int = 1,
    size: tuple[int | None, int | None] = (None, None),
    weights: str | None = None,
    **options: Any,
) -> Any:
    """A `keras.Model` of an architecture, for inputs (n, height, width, bands).

    A semantic model gives (n, height, width, classes) at input size as its only or first output.
    `size` (None, None): any size, where the architecture allows. `weights`: a path to a file that
    `keras.Model.save_weights` wrote, or what the architecture's own docstring names. Raises
    JobError for a name or an option it does not know.
    """
    if "crf" in options:
        raise JobError(
            f"crf: is no part of the network; a segmenter has it: {{kind: {name}, crf: true}}"
        )
    options = {"bands": bands, "classes": classes, "size": size, **options}
    if weights is not None:
        options["weights"] = weights
    return registry.create("models", name, options)
