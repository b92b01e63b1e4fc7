"""What is known once work was stored, or given up: one small type a kind of record.

    MaskRecord       a shard's mask            ShardMeasures    what was measured of a shard
    DraftRecord      its provisional map       FrameMeasures    what was measured of a whole frame
    LevelRecord      a shard of the pyramid    VolumeMeasures   what was measured of a whole volume
    VoidRecord       that one of these         PrecisionRecord  how a lower precision labels a sample
                     does not hold any more

All kinds are stored in the same columns (`segengine.store.records`): a field that is stored under
another name, or in another form, says so with `column`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple

from segengine.store.keys import single_key
from segengine.types import Color, Place

Status = Literal["done", "error", "crash", "hang", "void"]
Box = tuple[int, int, int, int, int, int]
"""Start then stop along (frame, y, x), in pixels of the scene."""
LOST = "lost"
"""Kind of failure of a vanished input whose mask was damaged: only the input's return mends it."""


class FrameFailure(NamedTuple):
    """A frame of a shard that is void, and why."""

    frame: int
    """Place in the scene."""
    kind: str
    reason: str


class StoredObject(NamedTuple):
    """One stored object of a shard."""

    array: str
    """Path of the array below the scene, for example `mask/0`."""
    checksum: str
    """XXH3-128 of the stored bytes, 32 hex digits."""
    bytes: int


class Counts(NamedTuple):
    """Pixels that were labelled in two precisions."""

    same: int
    """Those labelled alike."""
    pixels: int


