"""What the factories of all architectures share: checks of options, activation, weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from segengine.guards.copies import copied
from segengine.guards.keras import check_weights
from segengine.networks.bundles import check_finite

Size = tuple[int | None, int | None]


def check(bands: int, classes: int, size: Size, multiple: int = 1) -> None:
    """Refuse impossible counts and sizes; ValueError starts with the option's name."""
    check_count("bands", bands)
    check_count("classes", classes)
    sides: Sequence[int | None] = size
    if len(sides) != 2 or any(n is not None and n < 1 for n in sides):
        raise ValueError(f"size: must be a height and a width in pixels, or null, not {size!r}")
    if any(n is not None and n % multiple for n in size):
        raise ValueError(f"size: must be a multiple of {multiple}, not {size[0]} x {size[1]}")


def check_count(name: str, value: object) -> None:
    """Refuse what is no integer of at least 1; a YAML true is a Python int."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: must be an integer of at least 1, not {value!r}")


def final(logits: Any, classes: int, activation: str | None) -> Any:
    """The model's output in float32, whatever the precision policy.

    `activation` "auto" is the sigmoid for one class and softmax for more; None leaves logits.
    """
    if activation == "auto":
        activation = "sigmoid" if classes == 1 else "softmax"
    if activation not in (None, "sigmoid", "softmax"):
        raise ValueError(f"activation: must be sigmoid, softmax or null, not {activation!r}")
    if activation == "softmax" and classes == 1:
        raise ValueError("activation: softmax of one class is always 1; use sigmoid")
    return keras.layers.Activation(activation or "linear", dtype="float32", name="output")(logits)


def load_weights(model: keras.Model, weights: object) -> None:
    """Give the whole model the weights of a file that `keras.Model.save_weights` wrote.

    Raises ValueError where the file is not there or does not fit.
    """
    if weights is None:
        return
    if not isinstance(weights, str) or not Path(weights).is_file():
        raise ValueError(f"weights: there is no file {weights}")
    path = Path(weights)
    kept = "model.weights.h5" if path.name.endswith(".weights.h5") else f"model{path.suffix}"
    try:
        with copied([(path, kept)]) as folder, warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # that a layer was skipped
            check_weights(folder / kept)
            model.load_weights(folder / kept)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        raise ValueError(
            f"weights: {weights} is no file of weights of {model.name} with these bands, classes "
            "and options"
        ) from error
    try:
        check_finite(model)
    except ValueError as error:
        raise ValueError(f"weights: {weights}: {error}") from None


def leaves(model: keras.Model) -> Iterator[Any]:
    """Layers with variables, also those of models in the model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        elif layer.weights:
            yield layer
