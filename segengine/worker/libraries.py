"""What a worker loads before its first task."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

LIBRARIES = {
    "raster": ("rasterio", "rasterio.windows", "cv2"),
    "images": ("PIL.Image", "cv2"),
    "video": ("av",),
    "zarr": ("zarr",),
}
"""What reading a kind of source takes; loading them takes a worker about a second."""
GROUND = ("pyproj",)


def prepare(libraries: Sequence[str]) -> None:
    """Load what works will need, while the driver still plans."""
    for name in libraries:
        import_module(name)
