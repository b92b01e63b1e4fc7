"""Published weight files to the network's variables: each tensor by name, none missing or left over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from segengine.guards.keras import check_hdf5
from segengine.models._build import leaves
from segengine.models._torch import read_state
from segengine.models.maskrcnn.config import Config
from segengine.models.maskrcnn.names import layer_names
from segengine.networks.bundles import load_weights

SHOWN = 5
"""Most tensors that an error names."""
_TORCH = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_RENAMED = (  # by torchvision 0.13; the published file is older
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (
        r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$",
        lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.{m[2]}",
    ),
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A variable and the tensor of the file that fills it."""

    key: str
    """Name of the tensor in the file."""
    variable: Any
    torch: bool = False
    """Whether the file has torch's order of axes: (out, in, y, x), dense (out, in)."""
    grid: tuple[int, ...] = ()
    """(channel, y, x) that torch flattened to a dense layer's input; ours is (y, x, channel)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the file."""
        shape = tuple(self.variable.shape)
        if not self.torch or len(shape) == 1:
            return shape
        return shape[::-1] if len(shape) == 2 else (shape[3], shape[2], shape[0], shape[1])

    def value(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The tensor as the variable holds it."""
        if not self.torch or tensor.ndim == 1:
            return tensor
        if self.grid:
            spatial = tensor.reshape(-1, *self.grid).transpose(0, 2, 3, 1)
            tensor = spatial.reshape(tensor.shape)
        return tensor.T if tensor.ndim == 2 else tensor.transpose(2, 3, 1, 0)


def load(model: keras.Model, config: Config, path: Path, other_classes: bool = False) -> int:
    """Fill the variables of a network from a file of its preset's format; the number left alone.

    `.weights.h5` is what `save_weights` wrote. `other_classes`: the file may be for other classes;
    the last layers, whose shapes follow from their number, are then left alone. Raises ValueError
    that names the file and the tensors that it lacks, has too many, or has in another shape; the
    model is then unchanged.
    """
    if path.name.endswith(".weights.h5"):
        _load_saved(model, path)
        return 0
    if config.matterport != (path.suffix in (".h5", ".hdf5")):
        wanted = ".h5" if config.matterport else ".pth, .pt or .safetensors"
        raise ValueError(f"weights: {path}: preset {config.preset} reads {wanted}")
    tensors = read(path)
    wrong: list[str] = []
    found = list(slots(model, config))
    names = layer_names(config)
    last = (*names.box[2:], names.mask_top[1]) if other_classes else ()
    free = tuple(f"{name}{end}" for name in last for end in "/.")
    left = [
        slot
        for slot in found
        if slot.key in tensors
        and tensors[slot.key].shape != slot.shape
        and slot.key.startswith(free)
    ]
    for slot in found:
        if slot.key not in tensors:
            wrong.append(f"{slot.key} is missing")
        elif tensors[slot.key].shape != slot.shape and slot not in left:
            shape = tensors[slot.key].shape
            wrong.append(f"{slot.key} has shape {shape}, not {slot.shape}")
    wrong += [f"{key} is of no layer" for key in sorted(tensors.keys() - {s.key for s in found})]
    wrong += [
        f"{key} holds NaN or infinity" for key, t in tensors.items() if not np.isfinite(t).all()
    ]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"weights: {path}: does not fit {config.preset} with {config.backbone} and "
            f"{config.classes} classes: {'; '.join(wrong[:SHOWN])}{more}"
        )
    for slot in found:
        if slot not in left:
            slot.variable.assign(slot.value(tensors[slot.key]))
    return len(left)


def _load_saved(model: keras.Model, path: Path) -> None:
    """What `save_weights` wrote. Raises ValueError where it is damaged or of another network."""
    try:
        load_weights(model, path)
    except ValueError as error:
        raise ValueError(f"weights: {path}: {error}") from None


def read(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a file by name. Raises ValueError where it cannot be read."""
    if path.suffix in (".h5", ".hdf5"):
        return read_h5(path)
    try:
        tensors = read_state(path)
    except ValueError as error:
        raise ValueError(f"weights: {error}") from error
    found = {}
    for key, tensor in tensors.items():
        if key.endswith(".num_batches_tracked"):  # a counter of training, used nowhere
            continue
        for old, new in _RENAMED:
            key = re.sub(old, new, key)
        found[key] = tensor
    return found


def read_h5(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a Keras HDF5 file by the last two parts of their path, as `conv1/kernel`.

    The groups above differ between writers: the root may be `/model_weights`, and layers of a
    nested model (`rpn_model`) lie one deeper.
    """
    import h5py

    try:
        check_hdf5(path)
    except ValueError as error:
        raise ValueError(f"weights: {path}: {error}") from error
    found: dict[str, NDArray[Any]] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer_weights/"):
            return
        key = "/".join(name.split("/")[-2:]).removesuffix(":0")
        if key in found:
            raise ValueError(f"weights: {path}: has two tensors {key}")
        found[key] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except OSError as error:
        raise ValueError(
            f"weights: {path}: is not an HDF5 file that can be read: {error}"
        ) from error
    return found


def slots(model: keras.Model, config: Config) -> Iterator[Slot]:
    """Every variable of the network with the tensor that fills it."""
    first_dense = layer_names(config).box[0]
    squares = (config.pyramid_channels, config.box_pool, config.box_pool)
    for layer in leaves(model):
        for variable in layer.weights:
            if config.matterport:
                yield Slot(f"{layer.name}/{variable.name}", variable)
            else:
                grid = squares if layer.name == first_dense and variable.name == "kernel" else ()
                yield Slot(f"{layer.name}.{_TORCH[variable.name]}", variable, True, grid)
