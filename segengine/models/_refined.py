"""A network with a fully connected CRF behind its probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from segengine.models.layers import DenseCrf

_WITHOUT = "leave crf out here, and give it to the segmenter"


def layer(name: str, bands: int, crf: object, options: Mapping[str, Any]) -> DenseCrf:
    """The CRF of an option `crf`. Raises ValueError where it is wrong, or the network's others are."""
    if crf is not True and not isinstance(crf, Mapping):
        raise ValueError(f"crf: must be true, false or parameters by name, not {crf!r}")
    if bands != 3:
        raise ValueError(f"crf: follows the colours of 3 bands, not of {bands}")
    if options.get("activation", "auto") not in ("auto", "sigmoid", "softmax"):
        raise ValueError(f"crf: refines probabilities and activation leaves logits; {_WITHOUT}")
    given = dict(crf) if isinstance(crf, Mapping) else {}
    scale = given.pop("scale", None)
    try:
        found = DenseCrf(given, scale, name="crf")
        found.scale.check(bands)
    except ValueError as error:
        own = str(error).startswith("crf")
        raise ValueError(str(error) if own else f"crf.{error}") from error
    return found


def refined(model: Any, last: DenseCrf, name: str) -> Any:
    """The model whose first output, probabilities at the size of its one input, goes through it.

    Raises ValueError where it is something else.
    """
    outputs = list(model.outputs)
    single = not isinstance(model.output, dict) and len(model.inputs) == 1
    if not single or outputs[0].shape[1:3] != model.inputs[0].shape[1:3]:
        raise ValueError(f"crf: {name} gives no probabilities of classes at the size of its input")
    outputs[0] = last([outputs[0], model.inputs[0]])
    many = isinstance(model.output, list | tuple)
    return keras.Model(model.input, outputs if many else outputs[0], name=model.name)
