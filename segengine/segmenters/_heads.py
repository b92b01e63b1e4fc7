"""Which head a network has, and the segmenter of it: what finds objects.

detections   boxes, labels, scores, masks              known by the names of its outputs
yolo-seg     predictions and prototypes                known by their shapes
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segengine.engines import Shape
from segengine.networks.scale import Scale
from segengine.segmenters import _detections, _stardist, _yoloseg
from segengine.segmenters._cellpose import FLOW_THRESHOLD, MIN_SCORE, Cellpose
from segengine.segmenters._detections import Detections
from segengine.segmenters._files import Opened
from segengine.segmenters._finder import Finder, Grid
from segengine.segmenters._finder import Head as Finds
from segengine.segmenters._network import Layout
from segengine.segmenters._stardist import StarDist
from segengine.segmenters._yoloseg import YoloSeg
from segengine.types import Cell, Trained

Head = Literal[
    "auto", "labels", "logits", "probabilities", "detections", "yolo-seg", "stardist", "cellpose"
]
FINDING = ("detections", "yolo-seg", "stardist", "cellpose")
"""Heads that find objects."""
SCALE = {"divide": 255}
"""Of the values that detectors were trained on, where nothing says otherwise."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job says of a head; what is None is the head's own, or the model's."""

    head: Head
    bands: Sequence[int] | int | None
    layout: Layout | None
    scale: Mapping[str, Any] | None
    classes: Sequence[str] | None
    outputs: str | Mapping[str, str] | None
    """Name of the output that counts, or names by what they are."""
    window: int | Literal["auto"]
    """Side of the windows of large frames, in pixels; auto: whole frames."""
    overlap: float
    resize: Sequence[int] | None
    min_score: float | None
    duplicates: float | None
    flow_threshold: float | None
    """Of head cellpose; None: off."""

    @property
    def output(self) -> str | None:
        """The name of the output that counts, of a network that labels pixels. Raises ValueError."""
        if self.outputs is None or isinstance(self.outputs, str):
            return self.outputs
        if len(self.outputs) != 1:
            raise ValueError(
                "outputs: a model that labels pixels has one that counts; give its name"
            )
        return next(iter(self.outputs.values()))

    @property
    def named(self) -> dict[str, str]:
        """Names of the outputs that the job names, by what they are."""
        return dict(self.outputs) if isinstance(self.outputs, Mapping) else {}

    def min_score_or(self, usual: float) -> float:
        """The least score of an object."""
        return usual if self.min_score is None else float(self.min_score)

    def duplicates_or(self, usual: float) -> float:
        """The IoU above which the worse of two goes."""
        return usual if self.duplicates is None else float(self.duplicates)


@dataclass(frozen=True, slots=True)
class Fed:
    """What a network is fed."""

    layout: Layout
    bands: tuple[int, ...] | int
    sides: tuple[int | None, int | None]
    """(height, width) that it takes alone; None: any."""

    @property
    def count(self) -> int:
        """Bands."""
        return self.bands if isinstance(self.bands, int) else len(self.bands)

    @classmethod
    def of(cls, opened: Opened, asked: Asked) -> Fed:
        """By the shape of the network's input, (y, x, band) or (band, y, x), a batch or one alone."""
        shape = opened.engine.input_shape
        if len(shape) not in (3, 4):
            raise ValueError(f"it takes {shape}; images have three axes, or four with the batch")
        layout = asked.layout or layout_of(shape)
        bands, *sides = shape[-3:] if layout == "nchw" else (shape[-1], *shape[-3:-1])
        return cls(layout, chosen_bands(asked.bands, bands), (sides[0], sides[1]))


