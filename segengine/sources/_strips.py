"""A window of an open raster, read few of its blocks at a time: neither what waits to be interleaved nor
GDAL's cache is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.sources import _vouched, _vrt
from segengine.sources._dataset import alpha_of, itemsize, window_of
from segengine.types import Bool, Pixels

_BYTES = 1 << 21
"""Of the blocks that are read at a time, where one is less."""
_CV2_DTYPES = frozenset(("uint8", "int8", "uint16", "int16", "int32", "float32", "float64"))


def read_window(
    dataset: Any, bands: tuple[int, ...], dtype: str, rows: slice, cols: slice
) -> tuple[Pixels, Bool | None]:
    """Pixels (y, x, band) of a window, and where all of its bands are valid (y, x); None: everywhere.

    What lies beyond the raster is left out. Each block is decoded once, by pixels and masks together,
    also where GDAL's cache holds a few of them only. `bands` are 1-based.
    """
    rows = slice(rows.start, min(rows.stop, dataset.height))
    cols = slice(cols.start, min(cols.stop, dataset.width))
    height, width = rows.stop - rows.start, cols.stop - cols.start
    pixels = np.empty((height, width, len(bands)), dtype)
    masks, vouched = _Masks.of(dataset, bands), _vouched.of(dataset)
    _vrt.require(dataset, bands, rows, cols)
    if masks.bands:
        _vouched.require_mask(dataset, rows, cols)
    valid = np.ones((height, width), np.bool_) if masks or pixels.dtype.kind == "f" else None
    for down, across in _few(dataset, rows, cols):
        here = (
            slice(down.start - rows.start, down.stop - rows.start),
            slice(across.start - cols.start, across.stop - cols.start),
        )
        window, some = window_of(down, across), pixels[here]
        fresh = [] if vouched is None else vouched.fresh(bands, down, across)
        reach = None
        if vouched is not None and fresh:
            reach = vouched.reach(dataset, down, across)
            if reach is None:
                vouched.require(fresh)
            else:
                _read_whole(dataset, vouched, fresh, bands, reach, (down, across), some)
        if reach is None:
            _interleave(dataset.read(list(bands), window=window, out_dtype=some.dtype), some)
        if valid is not None:
            valid[here] &= masks.read(dataset, window)
            if pixels.dtype.kind == "f":
                valid[here] &= ~np.isnan(some).any(axis=-1)
    return pixels, None if valid is None or valid.all() else valid


def _read_whole(
    dataset: Any,
    vouched: _vouched.Vouched,
    fresh: Sequence[int],
    bands: tuple[int, ...],
    reach: tuple[slice, slice],
    part: tuple[slice, slice],
    pixels: Pixels,
) -> None:
    """Pixels (y, x, band) of part of a window, from all of its blocks, whose sums are looked at."""
    apart = vouched.page.planes > 1
    chosen = bands if apart else tuple(dataset.indexes)
    layers = dataset.read(list(chosen), window=window_of(*reach))
    inner = tuple(
        slice(own.start - all_.start, own.stop - all_.start)
        for own, all_ in zip(part, reach, strict=True)
    )
    if apart:
        planes = {band - 1: layers[i, ..., None] for i, band in enumerate(chosen)}
        vouched.require_sums(fresh, planes, reach)
        _interleave(layers[:, *inner], pixels)
        return
    straight = reach == part and bands == chosen and pixels.dtype == layers.dtype
    whole = pixels if straight else np.empty((*layers.shape[1:], len(layers)), layers.dtype)
    _interleave(layers, whole)
    vouched.require_sums(fresh, {0: whole}, reach)
    if not straight:
        found = whole[inner]
        pixels[:] = found if bands == chosen else found[..., [band - 1 for band in bands]]


def _few(dataset: Any, rows: slice, cols: slice) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of parts of a window that end where blocks do."""
    high, wide = dataset.block_shapes[0]
    depth = dataset.count * max(map(itemsize, dataset.dtypes))
    across = _step(wide, high * depth, cols)
    down = _step(high, max(wide, min(across, cols.stop - cols.start)) * depth, rows)
    for part in _cut(rows, down):
        for other in _cut(cols, across):
            yield part, other


def _step(side: int, each: int, span: slice) -> int:
    """So many of a span at a time: whole blocks, of so many bytes for each row or column."""
    blocks: int = min(_BYTES // (side * each), -(-(span.stop - span.start) // side) + 1)
    return max(1, blocks) * side


def _cut(span: slice, step: int) -> Iterator[slice]:
    start = span.start
    while start < span.stop:
        stop = min(span.stop, (start // step + 1) * step)
        yield slice(start, stop)
        start = stop


class _Masks(NamedTuple):
    """What says beside the pixels where they are none."""

    bands: list[int]
    """Those with a mask, or a value that stands for nothing."""
    alpha: int | None

    @classmethod
    def of(cls, dataset: Any, bands: tuple[int, ...]) -> _Masks:
        from rasterio.enums import MaskFlags

        flags, alpha = dataset.mask_flag_enums, alpha_of(dataset)
        masked = [band for band in bands if MaskFlags.all_valid not in flags[band - 1]]
        return cls(masked, None if alpha in bands else alpha)

    def __bool__(self) -> bool:
        return bool(self.bands) or self.alpha is not None

    def read(self, dataset: Any, window: Any) -> Bool:
        """Where all of them say that there are pixels (y, x)."""
        found = np.ones((int(window.height), int(window.width)), np.bool_)
        if self.bands:
            found &= (dataset.read_masks(self.bands, window=window) > 0).all(axis=0)
        if self.alpha is not None:
            found &= dataset.read(self.alpha, window=window) > 0
        return found


def _interleave(layers: NDArray[Any], pixels: NDArray[Any]) -> None:
    """(band, y, x) into (y, x, band); OpenCV is five times as fast as NumPy."""
    import cv2

    quick = len(layers) > 1 and layers.size and layers.dtype.name in _CV2_DTYPES
    # What does not fit it returns in an array of its own.
    if not quick or cv2.merge(list(layers), dst=pixels) is not pixels:
        pixels[:] = np.moveaxis(layers, 0, -1)
