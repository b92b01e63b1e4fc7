"""Inputs of a size: a photograph tiled over a raster, or windows of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import skimage.data
from numpy.typing import NDArray
from rasterio.windows import Window

BLOCK = 512


def big_raster(path: Path, side: int, bands: int = 3) -> Path:
    """A tiled GeoTIFF (side, side, bands) of uint8: a photo, shifted in brightness from tile to tile."""
    photo = cv2.resize(skimage.data.coffee(), (2048, 2048), interpolation=cv2.INTER_CUBIC)
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": bands,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "pixel",
        "crs": "EPSG:32613",
        "transform": rasterio.Affine(1, 0, 500_000, 0, -1, 4_400_000),
        "BIGTIFF": "IF_SAFER",
    }
    with rasterio.open(path, "w", **profile) as data:
        for i, y in enumerate(range(0, side, 2048)):
            for j, x in enumerate(range(0, side, 2048)):
                h, w = min(2048, side - y), min(2048, side - x)
                tile = np.clip(
                    photo[:h, :w, :bands].astype(np.int16) + (i * 7 + j * 3) % 40, 0, 255
                )
                values = np.moveaxis(tile.astype(np.uint8), -1, 0)
                data.write(values, window=Window(x, y, w, h))
    return path


def grainy_photos(count: int, side: int) -> Iterator[NDArray[Any]]:
    """Windows (side, side, 3) of a photo, each elsewhere and with the grain of a sensor."""
    large = cv2.resize(skimage.data.coffee(), (2 * side, 2 * side), interpolation=cv2.INTER_CUBIC)
    for i in range(count):
        rng = np.random.default_rng(i)
        y, x = rng.integers(0, side, 2)
        photo = large[y : y + side, x : x + side] + rng.normal(0, 3, (side, side, 3))
        yield np.clip(photo, 0, 255).astype(np.uint8)
