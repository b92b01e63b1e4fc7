"""NIfTI-1 and NIfTI-2 in one file, `.nii` or `.nii.gz`: what the header says, and rows of its slices.

    frame, row j, column i      at vox_offset + ((frame * height + j) * width + i) * size

Extensions are never read, and of the header nothing that is free text (`descrip`, `db_name`, `aux_file`).

Source: https://nifti.nimh.nih.gov/nifti-1 and nifti-2; the affine as nibabel takes it (sform, then qform).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources._bounds import require_bounded
from segengine.sources._files import open_input
from segengine.sources._inflated import MOST_RATIO, Inflated
from segengine.sources._volumes import Lies, Rescale, damage, needed, rescaled_dtype

_MOST_KEPT = 4
"""Open files: an image and its truth are read by turns."""
_HEADER = 540
"""Bytes of the longer one."""
_ONE, _TWO = 348, 540
_GZIP = b"\x1f\x8b"
_COLOURS = {128: 3, 2304: 4}
"""Channels of the datatypes RGB24 and RGBA32."""


@dataclass(frozen=True, slots=True)
class Nifti:
    """What a header says."""

    height: int
    width: int
    slices: int
    times: int
    bands: int
    stored: np.dtype[Any]
    """Of one number, as it lies in the file."""
    channels: int
    """Numbers a pixel, of which the fourth is alpha."""
    offset: int
    rescale: Rescale
    lies: Lies | None
    codes: tuple[int, int]
    """qform_code and sform_code: what the affine leads to."""

    @property
    def frames(self) -> int:
        """Slices of all times."""
        return self.slices * self.times

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.width * self.channels * self.stored.itemsize

    @property
    def end(self) -> int:
        """Bytes of the file, inflated."""
        return self.offset + self.frames * self.height * self.row

    @property
    def dtype(self) -> str:
        """Of rescaled values."""
        ends = (0, 0)
        if self.stored.kind in "iu":
            ends = int(np.iinfo(self.stored).min), int(np.iinfo(self.stored).max)
        return rescaled_dtype(self.stored, ends, (self.rescale,))

    def attributes(self) -> dict[str, Any]:
        """As a scene's group says it."""
        found: dict[str, Any] = {"format": "nifti", "slices": self.slices, "codes": [*self.codes]}
        if self.lies is not None:
            found |= self.lies.attributes()
        if not self.rescale.is_none:
            found["rescale"] = [self.rescale.slope, self.rescale.intercept]
        return found


class OpenNifti:
    """An open file; one reader at a time."""

    def __init__(self, file: BinaryIO) -> None:
        head = file.read(2)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._file = file
        self._inflated = Inflated(file) if head == _GZIP else None
        self.header = _parsed(self._head(size))
        self._require_held(size)

    def rows(self, frame: int, rows: slice, cols: slice) -> NDArray[Any]:
        """(y, x, channel) of a frame, as stored."""
        about = self.header
        start = about.offset + (frame * about.height + rows.start) * about.row
        data = self._bytes(start, (rows.stop - rows.start) * about.row)
        if self._inflated is not None and start + len(data) == about.end:
            self._inflated.finish()
        shape = rows.stop - rows.start, about.width, about.channels
        return np.frombuffer(data, about.stored).reshape(shape)[:, cols]

    def _head(self, size: int) -> bytes:
        if self._inflated is None:
            return self._bytes(0, min(size, _HEADER))
        try:
            return self._inflated.read(0, _HEADER)
        except CorruptInputError:
            return self._inflated.read(0, _ONE)  # which says what is wrong

    def _bytes(self, offset: int, length: int) -> bytes:
        if self._inflated is not None:
            return self._inflated.read(offset, length)
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) < length:
            raise CorruptInputError(f"cut short: {length - len(data):,} bytes are missing")
        return data

    def _require_held(self, size: int) -> None:
        """Before memory is taken for what a header claims."""
        end = self.header.end
        most = size if self._inflated is None else size * MOST_RATIO
        if end > most:
            holds = (
                f"has {size:,}" if self._inflated is None else f"cannot be of {size:,} packed ones"
            )
            raise CorruptInputError(f"cut short: its header says {end:,} bytes, and it {holds}")


