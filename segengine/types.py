"""The nouns every other module speaks in. NumPy, the standard library and `urls` only.

Axes are always `(frame, y, x)` or `(frame, y, x, band)`; windows are half-open, in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
    runtime_checkable,
)

import numpy as np
from numpy.typing import NDArray

from segengine.urls import public

if TYPE_CHECKING:
    import pyarrow as pa

    from segengine.ground import Ground
    from segengine.mosaics import Mosaic
    from segengine.sources.listing import Listing

type_ = type
Pixels = NDArray[Any]
"""(frame, y, x, band), any dtype, as read; colours in the order R, G, B."""
Labels = NDArray[Any]
"""(frame, y, x), unsigned; void is the maximum of the stored dtype."""
Bool = NDArray[np.bool_]
Color = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
Place = tuple[int, int, int]
"""(frame, y, x) of a shard in the grid of its scene."""
Cell = tuple[int, int]
"""(row, column) of a window in the grid of its frame."""
Scope = Literal["frame", "scene", "run"]
CERTAIN = 254
"""Confidence of a probability of 1."""
NO_CONFIDENCE = 255
"""Confidence of void."""
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Window:
    """A box in a scene: half-open [start, stop) along (frame, y, x), in frames and pixels."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Length along (frame, y, x)."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as slices into its scene."""
        f, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return f, y, x

    def slices_in(self, outer: Window) -> tuple[slice, slice, slice]:
        """The box as slices into an array that holds `outer`."""
        f, y, x = (
            slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True)
        )
        return f, y, x


class Steps(NamedTuple):
    """From a voxel of a volume to the next along each axis, as vectors in millimetres."""

    frame: tuple[float, float, float]
    y: tuple[float, float, float]
    x: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Part:
    """One band of a scene of several files: where it lies, and what is known of it beside its file.

    What is None is as the file says. With `scale` or `offset` pixels are float32, value * scale +
    offset (1 and 0 where the other is None).
    """

    uri: str = field(repr=False)
    """Absolute local path or URL, with the credentials that it may carry; empty: it is missing."""
    band: int = 1
    """1-based, in the file; 0: the only one that the file has."""
    name: str = ""
    """What the job calls the band: `B04`, `red`."""
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    """The value that stands for none, before scale and offset."""
    dtype: str | None = None
    """NumPy name of the dtype that the pixels are read as."""
    header: Header | None = None
    """What is said of the file's header beside the dtype, where that is all that a plan needs."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a file is said to hold: a plan takes it as it is, and a worker compares.

    Height and width are in pixels.
    """

    height: int
    width: int
    transform: tuple[float, float, float, float, float, float]
    """a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f."""
    crs: str
    """As EPSG:32633."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One input as listed: nothing of it has been read yet."""

    name: str
    """Path below the glob's fixed part, with `/` separators."""
    uri: str = field(repr=False)
    """Absolute local path or URL, with the credentials that it may carry."""
    fingerprint: str
    """Digest of size and mtime_ns (local) or size and ETag (object store, https)."""
    parts: tuple[Part, ...] = ()
    """One a band, in order, of a scene of several files; empty: all of it lies at `uri`."""
    attributes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """JSON values for the scene's group that its listing knows: a STAC item's id, time and clouds."""
    order: int = field(default=0, compare=False)
    """Which of the job's paths names it, counted from 0."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a source learned of one input from its header (video: from one demux), without decoding.

    Sizes are in pixels. Of a video `positions` (frame,) are indexes in a sequential decode, `times`
    (frame,) seconds from its start, `seeks` (frame, 2) time stamp and position of the key frame to
    decode from. `attributes` are JSON values for the scene's group.
    """

    kind: str
    """The source that reads it: `images`, `raster`, `video`, `zarr`."""
    height: int
    width: int
    bands: int
    dtype: str
    """NumPy name of the dtype `read` will return."""
    stacked: bool = False
    """True: the frame joins the scene of its size bucket. False: a scene of its own."""
    windowed: bool = False
    """True where a window can be read without decoding the whole frame."""
    positions: NDArray[np.int64] | None = None
    """(frame,) index of each frame in the file, as a sequential decode yields it; None: one frame, 0."""
    times: NDArray[np.float64] | None = None
    """(frame,) seconds from the start (video)."""
    seeks: NDArray[np.int64] | None = None
    """(frame, 2): time stamp of the key frame to decode from, and its position (video)."""
    gop: int = 1
    """Greatest distance between key frames, in frames of the file (video)."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for the scene group: `crs_wkt`, `transform` (6 numbers), `nodata`, `band_names`.

    Where there are such: `gcps` (`crs_wkt`, and `points` as row, column, x, y, z) and `rpcs` (rational
    polynomial coefficients, as GDAL names them)."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return 1 if self.positions is None else len(self.positions)


@dataclass(frozen=True, slots=True)
class FrameRef:
    """One frame as a worker needs it; height and width in pixels."""

    index: int
    """Place in the scene."""
    name: str
    uri: str = field(repr=False)
    fingerprint: str
    height: int
    width: int
    position: int = 0
    """Index in the file, as a sequential decode yields it."""
    seek: tuple[int, int] | None = None
    """Time stamp and position of the key frame to decode from (video)."""
    gone: bool = False
    """The input has vanished; its mask stays."""
    parts: tuple[Part, ...] = ()
    """One a band, in order, of a scene of several files; empty: all of it lies at `uri`."""
    mosaic: Mosaic | None = None
    """The scenes that it is made of; None: it is one of its own."""

    @property
    def pruned(self) -> bool:
        """All of it is deleted, and its place is void."""
        return not self.name


@dataclass(frozen=True, slots=True)
class Frames:
    """Which frames a segmenter is called with, all of one scene and size."""

    scene: str
    names: tuple[str, ...]
    """One a frame of the call, in its order; of several that keep one mask, the first's."""
    ground: Ground | None = None
    """Where the scene lies; None: nowhere that is known."""

    def only(self, frame: int) -> Frames:
        """One of them alone."""
        return Frames(self.scene, self.names[frame : frame + 1], self.ground)


