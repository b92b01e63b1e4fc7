"""Writes what the Mask_RCNN project's Keras 2 wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np


def write(path: Path, tensors: Mapping[str, np.ndarray], root: str = "/") -> None:
    """Group layer / group layer / tensor:0; the three RPN layers lie under `rpn_model`."""
    with h5py.File(path, "w") as file:
        for key, value in tensors.items():
            layer, leaf = key.split("/")
            outer = "rpn_model" if layer.startswith("rpn_") else layer
            file.create_dataset(f"{root}/{outer}/{layer}/{leaf}:0", data=value)
