"""Whether the strips or tiles of a TIFF are what an encoder wrote, of which libtiff says little or nothing.

    deflate      stops with the last pixel, before the sum of all of them       the sum
    LZW          stops there, and does not mind codes that are left over        bytes that codes stand for
    JPEG         fills up with gray                                             what libjpeg warns of
    Group 3, 4   goes on with the next line                                     what libtiff warns of, to
                                                                                GDAL, not to Pillow
    PackBits     leaves out what is too much                                    bytes that runs stand for

Sums are taken of the pixels that are decoded already where these lie in them as they lay in the file,
and of blocks inflated once more where they do not.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources import _jpeg, _runs, _said, _tiff
from segengine.sources._files import open_input

_JPEG = 7
_DEFLATE = frozenset((8, 32946))
_FAX = frozenset((2, 3, 4, 32771))
_RUNS = {5: _runs.lzw_fits, 32773: _runs.packbits_fit}
_YCBCR = 6
_TURNED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
_PIECE = 1 << 20
"""Bytes that are inflated at a time."""
_SUM = 4


_Pixels = Callable[[], NDArray[Any]] | None
_Window = tuple[slice, slice] | None


class _Block(NamedTuple):
    plane: int
    rows: slice
    cols: slice
    """In the image, of which the last may reach beyond it."""
    data: bytes


def require_sound(file: BinaryIO, index: int, pixels: _Pixels = None) -> None:
    """Raise CorruptInputError where a block is not whole. `index`: of the page among all directories.

    `pixels`: those of the page, (y, x) or (y, x, band), perhaps as they lie in the file.
    """
    page = _tiff.blocks(file, index)
    if page.compression in _FAX:
        _require_silence(page, [block.data for block in _blocks(file, page, None)])
    else:
        _require_blocks(file, page, pixels, None)


def require_window(file: BinaryIO, place: int, rows: slice, cols: slice) -> None:
    """The same of the blocks under a window, where `_said` listens to GDAL while it decodes them.

    `place`: of the page among those that are frames. What is no TIFF is not looked at.
    """
    if file.read(4) in _tiff.MAGICS:
        pages = _tiff.pages(file)
        if place < len(pages):
            _require_blocks(file, _tiff.blocks(file, pages[place].index), None, (rows, cols))


def require_jpegs(uri: str) -> None:
    """The same of all strips of a TIFF that are JPEG, where GDAL is in doubt. Raises as `open_input`."""
    with open_input(uri) as file:
        for page in _tiff.pages(file) if file.read(4) in _tiff.MAGICS else ():
            if page.compression == _JPEG:
                _require_blocks(file, _tiff.blocks(file, page.index), None, None)


def _require_blocks(file: BinaryIO, page: _tiff.Blocks, pixels: _Pixels, window: _Window) -> None:
    if page.compression in _DEFLATE:
        stored = None if pixels is None else _as_stored(page, pixels())
        for block in _blocks(file, page, window):
            if not _is_summed(page, block, stored):
                _require_inflated(page, block)
    elif page.compression in _RUNS and page.photometric != _YCBCR:
        fits = _RUNS[page.compression]
        for block in _blocks(file, page, window):
            if not fits(block.data, *_sizes(page, block)):
                raise _damaged(block, "the codes stand for more or less than there are")
    elif page.compression == _JPEG:
        for block in _blocks(file, page, window):
            _jpeg.require_strip(_jpeg.joined(page.jpeg, block.data))


def _damaged(block: _Block, what: str) -> CorruptInputError:
    return CorruptInputError(f"damaged TIFF: of the pixels from row {block.rows.start} on, {what}")


def _blocks(file: BinaryIO, page: _tiff.Blocks, window: _Window) -> Iterator[_Block]:
    """Those that are there, and touch the window."""
    down, across = -(-page.height // max(page.rows, 1)), -(-page.width // max(page.cols, 1))
    each = down * across
    for number, (offset, count) in enumerate(zip(page.offsets, page.counts, strict=False)):
        plane, place = divmod(number, each)
        y, x = place // across * page.rows, place % across * page.cols
        rows, cols = slice(y, y + page.rows), slice(x, x + page.cols)
        if plane >= page.planes:
            return
        if not count or (window is not None and _misses(window, rows, cols)):
            continue
        file.seek(int(offset))
        data = file.read(int(count))
        yield _Block(plane, rows, cols, data.translate(_TURNED) if page.turned else data)


def _misses(window: Any, rows: slice, cols: slice) -> bool:
    down, across = window
    return bool(
        rows.stop <= down.start
        or rows.start >= down.stop
        or cols.stop <= across.start
        or cols.start >= across.stop
    )


def _sizes(page: _tiff.Blocks, block: _Block) -> tuple[int, int]:
    """Bytes that a block holds at least and at most: the last strip may be filled up, or not."""
    samples = page.bands if page.planes == 1 else 1
    row = -(-(block.cols.stop - block.cols.start) * samples * page.bits // 8)
    most = (block.rows.stop - block.rows.start) * row
    return most if page.tiled else (
        min(block.rows.stop, page.height) - block.rows.start
    ) * row, most


# Deflate


def _as_stored(page: _tiff.Blocks, pixels: NDArray[Any]) -> NDArray[Any] | None:
    """(y, x, band) as they were before they were deflated; None: they are not known."""
    found = pixels[..., None] if pixels.ndim == 2 else pixels
    shape = page.height, page.width, page.bands
    if found.shape != shape or found.dtype.itemsize * 8 != page.bits or page.predictor > 2:
        return None
    whole = (
        found.astype(f"u{found.dtype.itemsize}", copy=False) if found.dtype.kind == "u" else found
    )
    if page.predictor == 2:
        if whole.dtype.kind != "u":
            return None
        width = page.cols
        stored = whole.copy()
        stored[:, 1:] -= whole[:, :-1]
        stored[:, ::width] = whole[:, ::width]  # each tile begins anew
        whole = stored
    order: Any = page.order
    return whole.astype(whole.dtype.newbyteorder(order), copy=False)


def _is_summed(page: _tiff.Blocks, block: _Block, stored: NDArray[Any] | None) -> bool:
    """Whether a block ends with the sum of its pixels."""
    inside = not page.tiled or (block.rows.stop <= page.height and block.cols.stop <= page.width)
    if stored is None or not inside:
        return False
    part = stored[block.rows, block.cols]
    part = part if page.planes == 1 else part[..., block.plane]
    plain: Any = np.ascontiguousarray(part)
    return zlib.adler32(plain) == int.from_bytes(block.data[-_SUM:], "big")


def _require_inflated(page: _tiff.Blocks, block: _Block) -> None:
    """What ends before the sum, with all pixels there, is whole as far as can be told."""
    _, most = _sizes(page, block)
    inflate, size, piece = zlib.decompressobj(), 0, block.data
    try:
        while piece and not inflate.eof:
            size += len(inflate.decompress(piece, _PIECE))
            piece = inflate.unconsumed_tail
            if size > most and page.photometric != _YCBCR:
                break
    except zlib.error as error:
        raise _damaged(block, str(error)) from error
    if not inflate.eof and size > most:
        raise _damaged(block, "the stream goes on behind the last")


# What GDAL says


def _require_silence(page: _tiff.Blocks, strips: list[bytes]) -> None:
    """Decode strips with GDAL, from a file of nothing but them, and raise where it warns of damage."""
    import rasterio
    from rasterio.errors import RasterioError

    data = _plain(page, strips)
    try:
        with (
            _said.require_silence(),
            warnings.catch_warnings(),
            rasterio.Env(GDAL_NUM_THREADS="1"),
            rasterio.MemoryFile(data, ext=".tif") as file,
        ):
            warnings.simplefilter("ignore")
            with file.open(driver="GTiff") as dataset:
                for band in dataset.indexes[: page.planes]:
                    dataset.read(band)
    except RasterioError as error:
        raise CorruptInputError(f"damaged TIFF: {error.__cause__ or error}") from error


def _plain(page: _tiff.Blocks, strips: list[bytes]) -> bytes:
    """A BigTIFF of one page that says of its strips what is needed to decode them."""
    depth = (page.bits,) * page.bands
    extra = (0,) * (page.bands - 1)
    place, offsets = 16, list[int]()
    for strip in strips:
        offsets.append(place)
        place += len(strip)
    counts = [len(strip) for strip in strips]
    where = ((324, offsets), (325, counts)) if page.tiled else ((273, offsets), (279, counts))
    tags: dict[int, Any] = {
        256: (page.width,), 257: (page.height,), 258: depth, 259: (page.compression,), 262: (1,),
        277: (page.bands,), 284: (1 if page.planes == 1 else 2,), 292: (page.fax[0],),
        293: (page.fax[1],), **dict(where),
    }  # fmt: skip
    tags |= {322: (page.cols,), 323: (page.rows,)} if page.tiled else {278: (page.rows,)}
    if extra:
        tags[338] = extra
    body, behind = BytesIO(), place + 8 + 20 * len(tags) + 8
    directory = [struct.pack("<Q", len(tags))]
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}Q", *values)
        inline = packed if len(packed) == 8 else struct.pack("<Q", behind + body.tell())
        if len(packed) > 8:
            body.write(packed)
        directory.append(struct.pack("<HHQ", tag, 16, len(values)) + inline)
    directory.append(bytes(8))
    return b"".join(
        (struct.pack("<2sHHHQ", b"II", 43, 8, 0, place), *strips, *directory, body.getvalue())
    )
