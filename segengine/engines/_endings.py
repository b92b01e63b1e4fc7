"""What a network's last operation makes of its values: told from its file, by the operation's name.

... -> Conv -> Sigmoid -> Transpose -> output        sigmoid: probabilities
... -> Conv -> Resize -> output                      linear: they still lack an activation
... -> Conv -> Clip -> output                        None: the file does not say
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segengine.guards import words

_THROUGH = words("""
    identity cast transpose reshape squeeze unsqueeze expanddims dropout resize upsample
    resizebilinear resizenearestneighbor quantize dequantize quantizelinear dequantizelinear
    slice stridedslice
    """)
"""They move values, or mix them by weights whose sum is 1."""
_LINEAR = words("""
    conv conv2d convtranspose transposeconv conv2dbackpropinput depthwiseconv2d qlinearconv
    depthwiseconv2dnative matmul batchmatmul batchmatmulv2 gemm fullyconnected biasadd
    batchnormalization fusedbatchnormv3 logsoftmax
    """)
"""Any number may come of them. The exponentials of a LogSoftmax are the softmax of itself."""
_ACTIVATIONS = {
    "sigmoid": "sigmoid",
    "logistic": "sigmoid",
    "hardsigmoid": "sigmoid",
    "qlinearsigmoid": "sigmoid",
    "softmax": "softmax",
    "qlinearsoftmax": "softmax",
    "biassoftmax": "softmax",
    "tanh": "tanh",
    "softsign": "softsign",
}
_SUMS = ("add", "addv2", "qlinearadd")
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Made:
    """How a tensor comes about."""

    op: str
    inputs: tuple[str, ...]
    plain: bool = True
    """Nothing else is done to the values, such as an activation that is fused into it."""


def ending(tensors: Mapping[str, Made], output: str, depth: int = 0) -> str | None:
    """The name of an activation, `linear` for none, or None where that is not known."""
    made = tensors.get(output)
    if made is None or not made.plain or depth > _DEEPEST:
        return None
    op = made.op.lower().replace("_", "")
    if op in _ACTIVATIONS:
        return _ACTIVATIONS[op]
    if op in _LINEAR:
        return "linear"
    if op in _THROUGH and made.inputs:
        return ending(tensors, made.inputs[0], depth + 1)
    if op in _SUMS:
        parts = [ending(tensors, name, depth + 1) for name in made.inputs]
        return "linear" if "linear" in parts else None
    return None
