"""MediaPipe's transposed convolution with a bias, said in an operation that TFLite brings itself.

Its selfie segmentation names `Convolution2DTransposeBias`, which is code of MediaPipe's interpreter. TFLite
computes the same since the third version of its own, with the inputs in another order:

    Convolution2DTransposeBias(values, kernel, bias)        custom options: padding, stride in x, in y
    TRANSPOSE_CONV(output shape, kernel, values, bias)

So the file is written anew before an interpreter gets it, and what is written is held against the list of
what any file may have.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from segengine.guards import tflite

NAME = "Convolution2DTransposeBias"
_LARGER = 4
"""Times its size that the tensors of a file may take: two buffers may lie in one place."""


def in_own_operations(data: bytes) -> bytes:
    """The file without that operation; the very bytes where it has none.

    Raise ValueError where it is damaged, or has one that MediaPipe does not write.
    """
    if NAME.encode() not in data:
        return data
    tflite.check(data, replaced=frozenset({NAME}))
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils as files

    try:
        model = files.read_model_from_bytearray(bytearray(data))
        if sum(len(b.data) for b in model.buffers if b.data is not None) > _LARGER * len(data):
            raise ValueError("its tensors claim more than the file has")
        for number, code in enumerate(model.operatorCodes):
            if code.customCode == NAME.encode():
                _replace(model, number, schema)
        return bytes(files.convert_object_to_bytearray(model))
    except (struct.error, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("not a TFLite model that loads: it is damaged or cut off") from error


def _replace(model: Any, number: int, schema: Any) -> None:
    """Make the operations of a code TFLite's own, wherever they stand."""
    code = model.operatorCodes[number]
    code.customCode, code.version = None, 3
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE_CONV
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator.opcodeIndex != number:
                continue
            given = operator.customOptions
            options = b"" if given is None else bytes(bytearray(given))
            if len(options) != 12 or len(operator.inputs) != 3 or len(operator.outputs) != 1:
                raise ValueError(f"custom op {NAME} is not as MediaPipe writes it")
            padding, across, down = struct.unpack("<3i", options)  # of C: 1 same, 2 valid
            if padding not in (1, 2) or across < 1 or down < 1:
                raise ValueError(f"custom op {NAME} is not as MediaPipe writes it")
            values, kernel, bias = operator.inputs
            shape = _constant(model, graph, graph.tensors[operator.outputs[0]].shape, schema)
            operator.inputs, operator.customOptions = [shape, kernel, values, bias], None
            made = schema.TransposeConvOptionsT()
            made.padding = (schema.Padding.SAME, schema.Padding.VALID)[padding - 1]
            made.strideW, made.strideH = across, down
            operator.builtinOptionsType = schema.BuiltinOptions.TransposeConvOptions
            operator.builtinOptions = made


def _constant(model: Any, graph: Any, numbers: Any, schema: Any) -> int:
    """The number of a new tensor of whole numbers."""
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(np.asarray(numbers, "<i4").tobytes(), np.uint8)
    tensor.shape, tensor.type = [len(numbers)], schema.TensorType.INT32
    tensor.buffer, tensor.name = len(model.buffers), b"output shape"
    model.buffers.append(buffer)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
