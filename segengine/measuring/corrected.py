"""A job's truth with what was put right by hand over it: pixel by pixel, where anybody touched it.

    base truth      0 0 1 1 .      what counts     0 2 2 1 .      `.` void: not scored
    correction      . 2 2 . .

Of a frame whose objects were corrected, those are its true objects. A frame without a correction has
the base's truth, and none where the job has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine import corrections
from segengine.errors import MissingTruthError
from segengine.store.blobs import Objects, open_objects
from segengine.types import Bool, FrameRef, Labels, Truth, TruthRef

if TYPE_CHECKING:
    from segengine.measuring.truth import TruthProvider

_OVER = "\x1e"
"""Between a frame's own truth and the scene of its correction; no path holds it."""
UNCORRECTED = "nobody has corrected them yet"
"""Why frames of a job without truth of its own are not scored."""
_NUMBERED = re.compile(r"(cluster|level) \d+")
"""Labels without a name, which are matched by agreement: what they stand for is not known here."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """The truth of a store's frames: corrections prevail over `base`."""

    base: TruthProvider | None
    store: str
    own: tuple[str, ...]
    """The segmenter's classes, which corrections number."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The base's; without one the segmenter's."""
        return self.own if self.base is None else self.base.classes

    @property
    def gives(self) -> frozenset[str]:
        """What the base has; labels, and objects where any were corrected."""
        found = {"truth"} | (set() if self.base is None else self.base.gives)
        objects = open_objects(self.store)
        for scene in corrections.scenes_corrected(objects):
            if any(corrections.corrected(objects, scene).values()):
                found |= {"truth_instances", "truth_objects"}
                break
        return frozenset(found)

    def find(self, refs: Sequence[tuple[str, FrameRef]]) -> list[TruthRef]:
        """The base's, and with it what says which correction lies over it."""
        nothing = TruthRef("", "", f"review/: {UNCORRECTED}")
        own = [nothing] * len(refs) if self.base is None else self.base.find(refs)
        objects = open_objects(self.store)
        there = set(corrections.scenes_corrected(objects)) & {scene for scene, _ in refs}
        frames = {scene: corrections.corrected(objects, scene) for scene in there}
        return [
            self._over(objects, scene, ref, truth) if ref.index in frames.get(scene, {}) else truth
            for (scene, ref), truth in zip(refs, own, strict=True)
        ]

    def _over(self, objects: Objects, scene: str, ref: FrameRef, truth: TruthRef) -> TruthRef:
        drawn = corrections.mark(objects, corrections.files_of(scene, ref.index))
        mark = xxhash.xxh3_64_hexdigest(f"{truth.fingerprint} {drawn}".encode())
        return TruthRef(f"{truth.uri}{_OVER}{scene}", mark, truth.looked)

    def load(
        self,
        ref: FrameRef,
        truth: TruthRef,
        rows: slice,
        cols: slice,
        inside: Bool | None = None,
    ) -> Truth:
        """Labels of a window, and objects of the whole frame. Raises MissingTruthError."""
        uri, over, scene = truth.uri.partition(_OVER)
        under = replace(truth, uri=uri)
        if not over:
            return self._base(ref, under, rows, cols, inside)
        size = ref.height, ref.width
        place = corrections.files_of(scene, ref.index)
        whole, ids = _held(self.store, place, size, len(self.own), truth.fingerprint)
        labels = np.full((rows.stop - rows.start, cols.stop - cols.start), _void(self.own))
        if whole is not None:
            labels = whole[rows, cols]
        own = self._as_true(labels, place.labels)
        touched = own != np.iinfo(own.dtype).max
        if inside is not None:
            own[~inside] = np.iinfo(own.dtype).max
        found = self._under(ref, under, (rows, cols), inside, touched)
        merged = found.labels.astype(np.promote_types(found.labels.dtype, own.dtype), copy=True)
        if merged.dtype != found.labels.dtype:
            merged[found.labels == np.iinfo(found.labels.dtype).max] = np.iinfo(merged.dtype).max
        counts = touched if inside is None else touched & inside
        merged[0, counts] = own[counts]
        found = replace(found, labels=merged)
        if ids is None:
            return found
        known = corrections.about(open_objects(self.store), place)
        return self._with_objects(found, ids, known, (rows, cols), inside)

    def _base(
        self, ref: FrameRef, truth: TruthRef, rows: slice, cols: slice, inside: Bool | None
    ) -> Truth:
        if self.base is None:
            raise MissingTruthError(f"no truth at {truth.looked}")
        return self.base.load(ref, truth, rows, cols, inside)

    def _under(
        self,
        ref: FrameRef,
        truth: TruthRef,
        window: tuple[slice, slice],
        inside: Bool | None,
        touched: Bool,
    ) -> Truth:
        """The base's truth of what nobody touched, whose values count there alone; void without one."""
        try:
            left = ~touched if inside is None else ~touched & inside
            found = self._base(ref, truth, *window, left)
            if found.instances is not None:  # objects are as they were, whatever the labels are now
                found = replace(found, instances=self._base(ref, truth, *window, inside).instances)
        except MissingTruthError:
            if truth.uri:
                raise
            dtype = np.uint8 if len(self.classes or self.own) < 0xFF else np.uint16
            found = Truth(np.full((1, *touched.shape), np.iinfo(dtype).max, dtype))
        return found

    def _as_true(self, labels: Labels, key: str) -> Labels:
        """Corrected labels as true classes. Raises MissingTruthError for one that is none of them."""
        truths = self.classes or self.own
        void = np.iinfo(labels.dtype).max
        dtype = np.uint8 if len(truths) < 0xFF else np.uint16
        table = np.full(int(void) + 1, np.iinfo(dtype).max, dtype)
        stands_for = true_class_of(self.own, truths)
        for label in np.unique(labels[labels != void]).tolist():
            true = stands_for[label] if label < len(stands_for) else None
            if true is None:
                name = self.own[label] if label < len(self.own) else str(label)
                raise MissingTruthError(
                    f"{key}: pixels were corrected to {name!r}, which truth.classes does not name"
                )
            table[label] = true
        found: Labels = table[labels]
        return found

    def _with_objects(
        self,
        found: Truth,
        ids: NDArray[np.uint32],
        known: Mapping[str, Any],
        window: tuple[slice, slice],
        inside: Bool | None,
    ) -> Truth:
        """The same with a frame's corrected objects."""
        from segengine.datasets._dataset import objects_of_maps

        stands_for = true_class_of(self.own, self.classes or self.own)
        classes = known.get("objects")
        kinds = np.full(int(ids.max(initial=0)) + 1, 0xFFFF, np.uint16)
        for text, label in (classes if isinstance(classes, dict) else {}).items():
            number = int(text) if text.isdecimal() else 0
            if 0 < number < len(kinds) and isinstance(label, int) and label < len(stands_for):
                true = stands_for[label]
                kinds[number] = 0xFFFF if true is None else true
        shown = np.where(kinds[ids] == 0xFFFF, np.uint32(0), ids)
        part = shown[window]
        if inside is not None:
            part = np.where(inside, part, np.uint32(0))
        objects = objects_of_maps(shown, kinds[shown])
        labels = found.labels.copy()  # an object tells its class where nothing else does
        told = (labels[0] == np.iinfo(labels.dtype).max) & (part > 0)
        labels[0, told] = kinds[part][told]
        part = np.ascontiguousarray(part)[None]
        return replace(found, labels=labels, instances=part, objects=objects)


