"""Network architectures by name: `names()`, `build(name, bands=, classes=, size=, ...)`.

Importing this package loads Keras and registers the layers of ours that a saved model may hold, so
that plain `keras.models.load_model` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    crf: bool | Mapping[str, Any] = False,
    **options: Any,
) -> Any:
    """A `keras.Model` of an architecture, for inputs (n, height, width, bands).

    A semantic model gives (n, height, width, classes) at input size as its only or first output.
    `size` (None, None): any size, where the architecture allows. `weights`: a path to a file that
    `keras.Model.save_weights` wrote, or what the architecture's own docstring names. `crf`: true, or
    parameters of a fully connected CRF by name, which refines the probabilities of that output as a
    segmenter's `crf` does, and learns nothing. It sees the input as pixels of 0 to 255; of another
    input its `scale` says what was made of them, as a segmenter's. Raises JobError for a name or an
    option it does not know.
    """
    options = {"bands": bands, "classes": classes, "size": size, **options}
    if weights is not None:
        options["weights"] = weights
    if crf is False:
        return registry.create("models", name, options)
    from segengine.models._refined import layer, refined  # pays SciPy only where it is asked for

    try:
        last = layer(name, bands, crf, options)
        return refined(registry.create("models", name, options), last, name)
    except ValueError as error:
        raise JobError(str(error)) from error