@dataclass(frozen=True, slots=True)
class Tile:
    """The pixels (y, x, band) of one frame in a window; `valid` (y, x) is False at nodata."""

    pixels: Pixels
    """(y, x, band)"""
    valid: Bool | None = None
    """(y, x), False at nodata; None: all valid."""
    flaw: str = ""
    """What of it could not be read, now or later, and is not valid: why. Empty: all could."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a frame could not be read."""

    kind: Literal["corrupt", "error"]
    """`corrupt` is final until the input changes; `error` is worth another try."""
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", public(self.reason))


@runtime_checkable
class Source(Protocol):
    """Reads one kind of input. Small and picklable; holds options, never handles.

    `probe` raises CorruptInputError or TransientInputError with a reason (the file's name is added by
    the caller). `read` yields one item a frame, in the order given, and never raises for a bad frame.
    What it may have beside: `SourceParts`.
    """

    def probe(self, entry: Entry) -> Probe:
        """What the header says. Raises CorruptInputError, TransientInputError."""
        ...

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """Pixels (y, x, band) of [rows, cols) of each frame; the slices lie inside its real size."""
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """Labels, and what else the job asked for, on one window of n frames.

    - `labels`: (n, y, x) unsigned, index into `classes`.
    - `probabilities`: (n, y, x, class) float32, 0 to 1; None: not given.
    - `instances`: (n, y, x) uint32, ids of this window; 0 = none.
    - `objects`: a pyarrow table, one row an id, for what the map cannot hold (overlaps): id (uint32),
      class (uint16), score (float32), bbox (4 float32: x, y, width, height in the window's pixels),
      area (int64, pixels), rle (COCO's compressed counts for the window's size).
    - `confidence`: (n, y, x) uint8, as `segengine.asked.confidence` makes it; None: not given.
    """

    labels: Labels
    """(n, y, x) unsigned, index into `classes`."""
    probabilities: NDArray[np.float32] | None = None
    """(n, y, x, class)"""
    instances: NDArray[np.uint32] | None = None
    """(n, y, x) ids of this window; 0 = none."""
    objects: pa.Table | None = None
    """One row an id: what the map cannot hold (overlaps)."""
    confidence: NDArray[np.uint8] | None = None
    """(n, y, x) round(254 x the probability of the label); 255 = void."""

    def crop(self, to: tuple[slice, slice, slice]) -> Self:
        """The part of every map inside `to` (slices along n, y, x); `objects` stay whole."""
        return type_(self)(
            self.labels[to],
            None if self.probabilities is None else self.probabilities[to],
            None if self.instances is None else self.instances[to],
            self.objects,
            None if self.confidence is None else self.confidence[to],
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known to be true of a window: what metrics and losses are measured against.

    `labels` (n, y, x) index the truth's classes, the dtype's maximum is not scored; `instances`
    (n, y, x) are ids, 0 = none; `objects` has one row an object; `unknown` counts pixels.
    """

    labels: Labels
    """(n, y, x) integers, index into the truth's classes; what is not scored has the dtype's maximum."""
    instances: NDArray[np.uint32] | None = None
    """(n, y, x) ids; 0 = none. Where the data set's objects overlap, the map holds one of them."""
    objects: pa.Table | None = None
    """One row an object: the columns of a prediction's objects (without score) and `crowd` (bool)."""
    unknown: Mapping[int | float | str, int] = field(default_factory=dict)
    """Pixels of each value that is no class: not scored, and a mistake in the labels or in the job."""

    def crop(self, to: tuple[slice, slice, slice]) -> Self:
        """The part of both maps inside `to` (slices along n, y, x); objects stay whole.

        Which of the unknown values lie inside is not known.
        """
        return type_(self)(
            self.labels[to],
            None if self.instances is None else self.instances[to],
            self.objects,
        )


@dataclass(frozen=True, slots=True)
class TruthRef:
    """A frame's truth as it lies."""

    uri: str = field(repr=False)
    """All that a worker needs to read it; empty: there is none."""
    fingerprint: str
    """Changes where this frame's truth does."""
    looked: str
    """What was looked for, where there is none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "looked", public(self.looked))


@runtime_checkable
class Segmenter(Protocol):
    """Labels pixels, given `halo` pixels of context and windows aligned to `stride`.

    What it may have beside: `SegmenterParts`, any of them or none.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by label."""
        ...

    @property
    def halo(self) -> int | None:
        """Context needed on each side, in pixels; None: whole frames only."""
        ...

    @property
    def stride(self) -> int:
        """Grid that its windows must align to, in pixels."""
        ...

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels (n, y, x) of pixels (n, y, x, band); nodata comes as read, void is set by the caller."""
        ...


@runtime_checkable
class Linker(Segmenter, Protocol):
    """A segmenter whose labels depend on connected pieces that can cross any number of windows.

    `segment` labels whole frames. Where a frame is cut, each window is drafted with `halo` context,
    8-connected pieces of non-zero draft pixels are joined across borders by the stitch stage, and a
    piece whose greatest draft value reaches `keep` gets label 1, all else 0.
    """

    @property
    def keep(self) -> int:
        """Draft value that a piece must reach to stay."""
        ...

    def draft(self, pixels: Pixels) -> NDArray[np.uint8]:
        """(n, y, x, band) -> (n, y, x): 0 nothing, greater values stronger."""
        ...


@dataclass(frozen=True, slots=True)
class Connected:
    """Which pixels of n frames hang together, and what tells their regions apart.

    - `links`: (n, y, x) 1: the pixel is one with its right neighbour; 2: with the lower one; 3: both.
    - `values`: (n, y, x, band) by the means of which regions are near each other; whole numbers.
    """

    links: NDArray[np.uint8]
    """(n, y, x) 1: the pixel is one with its right neighbour; 2: with the lower one; 3: with both."""
    values: NDArray[np.int32]
    """(n, y, x, band) by the means of which regions are near each other; whole numbers, to add up."""


@runtime_checkable
class Merger(Segmenter, Protocol):
    """A segmenter that parts frames in regions of any size, of which the small ones are merged.

    `segment` does that on whole frames. Where a frame is cut, what each window connects, with `halo`
    context (which holds one pixel below and to the right of its shard), is joined over the borders by
    the stitch stage, which merges regions of fewer than `least` pixels with the neighbour of the
    nearest mean value. Labels are 1 in a region.
    """

    @property
    def least(self) -> int:
        """Pixels from which on a region stays; 1: all stay."""
        ...

    @property
    def drops(self) -> bool:
        """Smaller ones are no regions, and get label 0, instead of being merged."""
        ...

    def connect(self, pixels: Pixels, valid: Bool) -> Connected:
        """Links and values of pixels (n, y, x, band); those that are not valid (n, y, x) count nowhere."""
        ...


@runtime_checkable
class Surveyor(Protocol[S]):
    """Must see a frame, a scene or the run before it can label; fitting gives a Segmenter.

    `merge` is associative and commutative. A state is built of integers, floats, strings, NumPy
    arrays, tuples, lists, dicts or dataclasses of these, so that it can be committed without pickle;
    so is the fitted segmenter (a dataclass). What it may have beside: `SegmenterParts`, and of them
    `Completes` where what `fit` gives needs whole frames or is a Linker.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by label."""
        ...

    @property
    def scope(self) -> Scope:
        """What one fit is made of."""
        ...

    def survey(self, pixels: Pixels, valid: Bool) -> S:
        """State of pixels (n, y, x, band) where valid (n, y, x)."""
        ...

    def merge(self, a: S, b: S) -> S:
        """Two states as one; associative and commutative."""
        ...

    def fit(self, state: S) -> Segmenter:
        """The segmenter that a state makes; small enough to send to workers."""
        ...


class Metric(Protocol[S]):
    """A fold over windows; `merge` is associative and commutative, `empty()` its identity.

    `update` takes n windows of labels (n, y, x), or of a Truth where objects count, and treats each
    as of a frame of its own. It is made with the keywords `classes` and `truth_classes`, and the
    options of the job. What it may have beside: `MetricParts`.
    """

    def empty(self) -> S:
        """The state of nothing: merging it changes nothing."""
        ...

    def update(self, state: S, prediction: Prediction, truth: Labels | Truth) -> S:
        """`state` and n windows: labels (n, y, x) of both sides."""
        ...

    def merge(self, a: S, b: S) -> S:
        """Two states as one; associative and commutative, exact."""
        ...

    def compute(self, state: S) -> Mapping[str, Any]:
        """The figures, JSON values; None where there is nothing to divide by."""
        ...


@runtime_checkable
class Framed(Protocol):
    """A metric whose figure is a mean over frames: parts add up within a frame, states across them.

        windows of a frame --part--> parts --join--> one part a frame --close--> state --merge--> run

    `update(state, ...)` equals `merge(state, close(part(...)))` for windows that are whole frames.
    """

    def part(self, prediction: Prediction, truth: Labels | Truth) -> Any:
        """What one window of a frame, labels (1, y, x), adds to it."""
        ...

    def join(self, a: Any, b: Any) -> Any:
        """Two windows of one frame; associative and commutative."""
        ...

    def close(self, part: Any) -> Any:
        """The state of one whole frame."""
        ...


Plugin = Segmenter | Surveyor[Any]
"""What `segmenter.kind` names."""


@runtime_checkable
class ScoringLoss(Protocol):
    """A loss that is measured: its fold over probabilities (n, y, x, class) of these classes."""

    def statistic(self, classes: Sequence[str]) -> Metric[Any]:
        """The fold of probabilities (n, y, x, class) of these classes, against labels (n, y, x)."""
        ...


@runtime_checkable
class TrainingLoss(Protocol):
    """A loss that networks are trained with; most losses are a `ScoringLoss` too."""

    def keras(self) -> Callable[[Any, Any], Any]:
        """The `keras.losses.Loss`: (labels (n, y, x), predictions (n, y, x, class)) -> scalar."""
        ...


class Export(Protocol):
    """A function that writes a finished store in another format; further options have defaults.

    One named `say` is what the command says a line with; None where nobody reads it.
    """

    def __call__(self, store_path: str, to: str) -> list[str]:
        """Write to the file or folder `to`; the paths of all files written."""
        ...


# What the engine may ask of a plug-in beyond its protocol: one part each, all of them optional.


@runtime_checkable
class Versioned(Protocol):
    """Asked of segmenters and metrics for what is stored beside their results; 1 without."""

    @property
    def version(self) -> int:
        """Raised when the output can change: what an older version made is made again."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """Asked of segmenters when a run is planned; without, there are no weights."""

    @property
    def weights(self) -> str:
        """Digest of the weights: with others, masks are made again."""
        ...


@runtime_checkable
class Outputs(Protocol):
    """Asked of segmenters when a run is planned; without, one window is segmented to find out."""

    @property
    def outputs(self) -> Sequence[str]:
        """Of labels, probabilities, instances and objects, what `segment` gives."""
        ...


@runtime_checkable
class Colored(Protocol):
    """Asked of segmenters, fitted ones too, for pictures; without, a palette is taken."""

    @property
    def colors(self) -> Sequence[Color]:
        """One a class."""
        ...


@runtime_checkable
class Slow(Protocol):
    """Asked of segmenters in a worker; without, the next shard is not read meanwhile."""

    @property
    def slow(self) -> bool:
        """Labelling takes so long that reading beside it costs nothing, as of networks."""
        ...


@runtime_checkable
class Seams(Protocol):
    """Asked of segmenters when figures are made; where it is a number, seams are measured unasked."""

    @property
    def seams(self) -> int | None:
        """Pixels from one inner window to the next, where these only fade into one another."""
        ...


@dataclass(frozen=True, slots=True)
class Trained:
    """What a model says of the images that it learned from; what is None or empty it does not say."""

    by: str
    """Who says so, for a message: `its metadata`, `unet.json`."""
    resolution: float | None = None
    """Metres a pixel."""
    bands: tuple[str, ...] = ()
    """Their names, in order."""
    common: tuple[str, ...] = ()
    """Their common names, as `eo:common_name` has them."""
    scale: Mapping[str, Any] | None = None
    """As the option `scale` of a network."""
    unscaled: str = ""
    """Why what it says of scaling is not done; empty: it is."""
    classes: tuple[str, ...] = ()
    threshold: float | None = None
    """Of a single channel."""
    window: int | None = None
    """Side of its windows, in pixels."""
    doubts: tuple[str, ...] = ()
    """What it says besides that cannot be meant, and is not used."""


@runtime_checkable
class Learned(Protocol):
    """Asked of segmenters for what the job leaves out: resolution, bands."""

    @property
    def trained(self) -> Trained | None:
        """What its model says; None: nothing."""
        ...


@runtime_checkable
class LabelsAlone(Protocol):
    """Asked of segmenters in place of `segment` where no probabilities are stored."""

    def label(self, pixels: Pixels) -> Prediction:
        """The labels that `segment` gives, with nothing of the size (n, y, x, class) in memory."""
        ...


@runtime_checkable
class LabelsConfidently(Protocol):
    """Asked of segmenters in place of `segment` where confidence is stored, and no probabilities."""

    def label_confidently(self, pixels: Pixels) -> Prediction:
        """The labels that `segment` gives, and `confidence`; no map (n, y, x, class) in memory."""
        ...


@runtime_checkable
class Placed(Protocol):
    """Asked of segmenters before each call; without, it is no matter where a window lies."""

    def at(self, corner: tuple[int, int], size: tuple[int, int]) -> Segmenter:
        """It, for windows whose first pixel is at (y, x) of frames of (height, width)."""
        ...


@runtime_checkable
class Agrees(Protocol):
    """Asked of segmenters where objects are joined across windows; without, windows may differ a little."""

    @property
    def agrees(self) -> bool:
        """Whether its windows tell apart the same objects around their common border, pixel by pixel:
        two that share one pixel there are one. It says nothing of objects that meet only outside."""
        ...


@runtime_checkable
class KnowsFrames(Protocol):
    """Asked of segmenters before each call of a run; without, it is no matter which frames they are."""

    @property
    def by_name(self) -> bool:
        """Whether frames of the same pixels may get other labels where their names are others."""
        ...

    def of_frames(self, frames: Frames) -> Segmenter:
        """It, for a call with these frames."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """A scene as a plan knows it, before a pixel is read."""

    scene: str
    sizes: frozenset[Cell]
    """(height, width) of its frames, each once."""
    ground: Ground | None = None
    """Where it lies; None: nowhere that is known."""


@runtime_checkable
class Remarks(Protocol):
    """Asked of segmenters once a plan, for what the user should know of all that is to be labelled."""

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """Lines that begin with the option they are about; for whoever plans and runs the job."""
        ...


@runtime_checkable
class LabelsFrames(Protocol):
    """Asked of surveyors of scope frame in place of `survey`, `fit` and `segment`, of each frame."""

    def label_frame(self, pixels: Pixels, valid: Bool) -> tuple[Segmenter, Prediction]:
        """What the three give of (1, y, x, band), `valid` (1, y, x): the fit, and its labels."""
        ...


class Follower(Protocol):
    """What is known of a video up to a frame."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes, roughly."""
        ...

    def label(self, pixels: Pixels) -> Labels:
        """Labels (y, x) of the next frame (y, x, band), of which it knows from now on."""
        ...


@runtime_checkable
class Follows(Protocol):
    """Asked of segmenters when a run is planned, and in a worker; without, frames are labelled one by one.

    What labels a frame by those before it. Then only videos are taken; they are labelled in segments,
    each of which begins anew some frames before its first (`segengine.following`). `segment` takes the
    frames of a video from its first on, and gives the same labels.
    """

    @property
    def warmup(self) -> int:
        """Frames before a segment that are looked at, and not labelled; fewer where there are fewer."""
        ...

    @property
    def span(self) -> int:
        """Frames of a segment."""
        ...

    def begin(self) -> Follower:
        """What knows of no frame yet."""
        ...


@runtime_checkable
class ChecksPixels(Protocol):
    """Asked of segmenters when a run is planned, once for each kind of scene."""

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError, with what to do, where it cannot label such pixels."""
        ...


@runtime_checkable
class Provenance(Protocol):
    """Asked of segmenters in a worker; stands in the records and the report, never compared."""

    @property
    def provenance(self) -> str:
        """What ran it, where that is more than this package: an engine and its version."""
        ...


@runtime_checkable
class Describes(Protocol):
    """Asked of segmenters by `segengine plan`."""

    def describe(self) -> Sequence[str]:
        """Lines for the terminal: what it is made of, and what it will do."""
        ...


@runtime_checkable
class Responds(Protocol):
    """Asked of segmenters, fitted ones too, by `segengine show --what responses`."""

    def response(self, pixels: Pixels) -> NDArray[np.float64]:
        """(n, y, x, 2) signed, across rows and across columns, of pixels (n, y, x, band)."""
        ...


@runtime_checkable
class Inertia(Protocol):
    """Asked of what a surveyor fitted, for the figures of the run."""

    @property
    def inertia(self) -> float:
        """Sum of squared distances from the pixels to their centres; those of all fits are added."""
        ...


class Findings(Protocol):
    """Asked of what a surveyor fitted for scenes or the run, for the report; any of them or none."""

    @property
    def centres(self) -> Any:
        """(cluster, band) float: the centres that pixels go to."""
        ...

    @property
    def levels(self) -> Any:
        """(level,) float: gray values that part the classes."""
        ...

    @property
    def thresholds(self) -> Any:
        """(band,) float: a cut for each band."""
        ...

    @property
    def threshold(self) -> Any:
        """The one cut."""
        ...

    @property
    def inertia(self) -> float:
        """Sum of squared distances of the pixels seen to their centres."""
        ...

    @property
    def pixels(self) -> Any:
        """How many pixels were seen."""
        ...


@runtime_checkable
class Completes(Protocol):
    """Asked of surveyors wherever it matters what will label: halo, whole frames, links."""

    @property
    def segmenter(self) -> Segmenter:
        """What `fit` completes; its classes, halo and kind are those of every fit."""
        ...


class SegmenterParts(
    Versioned, Weighted, Outputs, Colored, Slow, Seams, LabelsAlone, LabelsConfidently, LabelsFrames,
    Placed, KnowsFrames, Agrees, Follows, ChecksPixels, Provenance, Describes, Responds, Findings,
    Completes, Protocol,
):  # fmt: skip
    """All that the engine may ask of a segmenter or surveyor beyond its protocol."""


@runtime_checkable
class Lists(Protocol):
    """Asked of sources when a run is planned; without, paths and globs find files by suffix."""

    def list(self, paths: Sequence[str]) -> Listing:
        """The inputs that the job's `source.paths` stand for. Raises ValueError."""
        ...


@runtime_checkable
class Marks(Protocol):
    """Asked of sources that list their inputs, when a store is verified; without, they are files."""

    def mark(self, ref: FrameRef) -> str:
        """The fingerprint that a frame has now. Raises CorruptInputError, TransientInputError."""
        ...


@runtime_checkable
class FindsTruth(Protocol):
    """Asked of sources when figures are made, and when networks are trained: the data set's truth."""

    def find_truth(self, refs: Sequence[FrameRef]) -> Sequence[TruthRef]:
        """Where the truth of each frame lies; in one pass, on the driver."""
        ...

    def load_truth(self, ref: FrameRef, truth: TruthRef, rows: slice, cols: slice) -> Truth:
        """That of a window, (1, y, x), in a worker. Raises MissingTruthError with the reason."""
        ...


@runtime_checkable
class TruthClasses(Protocol):
    """Asked of sources that find truth."""

    @property
    def truth_classes(self) -> Sequence[str]:
        """Names of the truth's labels 0, 1, 2 ..."""
        ...


@runtime_checkable
class TruthInstances(Protocol):
    """Asked of sources that find truth; without, it has only classes."""

    @property
    def truth_instances(self) -> bool:
        """Whether it tells objects apart."""
        ...


@runtime_checkable
class TruthColors(Protocol):
    """Asked of sources that find truth, for pictures of it; without, a palette is taken."""

    @property
    def truth_colors(self) -> Sequence[Color]:
        """One a class of the truth."""
        ...


@runtime_checkable
class Within(Protocol):
    """Asked of sources where masks are measured; without, all of a frame counts."""

    def within(self, ref: FrameRef, rows: slice, cols: slice) -> Bool | None:
        """(y, x) of a window, what of it the job's area holds; None: all. Raises CorruptInputError,
        TransientInputError."""
        ...


@runtime_checkable
class Beyond(Protocol):
    """Asked of sources before a run, for shards that need no worker."""

    def beyond(self, ref: FrameRef, side: int) -> Bool | None:
        """(y, x) squares of so many pixels of which it is sure, without reading, that none lies in the
        job's area; None: nothing is known. Raises as `within`."""
        ...


class SourceParts(
    Lists, Marks, FindsTruth, TruthClasses, TruthInstances, TruthColors, Within, Beyond, Protocol
):
    """All that the engine may ask of a source beyond its protocol."""


@runtime_checkable
class Needs(Protocol):
    """Asked of metrics when a run is planned; without, it needs truth."""

    @property
    def needs(self) -> Sequence[str]:
        """Beyond labels, of `probabilities`, `instances`, `objects`, `pixels` (the prediction's
        side) and `truth`, `truth_instances`, `truth_objects`. Pixels come as a fourth argument."""
        ...


@runtime_checkable
class Uses(Protocol):
    """Asked of metrics when a run is planned."""

    @property
    def uses(self) -> Sequence[str]:
        """Of the same words, what it takes where it is there; `confidence`: in place of `probabilities`
        where these are not stored."""
        ...


@runtime_checkable
class Scaled(Protocol):
    """Asked of metrics where masks are measured; without, its figures do not depend on the scene."""

    def scaled(self, spacing: tuple[float, float] | None) -> Metric[Any] | None:
        """The same for a scene whose pixels (y, x) are so far apart, in millimetres; None: not known.

        None: it cannot be measured there."""
        ...


@runtime_checkable
class Volumetric(Protocol):
    """Asked of metrics where masks are measured; without, no frame knows of another."""

    @property
    def volume(self) -> bool:
        """`update` must see all slices (n, y, x) of one time of a volume at once, and no other frame.

        It needs truth, and is given labels and truth alone. It may raise TooLargeError: that volume
        is left out, and named."""
        ...

    def in_volume(self, steps: Steps | None) -> Metric[Any] | None:
        """The same for a volume of such voxels; `steps` None: not known.

        None: it cannot be measured there."""
        ...


@runtime_checkable
class Unmet(Protocol):
    """Asked of metrics when a run is planned."""

    @property
    def unmet(self) -> str:
        """Why it cannot be computed with its classes; empty: it can."""
        ...


@runtime_checkable
class Whole(Protocol):
    """Asked of metrics; without, windows of a frame are measured one by one and merged."""

    @property
    def whole(self) -> bool:
        """`update` must see whole frames, never a part of one."""
        ...


@runtime_checkable
class Locates(Protocol):
    """Asked of metrics once a frame's state is whole."""

    def locate(self, state: Any, scene: str, frame: int) -> Any:
        """The state of one frame that knows where it lies."""
        ...


@runtime_checkable
class Matches(Protocol):
    """Asked of metrics whose labels have no names: one matching for the run, its scenes and frames."""

    def match(self, state: Any) -> Any:
        """How labels stand for true classes, from the run's state."""
        ...

    def compute(self, state: Any, matching: Any = None) -> Mapping[str, Any]:
        """The figures with that matching; without, with the state's own."""
        ...


@runtime_checkable
class Headline(Protocol):
    """Asked of metrics for a list of worst frames; without, it is the first figure that is a float."""

    @property
    def headline(self) -> str:
        """The key of the one figure that stands for all."""
        ...


@runtime_checkable
class LowerIsBetter(Protocol):
    """Asked of metrics for a list of worst frames; without, higher is better (losses: lower)."""

    @property
    def lower_is_better(self) -> bool:
        """True: the worst frame has the highest figure."""
        ...


@runtime_checkable
class PerFrame(Protocol):
    """Asked of metrics for a list of worst frames; without, a frame has a figure."""

    @property
    def per_frame(self) -> bool:
        """False: a frame by itself has no figure."""
        ...


@runtime_checkable
class View(Protocol):
    """Asked of metrics when a run is planned."""

    @property
    def base(self) -> Metric[Any]:
        """A metric of equal state, of which this one is a view: it is kept once for both."""
        ...


class MetricParts(
    Versioned, Needs, Uses, Scaled, Volumetric, Unmet, Whole, Framed, Locates, Matches, Headline,
    LowerIsBetter, PerFrame, View, Protocol,
):  # fmt: skip
    """All that the engine may ask of a metric, or of a loss's statistic, beyond its protocol."""
