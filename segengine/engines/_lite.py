"""A TFLite file's first steps, in a process that it may end.

The interpreter verifies a file when it loads it, and still about one damaged one in a thousand ends its
process by a signal, when it allocates or runs. Damage of that kind shows in the first window.
"""

from __future__ import annotations

import os
import subprocess
import sys

import xxhash

SECONDS = 600
"""Longest that a first window may take."""
_STEPS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import tensorflow as tf
data, shape = sys.stdin.buffer.read(), json.loads(sys.argv[1])
try:
    model = tf.lite.Interpreter(model_content=data, num_threads=1)
    for about in model.get_input_details():
        model.resize_tensor_input(about["index"], shape)
    model.allocate_tensors()
    for about in model.get_input_details():
        model.set_tensor(about["index"], np.zeros(about["shape"], about["dtype"]))
    model.invoke()
    for about in model.get_output_details():
        model.get_tensor(about["index"])
except Exception:
    pass
print("survived")
"""
_survived: set[tuple[str, tuple[int, ...]]] = set()


def survive(data: bytes, shape: tuple[int, ...]) -> None:
    """Raise ValueError where a file ends the process that runs it once, on a batch of a shape.

    An error that can be caught is none: it comes again, with its reason.
    """
    known = (xxhash.xxh3_128_hexdigest(data), shape)
    if known in _survived:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _STEPS, str(list(shape))],
            input=data,
            capture_output=True,
            timeout=SECONDS,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"not a TFLite model that loads: it runs over {SECONDS} s") from None
    if b"survived" not in done.stdout:
        raise ValueError(
            "not a TFLite model that loads: the interpreter ended when it was tried "
            f"(code {done.returncode}); is the file damaged?"
        )
    _survived.add(known)