def finder(opened: Opened, asked: Asked, unused: Mapping[str, Any]) -> Finder | None:
    """The segmenter of a network that finds objects; None: it labels pixels.

    unused: options that such a head has no use for. Raises ValueError naming what is wrong.
    """
    _check(asked, opened)
    head = asked.head
    if head == "auto" and set(_detections.OUTPUTS[:3]) <= set(opened.engine.outputs):
        head = "detections"
    elif head == "auto" and set(_stardist.OUTPUTS) <= set(opened.engine.outputs):
        head = "stardist"
    elif head == "auto" and _is_yolo(opened, asked):
        head = "yolo-seg"
    if head != "cellpose" and asked.flow_threshold != FLOW_THRESHOLD:
        raise ValueError("flow_threshold: belongs to head cellpose; leave it out")
    if head not in FINDING:
        for name, value in (("min_score", asked.min_score), ("duplicates", asked.duplicates)):
            if value is not None:
                raise ValueError(f"{name}: belongs to what finds objects, and this labels pixels")
        return None
    for name, value in unused.items():
        if value not in (None, False, "auto"):
            more = "; set min_score" if name == "threshold" else "; leave it out"
            raise ValueError(f"{name}: head {head} finds objects and has no use for it{more}")
    fed = Fed.of(opened, asked)
    found, classes = _MADE[head](opened, asked, fed)
    return Finder(
        head=found,
        classes=classes,
        bands=fed.bands,
        weights=opened.digest,
        grid=_grid(asked, fed),
        trained=opened.trained,
    )


def layout_of(shape: Shape) -> Layout:
    """Channels come first where that axis is short and fixed and the last is not shorter."""
    first, last = shape[-3], shape[-1]
    short = first is not None and first <= 64
    return "nchw" if short and (last is None or last > (first or 0)) else "nhwc"


def chosen_bands(bands: Sequence[int] | int | None, takes: int | None) -> tuple[int, ...] | int:
    """The bands that a network is fed, of which it takes so many. Raises ValueError."""
    if bands is None:
        if takes is None:
            raise ValueError("bands: the model does not say how many it takes; name them")
        return takes
    count = bands if isinstance(bands, int) else len(bands)
    if takes is not None and count != takes:
        raise ValueError(f"bands: {count} are named and the model takes {takes}")
    return bands if isinstance(bands, int) else tuple(bands)


def _check(asked: Asked, opened: Opened) -> None:
    for name, value in (("min_score", asked.min_score), ("duplicates", asked.duplicates)):
        given_value: object = value
        if given_value is not None and not (
            isinstance(given_value, int | float)
            and not isinstance(given_value, bool)
            and 0 <= given_value <= 1
        ):
            raise ValueError(f"{name}: must be a number from 0 to 1, not {value!r}")
    error: object = asked.flow_threshold
    if error is not None and not (
        isinstance(error, int | float) and not isinstance(error, bool) and 0 <= error < math.inf
    ):
        raise ValueError(f"flow_threshold: must be a number from 0 on, or null, not {error!r}")
    given: object = asked.outputs
    names = {"": given} if isinstance(given, str) else given
    if names is None:
        return
    if not isinstance(names, Mapping) or not all(isinstance(n, str) for n in names.values()):
        raise ValueError(f"outputs: must be a name, or names by what they are, not {given!r}")
    for key, name in names.items():
        if name not in opened.engine.outputs:
            where = f"outputs.{key}" if key else "outputs"
            known = ", ".join(opened.engine.outputs)
            raise ValueError(f"{where}: the model has no output {name!r}; it has {known}")


def _is_yolo(opened: Opened, asked: Asked) -> bool:
    """Whether a network's two outputs have the shapes of YOLO-seg's."""
    if len(opened.engine.outputs) != 2 or len(opened.engine.input_shape) != 4:
        return False
    try:
        fed = Fed.of(opened, asked)
        return fed.layout == "nchw" and _parts(opened, asked, fed) is not None
    except ValueError:
        return False


