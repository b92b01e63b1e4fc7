"""What a TIFF's header says (pages, strips), so that deciding who reads it loads no decoder.

Source: TIFF 6.0 (1992), BigTIFF as in libtiff 4, GeoTIFF 1.1 (OGC 19-008r4).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.errors import CorruptInputError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_GEO = {33550, 34264, 34735}  # pixel scale, transformation, geo keys
_GROUND = (*sorted(_GEO), 33922, 34736, 34737, 50844)
"""All that place an image: with tie points, what geo keys refer to, and rational polynomials."""
_NODATA = 42113  # GDAL's, as text
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8} | {
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_KINDS = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex", 6: "complex"}
_PAGES = 100_000
_LARGEST = 1 << 50  # bytes that a file is believed to have had
_TAGS = 4096
"""Of one directory."""
_ALL_TAGS = 1 << 21
_STRIPS = 2**28
_TILE = 2**26
"""Pixels of a tile, which gets memory whole; more only where its image is as large."""


@dataclass(frozen=True, slots=True)
class Array:
    """Where the values of a tag lie that may have millions of them."""

    code: str
    count: int
    offset: int


@dataclass(frozen=True, slots=True)
class Page:
    """One image file directory."""

    index: int
    """Place in the file's chain of directories."""
    height: int
    width: int
    bands: int
    """Samples a pixel, alpha included."""
    bits: int
    """Bits a sample (the greatest)."""
    kind: str
    """uint, int, float or complex."""
    photometric: int
    alpha: bool
    """Whether the last band is transparency; a 4th band that is said to be none may be infrared."""
    planar: bool
    """True: the bands are stored one after another."""
    orientation: int
    """1 to 8, as in EXIF."""
    georeferenced: bool
    ground: str
    """Digest of all that says where it lies; empty: nothing does."""
    compression: int
    nodata: bool
    """Whether it says which value is no pixel."""
    mask: int | None
    """Place of the transparency mask of its size that follows it."""
    offsets: Array | None
    counts: Array | None

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    @property
    def layout(self) -> tuple[int, int, int, int, str, int]:
        """What pages must share to be frames of one scene."""
        return self.height, self.width, self.bands, self.bits, self.kind, self.orientation

    @property
    def plain(self) -> bool:
        """Whether it is a photo: 1 to 4 unsigned bands of at most 16 bits, stored as photos are."""
        return (
            self.kind == "uint"
            and self.bits in {1, 2, 4, 8, 16}
            and (self.bands in {1, 3} or (self.bands == 4 and self.alpha))
            and not (self.planar and self.bands > 1)
        )


def pages(file: BinaryIO) -> list[Page]:
    """The full-size images of a TIFF; thumbnails, overviews and transparency masks are left out.

    Raises CorruptInputError for a header that cannot be read.
    """
    try:
        found = _Reader(file).pages()
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise CorruptInputError(f"damaged TIFF header: {error}") from error
    if not found:
        raise CorruptInputError("damaged TIFF header: no image in it")
    return found


@dataclass(frozen=True, slots=True)
class Table:
    """Where the blocks of an image lie: its tiles, or its strips."""

    height: int
    width: int
    rows: int
    """Of a block."""
    cols: int
    size: int
    """Bytes of a block that is not compressed."""
    offsets: NDArray[np.uint64]
    """(plane, row, column) of blocks; 0: never written."""
    counts: NDArray[np.uint64]
    """Their bytes."""
    voids: bool
    """Whether pixels themselves may say that they are none: by a value, by alpha, as NaN."""


