"""One DICOM file: what an allow list of its header says, and the pixels of one of its frames.

Only these elements are read; what they hold is numbers, codes and identifiers of the series. Nothing of
the patient, the study, the people or the place is looked at, so that nothing of it can be stored.

Sources: DICOM PS3.3 (image plane and pixel modules, functional groups), PS3.5 and PS3.10 (2024).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._bounds import MOST_BYTES, MOST_FRAMES
from segengine.sources._files import open_input
from segengine.sources._volumes import AS_STORED, Rescale, damage, needed, rescaled_dtype
from segengine.types import Bool

_TAGS = (
    "SOPClassUID", "SeriesInstanceUID", "Modality", "InstanceNumber", "AcquisitionNumber",
    "TemporalPositionIdentifier", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
HEADER = "DICOM header"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_MASKS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of segmentations: masks beside images are not the next night's input."""
_MODALITIES = frozenset(
    ("BI", "CR", "CT", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OCT", "OP", "OPT",
     "OT", "PT", "PX", "RF", "RG", "RTDOSE", "RTIMAGE", "SC", "SM", "TG", "US", "XA", "XC")
)  # fmt: skip
"""Defined terms of which one is stored: what is none of them might be a text."""
_PLUGINS = {
    "1.2.840.10008.1.2.4.50": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.51": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.57": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.70": "pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
}
_OPENJPEG = "pylibjpeg-openjpeg"
_EXTENDED = "1.2.840.10008.1.2.4.51"


