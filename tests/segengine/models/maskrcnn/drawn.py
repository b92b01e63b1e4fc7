"""Weights drawn by tensor name: both formats of published files with values anyone can repeat.

Scaled so that activations keep their size and detections exist. NumPy only.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np


def draw(name: str, shape: tuple[int, ...], out_axis: int) -> np.ndarray:
    """float32 values of a tensor; `out_axis` is the one that counts a kernel's outputs."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.PCG64(seed))
    leaf = name.replace("/", ".").rsplit(".", 1)[1]
    values = rng.standard_normal(shape, np.float32)
    if "variance" in leaf or "var" in leaf:
        return np.exp(0.2 * values)
    if len(shape) == 1:
        scale = leaf == "gamma" or (leaf == "weight")
        # the last normalisation of a block is small, so that a hundred layers do not explode
        last = "branch2c" in name or ".bn3" in name
        return (0.3 if last else 1.0) * (1 + 0.1 * values) if scale else 0.05 * values
    gain = math.sqrt(2 / (np.prod(shape) / shape[out_axis]))
    for part, factor in _FACTORS.items():
        if part in name:
            gain *= factor
    if name.startswith("conv1/"):  # this network's input has a deviation of about 60
        gain /= 60
    if any(part in name for part in _CENTRED):
        inputs = tuple(axis for axis in range(len(shape)) if axis != out_axis)
        values -= values.mean(inputs, keepdims=True)
    return np.float32(gain) * values


# What all features have in common would else decide every region's class alike.
_CENTRED = ("class_logits", "cls_score", "mrcnn_mask/", "mask_fcn_logits")
_FACTORS = {
    "class_logits": 1.5,
    "cls_score": 1.0,
    "rpn.head.bbox_pred": 0.05,
    "box_predictor.bbox_pred": 0.2,
    "rpn_bbox_pred": 0.1,
    "mrcnn_bbox_fc": 0.3,
    "cls_logits": 0.3,
    "rpn_class_raw": 0.3,
    "mrcnn_mask/": 1.0,
    "mask_fcn_logits": 1.0,
    "fpn_c": 0.5,
    "fpn_p": 0.1,
    "inner_blocks": 0.5,
}


def matterport_tensors() -> dict[str, tuple[int, ...]]:
    """Name and shape of the 690 tensors of `mask_rcnn_coco.h5`, written down from its layers."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *kernel: int, bias: int | None = None) -> None:
        found[f"{name}/kernel"] = kernel
        found[f"{name}/bias"] = (kernel[-1] if bias is None else bias,)

    def bn(name: str, channels: int) -> None:
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
            found[f"{name}/{leaf}"] = (channels,)

    conv("conv1", 7, 7, 3, 64)
    bn("bn_conv1", 64)
    before = 64
    for stage, blocks, width in ((2, 3, 64), (3, 4, 128), (4, 23, 256), (5, 3, 512)):
        for block in "abcdefghijklmnopqrstuvw"[:blocks]:
            shapes = {
                "2a": (1, 1, before, width),
                "2b": (3, 3, width, width),
                "2c": (1, 1, width, 4 * width),
            }
            if block == "a":
                shapes["1"] = (1, 1, before, 4 * width)
            for branch, shape in shapes.items():
                conv(f"res{stage}{block}_branch{branch}", *shape)
                bn(f"bn{stage}{block}_branch{branch}", shape[-1])
            before = 4 * width
    for level, channels in ((5, 2048), (4, 1024), (3, 512), (2, 256)):
        conv(f"fpn_c{level}p{level}", 1, 1, channels, 256)
        conv(f"fpn_p{level}", 3, 3, 256, 256)
    conv("rpn_conv_shared", 3, 3, 256, 512)
    conv("rpn_class_raw", 1, 1, 512, 6)
    conv("rpn_bbox_pred", 1, 1, 512, 12)
    conv("mrcnn_class_conv1", 7, 7, 256, 1024)
    bn("mrcnn_class_bn1", 1024)
    conv("mrcnn_class_conv2", 1, 1, 1024, 1024)
    bn("mrcnn_class_bn2", 1024)
    conv("mrcnn_class_logits", 1024, 81)
    conv("mrcnn_bbox_fc", 1024, 324)
    for i in "1234":
        conv(f"mrcnn_mask_conv{i}", 3, 3, 256, 256)
        bn(f"mrcnn_mask_bn{i}", 256)
    conv("mrcnn_mask_deconv", 2, 2, 256, 256)
    conv("mrcnn_mask", 1, 1, 256, 81)
    return found


def draw_matterport(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The drawn values of a tensor of that file."""
    # a transposed convolution's kernel is (y, x, out, in)
    return draw(name, shape, len(shape) - (2 if "deconv" in name else 1))


def photos() -> dict[str, np.ndarray]:
    """Three photos of scikit-image, reduced: (y, x, 3) uint8."""
    from skimage import data

    return {
        "astronaut": np.ascontiguousarray(data.astronaut()[::3, ::3]),
        "coffee": np.ascontiguousarray(data.coffee()[::3, ::3]),
        "chelsea": np.ascontiguousarray(data.chelsea()[::2, ::2]),
    }


SAMPLED = 400
"""Values of a stage that a fixture keeps."""


def sample(name: str, values: np.ndarray) -> np.ndarray:
    """Some values of a stage, the same for equal names and shapes."""
    flat = np.asarray(values, np.float32).reshape(-1)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.PCG64(seed))
    return flat[rng.integers(0, len(flat), min(SAMPLED, len(flat)))]
