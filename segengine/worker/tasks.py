"""What travels to workers and back: frozen values, never handles, clients or globals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segengine.errors import StoreAccessError, StoreLockedError
from segengine.ground import Ground
from segengine.instances.cleaning import Cleaning
from segengine.measuring.measures import MeasureSpec
from segengine.store.arrays import SceneArrays
from segengine.store.blobs import NOBODY, Writer
from segengine.store.kinds import FrameFailure
from segengine.types import FrameRef, Place, TruthRef, Window
from segengine.urls import public


@dataclass(frozen=True, slots=True)
class SegmenterSpec:
    """How a worker gets its segmenter: by name and options, or as a committed fit."""

    kind: str
    options: str
    """JSON"""
    fit: str = ""
    """Key of the committed fit, below the store."""
    digest: str = ""
    """Digest of that fit."""


@dataclass(frozen=True, slots=True)
class Hint:
    """The shard that the same worker is likely to get next."""

    window: Window
    frames: tuple[FrameRef, ...]


@dataclass(frozen=True, slots=True)
class Measuring:
    """How the mask of a shard is measured, as far as that is known before there is one."""

    truths: tuple[TruthRef, ...]
    """One a frame of the shard; none where nothing is measured against truth."""
    told: tuple[str, ...]
    """By what a record says which truth it was, one a frame."""
    truth: str = field(repr=False)
    """How truth is read, as JSON; empty: there is none."""
    spec: MeasureSpec
    key: str
    """Of the metrics."""
    area: str = field(default="", repr=False)
    """How the area is known that alone is scored, as JSON; empty: there is none."""
    spacing: tuple[float, float] | None = None
    """Of pixels (y, x), in millimetres; None: not known."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """All a worker needs to work on one shard."""

    store: str
    scene: str
    place: Place
    window: Window
    frames: tuple[FrameRef, ...]
    inputs: str
    kind: str
    """The source kind."""
    windowed: bool
    source: str
    """The job's `source` block as JSON."""
    segmenter: SegmenterSpec
    arrays: SceneArrays
    classes: int
    outputs: tuple[str, ...]
    job: str
    weights: str
    version: int
    components: bool = False
    """Connected regions of a class are instances."""
    cleaning: Cleaning | None = None
    """What is done to them; None: nothing."""
    draft: bool = False
    """Write a provisional map that the stitch stage decides."""
    had: str = ""
    """Where a record of this shard lies now: `single`, `packed`, or nowhere."""
    lost: tuple[FrameFailure, ...] = ()
    """Frames whose own survey failed: void here."""
    attempt: int = 1
    last: bool = False
    """No other attempt follows: frames that fail are given up."""
    cut: bool = False
    """A frame lies in more than this shard."""
    samples: bool = True
    """Note what a sample of its pixels adds up to."""
    skips_empty: bool = False
    """Where no pixel of it is valid, it is void without asking the segmenter."""
    still: float | None = None
    """Frames that do not differ by more grey levels keep the mask of one before; None: each its own."""
    before: tuple[FrameRef, ...] = ()
    """Frames before its own that it has to look at."""
    hint: Hint | None = None
    """To be read while this shard is computed."""
    target: str = ""
    """Write to this store instead (to compare with what is stored)."""
    writer: Writer = NOBODY
    """Who writes, and whether it is flushed."""
    measuring: Measuring | None = None
    """Measure the mask as soon as it is stored, while it is in memory."""
    ground: Ground | None = None
    """Where the scene lies; None: nowhere, or nobody knows how large its pixels are."""


@dataclass(frozen=True, slots=True)
class LinkedPieces:
    """What the stitch stage decided of a Linker's draft."""

    kept: NDArray[np.int32]
    """Pieces at the shard's border that the whole frame keeps."""
    keep: int


@dataclass(frozen=True, slots=True)
class JoinedObjects:
    """What the stitch stage decided of a draft of objects; entry i is that of the window's id i."""

    ids: NDArray[np.uint32]
    """The frame's id; 0: none."""
    labels: NDArray[np.uint16]
    """Its class."""
    scores: NDArray[np.float32]
    parts: NDArray[np.bool_]
    """Other shards have pixels of it too."""
    cut: NDArray[np.bool_]
    """It goes on beyond a border where the windows disagree."""


@dataclass(frozen=True, slots=True)
class MergedRegions:
    """What the stitch stage decided of a draft of regions; entry i is that of the window's number i."""

    ids: NDArray[np.uint32]
    """The frame's id; 0: none."""
    parts: NDArray[np.bool_]
    """Other shards have pixels of it too."""


