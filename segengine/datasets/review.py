"""Frames of a store that were put right by hand, with their masks as truth: to train on, or to run.


    STORE/review/<scene>/<frame>.png     label values, void where nobody touched them

The pictures are read as the store's own job reads them: photos, frames of a video, bands of a raster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from segengine import corrections
from segengine.asked import palette
from segengine.errors import (
    CorruptInputError,
    JobError,
    MissingTruthError,
    StoreError,
    TransientInputError,
)
from segengine.reader import SceneStore, Store, open_store
from segengine.sources.listing import Listing
from segengine.store.keys import MASK
from segengine.types import (
    Color,
    Entry,
    FrameRef,
    Labels,
    Probe,
    Source,
    Tile,
    Truth,
    TruthRef,
    Unreadable,
)

Untouched = Literal["mask", "void"]


@dataclass(frozen=True, slots=True)
class ReviewSource:
    """Frames with a correction; `untouched`: pixels that nobody touched are the mask's, or void."""

    paths: tuple[str, ...] = ()
    """Stores, of one list of classes."""
    untouched: Untouched = "mask"
    """What is true where nobody touched the mask: `mask`, for who looked at it let it be; or `void`."""
    trust: bool = False
    """Code that a store's job names may be used."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(self.paths))
        if self.untouched not in ("mask", "void"):
            raise ValueError(f"untouched: {self.untouched!r} is neither mask nor void")

    def list(self, paths: Sequence[str]) -> Listing:
        """The corrected frames of the stores, by name. Raises ValueError where there is none."""
        entries: dict[str, Entry] = {}
        for path in paths:
            store = _opened(path, self.trust)
            for scene, frame in _corrected(store):
                ref = store[scene].layout.frame(frame)
                uri = f"{store.path}/{corrections.files_of(scene, frame).labels}"
                entry = Entry(name=ref.name, uri=uri, fingerprint=ref.fingerprint)
                if entries.setdefault(ref.name, entry).uri != uri:
                    raise ValueError(
                        f"source.paths: {entries[ref.name].uri} and {uri} are both of a frame "
                        f"{ref.name}; name one store"
                    )
        if not entries:
            raise ValueError(
                f"source.paths: no frame of {', '.join(paths)} was corrected; "
                f"do that with: segengine review {paths[0]}"
            )
        names = sorted(entries, key=lambda name: name.encode("utf-8", "surrogateescape"))
        return Listing(tuple(entries[name] for name in names), (), "review")

    def mark(self, ref: FrameRef) -> str:
        """The fingerprint that the frame's picture has in the store now."""
        scene, frame = self._scene(ref)
        return scene.layout.frame(frame).fingerprint

    def probe(self, entry: Entry) -> Probe:
        """From the layout of the store. Raises CorruptInputError for a frame that is no more there."""
        scene, frame = self._scene(entry)
        layout, ref = scene.layout, scene.layout.frame(frame)
        return Probe(
            kind="review",
            height=ref.height,
            width=ref.width,
            bands=layout.bands,
            dtype=layout.dtype,
            stacked=True,
            windowed=layout.windowed,
        )

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """As the store's own job reads them."""
        for ref in frames:
            try:
                scene, frame = self._scene(ref)
                yield scene.pixels(frame, rows, cols)
            except CorruptInputError as error:
                yield Unreadable("corrupt", str(error))
            except (TransientInputError, StoreError, OSError) as error:
                yield Unreadable("error", str(error))

    @property
    def truth_classes(self) -> tuple[str, ...]:
        """Those of the stores. Raises ValueError where they differ."""
        found = {path: _opened(path, self.trust).classes for path in self.paths}
        if len(set(found.values())) > 1:
            raise ValueError(f"paths: {' and '.join(found)} have other classes each")
        return next(iter(found.values()), ())

    @property
    def truth_colors(self) -> tuple[Color, ...]:
        """Those of the first store."""
        for path in self.paths:
            return tuple((r, g, b) for r, g, b in _opened(path, self.trust).attributes["colors"])
        return palette(0)

    def find_truth(self, refs: Sequence[FrameRef]) -> Sequence[TruthRef]:
        """Each frame's correction, by its digest."""
        return [self._truth(ref) for ref in refs]

    def _truth(self, ref: FrameRef) -> TruthRef:
        objects = _opened(_split(ref.uri)[0], self.trust).objects
        return TruthRef(
            ref.uri, corrections.mark(objects, corrections.files_of(*_place(ref.uri))), ""
        )

    def load_truth(self, ref: FrameRef, truth: TruthRef, rows: slice, cols: slice) -> Truth:
        """The corrected labels (1, y, x) of a window. Raises MissingTruthError."""
        if not truth.uri:
            raise MissingTruthError(f"no truth at {truth.looked}")
        found = _drawn(self, ref.uri, (ref.height, ref.width), truth.fingerprint)
        return Truth(found[None, rows, cols])

    def _scene(self, ref: Entry | FrameRef) -> tuple[SceneStore, int]:
        """Where a frame lies. Raises CorruptInputError where it does no more."""
        path, key = _split(ref.uri)
        scene, frame = _place(ref.uri)
        store = _opened(path, self.trust)
        files = corrections.files_of(scene, frame)
        if not any(store.objects.exists(each) for each in (key, str(files.objects))):
            raise CorruptInputError(
                f"{ref.name}: {ref.uri} is not there: nobody corrects it any more"
            )
        if scene not in store.scenes or frame >= store[scene].layout.shape[0]:
            raise CorruptInputError(f"{ref.name}: is not in {path} any more")
        return store[scene], frame


