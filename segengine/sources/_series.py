"""DICOM series: which files are one volume, in which order, and where it lies.

    files --SeriesInstanceUID--> series --positions along the normal--> frames

With row and column direction r and c, the normal is n = r x c, and slices are sorted by p . n of their
positions p. What cannot be placed right is `corrupt`, by the names of its files: a slice that is missing,
two in one place, sizes or directions that differ. What is uneven or tilted, or begins late, is said in a
line.

Source: DICOM PS3.3, C.7.6.2.1.1 (positions and directions, towards left, back and top: LPS).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segengine.ahead import several
from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._dicom import Header, Plane, header_of, is_dicom
from segengine.sources._fields import fingerprint
from segengine.sources._files import is_url
from segengine.sources._volumes import DICOM, Lies, needed, rescaled_dtype, suffix_of
from segengine.types import Entry, Part

_EVEN = 0.01
"""Share of the distance between slices by which it may differ and still be even."""
_ROUND = 0.01
"""Millimetres by which positions are rounded."""
_STRAIGHT = 1e-3
"""Of direction cosines."""
_TILT = 0.1
"""Degrees from which on a gantry counts as tilted."""
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Match(Protocol):
    """A file as the listing finds it."""

    @property
    def name(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Slice:
    """A frame of a volume: which one of which file, and what its file says."""

    name: str
    uri: str
    frame: int
    header: Header

    @property
    def plane(self) -> Plane:
        """Where it lies."""
        return self.header.planes[self.frame]


@dataclass(frozen=True, slots=True)
class Series:
    """A volume in the order of its frames."""

    frames: tuple[Slice, ...]
    slices: int
    """Frames of one time."""
    lies: Lies | None
    notes: tuple[str, ...]
    """What is uneven or tilted, or may be missing."""

    @property
    def first(self) -> Header:
        """Of all that they have in common."""
        return self.frames[0].header

    @property
    def dtype(self) -> str:
        """Of the rescaled values of every frame."""
        headers = [frame.header for frame in self.frames]
        ends = min(h.ends[0] for h in headers), max(h.ends[1] for h in headers)
        return rescaled_dtype(self.first.stored, ends, [f.plane.rescale for f in self.frames])


def grouped(matches: Sequence[Match]) -> tuple[list[Entry], list[Match]]:
    """Entries of DICOM files, one a series of several; and those that are no images, or no DICOM.

    A series is named by its folder where no other lies there, else by its first file. What cannot be
    read stands by itself: reading it again says why. Raises TransientInputError without pydicom.
    """
    needed("pydicom")
    far = any(is_url(match.uri) for match in matches)
    series: dict[tuple[str, str], list[tuple[Match, Header]]] = {}
    entries, others = [], []
    for match, header in zip(matches, several(matches, _looked, far=far), strict=True):
        if header is None:
            others.append(match)
        elif isinstance(header, Exception) or not header.series or not _joins(header):
            entries.append(Entry(match.name, match.uri, match.fingerprint))
        else:
            # Files of one series lie in one folder: another copy elsewhere is another volume.
            folder = match.uri.rpartition("/")[0]
            series.setdefault((folder, header.series), []).append((match, header))
    folders = [folder for folder, _ in series]
    for (folder, _), found in series.items():
        entries.append(_entry(found, folder, folders.count(folder) == 1))
    return entries, others


def _looked(match: Match) -> Header | Exception | None:
    try:
        if suffix_of(match.name) not in DICOM and not is_dicom(match.uri):
            return None
        return header_of(match.uri)
    except (CorruptInputError, TransientInputError, MemoryError) as error:
        return error


def _joins(header: Header) -> bool:
    return len(header.planes) == 1 and header.planes[0].placed


def _entry(found: list[tuple[Match, Header]], folder: str, alone: bool) -> Entry:
    found.sort(key=lambda pair: _bytes(pair[0].name))
    first = found[0][0]
    if len(found) == 1:
        return Entry(first.name, first.uri, first.fingerprint)
    frames = [Slice(match.name, match.uri, 0, header) for match, header in found]
    try:
        series = arranged(frames)
        parts = tuple(Part(f.uri, name=f.name, dtype=series.dtype) for f in series.frames)
    except CorruptInputError:  # probing says so again
        parts = tuple(Part(frame.uri, name=frame.name) for frame in frames)
    marks = {match.uri: match.fingerprint for match, _ in found}
    inner = first.name.rpartition("/")[0]
    name = (inner or folder.rpartition("/")[2] or first.name) if alone else first.name
    return Entry(name, first.uri, fingerprint(parts, marks), parts)


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def read_series(entry: Entry) -> Series:
    """The volume of an entry, its headers read. Raises CorruptInputError, TransientInputError."""
    parts = entry.parts or (Part(entry.uri, name=entry.name),)
    far = any(is_url(part.uri) for part in parts)
    headers = list(several(parts, partial(_required, several_=len(parts) > 1), far=far))
    problem = headers[0].problem
    if problem is not None and all(header.problem is not None for header in headers):
        raise type(problem)(*problem.args)
    return arranged(
        [
            Slice(part.name or entry.name, part.uri, frame, header)
            for part, header in zip(parts, headers, strict=True)
            for frame in range(len(header.planes))
        ]
    )


def _required(part: Part, several_: bool) -> Header:
    try:
        header = header_of(part.uri)
        if header is None:
            raise CorruptInputError("holds no image")
        return header
    except (CorruptInputError, TransientInputError) as error:
        if not several_:
            raise
        raise type(error)(f"{_last(part.name)}: {error}") from error


def arranged(frames: Sequence[Slice]) -> Series:
    """Frames in order, and where they lie. Raises CorruptInputError for what cannot be placed right."""
    _require_alike(frames)
    if not all(frame.plane.placed for frame in frames):
        if len({frame.uri for frame in frames}) > 1:
            lost = next(frame for frame in frames if not frame.plane.placed)
            raise CorruptInputError(f"{_last(lost.name)} says no position, and the others do")
        return Series(tuple(frames), len(frames), None, ())
    normal = _normal(frames[0].plane)
    volumes = _times(frames, normal)
    first = volumes[0]
    places = np.array([frame.plane.position for frame in first])
    heights = places @ normal
    notes: list[str] = []
    if len(first) > 1:
        notes += _evenness(first, heights)
    step = _step(first, places, normal)
    if len(first) > 1:
        _require_line(first, places, heights, step, normal)
        notes += _tilt(step, normal)
    if len(volumes) == 1:
        notes += _beginning(first)
    lies = Lies.of(_affine(first[0].plane, places[0], step))
    return Series(tuple(f for volume in volumes for f in volume), len(first), lies, tuple(notes))


def _require_alike(frames: Sequence[Slice]) -> None:
    first = frames[0]
    for other in frames[1:]:
        names = f"{_last(first.name)} and {_last(other.name)}"
        one, two = first.header, other.header
        if (one.height, one.width) != (two.height, two.width):
            raise CorruptInputError(
                f"its slices differ in size: {names} are {one.width} x {one.height} and "
                f"{two.width} x {two.height} pixels"
            )
        if (one.bands, one.stored) != (two.bands, two.stored):
            raise CorruptInputError(f"its slices differ in what a pixel is: {names}")
        a, b = first.plane, other.plane
        if a.rows and b.rows and not np.allclose(a.rows, b.rows, rtol=0, atol=_STRAIGHT):
            raise CorruptInputError(f"its slices are not parallel: {names} have other directions")
        if a.spacing and b.spacing and not np.allclose(a.spacing, b.spacing, rtol=1e-4, atol=0):
            raise CorruptInputError(f"its slices differ in spacing: {names}")


def _times(frames: Sequence[Slice], normal: NDArray[Any]) -> list[list[Slice]]:
    """Volumes of one time each, their slices sorted: a place that is there n times has n times."""
    at: dict[int, list[Slice]] = {}
    for frame in sorted(frames, key=lambda f: float(normal @ f.plane.position)):
        height = float(normal @ frame.plane.position)
        last = next(reversed(at), None)
        near = last is not None and height - _height(at[last][0], normal) < _ROUND / 2
        at.setdefault(last if near and last is not None else len(at), []).append(frame)
    counts = {len(group) for group in at.values()}
    together = [group for group in at.values() if len(group) > 1]
    if not together:
        return [[group[0] for group in at.values()]]
    told = all(_are_told_apart(group) for group in together)
    if len(counts) > 1 or not told:
        group = together[0]
        raise CorruptInputError(
            f"has two slices in one place: {_last(group[0].name)} and {_last(group[1].name)}"
            + (
                ""
                if group[0].uri != group[1].uri
                else f" (frames {group[0].frame}, {group[1].frame})"
            )
        )
    columns = [sorted(group, key=lambda f: (f.header.time, f.frame)) for group in at.values()]
    return [list(volume) for volume in zip(*columns, strict=True)]


def _are_told_apart(group: Sequence[Slice]) -> bool:
    """Whether slices in one place are of different times: of one file they follow each other."""
    return len({(frame.header.time, frame.frame) for frame in group}) == len(group)


def _height(frame: Slice, normal: NDArray[Any]) -> float:
    return float(normal @ frame.plane.position)


def _normal(plane: Plane) -> NDArray[np.float64]:
    """The unit vector along which slices follow each other."""
    found = np.cross(plane.rows[:3], plane.rows[3:])
    length = float(np.linalg.norm(found))
    if not 0.9 < length < 1.1:
        raise CorruptInputError(
            "damaged DICOM header: its rows and columns are not at right angles"
        )
    return np.asarray(found / length, np.float64)


def _evenness(frames: Sequence[Slice], heights: NDArray[Any]) -> list[str]:
    """A note where distances differ. Raises CorruptInputError where a slice is missing."""
    gaps = np.diff(heights)
    step = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    slack = max(_ROUND, _EVEN * step)
    if (np.abs(gaps - step) <= slack).all():
        return []
    lost = _missing(gaps, _numbers(frames), step, slack)
    usual = float(np.median(gaps / (1 + np.array(lost))))
    for i, missing in enumerate(lost):
        if missing:
            more = "a slice is" if missing == 1 else f"{missing} slices are"
            raise CorruptInputError(
                f"{more} missing between {_called(frames[i])} and {_called(frames[i + 1])}: they "
                f"are {gaps[i]:g} mm apart, others {usual:g} mm"
            )
    return [f"uneven spacing, {gaps.min():g} to {gaps.max():g} mm"]


def _beginning(frames: Sequence[Slice]) -> list[str]:
    """A note where instance numbers begin late: of slices at an end no spacing tells.

    Not where so many come before that the numbers are of more than this series.
    """
    numbers, steps = [frame.header.number or 0 for frame in frames], _numbers(frames)
    lost = min(numbers) - 1
    if not 0 < lost < len(frames) or steps is None or steps.max() > 1:
        return []
    which = "slice 1 is" if lost == 1 else f"slices 1 to {lost} are"
    return [f"instance numbers from {lost + 1} on, as where {which} missing"]


def _missing(
    gaps: NDArray[Any], numbers: NDArray[Any] | None, step: float, slack: float
) -> list[int]:
    """How many slices are missing in each gap.

    Instance numbers tell a slice that is missing from one that was never made: without them a gap of
    whole steps among even ones is taken for the former.
    """
    if numbers is not None:
        each = gaps / numbers * numbers.min()
        if each.max() - each.min() <= slack:
            return [int(n // numbers.min()) - 1 for n in numbers]
        jumps = (numbers > np.median(numbers)) & (gaps > 1.5 * step)
        return [
            max(1, round(gap / step) - 1) if jump else 0
            for gap, jump in zip(gaps, jumps, strict=True)
        ]
    times = np.rint(gaps / step)
    if (np.abs(gaps - times * step) <= slack * np.maximum(times, 1)).all():
        return [max(0, int(n) - 1) for n in times]
    return [0] * len(gaps)


def _numbers(frames: Sequence[Slice]) -> NDArray[Any] | None:
    """Steps between the instance numbers of neighbours; None: they tell nothing."""
    numbers = [frame.header.number for frame in frames]
    if None in numbers or len(set(numbers)) < len(numbers):
        return None
    steps = np.diff(np.array(numbers, np.int64))
    return np.abs(steps) if (steps > 0).all() or (steps < 0).all() else None


def _called(frame: Slice) -> str:
    return _last(frame.name) if len(frame.header.planes) == 1 else f"frame {frame.frame}"


def _step(frames: Sequence[Slice], places: NDArray[Any], normal: NDArray[Any]) -> NDArray[Any]:
    """From a slice to the next."""
    if len(frames) > 1:
        return np.asarray((places[-1] - places[0]) / (len(frames) - 1))
    return normal * (frames[0].plane.thickness or 1.0)


def _require_line(
    frames: Sequence[Slice],
    places: NDArray[Any],
    heights: NDArray[Any],
    step: NDArray[Any],
    normal: NDArray[Any],
) -> None:
    """Raise CorruptInputError where slices are shifted against each other by half a pixel or more."""
    along = np.outer((heights - heights[0]) / float(step @ normal), step)
    off = np.linalg.norm(places - places[0] - along, axis=1)
    worst = int(off.argmax())
    if off[worst] > max(_ROUND, min(frames[0].plane.spacing) / 2):
        raise CorruptInputError(
            f"its slices do not lie on a line: {_called(frames[worst])} is {off[worst]:g} mm beside it"
        )


def _tilt(step: NDArray[Any], normal: NDArray[Any]) -> list[str]:
    cosine = min(1.0, abs(float(step @ normal)) / float(np.linalg.norm(step)))
    angle = math.degrees(math.acos(cosine))
    return [f"gantry tilt of {angle:.1f} degrees"] if angle > _TILT else []


def _affine(plane: Plane, origin: NDArray[Any], step: NDArray[Any]) -> NDArray[np.float64]:
    """(column, row, frame) to millimetres in RAS."""
    found = np.eye(4)
    found[:3, 0] = np.array(plane.rows[:3]) * plane.spacing[1]
    found[:3, 1] = np.array(plane.rows[3:]) * plane.spacing[0]
    found[:3, 2] = step
    found[:3, 3] = origin
    return np.asarray(_RAS @ found + 0.0, np.float64)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def attributes(series: Series) -> dict[str, Any]:
    """As a scene's group says it."""
    found: dict[str, Any] = {"format": "dicom", "slices": series.slices}
    if series.first.modality:
        found["modality"] = series.first.modality
    if series.lies is not None:
        found |= series.lies.attributes()
    rescales = {frame.plane.rescale for frame in series.frames}
    if len(rescales) == 1 and not (only := next(iter(rescales))).is_none:
        found["rescale"] = [only.slope, only.intercept]
    if series.notes:
        found["notes"] = list(series.notes)
    return found
