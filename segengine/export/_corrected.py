"""What was put right by hand, as exports take it: corrected labels, and the objects in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine import corrections
from segengine.asked import background
from segengine.errors import JobError, MissingTruthError, StoreError
from segengine.reader import SceneStore, Store
from segengine.store.keys import INSTANCES, MASK
from segengine.types import Labels

if TYPE_CHECKING:
    import pyarrow as pa


def corrected_frames(store: Store, say: Callable[[str], None]) -> list[tuple[str, int]]:
    """(scene, frame) of every frame with a correction, in order; `say` is told of those left out.

    Raises JobError for none at all, and StoreError where none can be read.
    """
    found, damaged = [], 0
    for scene in corrections.scenes_corrected(store.objects):
        if scene not in store.scenes:
            continue
        for frame in corrections.corrected(store.objects, scene):
            if frame >= store[scene].layout.shape[0]:
                continue
            try:
                _require_sound(store[scene], frame)
                found.append((scene, frame))
            except MissingTruthError as error:
                say(f"left out: {error}")
                damaged += 1
    if damaged and not found:
        raise StoreError(f"{store.path}: none of its {damaged:,} corrections can be read")
    if not found:
        raise JobError(
            f"{store.path}: nothing of it was corrected; do that with: segengine review {store.path}"
        )
    return found


def _require_sound(scene: SceneStore, frame: int) -> None:
    files = corrections.files_of(scene.name, frame)
    for key in (files.labels, str(files.objects)):
        _read(scene, frame, key)


def corrected_labels(scene: SceneStore, frame: int) -> Labels:
    """(y, x) the mask of a frame with its correction over it. Raises MissingTruthError."""
    ref = scene.layout.frame(frame)
    whole = scene.read(MASK, frame, slice(0, ref.height), slice(0, ref.width))
    files = corrections.files_of(scene.name, frame)
    drawn = _read(scene, frame, files.labels)
    if drawn is None:
        return whole
    touched = drawn != np.iinfo(drawn.dtype).max
    found: Labels = np.where(touched, drawn, whole).astype(whole.dtype)
    return found


def _read(scene: SceneStore, frame: int, key: str) -> Labels | None:
    ref, store = scene.layout.frame(frame), scene.store
    files, size = corrections.files_of(scene.name, frame), (ref.height, ref.width)
    return corrections.read(store.objects, files, key, size, len(store.classes))[0]


def corrected_objects(scene: SceneStore, frame: int) -> pa.Table:
    """One row an object of a corrected frame: those put right by hand, else those of the store.

    Of the latter what is no object any more is left out, and what has become one is an object where
    it hangs together (8-connected). Without instances in the store all are such.
    """
    from segengine.instances.join import components
    from segengine.instances.rows import objects_of

    labels = corrected_labels(scene, frame)
    files = corrections.files_of(scene.name, frame)
    without = (*background(scene.store.classes), scene.void)
    object_ = ~np.isin(labels, without)
    drawn = _read(scene, frame, str(files.objects))
    if drawn is not None:
        ids = np.where(drawn == corrections.NO_OBJECTS, 0, drawn).astype(np.uint32)
        known: Any = corrections.about(scene.store.objects, files).get("objects") or {}
        return objects_of(ids, _kinds(ids, known, labels))
    ids = np.zeros(labels.shape, np.uint32)
    if scene.instances is not None:
        rows, cols = (slice(0, n) for n in labels.shape)
        ids = np.where(object_, scene.read(INSTANCES, frame, rows, cols), 0).astype(np.uint32)
    fresh = np.where(object_ & (ids == 0), labels, scene.void).astype(labels.dtype)
    more = np.asarray(components(fresh, without), np.uint32)
    ids = np.where(more > 0, more + ids.max(initial=0), ids).astype(np.uint32)
    return objects_of(ids, labels)


def _kinds(ids: NDArray[np.uint32], known: dict[str, int], labels: Labels) -> NDArray[Any]:
    """(y, x) the class of each pixel's object, as the correction says it."""
    table = np.zeros(int(ids.max(initial=0)) + 1, labels.dtype)
    for text, label in known.items():
        if text.isdecimal() and int(text) < len(table):
            table[int(text)] = label
    return table[ids]