def true_class_of(own: Sequence[str], truths: Sequence[str]) -> tuple[int | None, ...]:
    """The true class of each label: by name, the rest in order where both sides have equally many.

    >>> true_class_of(["background", "object"], ["object", "background", "tree"])
    (1, 0)
    >>> true_class_of(["background", "object"], ["background", "tree"])
    (0, 1)
    >>> true_class_of(["cluster 0"], ["tree"])
    (None,)
    """
    place = {name: i for i, name in enumerate(truths)}
    found = [place.get(name) for name in own]
    if len(own) == len(truths) and not all(map(_NUMBERED.fullmatch, own)):
        rest = (i for i, name in enumerate(truths) if name not in own)
        found = [next(rest) if i is None else i for i in found]
    return tuple(found)


def _void(classes: Sequence[str]) -> np.unsignedinteger[Any]:
    dtype = np.uint8 if len(classes) <= 0xFF else np.uint16
    return dtype(np.iinfo(dtype).max)


@lru_cache(maxsize=2)
def _held(
    store: str, place: corrections.Files, size: tuple[int, int], classes: int, fingerprint: str
) -> tuple[Labels | None, NDArray[np.uint32] | None]:
    """A frame that is cut in windows is read once; `fingerprint` tells it from what was there before."""
    del fingerprint
    objects = open_objects(store)
    labels, _ = corrections.read(objects, place, place.labels, size, classes)
    ids, _ = corrections.read(objects, place, str(place.objects), size)
    if ids is not None:
        ids = np.where(ids == corrections.NO_OBJECTS, 0, ids).astype(np.uint32)
    return labels, ids
