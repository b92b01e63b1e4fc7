"""COCO's average precision and recall of masks and boxes, all 12 figures each, bit for bit.

Detections are matched to true objects frame by frame (`_matching`), at ten IoU thresholds from 0.5
to 0.95 and for four ranges of areas (small: up to 32^2 pixels, medium: up to 96^2). Of a frame and
class the 100 best by score count. Over all frames, in order of scene and frame and then of score,
precision is made to fall with recall and read at 101 recalls (Lin et al. 2014; pycocotools).

    ap, ap50, ap75          mean over thresholds, recalls and classes; at IoU 0.5; at 0.75
    ap_small ... ap_large   the same among objects of these areas
    ar_1, ar_10, ar_100     greatest recall with so many detections a frame and class
    ar_small ... ar_large   the same among objects of these areas, with 100

Crowds, and objects outside of the range, are ignored: a detection matched to one is neither right
nor wrong, nor is an unmatched one outside of the range. The area of a true object is its column
`area`, that of a detection its mask's, for boxes width x height. A class without a true object has
no figure (None) and is left out of means. With `class_agnostic` all that is not background is of one
class, as for proposals (pycocotools' `useCats = 0`): its recall is what they are compared by.

The state keeps, of each frame, what no other frame can change: of each class the number of true
objects in each range, and each detection's score, matches and what is ignored, as bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segengine.asked import background
from segengine.metrics import _keyed
from segengine.metrics._average_precision import DETECTIONS, Detections, summary
from segengine.metrics._classes import Named, by_name, unmet
from segengine.metrics._frames import boxes_of, column, crowd_of, each, needed
from segengine.metrics._keyed import Entries
from segengine.metrics._matching import AREAS, THRESHOLDS, match, outside
from segengine.types import Labels, Metric, Prediction, Truth

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["mask", "box"]
_HEAD = np.dtype([("class", "<u2"), ("detections", "<u2"), ("truths", "<u4", len(AREAS))])
_BITS = np.uint64(1) << np.arange(len(AREAS) * len(THRESHOLDS), dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Coco(Named):
    """Matches of every detection; from them AP and AR."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("objects", "truth_objects")
    whole: ClassVar[bool] = True
    kinds: tuple[Kind, ...] = ("mask", "box")
    """What is compared."""
    class_agnostic: bool = False
    """An object is an object, whatever its class."""

    def __post_init__(self) -> None:
        Named.__post_init__(self)
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if not isinstance(self.class_agnostic, bool):
            raise ValueError(f"class_agnostic: must be true or false, not {self.class_agnostic!r}")
        known = get_args(Kind)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or set(self.kinds) - {*known}:
            raise ValueError(f"kinds: must be some of {', '.join(known)}, not {self.kinds}")

    @property
    def unmet(self) -> str:
        """Why these classes cannot be measured; empty: they can."""
        if self.class_agnostic:
            return ""
        if why := unmet(self.classes, self.truth_classes):
            return why
        found = by_name(self.classes, self.truth_classes) or range(len(self.classes))
        things = set(found) - {None, *background(self.truth_classes)}
        if things:
            return ""
        return (
            f"none of the objects' classes ({', '.join(self.classes[:4])}) is one of the truth's "
            f"({', '.join(self.truth_classes[:4])}); `class_agnostic: true` compares objects of any"
        )

    @property
    def kinds_of_object(self) -> tuple[str, ...]:
        """The classes that figures are given of."""
        return ("object",) if self.class_agnostic else self.truth_classes

    def found_classes(self, table: pa.Table) -> NDArray[np.int32]:
        """Of each object of a prediction, the true class it stands for; -1: none."""
        own = column(table, "class")
        return _things(own, self.classes) if self.class_agnostic else self.as_true(own)

    def true_classes(self, table: pa.Table) -> NDArray[np.int32]:
        """Of each object of a truth; -1: it is not scored."""
        own = column(table, "class")
        return _things(own, self.truth_classes) if self.class_agnostic else self.scored(own)

    def rank(self, table: pa.Table, names: tuple[str, ...]) -> NDArray[np.int32]:
        """What comes first among equals, as pycocotools goes through its categories: classes of the
        truth in their order, then those that it does not have."""
        own = column(table, "class").astype(np.int32)
        if not self.class_agnostic:
            return np.zeros_like(own)
        place = {name: i for i, name in enumerate(self.truth_classes)}
        if unmet(self.classes, self.truth_classes) or names == self.truth_classes:
            known = [place.get(name, len(place) + i) for i, name in enumerate(names)]
        else:
            known = [
                len(place) + i if true is None else true for i, true in enumerate(self.stands_for())
            ]
        return np.append(np.array(known, np.int32), np.int32(-1))[np.minimum(own, len(known))]

    def empty(self) -> Entries:
        """The matches of no frame."""
        return ()

    def update(self, state: Entries, prediction: Prediction, truth: Labels | Truth) -> Entries:
        """`state` and whole frames (n, y, x) with objects on both sides."""
        first = _keyed.next_frame(state)
        added = tuple(
            ("", first + i, *self._frame(found, true))
            for i, (found, true) in enumerate(each(prediction, truth))
        )
        return _keyed.merge(state, added)

    def locate(self, state: Entries, scene: str, frame: int) -> Entries:
        """The state of one frame, with its place: equal scores are ordered by it."""
        return _keyed.locate(state, scene, frame)

    def merge(self, a: Entries, b: Entries) -> Entries:
        """Both states' frames, in order of scene and frame."""
        return _keyed.merge(a, b)

    def compute(self, state: Entries) -> dict[str, Any]:
        """Of each kind the 12 figures, and some of them of every class; None: no true object.

        `ap` is that of the first kind, and so are `ar_10` and `ar_100` without classes.
        """
        heads = np.frombuffer(b"".join(entry[2] for entry in state), _HEAD)
        rows = np.frombuffer(b"".join(entry[3] for entry in state), self._row)
        truths = np.zeros((len(self.kinds_of_object), len(AREAS)), np.int64)
        np.add.at(truths, heads["class"], heads["truths"].astype(np.int64))
        counts = heads["detections"].astype(np.int64)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        place = np.arange(len(rows)) - starts
        classes = np.repeat(heads["class"], counts)
        found: dict[str, Any] = {
            kind: summary(
                self.kinds_of_object,
                truths,
                Detections(
                    classes,
                    place,
                    rows["score"].astype(np.float64),
                    rows["matched"][:, i],
                    rows["ignored"][:, i],
                ),
            )
            for i, kind in enumerate(self.kinds)
        }
        first = found[self.kinds[0]]
        shown = ("ap", "ar_10", "ar_100") if self.class_agnostic else ("ap",)
        return {**{name: first[name] for name in shown}, **found}

    @property
    def _row(self) -> np.dtype[np.void]:
        """A detection: its score, and of each kind what is matched and what ignored."""
        kinds = len(self.kinds)
        return np.dtype(
            [("score", "<f4"), ("matched", "<u8", (kinds,)), ("ignored", "<u8", (kinds,))]
        )

    def _frame(self, prediction: Prediction, truth: Truth) -> tuple[bytes, bytes]:
        ours = _Objects.detected(
            needed(prediction.objects, "objects", "the prediction has none"), self
        )
        theirs = _Objects.true(needed(truth.objects, "truth", "it has no objects"), self)
        size = (prediction.labels.shape[1], prediction.labels.shape[2])
        ignored = theirs.crowd | outside(theirs.areas)
        rows = np.zeros(len(ours.classes), self._row)
        rows["score"] = ours.scores
        for i, kind in enumerate(self.kinds):
            matched, lost = match(_ious(kind, ours, theirs, size), theirs.crowd, ignored)
            lost |= ~matched & outside(ours.extents(kind))[:, None]
            for name, flags in (("matched", matched), ("ignored", lost)):
                rows[name][:, i] = _BITS @ flags.reshape(len(_BITS), -1).astype(np.uint64)
        heads = np.zeros(len(self.kinds_of_object), _HEAD)
        heads["class"] = np.arange(len(heads))
        heads["detections"] = np.bincount(ours.classes, minlength=len(heads))
        at, place = np.nonzero(~ignored)
        np.add.at(heads["truths"], (theirs.classes[place], at), 1)
        kept = (heads["detections"] > 0) | heads["truths"].any(axis=1)
        return heads[kept].tobytes(), rows.tobytes()


