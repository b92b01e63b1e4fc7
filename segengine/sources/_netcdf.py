"""The header of a classic netCDF file, checked before a library believes it.

What the netCDF library makes of a damaged one is memory without bound, or the end of the process.

    magic  numrecs  dimensions  attributes  variables        lists are: tag, count, items

Source: the file format specifications of netCDF, "classic", "64-bit offset" and "64-bit data".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import BinaryIO

from segengine.errors import CorruptInputError

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
"""Bytes of a value by the number of its type; those above 6 only in the 64-bit data format."""
_ABSENT, _DIMENSIONS, _VARIABLES, _ATTRIBUTES = 0, 10, 11, 12
_MOST_ITEMS, _MOST_AXES, _LONGEST_NAME = 65_536, 1024, 256
"""Of a list, of a variable, in bytes: the library's own limits, or far above what files hold."""


def require_sound(file: BinaryIO) -> None:
    """Raise CorruptInputError where a header contradicts itself or the length of its file.

    The file is one that begins as a classic netCDF; a variable that is not all there is a fault.
    """
    try:
        _Reader(file).header()
    except ValueError as error:
        raise CorruptInputError(f"damaged netCDF header: {error}") from error


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    shape: tuple[int, ...]
    """Without the axis of records."""
    itemsize: int
    begin: int
    records: bool

    @property
    def bytes(self) -> int:
        """Of all its values, or of those of one record."""
        return math.prod(self.shape) * self.itemsize


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.end = file.seek(0, 2)
        file.seek(0)
        version = self.take(4)[3]
        self.count_bytes = 8 if version == 5 else 4
        self.offset_bytes = 4 if version == 1 else 8
        self.most_type = 11 if version == 5 else 6

    def header(self) -> None:
        records = self.count()
        lengths = [self.dimension() for _ in range(self.items(_DIMENSIONS))]
        if lengths.count(0) > 1:
            raise ValueError("more than one dimension of records")
        self.attributes()
        variables = [self.variable(lengths) for _ in range(self.items(_VARIABLES))]
        streamed = records == (1 << 8 * self.count_bytes) - 1
        self.require_there(variables, None if streamed else records)

    def require_there(self, variables: list[_Variable], records: int | None) -> None:
        """Every value lies in the file; `records`: None where the file does not say how many."""
        varying = [variable for variable in variables if variable.records]
        # One variable of records alone is packed without padding.
        sizes = [v.bytes if len(varying) == 1 else -(-v.bytes // 4) * 4 for v in varying]
        step = sum(sizes)
        for variable in variables:
            more = step * (max(records or 1, 1) - 1) if variable.records else 0
            if variable.records and records == 0:
                continue
            if variable.begin + more + variable.bytes > self.end:
                raise ValueError(
                    f"its variable {variable.name} ends at byte "
                    f"{variable.begin + more + variable.bytes:,} of {self.end:,}"
                )

    def dimension(self) -> int:
        self.name()
        return self.count()

    def attributes(self) -> None:
        for _ in range(self.items(_ATTRIBUTES)):
            self.name()
            self.take(-(-self.itemsize() * self.count() // 4) * 4)

    def variable(self, lengths: list[int]) -> _Variable:
        name = self.name()
        axes = self.count()
        if axes > _MOST_AXES:
            raise ValueError(f"its variable {name} has {axes:,} axes")
        numbers = [self.count() for _ in range(axes)]
        if any(number >= len(lengths) for number in numbers):
            raise ValueError(f"its variable {name} has an axis that is not there")
        shape = tuple(lengths[number] for number in numbers)
        if 0 in shape[1:]:
            raise ValueError(f"its variable {name} has records on an inner axis")
        self.attributes()
        itemsize = self.itemsize()
        self.count()  # its size, which is what its axes give
        begin = int.from_bytes(self.take(self.offset_bytes), "big")
        records = shape[:1] == (0,)
        return _Variable(name, shape[1:] if records else shape, itemsize, begin, records)

    def itemsize(self) -> int:
        kind = int.from_bytes(self.take(4), "big")
        if not 1 <= kind <= self.most_type:
            raise ValueError(f"a type {kind}")
        return _SIZES[kind]

    def items(self, wanted: int) -> int:
        tag, count = int.from_bytes(self.take(4), "big"), self.count()
        if tag not in (wanted, _ABSENT) or (tag == _ABSENT and count):
            raise ValueError(f"a list begins with {tag}")
        if count > _MOST_ITEMS:
            raise ValueError(f"a list of {count:,} items; at most {_MOST_ITEMS:,} are read")
        return count

    def name(self) -> str:
        size = self.count()
        if not 0 < size <= _LONGEST_NAME:
            raise ValueError(f"a name of {size:,} bytes")
        return self.take(-(-size // 4) * 4)[:size].decode()

    def count(self) -> int:
        return int.from_bytes(self.take(self.count_bytes), "big")

    def take(self, size: int) -> bytes:
        if size > self.end - self.file.tell():
            raise ValueError("the file ends inside it")
        return self.file.read(size)
