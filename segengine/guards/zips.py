"""Zip archives that every reader reads alike: entries side by side, then one directory, then the end.

    | local header, name, extra | data | ... | directory | (zip64 end) | end, no comment |
    0                                                                              size of the file

Anything before, between or behind, a second directory, two entries of one name: readers differ on
what such a file holds, so that what was looked at need not be what is opened.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Collection
from typing import IO

MAGIC = b"PK\x03\x04"
RATIO, SLACK = 64, 16 << 20
"""Most bytes that an archive may unpack to: so many times its own, and so many more."""
_END, _LOCAL = struct.Struct("<4s4H2LH"), struct.Struct("<4s5H3L2H")
_TAILS = (22, 98)
"""Bytes behind the directory: its end, and with zip64 two records more."""
_ENCRYPTED, _FOLLOWS = 1, 8
"""Flags of an entry; sizes that follow the data."""


def check(file: IO[bytes], only: Collection[str] | None = None) -> list[zipfile.ZipInfo]:
    """The entries of a plain archive that is open. Raises ValueError.

    only: the names that its entries may have.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, file.seek(0, 2))
            _check_places(file, archive, entries)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, EOFError) as error:
        raise ValueError(f"the zip is damaged: {error}") from error
    for entry in entries:
        if only is not None and entry.filename not in only:
            raise ValueError(f"the zip holds {shown(entry.filename)}, which is refused")
    return entries


def shown(name: str) -> str:
    """A name of a stranger in a message of one line."""
    return repr(name if len(name) <= 80 else name[:77] + "...")[1:-1]


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    names: set[str] = set()
    for entry in entries:
        name = entry.filename
        if name != entry.orig_filename or "\\" in name or "\0" in name:
            raise ValueError(f"the zip holds {shown(entry.orig_filename)}, no name of a file")
        if name.startswith("/") or ".." in name.split("/") or ":" in name.partition("/")[0]:
            raise ValueError(f"the zip holds {shown(name)}, which leads out of it and is refused")
        if name in names:
            raise ValueError(f"the zip holds {shown(name)} twice and is refused")
        names.add(name)
        if entry.flag_bits & _ENCRYPTED:
            raise ValueError(f"the zip holds {shown(name)} encrypted, which is refused")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ValueError(f"the zip holds {shown(name)} as a link, which is refused")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"the zip holds {shown(name)}, packed in a way that is refused")
    if sum(entry.file_size for entry in entries) > RATIO * size + SLACK:
        raise ValueError(f"the zip unpacks to more than {RATIO} times its size and is refused")


def _check_places(
    file: IO[bytes], archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]
) -> None:
    """Raise ValueError where a byte of the file belongs to no entry and to no directory."""
    size = file.seek(0, 2)
    behind = 0
    for entry in sorted(entries, key=lambda e: e.header_offset):
        gap = entry.header_offset - behind
        if gap:
            raise _ambiguous()
        file.seek(entry.header_offset)
        head = _LOCAL.unpack(file.read(_LOCAL.size))
        magic, flags, method, packed, length, extra = (head[i] for i in (0, 2, 3, 7, 9, 10))
        name = file.read(length)
        told = entry.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", "replace")
        if magic != MAGIC or flags != entry.flag_bits or method != entry.compress_type:
            raise _ambiguous()
        if name != told or (
            not flags & _FOLLOWS and packed not in (entry.compress_size, 0xFFFFFFFF)
        ):
            raise _ambiguous()
        behind = entry.header_offset + _LOCAL.size + length + extra + entry.compress_size
        if flags & _FOLLOWS:
            behind = _behind_descriptor(file, behind, entry)
    file.seek(max(0, size - _END.size))
    end = _END.unpack(file.read(_END.size))
    if end[0] != b"PK\x05\x06" or end[7] or archive.comment or behind != archive.start_dir:
        raise _ambiguous()
    length = end[5]
    tails = [size - archive.start_dir - length] if length != 0xFFFFFFFF else [_TAILS[1]]
    if tails[0] not in _TAILS:
        raise _ambiguous()


def _behind_descriptor(file: IO[bytes], at: int, entry: zipfile.ZipInfo) -> int:
    """Where the checksum and sizes end that follow the data of an entry."""
    for form in ("<4sLLL", "<4sLQQ"):
        file.seek(at)
        found = file.read(struct.calcsize(form))
        if found == struct.pack(
            form, b"PK\x07\x08", entry.CRC, entry.compress_size, entry.file_size
        ):
            following = file.read(4)
            if following in (MAGIC, b"PK\x01\x02"):
                return at + len(found)
    raise _ambiguous()


def _ambiguous() -> ValueError:
    return ValueError(
        "the zip has bytes that belong to no file in it, or headers that differ from its directory, "
        "and is refused; pack it again"
    )
