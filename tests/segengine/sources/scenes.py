"""Small scenes of several files for tests: bands of unlike resolution over one extent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

UTM = "EPSG:32633"
CORNER = 600_000.0, 5_000_000.0


def field(resolution: float, side: float, seed: int = 0, dtype: str = "uint16") -> Any:
    """(y, x) waves of hundreds of metres with some noise, sampled at the centres of pixels."""
    count = round(side / resolution)
    y, x = (np.mgrid[:count, :count] + 0.5) * resolution
    noise = np.random.default_rng(seed).normal(0, 60, (count, count))
    waves = 2000 + 900 * np.sin(x / 170 + seed) + 700 * np.cos(y / 130 + 2 * seed)
    return np.clip(waves + noise, 1, 30_000).astype(dtype)


def write(path: Path, layers: Any, resolution: float, corner: Any = CORNER, **profile: Any) -> str:
    """layers (y, x) or (band, y, x), its upper left corner at `corner`."""
    layers = np.asarray(layers)
    layers = layers[None] if layers.ndim == 2 else layers
    place = Affine(resolution, 0, corner[0], 0, -resolution, corner[1])
    options = {"crs": UTM, "transform": place, "dtype": layers.dtype} | profile
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = layers.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, **({"driver": "GTiff"} | options)
    ) as file:
        file.write(layers)
    return str(path)


def tile(folder: Path, scene: str, side: float = 1800, corner: Any = CORNER) -> dict[str, Any]:
    """A scene's bands at 10, 20 and 60 m, by name, as they were written to `folder/scene/`."""
    bands = {}
    for seed, (name, resolution) in enumerate((("B04", 10), ("B11", 20), ("B01", 60))):
        bands[name] = field(resolution, side, seed)
        write(folder / scene / f"{scene}_{name}.tif", bands[name], resolution, corner)
    return bands