@dataclass(frozen=True, slots=True)
class Plane:
    """A frame of a file: where it lies, in millimetres (LPS), and what its numbers mean."""

    position: tuple[float, ...] = ()
    """Of the centre of the first pixel; empty: not known."""
    rows: tuple[float, ...] = ()
    """Direction in which columns grow, and that in which rows do: six numbers."""
    spacing: tuple[float, ...] = ()
    """Of rows, and of columns."""
    thickness: float = 0.0
    rescale: Rescale = AS_STORED

    @property
    def placed(self) -> bool:
        """Whether it lies anywhere."""
        return bool(self.position and self.rows and self.spacing)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says."""

    series: str
    """SeriesInstanceUID: it groups files, and is not stored."""
    number: int | None
    """InstanceNumber."""
    time: tuple[int, ...]
    """TemporalPositionIdentifier and AcquisitionNumber, -1 where there is none."""
    modality: str
    height: int
    width: int
    bands: int
    stored: np.dtype[Any]
    ends: tuple[int, int]
    """Least and greatest integer that the bits can hold."""
    inverted: bool
    """Low is white (MONOCHROME1)."""
    padding: tuple[int, int] | None
    """Stored values from and to which a pixel is none."""
    planes: tuple[Plane, ...]
    """One a frame."""
    problem: CorruptInputError | TransientInputError | None = None
    """Why its pixels cannot be read, where the rest is known."""

    @property
    def dtype(self) -> str:
        """Of rescaled values."""
        return rescaled_dtype(self.stored, self.ends, [plane.rescale for plane in self.planes])


def header_of(uri: str, fingerprint: str = "") -> Header | None:
    """What a file says; None: it is no image. A fingerprint tells that it is the same as before.

    Raises CorruptInputError, TransientInputError.
    """
    return _remembered(uri, fingerprint) if fingerprint else _header(uri)


@lru_cache(maxsize=64)
def _remembered(uri: str, fingerprint: str) -> Header | None:
    return _header(uri)


def _header(uri: str) -> Header | None:
    with open_input(uri) as file, _reading(HEADER):
        syntax, data = _elements(file)
        held = -file.tell() + file.seek(0, os.SEEK_END)
        return _told(data, syntax, held)


def is_dicom(uri: str) -> bool:
    """Whether a file says that it is DICOM. Raises as `header_of`."""
    with open_input(uri) as file:
        return _is_marked(file)


def _is_marked(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(132)[128:] == b"DICM"


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """pydicom warns of what it mends, and raises whatever it likes.

    What it says of a header is not told on: it quotes values, and these may be of a patient.
    """
    with warnings.catch_warnings(), damage(what):
        warnings.simplefilter("ignore")
        try:
            yield
        except (CorruptInputError, TransientInputError, MemoryError):
            raise
        except Exception as error:
            if what == HEADER:
                raise CorruptInputError(f"damaged {what} ({type(error).__name__})") from None
            raise


def _elements(file: BinaryIO) -> tuple[Any, Any]:
    """Transfer syntax, and a data set of what is listed."""
    needed("pydicom")
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.tag import Tag
    from pydicom.uid import UID

    if not _is_marked(file):
        raise CorruptInputError("no DICOM file: DICM is not at byte 128")
    file.seek(0)
    read_preamble(file, force=False)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if not syntax or not syntax.is_transfer_syntax:
        raise CorruptInputError("damaged DICOM header: it names no transfer syntax that is known")
    if syntax == _DEFLATED:
        raise CorruptInputError("a deflated data set, which is not read; write it as explicit VR")
    data = read_dataset(
        file,
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, vr, length: tag.group >= 0x7FE0,
        specific_tags=[Tag(name) for name in _TAGS],
    )
    return syntax, data


def _told(data: Any, syntax: Any, held: int) -> Header | None:
    """`held`: bytes from the pixels on."""
    height, width = int(data.get("Rows") or 0), int(data.get("Columns") or 0)
    if not height or not width or str(data.get("SOPClassUID", "")) in _MASKS:
        return None
    frames = int(data.get("NumberOfFrames") or 1)
    allocated = int(data.get("BitsAllocated") or 0)
    samples = int(data.get("SamplesPerPixel") or 1)
    _require_known(data, allocated, samples)
    frame = height * width * samples * allocated // 8
    if frame > MOST_BYTES or not 1 <= frames <= MOST_FRAMES:
        raise CorruptInputError(
            f"has {frames:,} frames of {frame:,} bytes; at most {MOST_FRAMES:,} of {MOST_BYTES:,} "
            "are read"
        )
    # Before anything is set up for each: a frame takes its bytes, or where it is packed an item of eight.
    least = 8 if syntax.is_encapsulated else max(1, frame)
    if frames > 1 and frames * least > held:
        raise CorruptInputError(
            f"cut short: its header says {frames:,} frames, and {max(0, held):,} bytes of pixels are there"
        )
    signed = int(data.get("PixelRepresentation") or 0) == 1
    stored = _stored(data, allocated, signed)
    bits = min(int(data.get("BitsStored") or allocated), allocated)
    ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    number = data.get("InstanceNumber")
    times = (data.get("TemporalPositionIdentifier"), data.get("AcquisitionNumber"))
    modality = str(data.get("Modality", ""))
    return Header(
        series=str(data.get("SeriesInstanceUID", "")),
        number=None if number is None else int(number),
        time=tuple(-1 if t is None else int(t) for t in times),
        modality=modality if modality in _MODALITIES else "",
        height=height,
        width=width,
        bands=samples,
        stored=stored,
        ends=ends,
        inverted=data.get("PhotometricInterpretation") == "MONOCHROME1",
        padding=_padding(data, allocated, signed) if samples == 1 else None,
        planes=_planes(data, frames),
        problem=_problem(data, syntax, frames * frame, held),
    )


def _require_known(data: Any, allocated: int, samples: int) -> None:
    """Raise CorruptInputError for pixels of a kind that is not read."""
    colours = str(data.get("PhotometricInterpretation", ""))
    if samples not in (1, 3) or colours == "PALETTE COLOR":
        raise CorruptInputError(
            f"{colours[:16] or 'pixels'} of {samples} samples are not read; gray and RGB are"
        )
    if allocated not in (8, 16, 32, 64):
        raise CorruptInputError(f"pixels of {allocated} bits are not read")
    if data.get("ModalityLUTSequence"):
        raise CorruptInputError(
            "has a table in place of rescale slope and intercept: it is not read"
        )


def _problem(
    data: Any, syntax: Any, claimed: int, held: int
) -> CorruptInputError | TransientInputError | None:
    if not syntax.is_encapsulated:
        if claimed <= held:
            return None
        return CorruptInputError(
            f"cut short: its header says {claimed:,} bytes of pixels, and it has {max(0, held):,}"
        )
    from pydicom.pixels.decoders.base import get_decoder

    try:
        plugins = get_decoder(syntax).available_plugins
    except NotImplementedError:
        return CorruptInputError(f"{syntax.name} is not read; write it uncompressed")
    if syntax == _EXTENDED and int(data.get("BitsStored") or 8) > 8:
        plugins = tuple(name for name in plugins if name != "pillow")  # which takes 8
    if not plugins:
        package = _PLUGINS.get(str(syntax), _OPENJPEG)
        # Not corrupt, which would be final: once it is installed the next run reads the file.
        return TransientInputError(
            f"{syntax.name} needs a decoder that is not installed; "
            f"python -m pip install pylibjpeg {package} brings it"
        )
    return None


def _stored(data: Any, allocated: int, signed: bool) -> np.dtype[Any]:
    # Integers have a sign or none; pixels of floats have neither.
    if allocated >= 32 and "PixelRepresentation" not in data:
        return np.dtype(f"float{allocated}")
    return np.dtype(f"{'int' if signed else 'uint'}{allocated}")


def _padding(data: Any, allocated: int, signed: bool) -> tuple[int, int] | None:
    ends = [
        _integer(data[name].value, allocated, signed)
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        if name in data and data[name].value is not None
    ]
    return (min(ends), max(ends)) if ends else None


def _integer(value: Any, allocated: int, signed: bool) -> int:
    """A stored value, which is told as US or SS by whether pixels have a sign."""
    found = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)
    found &= (1 << allocated) - 1
    return found - (1 << allocated) if signed and found >> (allocated - 1) else found


def _planes(data: Any, frames: int) -> tuple[Plane, ...]:
    own = _plane(data, Plane())
    shared = data.get("SharedFunctionalGroupsSequence") or []
    each = data.get("PerFrameFunctionalGroupsSequence") or []
    for group in shared[:1]:
        own = _grouped(group, own)
    if not each:
        # Only of one frame the position is the frame's.
        return (own if frames == 1 else replace(own, position=()),) * frames
    if len(each) != frames:
        raise CorruptInputError(
            f"damaged DICOM header: {frames:,} frames, and {len(each):,} descriptions of one"
        )
    return tuple(_grouped(group, own) for group in each)


def _grouped(group: Any, plane: Plane) -> Plane:
    """A plane with what the functional groups of a multi-frame image say of it."""
    for name in (
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
    ):
        for item in (group.get(name) or [])[:1]:
            plane = _plane(item, plane)
    return plane


def _plane(data: Any, plane: Plane) -> Plane:
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    rescale = plane.rescale
    if slope is not None or intercept is not None:
        rescale = Rescale(
            1.0 if slope is None else _number(slope),
            0.0 if intercept is None else _number(intercept),
        )
    thickness = data.get("SliceThickness")
    return Plane(
        _numbers(data, "ImagePositionPatient", 3) or plane.position,
        _numbers(data, "ImageOrientationPatient", 6) or plane.rows,
        _numbers(data, "PixelSpacing", 2) or plane.spacing,
        plane.thickness if thickness is None else _number(thickness),
        rescale,
    )


def _numbers(data: Any, name: str, count: int) -> tuple[float, ...]:
    value = data.get(name)
    if value is None or value == "":
        return ()
    found = tuple(_number(v) for v in value)
    if len(found) != count:
        raise CorruptInputError(f"damaged DICOM header: {name} has {len(found)} numbers")
    if name == "PixelSpacing" and min(found) <= 0:
        raise CorruptInputError("damaged DICOM header: PixelSpacing is not above 0")
    return found


def _number(value: Any) -> float:
    found = float(value)
    if not math.isfinite(found):
        raise CorruptInputError("damaged DICOM header: a number is not finite")
    return found


def stored_pixels(uri: str, header: Header, frame: int) -> NDArray[Any]:
    """(y, x, band) of a frame as stored, YBR turned into RGB. Raises as `header_of`."""
    if header.problem is not None:
        raise type(header.problem)(*header.problem.args)
    with open_input(uri) as file, _reading("DICOM pixels"):
        needed("pydicom")
        from pydicom.pixels.utils import pixel_array

        try:
            found = pixel_array(file, index=frame if len(header.planes) > 1 else 0)
        except RuntimeError as error:  # a line for each decoder that was tried
            raise CorruptInputError(
                f"damaged DICOM pixels: {str(error).splitlines()[-1].strip()}"
            ) from error
        shape = header.height, header.width, header.bands
        if found.size != math.prod(shape):
            raise CorruptInputError(f"damaged DICOM pixels: {found.shape} in place of {shape}")
        return found.reshape(shape)


def rescaled(
    stored: NDArray[Any], header: Header, frame: int, dtype: str
) -> tuple[NDArray[Any], Bool | None]:
    """Values (y, x, band), and where they are such (y, x), None: everywhere.

    Void are padding, and, where values are rescaled, those beyond the bits that are said to be stored:
    the dtype has no room for them.
    """
    valid = np.ones(stored.shape[:2], np.bool_)
    if header.padding is not None:
        low, high = header.padding
        valid &= ~((stored[..., 0] >= low) & (stored[..., 0] <= high))
    rescale = header.planes[frame].rescale
    if not rescale.is_none and stored.dtype.kind in "iu":
        low, high = header.ends
        valid &= ((stored >= low) & (stored <= high)).all(axis=-1)
        stored = np.clip(stored, low, high)
    return rescale.applied(stored, dtype), None if valid.all() else valid
