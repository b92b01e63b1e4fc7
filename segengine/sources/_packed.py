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
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources import _jpeg, _runs, _said, _sums, _tiff
from segengine.sources._files import open_input

_JPEG = 7
DEFLATE = frozenset((8, 32946))
_FAX = frozenset((2, 3, 4, 32771))
_RUNS = {5: _runs.lzw_fits, 32773: _runs.packbits_fit}
SILENT = DEFLATE | _RUNS.keys()
"""Of whose damage neither GDAL nor a library of it says all."""
_YCBCR = 6
_TURNED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
_PIECE = 1 << 20
"""Bytes that are inflated at a time."""


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
        _require_silence(page, [block.data for block in _blocks(file, page, under(page, None))])
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


def require_block(file: BinaryIO, page: _tiff.Blocks, number: int) -> None:
    """The same of one block, by its place in the table, without its pixels."""
    (block,) = _blocks(file, page, (number,))
    _require_block(page, block)


def _require_blocks(file: BinaryIO, page: _tiff.Blocks, pixels: _Pixels, window: _Window) -> None:
    deflated = page.compression in DEFLATE
    if not deflated and page.compression not in (*_RUNS, _JPEG):
        return
    stored = None if pixels is None or not deflated else _stored(page, pixels())
    for block in _blocks(file, page, under(page, window)):
        if stored is None or not _is_summed(page, block, stored):
            _require_block(page, block)


def _stored(page: _tiff.Blocks, pixels: NDArray[Any]) -> NDArray[Any] | None:
    found = pixels[..., None] if pixels.ndim == 2 else pixels
    if found.shape != (page.height, page.width, page.bands):
        return None
    return _sums.as_stored(page, found)


def _is_summed(page: _tiff.Blocks, block: _Block, stored: NDArray[Any]) -> bool:
    """Whether a block ends with the sum of its pixels."""
    if page.tiled and (block.rows.stop > page.height or block.cols.stop > page.width):
        return False
    part = stored[block.rows, block.cols]
    part = part if page.planes == 1 else part[..., block.plane : block.plane + 1]
    return _sums.is_summed(part, block.data[-_sums.SIZE :])


def _require_block(page: _tiff.Blocks, block: _Block) -> None:
    if page.compression in DEFLATE:
        _require_inflated(page, block)
    elif page.compression in _RUNS and page.photometric != _YCBCR:
        if not _RUNS[page.compression](block.data, *_sizes(page, block)):
            raise _damaged(block, "the codes stand for more or less than there are")
    elif page.compression == _JPEG:
        _jpeg.require_strip(_jpeg.joined(page.jpeg, block.data))


def _damaged(block: _Block, what: str) -> CorruptInputError:
    column = f" and column {block.cols.start}" if block.cols.start else ""
    return CorruptInputError(
        f"damaged TIFF: of the pixels from row {block.rows.start}{column} on, {what}"
    )


def under(page: _tiff.Blocks, window: _Window) -> Iterator[int]:
    """Places in the table of blocks that are there, and touch the window."""
    high, wide = max(page.rows, 1), max(page.cols, 1)
    rows, cols = window or (slice(0, page.height), slice(0, page.width))
    down, across = -(-page.height // high), -(-page.width // wide)
    for plane in range(page.planes):
        for y in range(rows.start // high, min(-(-rows.stop // high), down)):
            start = (plane * down + y) * across
            for x in range(cols.start // wide, min(-(-cols.stop // wide), across)):
                number = start + x
                if number < min(len(page.offsets), len(page.counts)) and page.counts[number]:
                    yield number


def place(page: _tiff.Blocks, number: int) -> tuple[int, slice, slice]:
    """Plane, rows and columns of a block, of which the last may reach beyond the image."""
    down, across = -(-page.height // max(page.rows, 1)), -(-page.width // max(page.cols, 1))
    plane, at = divmod(number, down * across)
    y, x = at // across * page.rows, at % across * page.cols
    return plane, slice(y, y + page.rows), slice(x, x + page.cols)


def _blocks(file: BinaryIO, page: _tiff.Blocks, numbers: Iterable[int]) -> Iterator[_Block]:
    for number in numbers:
        file.seek(int(page.offsets[number]))
        data = file.read(int(page.counts[number]))
        yield _Block(*place(page, number), data.translate(_TURNED) if page.turned else data)


def _sizes(page: _tiff.Blocks, block: _Block) -> tuple[int, int]:
    """Bytes that a block holds at least and at most: the last strip may be filled up, or not."""
    samples = page.bands if page.planes == 1 else 1
    row = -(-(block.cols.stop - block.cols.start) * samples * page.bits // 8)
    most = (block.rows.stop - block.rows.start) * row
    return most if page.tiled else (
        min(block.rows.stop, page.height) - block.rows.start
    ) * row, most


# Deflate


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