def _yolo(opened: Opened, asked: Asked, fed: Fed) -> tuple[Finds, tuple[str, ...]]:
    if fed.layout != "nchw" or len(opened.engine.input_shape) != 4:
        raise ValueError(
            "head: yolo-seg takes (1, band, y, x), and the model's input is "
            f"{opened.engine.input_shape}"
        )
    known = _parts(opened, asked, fed)
    if known is None:
        raise ValueError(
            "head: yolo-seg gives predictions (1, 4 + classes + m, n) and prototypes (1, m, h, w), and "
            f"the model has {', '.join(opened.engine.outputs)}; name them in `outputs`"
        )
    names, suppressed, count = known
    own = () if opened.trained is None else opened.trained.classes
    classes = _yoloseg.named(asked.classes, own, count)
    head = YoloSeg(
        engine=opened.engine,
        names=names,
        size=None if asked.window != "auto" else _size(opened, asked, fed),
        classes=len(classes) - 1,
        scale=_scale(opened, asked, fed),
        suppressed=suppressed,
        min_score=asked.min_score_or(_yoloseg.MIN_SCORE),
        duplicates=asked.duplicates_or(_yoloseg.DUPLICATES),
    )
    return head, classes


def _parts(opened: Opened, asked: Asked, fed: Fed) -> tuple[tuple[str, str], bool, int] | None:
    shapes = opened.engine.try_out((1, fed.count, *_size(opened, asked, fed)))
    return _yoloseg.layout(shapes, asked.named)


def _size(opened: Opened, asked: Asked, fed: Fed) -> Cell:
    """(height, width) of what is fed: the network's own, the job's, the file's."""
    side = None if asked.window == "auto" else asked.window
    side = side or (opened.trained and opened.trained.window) or _yoloseg.SIDE
    chosen = asked.resize or (side, side)
    if asked.resize is not None:
        _check_size("resize", chosen, fed)
    y, x = (fixed or given for given, fixed in zip(chosen, fed.sides, strict=True))
    return y, x


def _check_size(option: str, chosen: Sequence[int], fed: Fed) -> None:
    for given, fixed in zip(chosen, fed.sides, strict=True):
        if fixed not in (None, given):
            raise ValueError(
                f"{option}: the model takes {fed.sides[0]} x {fed.sides[1]} only, not "
                f"{chosen[0]} x {chosen[1]}"
            )


def _torchvision(opened: Opened, asked: Asked, fed: Fed) -> tuple[Finds, tuple[str, ...]]:
    engine = opened.engine
    names = [asked.named.get(key, key) for key in _detections.OUTPUTS]
    lacking = [name for name in names[:3] if name not in engine.outputs]
    if lacking:
        raise ValueError(
            f"head: detections needs outputs named boxes, labels and scores, and the model has "
            f"{', '.join(engine.outputs)}; name them, as in `outputs: {{boxes: {engine.outputs[0]}}}`"
        )
    own = () if opened.trained is None else opened.trained.classes
    classes = tuple(asked.classes or own)
    if not classes:
        raise ValueError(
            "classes: a detector's file has no names; name those of its labels 1, 2 ..."
        )
    size: Cell | None = None
    if asked.resize is not None:
        _check_size("resize", asked.resize, fed)
        size = (asked.resize[0], asked.resize[1])
    elif asked.window == "auto" and None not in fed.sides:
        size = (fed.sides[0] or 0, fed.sides[1] or 0)
    head = Detections(
        engine=engine,
        names=tuple(name for name in names if name in engine.outputs),
        classes=len(classes),
        scale=_scale(opened, asked, fed),
        layout=fed.layout,
        size=size,
        min_score=asked.min_score_or(_detections.MIN_SCORE),
        duplicates=asked.duplicates_or(_detections.DUPLICATES),
    )
    return head, ("background", *classes)


def _stars(opened: Opened, asked: Asked, fed: Fed) -> tuple[Finds, tuple[str, ...]]:
    outputs = opened.engine.outputs
    names = tuple(asked.named.get(key, key) for key in _stardist.OUTPUTS)
    if not set(names) <= set(outputs):
        names = (asked.outputs,) if isinstance(asked.outputs, str) else outputs
    if len(names) not in (1, 2):
        raise ValueError(
            f"head: stardist has outputs named prob and dist, and the model has {', '.join(outputs)}; "
            f"name them, as in `outputs: {{prob: {outputs[0]}}}`"
        )
    head = StarDist(
        engine=opened.engine,
        names=names,
        scale=_by_frame(opened, asked, fed, "stardist"),
        layout=fed.layout,
        min_score=asked.min_score_or(_stardist.MIN_SCORE),
        overlap=asked.duplicates_or(_stardist.OVERLAP),
    )
    return head, _two(opened, asked)


