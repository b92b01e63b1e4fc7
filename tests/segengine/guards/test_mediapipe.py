"""MediaPipe's transposed convolution: the values of TFLite's own, and nothing else of its kind let in."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.engines import _lite, _mediapipe, tensorflow
from segengine.guards import tflite

TF = tensorflow.library()
KERNEL = np.random.default_rng(1).normal(size=(2, 2, 1, 3)).astype(np.float32)
BIAS = 0.25


@pytest.fixture(scope="module")
def plain() -> bytes:
    """A transposed convolution with a bias, as TensorFlow's converter writes it."""

    class Net(TF.Module):  # type: ignore[misc]
        kernel = TF.constant(KERNEL)

        @TF.function(input_signature=[TF.TensorSpec((1, 4, 6, 3), TF.float32)])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            return TF.nn.conv2d_transpose(x, self.kernel, (1, 8, 12, 1), 2) + BIAS

    net = Net()
    made = TF.lite.TFLiteConverter.from_concrete_functions([net.serve.get_concrete_function()], net)
    found: bytes = made.convert()
    return found


def as_mediapipe(
    data: bytes, name: str = _mediapipe.NAME, options: bytes = struct.pack("<3i", 1, 2, 2)
) -> bytes:
    """The same file with a custom operation in the place of TFLite's."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils as files

    model = files.read_model_from_bytearray(bytearray(data))
    numbers = [c.builtinCode for c in model.operatorCodes]
    place = numbers.index(schema.BuiltinOperator.TRANSPOSE_CONV)
    code = model.operatorCodes[place]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = name.encode(), 1
    (operator,) = (o for o in model.subgraphs[0].operators if o.opcodeIndex == place)
    _, kernel, values, bias = operator.inputs
    operator.inputs = [values, kernel, bias]
    operator.builtinOptionsType, operator.builtinOptions = 0, None
    operator.customOptions = np.frombuffer(options, np.uint8)
    return bytes(files.convert_object_to_bytearray(model))


def test_its_values_are_those_of_a_transposed_convolution(
    plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lite, "survive", lambda *_: None)  # a process of its own, for seconds
    path = tmp_path / "m.tflite"
    path.write_bytes(as_mediapipe(plain))
    batch = np.random.default_rng(2).normal(size=(1, 4, 6, 3)).astype(np.float32)
    (found,) = tensorflow.LiteEngine(path).run(batch).values()
    # strides of the kernel's size: each value makes one block of 2 x 2 pixels
    expected = np.einsum("byxc,ijoc->byixjo", batch, KERNEL).reshape(1, 8, 12, 1) + BIAS
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_file_without_it_stays_as_it_is(plain: bytes) -> None:
    assert _mediapipe.in_own_operations(plain) is plain


def test_the_guard_alone_refuses_it(plain: bytes) -> None:
    with pytest.raises(ValueError, match="custom op Convolution2DTransposeBias is not allowed"):
        tflite.check(as_mediapipe(plain))


def test_others_are_refused(plain: bytes) -> None:
    other = as_mediapipe(plain, "FlexConvolution2DTransposeBias")
    with pytest.raises(ValueError, match="custom op FlexConvolution2DTransposeBias is not allowed"):
        _mediapipe.in_own_operations(other)
    for options in (b"", struct.pack("<4i", 1, 2, 2, 0), struct.pack("<3i", 1, 0, 2), bytes(12)):
        with pytest.raises(ValueError, match="Bias is not as MediaPipe writes it"):
            _mediapipe.in_own_operations(as_mediapipe(plain, options=options))


def test_a_damaged_file_is_an_error_of_one_line(plain: bytes) -> None:
    good = as_mediapipe(plain)
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for at in rng.integers(0, len(data), rng.integers(1, 8)):
            data[at] = rng.integers(256)
        try:
            tflite.check(_mediapipe.in_own_operations(bytes(data)))
        except ValueError:
            refused += 1
    assert refused > 30
