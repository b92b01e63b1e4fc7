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
from segengine.segmenters._keras2 import translated

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
        if path.suffix == ".h5":
            path = translated(path, Path(folder))
        try:
            model = keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise ValueError(f"not a Keras model that loads: {reason(error)}") from error
    _require_windows(model)
    return checked(model)


def _require_windows(model: Any) -> None:
    """Raise ValueError for a CRF in the model: it sees whole frames, which a model is not given."""
    for layer in model._flatten_layers():
        if type(layer).__name__ == "DenseCrf":
            raise ValueError(
                "it ends in a fully connected CRF, which needs whole frames; save the network built "
                "without crf, and set crf of the segmenter"
            )


def load_weights(
    path: Path, architecture: str, bands: int, channels: int, size: Size, options: Mapping[str, Any]
) -> Any:
    """A network of ours with the weights of a `.weights.h5` file.

    Built for any window size where the architecture allows that, else for `size`.
    """
    if "crf" in options:
        raise ValueError(
            "options: crf: needs whole frames; set crf of the segmenter, beside options"
        )
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


_THROUGH = (
    "Identity",
    "Dropout",
    "SpatialDropout2D",
    "Reshape",
    "Permute",
    "Cropping2D",
    "UpSampling2D",
    "Resizing",
    "ResizeBy",
    "ResizeLike",
)
"""Layers that move values, or mix them by weights whose sum is 1."""
_LINEAR = ("BatchNormalization", "LayerNormalization", "Normalization", "Rescaling", "Add")
"""Layers without an activation, of which any number may come."""


def last_activation(model: Any) -> str | None:
    """What the values of a model's first output have been through: the name of an activation,
    `linear` for none; None where the layers do not say."""
    try:
        return _activation_of(model.outputs[0])
    except (AttributeError, IndexError):
        return None


def _activation_of(tensor: Any) -> str | None:
    history = tensor._keras_history
    layer, kind = history.operation, type(history.operation).__name__
    if kind in _THROUGH:
        node = layer._inbound_nodes[history.node_index]
        return _activation_of(node.input_tensors[0])
    if hasattr(layer, "outputs") and hasattr(layer, "layers"):  # a model in the model
        return _activation_of(layer.outputs[history.tensor_index])
    found = getattr(layer, "activation", None)
    if found is not None:
        return str(getattr(found, "__name__", None) or type(found).__name__.lower())
    if kind in _LINEAR or hasattr(layer, "kernel"):
        return "linear"
    return kind.lower()
