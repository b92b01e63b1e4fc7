"""Whether the parts of a VRT are whole where it reads them: to GDAL their damage is what it is in a TIFF.

    window of the VRT -> of each source that it meets, the window there -> `_vouched`, block by block

Looked at are local TIFFs. Warped VRTs say of no window where it comes from, and where pixels are made
coarser, an overview may be read instead of the image.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources import _packed, _vouched
from segengine.sources._gdal import file_mark, vrt_tree

_DEEPEST = 8
_COARSER = 1 + 1e-6
"""Pixels of a source to one of the VRT, above which it is read coarser."""
_SOURCES = frozenset(
    (
        "SimpleSource",
        "ComplexSource",
        "AveragedSource",
        "NoDataFromMaskSource",
        "KernelFilteredSource",
    )
)


_Span = tuple[int, int]


class _Source(NamedTuple):
    path: str
    into: int
    """1-based band of the VRT; 0: its mask."""
    band: str
    """Number of its own, or `mask` and such a number."""
    start: tuple[float, float]
    """Row and column there."""
    scale: tuple[float, float]
    """Rows and columns there of one here."""


class _Vrt(NamedTuple):
    shape: tuple[int, int]
    sources: tuple[_Source, ...]
    reach: NDArray[np.float64]
    """(source, 4) top, left, bottom and right here."""

    def under(self, rows: slice, cols: slice) -> Iterator[tuple[_Source, slice, slice]]:
        """Sources that a window meets, and the window there."""
        low = np.maximum(self.reach[:, :2], (rows.start, cols.start))
        high = np.minimum(self.reach[:, 2:], (rows.stop, cols.stop))
        for number in np.flatnonzero((low < high).all(axis=1)):
            source, origin = self.sources[number], self.reach[number, :2]
            down, across = (
                slice(
                    math.floor(source.start[i] + (low[number, i] - origin[i]) * source.scale[i]),
                    math.ceil(source.start[i] + (high[number, i] - origin[i]) * source.scale[i]),
                )
                for i in (0, 1)
            )
            yield source, down, across


def require(dataset: Any, bands: Sequence[int], rows: slice, cols: slice) -> None:
    """Raise CorruptInputError where a block that an open VRT reads under a window is damaged.

    `bands`: 1-based, which are read.
    """
    mark = file_mark(dataset.name) if dataset.driver == "VRT" else ()
    if mark and _vrt(dataset.name, mark).shape == dataset.shape:  # and no overview of it
        _require(dataset.name, {0, *bands}, rows, cols, 0)


def require_jpegs(uri: str) -> None:
    """`_packed.require_jpegs`, of its sources where it is a VRT."""
    _packed.require_jpegs(uri)
    for path in _named(uri, 0):
        try:
            _packed.require_jpegs(path)
        except CorruptInputError as error:
            raise _of(path, error) from error


def _of(path: str, error: CorruptInputError) -> CorruptInputError:
    return CorruptInputError(f"its source {os.path.basename(path)}: {error}")


def _named(path: str, depth: int) -> Iterator[str]:
    mark = file_mark(path) if _is_vrt(path) and depth < _DEEPEST else ()
    if mark:
        for name in dict.fromkeys(source.path for source in _vrt(path, mark).sources):
            if _is_vrt(name):
                yield from _named(name, depth + 1)
            elif file_mark(name):
                yield name


def _is_vrt(path: str) -> bool:
    return path.lower().endswith(".vrt")


def _require(path: str, bands: set[int], rows: slice, cols: slice, depth: int) -> None:
    found: dict[tuple[str, _Span, _Span], set[str]] = {}
    for source, down, across in _vrt(path, file_mark(path)).under(rows, cols):
        if not file_mark(source.path):
            continue  # behind a URL, where a job trusts it, or gone: GDAL tells
        coarser = max(source.scale) > _COARSER and _vouched.has_overviews(source.path)
        if source.into in bands and not coarser:
            place = source.path, (down.start, down.stop), (across.start, across.stop)
            found.setdefault(place, set()).add(source.band)
    for (name, high, wide), named in found.items():
        down, across = slice(*high), slice(*wide)
        if _is_vrt(name):
            if depth < _DEEPEST:
                inner = {int(band) if band.isdecimal() else 0 for band in named}
                _require(name, inner, down, across, depth + 1)
            continue
        try:
            for mask in (False, True):
                of = _vouched.of_file(name, mask=mask)
                theirs = [band for band in named if band.startswith("mask") == mask]
                if of is not None and theirs:
                    of.require(of.fresh([int(b) for b in theirs if not mask], down, across))
        except CorruptInputError as error:
            raise _of(name, error) from error


@lru_cache(maxsize=16)
def _vrt(path: str, mark: tuple[int, ...]) -> _Vrt:
    """What a VRT reads; of what is odd in it, nothing."""
    try:
        root = vrt_tree(path, mark)
        shape = int(root.attrib["rasterYSize"]), int(root.attrib["rasterXSize"])
        read = list(_read(root, path, shape))
    except (CorruptInputError, KeyError, ValueError, TypeError):
        return _Vrt((0, 0), (), np.zeros((0, 4)))
    reach = np.array([each for _, each in read], np.float64).reshape(-1, 4)
    return _Vrt(shape, tuple(source for source, _ in read), reach)


def _read(
    root: Any, path: str, shape: tuple[int, int]
) -> Iterator[tuple[_Source, tuple[float, ...]]]:
    holders = [(number, band) for number, band in enumerate(root.iterfind("VRTRasterBand"), 1)]
    holders += [(0, band) for band in root.iterfind("MaskBand/VRTRasterBand")]
    for place, holder in holders:
        into = place and int(holder.get("band", place))
        for node in holder:
            name = node.find("SourceFilename")
            if node.tag not in _SOURCES or name is None or not name.text:
                continue
            relative = name.get("relativeToVRT", "0") == "1"
            file = os.path.join(os.path.dirname(path) if relative else os.getcwd(), name.text)
            whole = (0.0, 0.0, float(shape[1]), float(shape[0]))
            x, y, width, height = _rect(node.find("DstRect")) or whole
            left, top, wide, high = _rect(node.find("SrcRect")) or (0.0, 0.0, width, height)
            if min(width, height, wide, high) <= 0:
                continue
            scale = high / height, wide / width
            band = (node.findtext("SourceBand") or "1").strip()
            if band.isdecimal() or band.startswith("mask"):
                yield _Source(file, into, band, (top, left), scale), (y, x, y + height, x + width)


def _rect(node: Any) -> tuple[float, float, float, float] | None:
    if node is None:
        return None
    left, top, width, height = (
        float(node.attrib[key]) for key in ("xOff", "yOff", "xSize", "ySize")
    )
    return left, top, width, height