def _cells(opened: Opened, asked: Asked, fed: Fed) -> tuple[Finds, tuple[str, ...]]:
    if fed.layout != "nchw" or len(opened.engine.input_shape) != 4:
        raise ValueError("head: cellpose takes (1, band, y, x)")
    if asked.duplicates is not None:
        raise ValueError("duplicates: no two objects of head cellpose overlap; leave it out")
    head = Cellpose(
        engine=opened.engine,
        name=asked.output or opened.engine.outputs[0],
        scale=_by_frame(opened, asked, fed, "cellpose"),
        min_score=asked.min_score_or(MIN_SCORE),
        flow_threshold=float(asked.flow_threshold or 0),
    )
    return head, _two(opened, asked)


_MADE = {
    "detections": _torchvision,
    "yolo-seg": _yolo,
    "stardist": _stars,
    "cellpose": _cells,
}


def _two(opened: Opened, asked: Asked) -> tuple[str, ...]:
    """Background, and the one class of a head that has no others: the job's, or the model's if it has
    one, or one beside the background. Raises ValueError."""
    own = () if opened.trained is None else opened.trained.classes
    named = tuple(asked.classes or (own[-1:] if len(own) in (1, 2) else ()) or ("object",))
    named = named[1:] if named[:1] == ("background",) else named
    if len(named) != 1:
        raise ValueError(f"classes: the model knows one kind of object, and {len(named)} are named")
    return ("background", *named)


def _by_frame(opened: Opened, asked: Asked, fed: Fed, head: str) -> Scale | None:
    """The job's scale, or the model's; None: percentiles of whole frames. Raises ValueError."""
    if asked.resize is not None:
        raise ValueError(f"resize: head {head} sees frames at their own size; leave it out")
    if asked.window == "auto" and None not in fed.sides:
        raise ValueError(
            f"window: the model takes {fed.sides[0]} x {fed.sides[1]} only; set `window: {fed.sides[0]}`"
        )
    given = _given_scale(opened, asked)
    if given is None:
        if asked.window != "auto":
            raise ValueError(
                f"scale: head {head} takes values by the percentiles of a whole frame, which windows do "
                "not see; name them, as in `scale: {range: [low, high]}`"
            )
        return None
    scale = Scale.of(given)
    scale.check(fed.count)
    return scale


def check_scaled(trained: Trained | None, scale: Mapping[str, Any] | None) -> None:
    """Raise ValueError where a model says of scaling what is not done, and the job says nothing."""
    if scale is None and trained is not None and trained.unscaled:
        raise ValueError(f"scale: {trained.by} {trained.unscaled}; say here what is to be done")


def _given_scale(opened: Opened, asked: Asked) -> Mapping[str, Any] | None:
    """The job's, or the model's; None: neither says any. Raises ValueError."""
    check_scaled(opened.trained, asked.scale)
    own = None if opened.trained is None else opened.trained.scale
    return asked.scale if asked.scale is not None else own


def _scale(opened: Opened, asked: Asked, fed: Fed) -> Scale:
    given = _given_scale(opened, asked)
    if given is None:
        given = {} if opened.engine.dtype.kind in "iu" else SCALE
    scale = Scale.of(given)
    scale.check(fed.count)
    return scale


def _grid(asked: Asked, fed: Fed) -> Grid | None:
    """The windows of large frames; None: whole frames. Raises ValueError."""
    if asked.window == "auto":
        return None
    if asked.resize is not None:
        raise ValueError("resize: windows are seen at their own size; leave one of the two out")
    _check_size("window", (asked.window, asked.window), fed)
    step = round(asked.window * (1 - asked.overlap))
    if step < 1:
        raise ValueError(f"overlap: {asked.overlap} of {asked.window} pixels leaves no step")
    return Grid(asked.window, step)
