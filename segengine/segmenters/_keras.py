"""Keras models from files: whole ones, and weights of an architecture. Never code, never pickle."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segengine.engines import reason
from segengine.engines.tensorflow import check_finite, library
from segengine.errors import JobError
from segengine.guards import keras as guard

Size = tuple[int | None, int | None]


def load_whole(path: Path) -> Any:
    """The model of a `.keras` or legacy `.h5` file, not compiled.

    Raises ValueError for a damaged file, one with code in it, and weights that are not finite.
    """
    library()
    import keras

    import segengine.models  # noqa: F401 - registers the layers of ours that a file may hold

    with tempfile.TemporaryDirectory(prefix="segengine-") as folder:
        guard.check_model(path, Path(folder))
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ValueError(f"not a Keras model that loads: {reason(error)}") from error
    return checked(model)


def load_weights(
    path: Path, architecture: str, bands: int, channels: int, size: Size, options: Mapping[str, Any]
) -> Any:
    """A network of ours with the weights of a `.weights.h5` file.

    Built for any window size where the architecture allows that, else for `size`.
    """
    library()
    from segengine import models

    def build(size: Size) -> Any:
        return models.build(architecture, bands=bands, classes=channels, size=size, **options)

    try:
        try:
            model = build((None, None))
        except (JobError, ValueError, TypeError):
            if size == (None, None):
                raise
            model = build(size)
    except (JobError, ValueError, TypeError) as error:
        raise ValueError(f"options: {architecture}: {reason(error)}") from error
    guard.check_weights(path)
    try:
        model.load_weights(path)
    except Exception as error:
        raise ValueError(
            f"its weights do not fit {architecture} with {bands} bands and {channels} channels: "
            f"{reason(error)}"
        ) from error
    return checked(model)


def checked(model: Any) -> Any:
    """The model, if all its weights are finite."""
    for variable in model.weights:
        check_finite(variable.path, variable.numpy())
    return model


def last_activation(model: Any) -> str | None:
    """Activation of the layer that gives a model's first output; None where it has none."""
    try:
        layer = model.outputs[0]._keras_history.operation
    except AttributeError:
        return None
    found = getattr(layer, "activation", None)
    return getattr(found, "__name__", None) if found is not None else type(layer).__name__.lower()
