"""Whether the blocks under a window of a local TIFF are whole, told while GDAL reads them.

    deflate           pixels of whole blocks, which GDAL decodes anyway  -> the sum that ends a block
    LZW, PackBits     the block's bytes                                  -> `_packed`
    and what is deflated, and of which that sum is not known

Each block once, as long as its file stays as it is: those that are whole are remembered. Looked at is the
image or the overview that is open, and its mask.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources import _packed, _sums, _tiff
from segengine.sources._files import open_input
from segengine.sources._gdal import file_mark

_MOST = 1 << 23
"""Bytes of blocks whose pixels are read beyond a window."""
_BESIDE, _COARSER = ".msk", ".ovr"
_ALL_MASK = (_BESIDE, _BESIDE + _COARSER)
"""Files of nothing but a mask, or of its overviews."""
_Shape = tuple[int, int]
_Mark = tuple[int, ...]
_Reach = tuple[slice, slice]


class Vouched(NamedTuple):
    """The blocks of one image of a file."""

    path: str
    page: _tiff.Blocks
    whole: bytearray
    """Whether a block was found whole, by its place in the table."""

    def fresh(self, bands: Sequence[int], rows: slice, cols: slice) -> list[int]:
        """Blocks under a window that nobody has looked at, of 1-based bands; empty: of all."""
        page = self.page
        found = [n for n in _packed.under(page, (rows, cols)) if not self.whole[n]]
        if page.planes == 1 or not bands:
            return found
        return [n for n in found if _packed.place(page, n)[0] + 1 in bands]

    def reach(self, dataset: Any, rows: slice, cols: slice) -> _Reach | None:
        """The window that its blocks cover; None: their sums cannot be told from pixels."""
        page = self.page
        shape = page.rows, page.cols
        if page.compression not in _packed.DEFLATE or tuple(dataset.block_shapes[0]) != shape:
            return None
        found = _around(rows, page.rows, page.height), _around(cols, page.cols, page.width)
        height, width = (span.stop - span.start for span in found)
        known = page.bands == dataset.count and page.predictor <= 3 and not page.turned
        return found if known and height * width * page.bands * page.bits // 8 <= _MOST else None

    def require(self, numbers: Sequence[int]) -> None:
        """Raise CorruptInputError where one of these blocks is damaged."""
        with open_input(self.path) as file:
            for number in numbers:
                _packed.require_block(file, self.page, number)
                self.whole[number] = True

    def require_sums(
        self, numbers: Sequence[int], planes: dict[int, NDArray[Any]], reach: _Reach
    ) -> None:
        """The same, with the pixels (y, x, sample) of each plane that the blocks cover."""
        page = self.page
        stored = {plane: _sums.as_stored(page, pixels) for plane, pixels in planes.items()}
        top, left = (span.start for span in reach)
        with open_input(self.path) as file:
            for number in numbers:
                plane, rows, cols = _packed.place(page, number)
                known = stored[plane]
                cut = page.tiled and (rows.stop > page.height or cols.stop > page.width)
                if known is not None and not cut:
                    file.seek(int(page.offsets[number] + page.counts[number]) - _sums.SIZE)
                    part = known[
                        rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
                    ]
                    if _sums.is_summed(part, file.read(_sums.SIZE)):
                        self.whole[number] = True
                        continue
                _packed.require_block(file, page, number)
                self.whole[number] = True


def _around(span: slice, block: int, length: int) -> slice:
    return slice(span.start // block * block, min(-(-span.stop // block) * block, length))


def of(dataset: Any) -> Vouched | None:
    """Of an open dataset; None: it is no local TIFF, or its blocks tell nothing."""
    place = _place(dataset)
    if place is None:
        return None
    path, _, index = place
    found = _image(*place, dataset.shape)
    beside = path + _COARSER
    return found or (None if index >= 0 else _image(beside, file_mark(beside), -1, dataset.shape))


@lru_cache(maxsize=128)
def _first(path: str, mark: _Mark, mask: bool) -> Vouched | None:
    if not mark:
        return None
    try:
        with open_input(path) as file:
            (height, width, _), *_rest = _tiff.sizes(file)
    except (CorruptInputError, ValueError):
        return None
    if not mask:
        return _table(path, 0, (height, width), False)
    beside = path + _BESIDE
    return _mask(path, mark, (height, width)) or _mask(beside, file_mark(beside), (height, width))


@lru_cache(maxsize=128)
def _has_overviews(path: str, mark: _Mark) -> bool:
    try:
        with open_input(path) as file:
            return len(_tiff.sizes(file)) > 1
    except CorruptInputError:
        return False


def has_overviews(path: str) -> bool:
    """Whether a local file may be read coarser from elsewhere than its image; a mask counts, too."""
    return os.path.exists(path + _COARSER) or _has_overviews(path, file_mark(path))


def of_file(path: str, *, mask: bool) -> Vouched | None:
    """Of the image of a local file at its full size, or of its mask."""
    return _first(path, file_mark(path), mask)


def mask_of(dataset: Any) -> Vouched | None:
    """Of its mask; None: it has none, or that is of another kind."""
    place = _place(dataset)
    if place is None or place[2] >= 0:
        return None
    path, mark, _ = place
    found = _mask(path, mark, dataset.shape)
    for beside in (path + _BESIDE, path + _BESIDE + _COARSER):
        found = found or _mask(beside, file_mark(beside), dataset.shape)
    return found


def require(dataset: Any, rows: slice, cols: slice) -> None:
    """Raise CorruptInputError where a block under a window of an open dataset is damaged."""
    _require(of(dataset), rows, cols)


def require_mask(dataset: Any, rows: slice, cols: slice) -> None:
    """The same of its mask."""
    _require(mask_of(dataset), rows, cols)


def _require(found: Vouched | None, rows: slice, cols: slice) -> None:
    fresh = [] if found is None else found.fresh((), rows, cols)
    if found is not None and fresh:
        found.require(fresh)


def _place(dataset: Any) -> tuple[str, _Mark, int] | None:
    """Path, what changes where the file does, and the place of a page of several; -1: it is the file."""
    if dataset.driver != "GTiff":
        return None
    path, index = dataset.name, -1
    if path.startswith("GTIFF_DIR:"):
        _, number, path = path.split(":", 2)
        index = int(number) - 1
    mark = file_mark(path)
    return (path, mark, index) if mark else None


@lru_cache(maxsize=32)
def _image(path: str, mark: _Mark, index: int, shape: _Shape) -> Vouched | None:
    return _table(path, index, shape, False) if mark else None


@lru_cache(maxsize=32)
def _mask(path: str, mark: _Mark, shape: _Shape) -> Vouched | None:
    return _table(path, -1, shape, not path.endswith(_ALL_MASK)) if mark else None


def _table(path: str, index: int, shape: _Shape, mask: bool) -> Vouched | None:
    try:
        with open_input(path) as file:
            place = index if index >= 0 else _of_size(_tiff.sizes(file), shape, mask)
            if place is None:
                return None
            page = _tiff.blocks(file, place)
    except CorruptInputError:
        return None  # which is for who reads it
    if (page.height, page.width) != shape or page.compression not in _packed.SILENT:
        return None
    return Vouched(path, page, bytearray(len(page.offsets)))


def _of_size(sizes: Sequence[tuple[int, int, bool]], shape: _Shape, mask: bool) -> int | None:
    """Place of the image that GDAL has open: the first one, or the overview of that size."""
    found = [place for place, size in enumerate(sizes) if size == (*shape, mask)]
    return found[0] if found and (found[0] == 0 or len(found) == 1) else None
