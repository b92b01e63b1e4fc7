"""TFLite files that are damaged are errors of one line, and never the end of a process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from segengine.engines import _lite, tensorflow
from segengine.guards import tflite

TF = tensorflow.library()


@pytest.fixture(scope="module")
def good() -> bytes:
    """A convolution and its neighbours."""

    class Net(TF.Module):  # type: ignore[misc]
        kernel = TF.constant([[[[0.5, 1.0]] * 3] * 3] * 3, TF.float32)

        @TF.function(input_signature=[TF.TensorSpec((1, 16, 16, 3), TF.float32)])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            x = TF.nn.conv2d(x, TF.reshape(self.kernel, (3, 3, 3, 2)), 1, "SAME")
            return TF.nn.softmax(TF.image.resize(TF.nn.relu(x), (16, 16)))

    net = Net()
    made = TF.lite.TFLiteConverter.from_concrete_functions([net.serve.get_concrete_function()], net)
    found: bytes = made.convert()
    return found


def test_a_good_file_passes(good: bytes) -> None:
    tflite.check(good)


def test_no_damage_leads_beyond_the_file(good: bytes) -> None:
    """Every cut, and bytes that are changed, end in a ValueError or in nothing."""
    rng = random.Random(1)
    refused = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            tflite.check(bytes(data))
        except ValueError:
            refused += 1
    assert refused > 300
    for end in range(0, len(good) - 64, 7):
        with pytest.raises(ValueError, match="not a TFLite model that loads"):
            tflite.check(good[:end])


def test_a_file_that_ends_the_interpreter_is_an_error(
    good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lite.survive(good, (1, 16, 16, 3))
    steps = _lite._STEPS.replace("model.invoke()", "import os; os.abort()")
    monkeypatch.setattr(_lite, "_STEPS", steps)
    path = tmp_path / "m.tflite"
    path.write_bytes(good + bytes(8))  # other bytes than those that survived
    engine = tensorflow.LiteEngine(path)
    with pytest.raises(ValueError, match=r"the interpreter ended when it was tried \(code -6\)"):
        engine.try_out((1, 16, 16, 3))
