"""A mask as an xarray.DataArray: read by Dask, with coordinates, and placed as rioxarray has it.

Dimensions are (frame, y, x). Coordinates: `frame` (names), `time` (seconds from the start of a video),
`x` and `y` (centres of pixels, in the scene's CRS; without one in the transform's units, without either
in pixels from the upper left corner) and `spatial_ref`. Where a transform turns or shears, x and y are
of both dimensions, and are called `xc` and `yc`, as in rioxarray. `_FillValue` is void.

Source: CF conventions 1.11, section 3.5 (flags).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import JobError
from segengine.placing import Placing
from segengine.store.layouts import Layout

if TYPE_CHECKING:
    import xarray

GRID = "spatial_ref"
"""Name of the coordinate that holds CRS and transform."""
Read = Callable[[Any, Any, Any], NDArray[Any]]
"""Labels of slices of frames, rows and columns."""


def data_array(
    layout: Layout, read: Read, dtype: np.dtype[Any], void: int, classes: Sequence[str]
) -> xarray.DataArray:
    """The mask of a scene, one Dask chunk a shard; `read` goes to Dask's workers.

    Raises JobError where xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise JobError(
            f"to_xarray: needs {error.name}, which is not installed; "
            "python -m pip install 'segengine[earth]' brings it"
        ) from None
    import dask.array as da

    labels = da.from_array(
        _Lazy(read, layout.shape, dtype), chunks=layout.shard, name=False, asarray=False,
        meta=np.empty((0, 0, 0), dtype),
    )  # fmt: skip
    placing = layout.placing
    names = [layout.frame_name(i) for i in range(layout.shape[0])]
    coordinates: dict[str, Any] = {"frame": ("frame", np.array(names)), **_positions(placing)}
    if layout.times is not None:
        about = {"units": "s", "long_name": "seconds from the start of the video"}
        coordinates["time"] = ("frame", np.asarray(layout.times, np.float64), about)
    grid = placing.grid_mapping
    if grid:
        coordinates[GRID] = ((), 0, grid)
    found = xarray.DataArray(
        labels,
        coords=coordinates,
        dims=("frame", "y", "x"),
        name="mask",
        attrs={
            "long_name": "class",
            "_FillValue": dtype.type(void),
            "flag_values": np.arange(len(classes), dtype=dtype),
            "flag_meanings": " ".join(map(_meaning, classes)),
        },
    )
    if grid:
        found.encoding["grid_mapping"] = GRID
    return found


class _Lazy:
    """What Dask asks for the labels of a window."""

    ndim = 3

    def __init__(self, read: Read, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self._read, self.shape, self.dtype = read, shape, dtype

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        return self._read(*index)


def _meaning(name: str) -> str:
    """A class as one of the words of `flag_meanings`, which blanks separate."""
    return re.sub(r"\s+", "_", name.strip()) or "_"


def _positions(placing: Placing) -> dict[str, Any]:
    """Coordinates of the pixels' centres."""
    columns, rows = np.arange(placing.width) + 0.5, np.arange(placing.height) + 0.5
    if not placing.transform:
        return {"x": ("x", columns, _axis("X")), "y": ("y", rows, _axis("Y"))}
    about = _axes(placing.wkt)
    _, b, _, d, _, _ = placing.transform
    if b == 0 and d == 0:
        x, _ = placing.at(columns, np.zeros(1))
        _, y = placing.at(np.zeros(1), rows)
        return {"x": ("x", x, about["X"]), "y": ("y", y, about["Y"])}
    import dask.array as da

    # of every pixel: worked out where they are asked for
    across = da.from_array(columns, chunks=2048)[None, :]
    down = da.from_array(rows, chunks=2048)[:, None]
    x, y = placing.at(across, down)
    return {"xc": (("y", "x"), x, about["X"]), "yc": (("y", "x"), y, about["Y"])}


def _axis(name: str) -> dict[str, str]:
    return {"axis": name, "units": "pixels", "long_name": "from the upper left corner"}


def _axes(wkt: str) -> dict[str, dict[str, Any]]:
    """Attributes of x and y, by axis: standard name and units of a CRS."""
    found: dict[str, dict[str, Any]] = {"X": {"axis": "X"}, "Y": {"axis": "Y"}}
    if wkt:
        from pyproj import CRS
        from pyproj.exceptions import ProjError

        try:
            axes = CRS.from_wkt(wkt).cs_to_cf()
        except (ProjError, KeyError):
            axes = []
        found |= {axis["axis"]: axis for axis in axes if axis.get("axis") in found}
    return found
