"""What volumes of all formats share: names, rescaled values, a window of gray, where they lie.

    scene attributes["volume"]      affine    4 x 4, (column, row, frame) -> x, y, z in RAS, in `unit`
                                    spacing   (frame, y, x) in millimetres
                                    slices    frames of one time: frame = time * slices + slice

Nothing else of a header is kept: free text may hold names of patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._files import one_line

NIFTI = frozenset((".nii", ".nii.gz"))
DICOM = frozenset((".dcm", ".dicom", ".ima"))
SLIDE = frozenset((".svs", ".ndpi", ".scn", ".bif", ".qptiff"))
TIFF = frozenset((".tif", ".tiff"))
"""A slide, where volumes are asked for."""
REMEDY = "python -m pip install 'segengine[medical]' brings it"
_MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3}
_INTEGERS = ("uint8", "int16", "uint16", "int32", "uint32")
_EXACT = 1 << 24
"""Greatest integer up to which float32 holds all."""
Affine = tuple[tuple[float, float, float, float], ...]


def suffix_of(name: str) -> str:
    """In small letters, of a name with two both.

    >>> suffix_of("a/Brain.NII.gz"), suffix_of("a.tar.gz")
    ('.nii.gz', '.gz')
    """
    # As PurePosixPath has it, which takes ten times as long: a bucket may hold a million names.
    last = name.rstrip("/").rpartition("/")[2]
    dot = last.rfind(".")
    found = last[dot:].lower() if 0 < dot < len(last) - 1 else ""
    return ".nii.gz" if found == ".gz" and name.lower().endswith(".nii.gz") else found


def without_suffix(name: str) -> str:
    """A path without its suffix.

    >>> without_suffix("a/brain.nii.gz"), without_suffix("a/b.tif")
    ('a/brain', 'a/b')
    """
    last = len(".nii.gz") if suffix_of(name) == ".nii.gz" else len(PurePosixPath(name).suffix)
    return name[:-last] if last else name


def needed(module: str) -> Any:
    """A module of the extra `medical`. Raises TransientInputError where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise TransientInputError(f"needs {package}, which is not installed; {REMEDY}") from error


@contextmanager
def damage(what: str) -> Iterator[None]:
    """CorruptInputError for whatever a format's library raises of content."""
    try:
        yield
    except (CorruptInputError, TransientInputError, MemoryError):
        raise
    except Exception as error:
        raise CorruptInputError(f"damaged {what}: {one_line(error)}") from error


@dataclass(frozen=True, slots=True)
class Gray:
    """A window of gray: centre and width, in units of the rescaled values.

    `LINEAR` of DICOM PS3.3, C.11.2.1.2.1: y = ((x - (c - .5)) / (w - 1) + .5) * 255, cut at 0 and 255.
    """

    center: float
    width: float

    @classmethod
    def of(cls, value: object) -> Gray | None:
        """The option `window`. Raises ValueError."""
        if value is None:
            return None
        numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
        if (
            len(numbers) != 2
            or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers)
            or not all(math.isfinite(n) for n in numbers)
            or numbers[1] < 1
        ):
            raise ValueError(
                f"window: is {value!r}; it must be [center, width], as [40, 400], with a width from 1"
            )
        return cls(float(numbers[0]), float(numbers[1]))

    def applied(self, values: NDArray[Any], *, inverted: bool = False) -> NDArray[np.uint8]:
        """Values, of any shape, as gray; NaN is 0, as it is void anyway. `inverted`: low is white."""
        x = values.astype(np.float64) - (self.center - 0.5)
        if self.width == 1:
            gray = np.where(x > 0, 255.0, 0.0)
        else:
            gray = np.clip((x / (self.width - 1) + 0.5) * 255, 0, 255)
        gray = np.nan_to_num(gray, nan=0.0)
        found = np.floor(gray + 0.5).astype(np.uint8)
        return 255 - found if inverted else found


@dataclass(frozen=True, slots=True)
class Rescale:
    """value = stored * slope + intercept."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether it changes nothing."""
        return (self.slope, self.intercept) == (1.0, 0.0)

    def range_of(self, low: int, high: int) -> tuple[int, int] | None:
        """What integers from low to high become; None: not integers, or beyond those that are read."""
        ends = [self.slope * low + self.intercept, self.slope * high + self.intercept]
        whole = float(self.slope).is_integer() and float(self.intercept).is_integer()
        if not whole or not all(abs(end) < 1 << 32 for end in ends):
            return None
        return int(min(ends)), int(max(ends))

    def applied(self, stored: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Rounded once, to the dtype that is kept."""
        if self.is_none:
            return stored.astype(dtype, copy=False)
        return (stored * np.float64(self.slope) + np.float64(self.intercept)).astype(dtype)


AS_STORED = Rescale()


def rescaled_dtype(stored: np.dtype[Any], ends: tuple[int, int], all_: Sequence[Rescale]) -> str:
    """The dtype that holds the rescaled values of every frame: integers where these are exact.

    ends: least and greatest stored value, of integers.
    """
    if all(each.is_none for each in all_):
        return stored.newbyteorder("=").name
    if stored.kind in "iu":
        found = [each.range_of(*ends) for each in set(all_)]
        ranges = [each for each in found if each is not None]
        if len(ranges) == len(found):
            low, high = min(a for a, _ in ranges), max(b for _, b in ranges)
            for name in _INTEGERS:
                if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
                    return name
    return "float32"


@dataclass(frozen=True, slots=True)
class Lies:
    """Where a volume lies."""

    affine: Affine
    """(column, row, frame) -> x, y, z, towards right, front and top of a patient (RAS)."""
    unit: str = "mm"

    @classmethod
    def of(cls, matrix: Any, unit: str = "mm") -> Lies:
        """Raises CorruptInputError for a matrix that places nothing."""
        found = np.asarray(matrix, np.float64)
        if not np.isfinite(found).all() or abs(np.linalg.det(found[:3, :3])) == 0:
            raise CorruptInputError("its affine is singular or not finite: it lies nowhere")
        rows = tuple(tuple(float(v) for v in row) for row in found)
        return cls(rows, unit)  # type: ignore[arg-type] # four of them

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(4, 4)"""
        return np.array(self.affine, np.float64)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(frame, y, x) in millimetres."""
        lengths = np.linalg.norm(self.matrix[:3, :3], axis=0) * _MILLIMETRES.get(self.unit, 1.0)
        x, y, z = (float(v) for v in lengths)
        return z, y, x

    @property
    def orientation(self) -> str:
        """Towards which side column, row and frame grow: `LPS`, as nibabel's `aff2axcodes` says it.

        Each axis has the side that it is nearest to, the clearest axis first.
        """
        unit = self.matrix[:3, :3] / np.linalg.norm(self.matrix[:3, :3], axis=0)
        found, left = ["", "", ""], unit.copy()
        for _ in range(3):
            side, axis = np.unravel_index(np.argmax(np.abs(left)), left.shape)
            found[axis] = ("LR", "PA", "IS")[int(side)][int(unit[side, axis] > 0)]
            left[side, :] = left[:, axis] = -0.0
        return "".join(found)

    def attributes(self) -> dict[str, Any]:
        """As a scene's group says it."""
        return {
            "affine": [list(row) for row in self.affine],
            "unit": self.unit,
            "spacing": list(self.spacing),
            "orientation": self.orientation,
        }
