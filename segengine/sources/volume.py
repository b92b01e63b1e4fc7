"""Volumes, NIfTI and DICOM series, a slice a frame, in rescaled units; slides by micrometres a pixel"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._bounds import require_bounded
from segengine.sources._dicom import Header, header_of, rescaled, stored_pixels
from segengine.sources._fields import fingerprint
from segengine.sources._files import changed, unreadable
from segengine.sources._nifti import OpenNifti, open_nifti
from segengine.sources._series import Series, attributes, read_series
from segengine.sources._slide import Slides
from segengine.sources._volumes import NIFTI, SLIDE, TIFF, Gray, suffix_of
from segengine.sources._warp import Resampling
from segengine.types import Bool, Entry, FrameRef, Part, Probe, Source, Tile, Unreadable
from segengine.urls import public


@dataclass(frozen=True, slots=True)
class VolumeSource:
    """Slices as frames, as they are stored, their values rescaled: CT in Hounsfield units.

    Slices of DICOM follow each other along their normal, those of NIfTI along its third axis; with
    several times frame = time * slices + slice. Where slope and intercept are whole numbers values
    are integers, else float32.

    - window: [center, width] in rescaled units; what is inside becomes gray of 8 bit.
    - resolution: of slides, micrometres a pixel; omitted: their finest level as it is.
    - resampling: of slides: how the coarsest level that is no coarser is brought to it.
    - tissue: of slides: true makes glass void, and shards without tissue are never read.
    """

    window: tuple[float, float] | None = None
    resolution: float | None = None
    resampling: Resampling = "nearest"
    tissue: bool = False

    def __post_init__(self) -> None:
        Gray.of(self.window)
        self._slides  # noqa: B018 - looks at its own options

    @property
    def _slides(self) -> Slides:
        return Slides(self.resolution, self.resampling, self.tissue)

    def probe(self, entry: Entry) -> Probe:
        """What the headers say; raises CorruptInputError or TransientInputError."""
        if is_slide(entry):
            return self._slides.probe(entry)
        if self.resolution is not None:
            raise CorruptInputError("has slices, and source.resolution is of slides; leave it out")
        if is_nifti(entry):
            with open_nifti(entry.uri) as volume:
                return self._nifti(volume)
        series = read_series(entry)
        first = series.first
        require_bounded(first.height, first.width, first.bands, len(series.frames))
        return Probe(
            kind="volume",
            height=first.height,
            width=first.width,
            bands=first.bands,
            dtype=self._dtype(series.dtype),
            positions=np.arange(len(series.frames)),
            attributes={"volume": {**attributes(series), **self._said()}},
        )

    def _nifti(self, volume: OpenNifti) -> Probe:
        about = volume.header
        return Probe(
            kind="volume",
            height=about.height,
            width=about.width,
            bands=about.bands,
            dtype=self._dtype(about.dtype),
            windowed=True,
            positions=np.arange(about.frames),
            attributes={"volume": {**about.attributes(), **self._said()}},
        )

    def _dtype(self, dtype: str) -> str:
        return dtype if self.window is None else "uint8"

    def _said(self) -> dict[str, Any]:
        return {} if self.window is None else {"window": [float(n) for n in self.window]}

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame; a packed file is inflated once, as long as reading goes forward."""
        for (uri, mark), group in groupby(frames, key=lambda ref: (ref.uri, ref.fingerprint)):
            refs = list(group)
            if is_slide(refs[0]):
                for ref in refs:
                    yield _safely(self._slides.tile, ref, rows, cols)
                continue
            if not is_nifti(refs[0]):
                for ref in refs:
                    yield _safely(self._slice, ref, rows, cols)
                continue
            done = 0
            try:
                with open_nifti(uri, mark) as volume:
                    for ref in refs:
                        yield _safely(self._rows, ref, rows, cols, volume)
                        done += 1
            except (CorruptInputError, TransientInputError) as error:
                for _rest in refs[done:]:
                    yield unreadable(error)

    def _rows(
        self, ref: FrameRef, rows: slice, cols: slice, volume: OpenNifti
    ) -> Tile | Unreadable:
        about = volume.header
        other = changed(ref, about.height, about.width)
        if other is not None:
            return other
        if ref.position >= about.frames:
            raise CorruptInputError(f"has {about.frames} slices, none with index {ref.position}")
        stored = volume.rows(ref.position, rows, cols)
        values = about.rescale.applied(stored[..., : about.bands], about.dtype)
        opaque = None if about.channels < 4 else stored[..., 3] > 0
        return self._tile(values, opaque, inverted=False)

    def _slice(self, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        uri, frame, header, dtype = _found(ref)
        other = changed(ref, header.height, header.width)
        if other is not None:
            return other
        stored = stored_pixels(uri, header, frame)[rows, cols]
        values, valid = rescaled(stored, header, frame, dtype)
        return self._tile(values, valid, inverted=header.inverted)

    def _tile(self, values: NDArray[Any], valid: Bool | None, *, inverted: bool) -> Tile:
        if values.dtype.kind == "f":
            there: Bool = ~np.isnan(values).any(axis=-1)
            valid = there if valid is None else valid & there
        gray = Gray.of(self.window)
        shown = values if gray is None else gray.applied(values, inverted=inverted)
        valid = None if valid is None or valid.all() else valid
        return Tile(np.ascontiguousarray(shown), valid)

    def mark(self, ref: FrameRef) -> str:
        """The fingerprint that a volume has now. Raises CorruptInputError, TransientInputError."""
        from segengine.sources.listing import mark_of

        if not ref.parts:
            return mark_of(ref.uri)
        marks = {}
        for part in ref.parts:
            try:
                marks[part.uri] = mark_of(part.uri)
            except (CorruptInputError, TransientInputError) as error:
                # The name of a series is that of its folder, which is there.
                raise type(error)(f"{part.name.rpartition('/')[2]}: {error}") from error
        return fingerprint(ref.parts, marks)


_: type[Source] = VolumeSource


def is_slide(about: Entry | FrameRef) -> bool:
    """Whether a file is a slide by its suffix."""
    return not about.parts and suffix_of(public(about.uri)) in SLIDE | TIFF


def is_nifti(about: Entry | FrameRef) -> bool:
    """Whether a file is NIfTI by its suffix; else it is DICOM."""
    return not about.parts and suffix_of(public(about.uri)) in NIFTI


def _safely(read: Any, ref: FrameRef, *more: Any) -> Tile | Unreadable:
    try:
        found: Tile | Unreadable = read(ref, *more)
        return found
    except (CorruptInputError, TransientInputError) as error:
        return unreadable(error)
    except MemoryError:
        return Unreadable("error", "not enough memory to decode it")


def _found(ref: FrameRef) -> tuple[str, int, Header, str]:
    """File, frame in it, header and dtype of a slice of DICOM."""
    if not ref.parts:
        series = _series(ref.uri, ref.name, ref.fingerprint)
        if ref.position >= len(series.frames):
            raise CorruptInputError(
                f"has {len(series.frames)} slices, none with index {ref.position}"
            )
        frame = series.frames[ref.position]
        return frame.uri, frame.frame, frame.header, series.dtype
    if ref.position >= len(ref.parts):
        raise CorruptInputError(f"has {len(ref.parts)} slices, none with index {ref.position}")
    part = ref.parts[ref.position]
    header = header_of(part.uri, ref.fingerprint)
    if header is None:
        raise CorruptInputError("holds no image")
    return part.uri, 0, header, part.dtype or _whole(ref.parts, ref.fingerprint)


def _series(uri: str, name: str, mark: str) -> Series:
    # Frames of one file are all described in its header.
    return _remembered((Part(uri, name=name),), mark) if mark else read_series(Entry(name, uri, ""))


def _whole(parts: tuple[Part, ...], mark: str) -> str:
    """The dtype of a series that was listed while it could not be placed."""
    return _remembered(parts, mark).dtype


@lru_cache(maxsize=8)
def _remembered(parts: tuple[Part, ...], mark: str) -> Series:
    return read_series(Entry(parts[0].name, parts[0].uri, mark, parts))