def column(
    name: str, store: Callable[[Any], Any] | None = None, load: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    """The column of a field, and its value to and from what is stored there."""
    return {"column": (name, store, load)}


def level_kind(level: int) -> str:
    """The kind of a level's records."""
    return f"level{level}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known whatever the kind."""

    KIND: ClassVar[str] = ""
    scene: str
    shard: Place
    """Place in the shard grid (frame, y, x)."""
    box: Box
    status: Status = "done"
    objects: tuple[StoredObject, ...] = ()
    """What it vouches for."""
    attempts: int = 1
    seconds: float = 0.0
    finished: float = 0.0
    """Unix time."""

    @property
    def kind(self) -> str:
        """What it is a record of."""
        return self.KIND

    @property
    def key(self) -> str:
        """Key of the single record."""
        return single_key(self.kind, self.scene, self.shard)

    @property
    def checksum(self) -> str:
        """Checksums of all stored objects, joined by blanks."""
        return " ".join(o.checksum for o in self.objects)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRecord(Record):
    """Of a shard that a segmenter has labelled."""

    inputs: str
    """Fingerprints of the shard's frames, joined by blanks."""
    job: str
    """Fingerprint of the job's parts that can change the mask, and of the segmenter's version."""
    weights: str = ""
    fit: str = ""
    """Digest of the committed fit that labelled it; empty where the shard fitted itself."""
    failures: tuple[FrameFailure, ...] = ()
    version: int = 1
    """The segmenter's algorithm version."""
    provenance: str = ""
    """Host, processor and versions, as JSON; never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRecord(LabelRecord):
    """Of a shard's mask and all that is stored with it; or of a shard that was given up."""

    KIND = "mask"
    reason: str = ""
    areas: tuple[tuple[int, ...], ...] = ()
    """Pixels of each class, then of void, one row a frame."""
    colors: tuple[tuple[Color, ...], ...] = ()
    """Colours of the classes, one row a frame, where the shard fitted itself."""
    inertia: tuple[float, ...] = ()
    """Inertia of the frames' own fits."""
    ground: tuple[int, ...] = ()
    """Ground area of each class, then of void, in the scene's own unit, where it is placed."""
    pixels: int = 0
    """Pixels labelled, void not counted."""
    confidence: tuple[int, ...] = ()
    """Confidence of each frame's labels, added up, where it is stored."""
    sampled: tuple[int, ...] = ()
    """What a sample of its pixels adds up to (`segengine.worker.sampled`); empty: not looked at."""
    still: int = field(
        default=0,
        metadata=column(
            "payload",
            lambda still: json.dumps({"still": still}) if still else "",
            lambda text: json.loads(text)["still"] if text else 0,
        ),
    )
    """Frames that do not move, and have the mask of one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRecord(LabelRecord):
    """Of a shard's provisional map, until the stitch stage has decided it."""

    KIND = "draft"
    summary: str = field(default="", metadata=column("payload"))
    """What lies at the shard's borders; empty: nothing could be read."""
    sampled: tuple[int, ...] = ()
    """As a mask's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRecord(Record):
    """Of a shard of a coarser level of a mask's pyramid."""

    level: int = field(metadata=column("kind", level_kind, lambda kind: int(kind[len("level") :])))
    below: str = field(metadata=column("inputs"))
    """Digest of the shards of the level below that it was made of."""

    @property
    def kind(self) -> str:
        """What it is a record of."""
        return level_kind(self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRecord(Record):
    """Of what was measured of masks."""

    truth: str = field(metadata=column("inputs"))
    """Fingerprints of the truth, and of the images where a metric needs them."""
    metrics: str = field(metadata=column("job"))
    """Key of the metrics, of their versions and options."""
    masks: str = field(metadata=column("fit"))
    """Checksum of the masks."""
    states: str = field(default="", metadata=column("payload"))
    """What the frames add to each metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeasures(MeasureRecord):
    """Of what was measured of the windows of a shard."""

    KIND = "measure"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMeasures(MeasureRecord):
    """Of what was measured of a frame that is cut, as a whole; its place is (frame, 0, 0)."""

    KIND = "frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMeasures(FrameMeasures):
    """Of what was measured of all slices of one time of a volume; its place is (first, 0, 0)."""

    KIND = "volume"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecord(Record):
    """Of a window of a shard that was labelled in two precisions."""

    KIND = "precision"
    inputs: str
    """As of the shard's mask; so are `job` and `weights`."""
    job: str
    weights: str
    mask: str = field(metadata=column("fit"))
    """Checksum of the shard's mask."""
    counts: Counts = field(
        metadata=column(
            "payload",
            lambda counts: json.dumps(counts._asdict()),
            lambda text: Counts(**json.loads(text)),
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidRecord(Record):
    """That a packed record of a shard does not hold any more."""

    of: str = field(metadata=column("kind"))
    """Kind of that record."""
    box: Box = (0, 0, 0, 0, 0, 0)
    status: Status = "void"

    @property
    def kind(self) -> str:
        """What it takes back."""
        return self.of


_KINDS = (MaskRecord, DraftRecord, ShardMeasures, FrameMeasures, VolumeMeasures, PrecisionRecord)
_BY_KIND: dict[str, type[Record]] = {kind.KIND: kind for kind in _KINDS}


def type_of(kind: str, status: str = "done") -> type[Record] | None:
    """The type of a kind's records; None: there is no such kind.

    >>> type_of("level2"), type_of("mask", "void")
    (<class 'segengine.store.kinds.LevelRecord'>, <class 'segengine.store.kinds.VoidRecord'>)
    """
    if status == "void":
        return VoidRecord
    if kind.startswith("level") and kind[len("level") :].isdecimal():
        return LevelRecord
    return _BY_KIND.get(kind)


class Stored(NamedTuple):
    """Where and in what form a field is stored."""

    name: str
    column: str
    store: Callable[[Any], Any] | None
    load: Callable[[Any], Any] | None


_STORED: dict[type[Record], tuple[Stored, ...]] = {
    kind: tuple(
        Stored(f.name, *f.metadata.get("column", (f.name, None, None))) for f in fields(kind)
    )
    for kind in (*_KINDS, LevelRecord, VoidRecord)
}


def stored_fields(kind: type[Record]) -> tuple[Stored, ...]:
    """The fields of a type of records."""
    return _STORED[kind]


def given_up(record: MaskRecord, status: Status, reason: str, attempts: int) -> MaskRecord:
    """The record of a shard whose work failed for good in this run."""
    return replace(
        record, status=status, reason=reason, attempts=attempts, objects=(), areas=(), pixels=0
    )
