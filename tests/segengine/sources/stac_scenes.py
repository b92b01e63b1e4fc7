"""Small scenes as STAC: written by rasterio and pystac, so that nothing of ours is in them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from numpy.typing import NDArray

from segengine import registry
from segengine.sources import _signed

HEIGHT, WIDTH = 40, 56


def install_signer(patch: pytest.MonkeyPatch, sign: Callable[[str], Any]) -> None:
    """Installs a function as the signer `mine`, as the entry point of another package would."""
    module = ModuleType("another_package")
    module.sign = sign  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "another_package", module)
    point = EntryPoint("mine", "another_package:sign", "segengine.signers")
    registered = registry._registered

    def with_mine(group: str) -> dict[str, tuple[EntryPoint, ...]]:
        known = registered(group)
        return {**known, "mine": (point,)} if group == "signers" else known

    patch.setattr(registry, "_registered", with_mine)
    patch.setattr(_signed, "_HELD", _signed._Held())


def pixels(seed: int, dtype: str = "uint16") -> NDArray[Any]:
    """(y, x), values from 1: 0 is free for nodata."""
    found = np.random.default_rng(seed).integers(1, 250, (HEIGHT, WIDTH))
    return found.astype(dtype)


def write_tiff(path: Path, bands: NDArray[Any], **options: Any) -> None:
    """A GeoTIFF of (band, y, x), or of one band (y, x)."""
    layers = bands if bands.ndim == 3 else bands[None]
    settings = {
        "driver": "GTiff", "count": len(layers), "height": layers.shape[1], "width": layers.shape[2],
        "dtype": layers.dtype.name, "crs": "EPSG:32633", "tiled": True, "blockxsize": 16,
        "blockysize": 16, "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000), **options,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **settings) as file:
        file.write(layers)


def make_item(
    folder: Path,
    name: str,
    bands: Mapping[str, NDArray[Any]],
    day: int = 0,
    cloud: float | None = None,
    **options: Any,
) -> pystac.Item:
    """An item whose assets lie beside it, each the key of a GeoTIFF with that common name."""
    item = pystac.Item(
        name,
        {"type": "Polygon", "coordinates": [[[15, 45], [15.1, 45], [15.1, 45.1], [15, 45.1], [15, 45]]]},
        [15, 45, 15.1, 45.1],
        datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=day),
        {} if cloud is None else {"eo:cloud_cover": cloud},
    )  # fmt: skip
    for key, values in bands.items():
        write_tiff(folder / name / f"{key}.tif", values, **options)
        said = {"eo:bands": [{"name": key, "common_name": key}]}
        asset = pystac.Asset(
            f"./{key}.tif", media_type=pystac.MediaType.COG, roles=["data"], extra_fields=said
        )
        item.add_asset(key, asset)
    return item


def save(folder: Path, *items: pystac.Item) -> str:
    """A catalog with a collection of these items, each beside its assets; the path of the catalog."""
    catalog = pystac.Catalog("nights", "-")
    extent = pystac.Extent(
        pystac.SpatialExtent([[15, 45, 15.1, 45.1]]), pystac.TemporalExtent([[None, None]])
    )
    collection = pystac.Collection("scenes", "-", extent)
    catalog.add_child(collection)
    collection.add_items(items)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        catalog.normalize_and_save(
            str(folder),
            pystac.CatalogType.SELF_CONTAINED,
            strategy=pystac.layout.CustomLayoutStrategy(
                catalog_func=lambda c, d, r: str(folder / "catalog.json"),
                collection_func=lambda c, d, r: str(folder / "collection.json"),
                item_func=lambda i, d: str(folder / i.id / f"{i.id}.json"),
            ),
        )
    return str(folder / "catalog.json")