def tables(file: BinaryIO) -> list[tuple[Table, Table | None]]:
    """Of each full-size image of a TIFF and of its mask. Raises CorruptInputError."""
    try:
        return _Reader(file).tables()
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise CorruptInputError(f"damaged TIFF header: {error}") from error


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the pixels of an image are packed in its blocks: its tiles, or its strips."""

    height: int
    width: int
    rows: int
    """Of a block."""
    cols: int
    bands: int
    bits: int
    planes: int
    """1, or as many as bands where each is stored by itself."""
    tiled: bool
    order: str
    """Of bytes: `<` or `>`."""
    compression: int
    predictor: int
    photometric: int
    turned: bool
    """Whether the bits of each byte lie the other way round."""
    fax: tuple[int, int]
    """Options of Group 3 and Group 4."""
    jpeg: bytes
    """Tables of all blocks; empty: each has its own."""
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]


def blocks(file: BinaryIO, index: int) -> Blocks:
    """Of the image at a place in the chain of directories. Raises CorruptInputError."""
    try:
        return _Reader(file).blocks(index)
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise CorruptInputError(f"damaged TIFF header: {error}") from error


def sizes(file: BinaryIO) -> list[tuple[int, int, bool]]:
    """Height and width of each directory, overviews included, and whether it is a mask.

    Raises CorruptInputError.
    """
    try:
        return _Reader(file).sizes()
    except (struct.error, ValueError, KeyError, OverflowError) as error:
        raise CorruptInputError(f"damaged TIFF header: {error}") from error


def require_own_masks(uri: str) -> None:
    """Raise CorruptInputError where a mask lies beside a local file of several pages."""
    for suffix in (".msk", ".MSK"):
        if os.path.exists(uri + suffix):
            raise CorruptInputError(
                f"has a mask beside it ({os.path.basename(uri)}{suffix}), which is of no one of its "
                "pages; store each page in a file of its own"
            )


def missing(file: BinaryIO, page: Page) -> tuple[str | None, bool]:
    """Why the pixels of a page are not all there, or None; and whether some were left out on purpose.

    A strip at 0 of 0 bytes was never written: GDAL's sparse files, which read as nodata or 0.
    """
    if page.offsets is None or page.counts is None or page.offsets.count != page.counts.count:
        return "damaged TIFF header: no table of strips", False
    try:
        reader = _Reader(file)
        offsets, counts = reader.values(page.offsets), reader.values(page.counts)
    except (struct.error, ValueError, OverflowError) as error:
        return f"damaged TIFF header: {error}", False
    end = np.uint64(file.seek(0, 2))
    sparse = (offsets == 0) & (counts == 0)
    bad = (
        (offsets == 0) | (counts == 0) | (offsets > end) | (counts > end - np.minimum(offsets, end))
    ) & ~sparse
    if not bad.any():
        return None, bool(sparse.any())
    return _cut_off(int(end), offsets[bad], counts[bad], len(bad)), False


def _cut_off(end: int, offsets: NDArray[np.uint64], counts: NDArray[np.uint64], strips: int) -> str:
    """Where a file ends of which some strips lie beyond, in words."""
    most = np.uint64(_LARGEST)
    whole = int((np.minimum(offsets, most) + np.minimum(counts, most)).max())
    lacks = f"{len(offsets):,} of {strips:,} strips of its pixels are missing"
    if not end < whole < _LARGEST:
        return f"truncated TIFF: {lacks}"
    return f"truncated TIFF: has {end:,} bytes of {whole:,}, and {lacks}"


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        file.seek(0)
        head = file.read(16)
        self.end = file.seek(0, 2)
        self.tags = 0
        if head[:4] not in MAGICS:
            raise ValueError("no TIFF signature")
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = head[2:4] in (b"+\0", b"\0+")
        self.first: int = struct.unpack_from(
            self.order + ("Q" if self.big else "I"), head, 8 if self.big else 4
        )[0]

    def pages(self) -> list[Page]:
        found: list[Page] = []
        seen, offset = set[int](), self.first
        while offset:
            if offset in seen:
                raise ValueError("its directories form a loop")
            if len(seen) >= _PAGES:
                raise ValueError(f"more than {_PAGES:,} pages")
            page, following = self.page(len(seen), offset)
            seen.add(offset)
            if isinstance(page, Page):
                found.append(page)
            elif found and page == (found[-1].height, found[-1].width):
                found[-1] = replace(found[-1], mask=len(seen) - 1)
            offset = following
        return found

    def page(self, index: int, offset: int) -> tuple[Page | tuple[int, int] | None, int]:
        """A full-size image, the size of a mask, or None for a thumbnail; where the next one lies."""
        tags, ground, following = self.directory(offset)
        subfile = self.number(tags, 254, 0)
        if subfile & _REDUCED or self.number(tags, 255, 1) == 2:
            return None, following
        if subfile & _MASK:
            return (self.number(tags, 257), self.number(tags, 256)), following
        bands = self.number(tags, 277, 1)
        height, width = self.number(tags, 257), self.number(tags, 256)
        if 322 in tags:
            self.require_tiles(tags, height, width)
        return Page(
            index=index,
            height=height,
            width=width,
            bands=bands,
            bits=self.number(tags, 258, 1),
            kind=_KINDS[self.number(tags, 339, 1)],
            photometric=self.number(tags, 262, 1),
            alpha=self.number(tags, 338, 2) in (1, 2),
            planar=self.number(tags, 284, 1) == 2,
            orientation=self.number(tags, 274, 1),
            georeferenced=not _GEO.isdisjoint(tags),
            ground=self.digest(ground),
            compression=self.number(tags, 259, 1),
            nodata=_NODATA in tags,
            mask=None,
            offsets=tags.get(273) or tags.get(324),
            counts=tags.get(279) or tags.get(325),
        ), following

    def directory(self, offset: int) -> tuple[dict[int, Array], dict[int, tuple[int, int]], int]:
        """Tags, the place and bytes of those that say where an image lies, where the next one is."""
        size, head, inline = (20, 8, 8) if self.big else (12, 2, 4)
        entries = self.unpack("Q" if self.big else "H", self.at(offset, head))
        if entries > _TAGS:
            raise ValueError(f"a directory of {entries:,} tags, more than {_TAGS:,}")
        self.tags += entries
        if self.tags > _ALL_TAGS:
            raise ValueError(f"more than {_ALL_TAGS:,} tags in all")
        body = self.at(offset + head, entries * size + inline)
        tags: dict[int, Array] = {}
        ground: dict[int, tuple[int, int]] = {}
        for start in range(0, entries * size, size):
            tag, kind = struct.unpack_from(self.order + "HH", body, start)
            count = self.unpack("Q" if self.big else "I", body[start + 4 : start + 4 + inline])
            place = offset + head + start + 4 + inline
            if count * _SIZES.get(kind, 1) > inline:
                place = self.unpack(
                    "Q" if self.big else "I", body[start + 4 + inline : start + size]
                )
            if tag in _GROUND:
                ground[tag] = place, count * _SIZES.get(kind, 1)
            tags[tag] = Array(_CODES.get(kind, ""), count, place)
        following = self.unpack("Q" if self.big else "I", body[entries * size :])
        return tags, ground, following

    def directories(self) -> Iterator[dict[int, Array]]:
        """Tags of each, in their order."""
        seen, offset = set[int](), self.first
        while offset:
            if offset in seen or len(seen) >= _PAGES:
                raise ValueError("its directories form a loop, or are too many")
            seen.add(offset)
            tags, _, offset = self.directory(offset)
            yield tags

    def sizes(self) -> list[tuple[int, int, bool]]:
        return [
            (self.number(t, 257), self.number(t, 256), bool(self.number(t, 254, 0) & _MASK))
            for t in self.directories()
        ]

    def tables(self) -> list[tuple[Table, Table | None]]:
        """Of each full-size image, and of the mask of its size that follows it."""
        found: list[tuple[Table, Table | None]] = []
        for tags in self.directories():
            subfile = self.number(tags, 254, 0)
            if subfile & _REDUCED or self.number(tags, 255, 1) == 2:
                continue
            table = self.table(tags)
            if not subfile & _MASK:
                found.append((table, None))
            elif found and (table.height, table.width) == (found[-1][0].height, found[-1][0].width):
                found[-1] = found[-1][0], table
        return found

    def table(self, tags: dict[int, Array]) -> Table:
        height, width = self.number(tags, 257), self.number(tags, 256)
        tiled = 324 in tags
        if tiled:
            self.require_tiles(tags, height, width)
        rows = self.number(tags, 323) if tiled else min(self.number(tags, 278, height), height)
        cols = self.number(tags, 322) if tiled else width
        planes = self.number(tags, 277, 1) if self.number(tags, 284, 1) == 2 else 1
        size = rows * cols * self.number(tags, 277, 1) * self.number(tags, 258, 1) // 8
        shape = planes, -(-height // max(rows, 1)), -(-width // max(cols, 1))
        offsets = self.values(tags[324 if tiled else 273])
        counts = self.values(tags[325 if tiled else 279])
        voids = (
            _NODATA in tags
            or self.number(tags, 338, 0) in (1, 2)
            or self.number(tags, 339, 1) not in (1, 2)
        )
        return Table(
            height=height,
            width=width,
            rows=rows,
            cols=cols,
            size=size,
            offsets=offsets.reshape(shape),
            counts=counts.reshape(shape),
            voids=voids,
        )

    def blocks(self, index: int) -> Blocks:
        tags, _, offset = self.directory(self.first)
        for _ in range(index):
            tags, _, offset = self.directory(offset)
        height, width = self.number(tags, 257), self.number(tags, 256)
        tiled, bands = 324 in tags, self.number(tags, 277, 1)
        if tiled:
            self.require_tiles(tags, height, width)
        jpeg = tags.get(347, Array("", 0, 0))
        return Blocks(
            height=height,
            width=width,
            rows=self.number(tags, 323) if tiled else min(self.number(tags, 278, height), height),
            cols=self.number(tags, 322) if tiled else width,
            bands=bands,
            bits=self.number(tags, 258, 1),
            planes=bands if self.number(tags, 284, 1) == 2 else 1,
            tiled=tiled,
            order=self.order,
            compression=self.number(tags, 259, 1),
            predictor=self.number(tags, 317, 1),
            photometric=self.number(tags, 262, 1),
            turned=self.number(tags, 266, 1) == 2,
            fax=(self.number(tags, 292, 0), self.number(tags, 293, 0)),
            jpeg=self.at(jpeg.offset, jpeg.count),
            offsets=self.values(tags[324 if tiled else 273]),
            counts=self.values(tags[325 if tiled else 279]),
        )

    def digest(self, places: dict[int, tuple[int, int]]) -> str:
        """Of the values of tags, each given by where they lie and their bytes; empty: of none."""
        if not places:
            return ""
        found = xxhash.xxh3_64()
        for tag, (offset, size) in sorted(places.items()):
            found.update(b"%d:%d:" % (tag, size))
            if size <= self.end - offset:  # else damaged, which is for who asks where it lies
                found.update(self.at(offset, size))
        return found.hexdigest()

    def require_tiles(self, tags: dict[int, Array], height: int, width: int) -> None:
        """Raise ValueError for tiles too large, or fewer of them than cover the image."""
        down, across = self.number(tags, 323), self.number(tags, 322)
        if down * across > max(_TILE, 4 * height * width):
            raise ValueError(
                f"tiles of {down * across:,} pixels, more than {_TILE:,} and the image"
            )
        needed = -(-height // max(down, 1)) * -(-width // max(across, 1))
        if 324 in tags and tags[324].count < needed:
            raise ValueError(f"a table of {tags[324].count:,} tiles, {needed:,} cover the image")

    def number(self, tags: dict[int, Array], tag: int, default: int | None = None) -> int:
        """The greatest of a tag's values."""
        if tag not in tags:
            if default is None:
                raise ValueError(f"tag {tag} is missing")
            return default
        values = self.values(Array(tags[tag].code, min(tags[tag].count, 64), tags[tag].offset))
        if not len(values):
            raise ValueError(f"tag {tag} is empty")
        return int(values.max())

    def values(self, array: Array) -> NDArray[np.uint64]:
        if not array.code:
            raise ValueError("a tag of an unexpected type")
        dtype = np.dtype(self.order + array.code)
        if array.count > _STRIPS:
            raise ValueError(f"a table of {array.count:,} strips, more than {_STRIPS:,}")
        return np.frombuffer(self.at(array.offset, array.count * dtype.itemsize), dtype).astype(
            np.uint64
        )

    def at(self, offset: int, size: int) -> bytes:
        if size > self.end - offset:
            raise ValueError("the file ends inside it")
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) < size:
            raise ValueError("the file ends inside it")
        return data

    def unpack(self, code: str, data: bytes) -> int:
        value: int = struct.unpack(self.order + code, data)[0]
        return value