@dataclass(frozen=True, slots=True)
class _Objects:
    """Rows of one side, as arrays, in order of their classes."""

    classes: NDArray[np.int32]
    """Of the truth."""
    scores: NDArray[np.float32]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    runs: list[bytes]
    """Compressed run lengths; empty where no masks are compared."""

    @classmethod
    def detected(cls, table: pa.Table, metric: Coco) -> _Objects:
        """Those of each class that count, by falling score."""
        classes = metric.found_classes(table)
        scores = column(table, "score").astype(np.float32)
        if np.isnan(scores).any():
            raise ValueError("objects: a score is NaN")
        order = np.lexsort((metric.rank(table, metric.classes), -scores, classes))
        order = order[classes[order] >= 0]
        place = np.arange(len(order)) - np.searchsorted(classes[order], classes[order])
        return cls._of(table, metric, classes, scores, order[place < DETECTIONS])

    @classmethod
    def true(cls, table: pa.Table, metric: Coco) -> _Objects:
        """Those of each class, in order."""
        classes = metric.true_classes(table)
        order = np.lexsort((metric.rank(table, metric.truth_classes), classes))
        scores = np.zeros(len(order), np.float32)
        return cls._of(table, metric, classes, scores, order[classes[order] >= 0])

    @classmethod
    def _of(
        cls,
        table: pa.Table,
        metric: Coco,
        classes: NDArray[np.int32],
        scores: NDArray[np.float32],
        rows: NDArray[np.intp],
    ) -> _Objects:
        runs = table.column("rle").to_pylist() if "mask" in metric.kinds else None
        return cls(
            classes=classes[rows],
            scores=scores[rows],
            boxes=boxes_of(table)[rows],
            areas=column(table, "area").astype(np.float64)[rows],
            crowd=crowd_of(table)[rows],
            runs=[] if runs is None else [runs[i].encode() for i in rows.tolist()],
        )

    def extents(self, kind: Kind) -> NDArray[np.float64]:
        """Area of each mask or box."""
        return self.areas if kind == "mask" else self.boxes[:, 2] * self.boxes[:, 3]

    def shapes(self, kind: Kind, part: slice, size: tuple[int, int]) -> Any:
        """Some masks or boxes, as pycocotools takes them."""
        if kind == "box":
            return self.boxes[part]
        return [{"size": size, "counts": counts} for counts in self.runs[part]]


def _things(own: NDArray[Any], names: Sequence[str]) -> NDArray[np.int32]:
    """0 for each object, -1 for background and void."""
    kinds = np.isin(own, background(names)) | (own < 0) | (own >= len(names))
    return np.where(kinds, np.int32(-1), np.int32(0))


def _ious(
    kind: Kind, ours: _Objects, theirs: _Objects, size: tuple[int, int]
) -> NDArray[np.float64]:
    """(detection, true object), 0 where their classes differ; of a crowd the share of the detection
    that lies in it.
    """
    from pycocotools import mask

    found = np.zeros((len(ours.classes), len(theirs.classes)))
    for index in np.intersect1d(ours.classes, theirs.classes).tolist():
        d, g = (
            slice(*np.searchsorted(side.classes, (index, index + 1)).tolist())
            for side in (ours, theirs)
        )
        shapes = ours.shapes(kind, d, size), theirs.shapes(kind, g, size)
        found[d, g] = mask.iou(*shapes, theirs.crowd[g].tolist())
    return found


_: type[Metric[Entries]] = Coco