def _parsed(head: bytes) -> Nifti:
    if len(head) < _ONE:
        raise CorruptInputError(f"no NIfTI: a header has {_ONE} bytes, and there are {len(head)}")
    nibabel = needed("nibabel")
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if _TWO in sizes and len(head) >= _TWO and head[4:7] in (b"n+2", b"ni2"):
        magic, kind, length = head[4:7], nibabel.Nifti2Header, _TWO
    elif _ONE in sizes and head[344:347] in (b"n+1", b"ni1"):
        magic, kind, length = head[344:347], nibabel.Nifti1Header, _ONE
    elif _ONE in sizes:
        raise CorruptInputError("an ANALYZE header without a NIfTI mark; convert it to NIfTI")
    else:
        raise CorruptInputError("no NIfTI: it begins as none")
    if magic.startswith(b"ni"):
        raise CorruptInputError(
            "a pair of .hdr and .img, which is not read; convert it to one .nii"
        )
    with damage("NIfTI header"):
        return _read(kind(head[:length], check=False), length)


def _read(header: Any, length: int) -> Nifti:
    shape = tuple(int(n) for n in header.get_data_shape())
    if not shape or min(shape) < 1 or len(shape) > 7:
        raise CorruptInputError(f"damaged NIfTI header: its shape is {shape}")
    width, height, slices, times, *rest = (*shape, 1, 1, 1, 1)
    if any(n > 1 for n in rest):
        raise CorruptInputError(
            f"has {len(shape)} axes, {shape}; x, y, z and time are read, vectors are not"
        )
    code = int(header["datatype"])
    channels = _COLOURS.get(code, 1)
    stored = np.dtype(np.uint8) if channels > 1 else header.get_data_dtype()
    if stored.kind not in "iuf" or stored.itemsize > 8:
        raise CorruptInputError(f"{stored.newbyteorder('=')} pixels cannot be segmented")
    offset = float(header["vox_offset"])
    if not length <= offset < 1 << 62:
        raise CorruptInputError(f"damaged NIfTI header: its pixels begin at byte {offset:g}")
    slope, intercept = header.get_slope_inter() if channels == 1 else (None, None)
    bands = min(channels, 3)
    require_bounded(height, width, bands, slices * times)
    codes = int(header["qform_code"]), int(header["sform_code"])
    return Nifti(
        height=height,
        width=width,
        slices=slices,
        times=times,
        bands=bands,
        stored=stored,
        channels=channels,
        offset=int(offset),
        rescale=Rescale(
            1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
        ),
        lies=_lies(header, codes),
        codes=codes,
    )


def _lies(header: Any, codes: tuple[int, int]) -> Lies | None:
    unit = header.get_xyzt_units()[0]
    if any(codes):
        return Lies.of(header.get_best_affine(), unit)
    try:
        # Of old files only the sides of a pixel are known.
        return Lies.of(header.get_base_affine(), unit)
    except CorruptInputError:
        return None


class _Kept:
    """Files that this process read last, packed ones with the points from which to go on."""

    def __init__(self) -> None:
        self.lock = Lock()  # a shard may be read ahead
        self.held: dict[tuple[str, str], tuple[OpenNifti, ExitStack]] = {}

    def take(self, key: tuple[str, str]) -> tuple[OpenNifti, ExitStack] | None:
        """A file, for one reader."""
        with self.lock:
            return self.held.pop(key, None)

    def put(self, key: tuple[str, str], opened: tuple[OpenNifti, ExitStack]) -> None:
        """Keep a file, and no longer those before the last few."""
        with self.lock:
            old = [self.held.pop(key, None)]
            self.held[key] = opened
            while len(self.held) > _MOST_KEPT:
                old.append(self.held.pop(next(iter(self.held))))
        for each in old:
            if each is not None:
                each[1].close()


_KEPT = _Kept()


@contextmanager
def open_nifti(uri: str, fingerprint: str = "") -> Iterator[OpenNifti]:
    """An open file; kept afterwards where a fingerprint tells that it is the same.

    Raises CorruptInputError, TransientInputError.
    """
    key = uri, fingerprint
    found = _KEPT.take(key) if fingerprint else None
    with ExitStack() as failed:
        if found is None:
            closing = failed.enter_context(ExitStack())
            found = OpenNifti(closing.enter_context(open_input(uri))), closing
        else:
            failed.push(found[1])
        yield found[0]
        if fingerprint:
            failed.pop_all()
            _KEPT.put(key, found)
