"""What Keras 2 wrote into a `.h5` and Keras 3 does not take, said as Keras 3 says it.

| written by Keras 2                                       | becomes                              |
| -------------------------------------------------------- | ------------------------------------ |
| `groups: 1` of transposed, depthwise and separable ones  | nothing: they have no groups         |
| `kernel_*` of depthwise and separable ones               | nothing: they have one a step        |
| `noise_shape: null`, `trainable` of spatial dropout      | nothing: the layer's kind says it    |
| a `Policy` of mixed precision                            | its name                             |
| calls of a model in the model, numbered from 1           | calls numbered from 0                |
| `batch_input_shape` of a layer of a `Sequential`         | an `InputLayer`, if there is none    |

Sources: `get_config` of tf_keras 2.21 and of Keras 3.15.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_KERNEL = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_DROPPED: Mapping[str, tuple[str, ...]] = {
    **{f"Conv{n}DTranspose": ("groups",) for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": ("groups", *_KERNEL) for n in (1, 2)},
    **{f"SeparableConv{n}D": ("groups", *_KERNEL) for n in (1, 2)},
    **{f"SpatialDropout{n}D": ("noise_shape", "trainable") for n in (1, 2, 3)},
}
"""By class: keys without a meaning there."""
_ONLY: Mapping[str, Any] = {"groups": 1, "noise_shape": None}
"""Keys that would have one with another value."""
_MODELS = ("Functional", "Model", "Sequential")


def translated(path: Path, folder: Path) -> Path:
    """A `.h5` that Keras 3 takes: the file itself, or a copy in `folder` with another configuration.

    It has passed the guard. Raises ValueError where a key would mean something.
    """
    import h5py

    with h5py.File(path, "r") as file:
        config = json.loads(file.attrs["model_config"])
    if not _translate(config):
        return path
    copy = folder / "translated.h5"
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    return copy


def _translate(config: Any) -> bool:
    """Whether anything in a JSON value was changed, in place; without recursion."""
    changed, left = False, [config]
    while left:
        node = left.pop()
        for key, value in list(node.items()) if isinstance(node, dict) else enumerate(node):
            if isinstance(value, dict) and value.get("class_name") in ("Policy", "PolicyV1"):
                node[key] = str(value["config"]["name"])
                changed = True
            elif isinstance(value, dict | list):
                left.append(value)
        if isinstance(node, dict) and isinstance(node.get("config"), dict):
            changed |= _drop(str(node.get("class_name")), node["config"])
            if isinstance(node["config"].get("layers"), list):
                changed |= _renumber(node["config"])
        if isinstance(node, dict) and node.get("class_name") == "Sequential":
            changed |= _tell_input(node["config"])
    return changed


def _drop(kind: str, own: dict[str, Any]) -> bool:
    found = [key for key in _DROPPED.get(kind, ()) if key in own]
    for key in found:
        value = own.pop(key)
        if key in _ONLY and value != _ONLY[key]:
            raise ValueError(
                f"its layer {own.get('name')} ({kind}) has {key} {value}, which is refused"
            )
    return bool(found)


def _tell_input(config: Any) -> bool:
    """Say what a `Sequential` takes by a layer of its own, where its first layer does."""
    layers = config["layers"] if isinstance(config, dict) else config
    shapes = [own.pop("batch_input_shape", None) for own in map(_own, layers) if own is not None]
    told = next((shape for shape in shapes if shape is not None), None)
    if told is None:
        return False
    if layers[0].get("class_name") != "InputLayer":
        layers.insert(0, {"class_name": "InputLayer", "config": {"batch_shape": told}})
    return True


def _own(layer: Any) -> dict[str, Any] | None:
    """The configuration of a layer that computes."""
    inputs = not isinstance(layer, dict) or layer.get("class_name") == "InputLayer"
    return None if inputs or not isinstance(layer["config"], dict) else layer["config"]


def _renumber(config: dict[str, Any]) -> bool:
    """Count the calls of each model in this one from 0."""
    models = {layer.get("name"): layer for layer in config["layers"] if _is_model(layer)}
    used: dict[str, list[list[Any]]] = {}
    left = [layer.get("inbound_nodes") for layer in config["layers"]]
    left += [config.get("output_layers")]
    while left:
        value = left.pop()
        if not isinstance(value, list):
            continue
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
            if value[0] in models:
                used.setdefault(value[0], []).append(value)
        else:
            left += value
    changed = False
    for name, tensors in used.items():
        if _counts_from_one(models[name], [tensor[1] for tensor in tensors]):
            for tensor in tensors:
                tensor[1] -= 1
            changed = True
    return changed


def _is_model(layer: Any) -> bool:
    return isinstance(layer, dict) and layer.get("class_name") in _MODELS


def _counts_from_one(layer: Mapping[str, Any], calls: list[int]) -> bool:
    """Whether the first call of a model has number 1: number 0 is the model's own making.

    A `Sequential` that was made without knowing its input counts from 0.
    """
    if 0 in calls:
        return False
    own = layer["config"]
    layers = own["layers"] if isinstance(own, dict) else own
    first = layers[0] if layers else {}
    told = first.get("class_name") == "InputLayer" or "batch_input_shape" in first.get("config", {})
    return layer["class_name"] != "Sequential" or told
