"""Weights that depend on a tensor's name only, so that no fixture has to hold them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A float32 tensor of a torch state dict, scaled so that deep networks keep values near 1."""
    rng = np.random.Generator(np.random.SFC64(zlib.crc32(name.encode())))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith((".bias", "running_mean", "scales")):
        return rng.uniform(-0.3, 0.3, shape).astype(np.float32)
    if len(shape) == 1:  # a normalisation's scale
        return rng.uniform(0.4, 1.0, shape).astype(np.float32)
    values = rng.random(shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= np.float32((24 / np.prod(shape[1:])) ** 0.5)
    return values


def state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """All tensors of a state dict."""
    return {
        name: tensor(name, tuple(shape))
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """(height, width, 3) smooth patches with edges between them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [
        np.sin(x * rng.uniform(0.05, 0.3) + y * rng.uniform(-0.3, 0.3) + rng.uniform(0, 6))
        for _ in range(6)
    ]
    parts = np.stack([waves[i] + (waves[i + 3] > 0.4) for i in range(3)], axis=-1)
    return np.clip(90 + 60 * parts, 0, 255).astype(np.uint8)


def give_named_weights(model: Any) -> dict[str, NDArray[np.float32]]:
    """A torch state dict of a Keras model's layers, drawn by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if type(layer).__name__ in ("Functional", "Model"):
            continue
        for variable in layer.weights:
            shape = tuple(variable.shape)
            if len(shape) == 4:
                depthwise = type(layer).__name__ == "DepthwiseConv2D"
                shape = tuple(shape[i] for i in ((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))
            name = _SUFFIXES.get(variable.name, variable.name)
            if len(shape) == 2 and name == "weight":
                shape = shape[::-1]
            shapes[f"{layer.name}.{name}"] = shape
    # the loader turns every matrix as a dense layer's, the codewords too
    return {k: v.T if k.endswith(".words") else v for k, v in state(shapes).items()}


def parameters(model: Any, prefix: str) -> int:
    """Parameters in PyTorch's sense of the layers whose name starts so: no moving statistics."""
    layers = model._flatten_layers(include_self=False, recursive=True)
    return sum(
        int(np.prod(variable.shape))
        for layer in layers
        if layer.name.startswith(prefix) and type(layer).__name__ != "Functional"
        for variable in layer.weights
        if not variable.name.startswith("moving_")
    )


_SUFFIXES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
