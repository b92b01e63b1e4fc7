"""Keras models from files: whole ones, and weights of an architecture. Never code, never pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segengine.engines import reason
from segengine.engines.tensorflow import check_finite, library
from segengine.errors import JobError

Size = tuple[int | None, int | None]

_CODE = ("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
"""Layers that hold code."""


def load_whole(path: Path) -> Any:
    """The model of a `.keras` or legacy `.h5` file, not compiled.

    Raises ValueError for a damaged file, one with code in it, and weights that are not finite.
    """
    library()
    refuse_code(_config(path))
    import keras

    import segengine.models  # noqa: F401 - registers the layers of ours that a file may hold

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ValueError(f"not a Keras model that loads: {reason(error)}") from error
    return checked(model)


def refuse_code(config: Any) -> None:
    """Raise ValueError where a model's configuration holds a layer that is code."""
    code = sorted({name for name in _class_names(config) if name in _CODE})
    if code:
        raise ValueError(
            f"it holds a {code[0]} layer, which is code and is refused; rebuild the model with "
            "layers of Keras, or export it to ONNX"
        )


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


def _config(path: Path) -> Any:
    """A model's configuration as JSON; nothing of it is built."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(path) as file:
            config = file.attrs.get("model_config")
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"not a Keras model that loads: {reason(error)}") from error
    if config is None:
        raise ValueError(
            "the file holds weights without a model; name the architecture they belong to, as in "
            "`architecture: unet`, and end its name in .weights.h5"
        )
    return json.loads(config)


def _class_names(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        name = node.get("class_name")
        if isinstance(name, str):
            yield name.rpartition(">")[2]
        for value in node.values():
            yield from _class_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from _class_names(value)