@dataclass(frozen=True, slots=True)
class SplitPart:
    """Objects that components over several shards were split into; entry i is that of object i."""

    key: str
    """Where it is stored of which of them each pixel is."""
    ids: NDArray[np.uint32]
    """The frame's id; 0 of 0."""
    labels: NDArray[np.uint16]
    parts: NDArray[np.bool_]
    """Other shards may have pixels of it."""


@dataclass(frozen=True, slots=True)
class LinkedParts:
    """What the stitch stage decided of a draft of components; entry i is that of the window's number i."""

    ids: NDArray[np.uint32]
    """The frame's id; 0: none, or it is split."""
    labels: NDArray[np.uint16]
    """Its class."""
    parts: NDArray[np.bool_]
    """Other shards have pixels of it too."""
    whole: NDArray[np.bool_]
    """It is too large to be split."""
    split: NDArray[np.int32]
    """Which of `splits` tells of its pixels, from 1 on; 0: none."""
    splits: tuple[SplitPart, ...]


@dataclass(frozen=True, slots=True)
class Component:
    """A component over several shards."""

    box: tuple[int, int, int, int]
    """Top, left, bottom and right in the frame."""
    members: tuple[tuple[Place, tuple[int, int], tuple[int, ...]], ...]
    """Shards, their first pixels, and the numbers that are parts of it."""


@dataclass(frozen=True, slots=True)
class SplitTask:
    """Split components of which no shard has the whole."""

    store: str
    scene: str
    place: Place
    """The first shard that has a part of any."""
    size: tuple[int, int]
    """Of the frame, in pixels."""
    cleaning: Cleaning
    components: tuple[Component, ...]
    writer: Writer = NOBODY
    attempt: int = 1
    last: bool = False


@dataclass(frozen=True, slots=True)
class SplitComponents:
    """What they were split into: objects 1 .. n of the task."""

    first: NDArray[np.int64]
    """(n,) first pixel as a raster index of the frame."""
    component: NDArray[np.int32]
    """(n,) which of the task's components each was a part of."""


@dataclass(frozen=True, slots=True)
class FinishTask:
    """Write the final mask of a shard whose draft is stored."""

    shard: ShardTask
    decided: LinkedPieces | JoinedObjects | LinkedParts | MergedRegions
    failures: tuple[FrameFailure, ...]
    sampled: tuple[int, ...] = ()
    """What the draft's record says of its pixels."""
    attempt: int = 1
    last: bool = False


@dataclass(frozen=True, slots=True)
class SurveyTask:
    """Shards that are surveyed together; their merged state is one object."""

    shards: tuple[ShardTask, ...]
    key: str
    """Where the state is committed."""
    attempt: int = 1
    last: bool = False


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a survey batch found."""

    key: str
    seen: tuple[str, ...]
    """Names of the frames in the state."""
    failures: tuple[tuple[str, FrameFailure], ...]
    """(scene, frame) that could not be read."""
    pixels: int


@dataclass(frozen=True, slots=True)
class FitTask:
    """Merge committed survey states, fit, commit the fit."""

    store: str
    segmenter: SegmenterSpec
    states: tuple[str, ...]
    key: str
    about: Mapping[str, Any]
    writer: Writer = NOBODY
    attempt: int = 1
    last: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """A committed fit."""

    key: str
    digest: str


class Later(Protocol):
    """Work whose rest, the storing, may wait until the next is begun; it stays where it was made."""

    @property
    def nbytes(self) -> int:
        """Bytes it holds until then."""
        ...

    def finish(self) -> Any:
        """Do the rest and give the result; never raises."""
        ...

    @staticmethod
    def finish_all(works: Sequence[Any]) -> list[Any]:
        """Do the rest of several of one class at once, which is cheaper than one by one."""
        ...


@dataclass(frozen=True, slots=True)
class Retry:
    """A failure that may go better next time."""

    reason: str
    fatal: bool = False
    """The store cannot be used: trying on makes no sense, and the reason says what to do."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", public(self.reason))


@dataclass(frozen=True, slots=True)
class Damaged:
    """Stored bytes that the work needed are not those that were committed; trying on is no use."""

    key: str
    what: str


def retry_of(error: Exception) -> Retry:
    """Why a task failed, in one line: the store says so itself, all else is what the task called."""
    if isinstance(error, StoreAccessError) and not error.fatal:
        return Retry(error.what)
    if isinstance(error, StoreAccessError | StoreLockedError):
        return Retry(str(error), fatal=True)
    if isinstance(error, MemoryError):
        return Retry("out of memory")
    return Retry(f"{type(error).__name__}: {error}")