_: type[Source] = ReviewSource


@lru_cache(maxsize=8)
def _opened(path: str, trust: bool) -> Store:
    try:
        return open_store(path, trust)
    except JobError as error:
        raise ValueError(f"paths: {error}") from error


def _corrected(store: Store) -> Iterator[tuple[str, int]]:
    """(scene, frame) of what was corrected and is there."""
    for scene in corrections.scenes_corrected(store.objects):
        if scene not in store.scenes:
            continue
        layout = store[scene].layout
        for frame in corrections.corrected(store.objects, scene):
            if frame < layout.shape[0] and not layout.frame(frame).gone:
                yield scene, frame


def _split(uri: str) -> tuple[str, str]:
    """The store of a correction, and its key there.

    >>> _split("/a/masks.zarr/review/s/3.png")
    ('/a/masks.zarr', 'review/s/3.png')
    """
    *parts, folder, scene, name = uri.split("/")
    return "/".join(parts), f"{folder}/{scene}/{name}"


def _place(uri: str) -> tuple[str, int]:
    """Scene and frame of a correction, by its path. Raises CorruptInputError."""
    scene, _, name = _split(uri)[1].partition("/")[2].partition("/")
    stem = name.removesuffix(".png")
    if not stem.isdecimal():
        raise CorruptInputError(f"{uri}: is no correction of a frame")
    return scene, int(stem)


@lru_cache(maxsize=2)
def _drawn(source: ReviewSource, uri: str, size: tuple[int, int], mark: str) -> Labels:
    """A frame that is cut in windows is read once; `mark` tells it from what was there before."""
    del mark
    path, key = _split(uri)
    scene, frame = _place(uri)
    store = _opened(path, source.trust)
    void = 0xFF if len(store.classes) <= 0xFF else 0xFFFF
    dtype = np.dtype(np.uint8 if void == 0xFF else np.uint16)
    found, _ = corrections.read(
        store.objects, corrections.files_of(scene, frame), key, size, len(store.classes)
    )
    drawn: Any = np.full(size, void, dtype) if found is None else found.astype(dtype)
    if source.untouched == "mask":
        mask = store[scene].read(MASK, frame, slice(0, size[0]), slice(0, size[1]))
        mask = np.where(mask == np.iinfo(mask.dtype).max, void, mask).astype(dtype)
        drawn = np.where(drawn == void, mask, drawn)
    return np.ascontiguousarray(drawn)
