"""Video, one file a scene: the masks over the pictures, or classes blurred beyond recovery

A file has the frames and the time stamps of its source, and its container where that can hold them;
pictures are upright. With `redact` the named classes are blurred in the pictures and no mask is
drawn; so is what has no label (void), for nobody knows what it shows. A frame that cannot be decoded
is grey stripes. Of a video of which every n-th frame was kept, a mask stays until the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine import registry
from segengine.errors import (
    CorruptInputError,
    JobError,
    SegengineError,
    StoreError,
    TransientInputError,
)
from segengine.export._encoding import Timing, aspect_of, container_of, encoding, timing_of
from segengine.export._instances import by_scene
from segengine.export._redaction import redact as blur
from segengine.instances.rle import decode_crop
from segengine.outputs import claimed
from segengine.pictures import draw
from segengine.reader import SceneStore, Store, open_store
from segengine.sources._video import Decoder, open_video
from segengine.sources.listing import mark_of
from segengine.store.keys import MASK
from segengine.types import Bool, Entry, FrameRef, Tile

_KIND = "video"
_PIXELS = 1 << 26
"""Labels read at a time."""


def export(
    store_path: str, to: str, *, redact: str | Sequence[str] = (), overwrite: bool = False
) -> list[str]:
    """Write `<scene>.<container>` below the folder `to` for each scene of a video; the files written.

    `redact`: classes to be blurred, a list or joined by commas; none: the masks are drawn. `overwrite`:
    also files that no export wrote. Raises JobError for a class that the store does not have, and where
    there is no video; SegengineError where some could not be read now, after the others; StoreError.
    """
    store = open_store(store_path)
    blurred = _labels(store, redact)
    every = int(store.job["source"].get("every") or 1)
    if blurred and every > 1:
        raise JobError(
            f"--redact: source.every is {every}, and the frames between have no mask; run with every: 1"
        )
    clips, left = [], []
    for scene in store.scenes.values():
        if scene.layout.kind == _KIND:
            try:
                clips.append(_clip(scene, every))
            except (CorruptInputError, TransientInputError) as error:
                left.append(f"{scene.layout.names[0]}: {error}")
    if not clips:
        none = f"{store.path}: has no video; --to png writes the masks of images"
        raise JobError(left[0] if left else none)
    paths = [Path(to, f"{clip.scene.name}{clip.suffix}") for clip in clips]
    output = claimed(store, to, paths, overwrite=overwrite)
    for clip, path in zip(clips, paths, strict=True):
        with (
            output.replacing(path) as partial,
            encoding(partial, clip.suffix, clip.size, clip.aspect, clip.timing) as encoder,
        ):
            pictures = _redacted(store, clip, blurred) if blurred else _overlaid(store, clip)
            for picture in pictures:
                encoder.write(picture)
    output.close()
    if left:
        raise SegengineError(f"{len(paths)} written, and {len(left)} left out: {'; '.join(left)}")
    return [str(path) for path in paths]


def _labels(store: Store, redact: str | Sequence[str]) -> tuple[int, ...]:
    """The labels of the classes to be blurred. Raises JobError for one that is unknown."""
    names = redact.split(",") if isinstance(redact, str) else list(redact)
    names = [name.strip() for name in names]
    if redact and not any(names):
        raise JobError("--redact: names no class")
    for name in names:
        if name not in store.classes:
            known = ", ".join(store.classes)
            raise JobError(f"--redact: {name!r} is no class of {store.path}; there are {known}")
    return tuple(store.classes.index(name) for name in names)


@dataclass(frozen=True, slots=True)
class _Clip:
    """A scene of a video, with all frames of its source."""

    scene: SceneStore
    frames: tuple[FrameRef, ...]
    every: int
    timing: Timing
    aspect: Fraction
    suffix: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        return self.frames[0].height, self.frames[0].width

    def pictures(self) -> Iterator[NDArray[np.uint8] | None]:
        """(y, x, 3) of each frame; None: it cannot be decoded."""
        height, width = self.size
        source = registry.reader(_KIND, {})
        for item in source.read(self.frames, slice(0, height), slice(0, width)):
            yield draw.to_rgb(item.pixels) if isinstance(item, Tile) else None

    def labels(self) -> Iterator[NDArray[Any]]:
        """(y, x) of each frame."""
        (height, width), scene = self.size, self.scene
        count = max(1, min(scene.layout.shard[0], _PIXELS // (height * width)))
        for first in range(0, scene.layout.shape[0], count):
            last = min(first + count, scene.layout.shape[0])
            block = scene.read(MASK, slice(first, last), slice(0, height), slice(0, width))
            yield from (labels for labels in block for _ in range(self.every))


def _clip(scene: SceneStore, every: int) -> _Clip:
    """Raises CorruptInputError, TransientInputError where its source is not there, or another."""
    layout, ref, name = scene.layout, scene.layout.frame(0), scene.layout.names[0]
    if ref.gone or mark_of(ref.uri) != ref.fingerprint:
        raise TransientInputError("is not the video that was segmented; run the job again")
    frames, times = layout.frames(), layout.times
    if every > 1:
        probe = registry.reader(_KIND, {}).probe(Entry(name, ref.uri, ref.fingerprint))
        frames, times = tuple(_refs(ref, name, probe)), probe.times
    assert times is not None  # a video's are known
    with open_video(ref.uri) as video, video.listener:
        first = next(Decoder(video).frames(), None)
        stream = video.stream
        unit = Fraction(stream.time_base)
        rate = Fraction(stream.average_rate or stream.base_rate or 25)
        start = 0 if first is None or first.pts is None else max(0, first.pts)
        turned = first is not None and first.frame.rotation % 180 != 0
        aspect = aspect_of(stream.sample_aspect_ratio, turned)
    timing = timing_of(times.tolist(), start, unit, rate)
    if any(b <= a for a, b in itertools.pairwise(timing.stamps)):
        raise CorruptInputError("its time stamps repeat, which no container here can hold")
    return _Clip(
        scene=scene,
        frames=frames,
        every=every,
        timing=timing,
        aspect=aspect,
        suffix=container_of(name, timing),
    )


def _refs(first: FrameRef, name: str, probe: Any) -> Iterator[FrameRef]:
    """All frames of a video, of which a store has some."""
    for i, position in enumerate(probe.positions.tolist()):
        seek = None if probe.seeks is None else (int(probe.seeks[i, 0]), int(probe.seeks[i, 1]))
        yield replace(first, index=i, name=f"{name}#{position}", position=position, seek=seek)


def _overlaid(store: Store, clip: _Clip) -> Iterator[NDArray[np.uint8]]:
    clear = [i for i, name in enumerate(store.classes) if name in draw.CLEAR]
    for number, (picture, labels) in enumerate(zip(clip.pictures(), clip.labels(), strict=False)):
        if picture is None:
            yield draw.stripes(*clip.size)
        else:
            colors = clip.scene.colors(number // clip.every)
            yield draw.overlay(picture, labels, colors, clear=clear)


def _redacted(store: Store, clip: _Clip, blurred: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    hidden = _hidden(store, clip.scene, blurred)
    void = clip.scene.void
    for picture, labels, more in zip(clip.pictures(), clip.labels(), hidden, strict=False):
        if picture is None:
            yield draw.stripes(*clip.size)
        else:
            region = np.isin(labels, [*blurred, void])
            for mask, (y, x) in more:
                region[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
            blur(picture, region)
            yield picture


def _hidden(
    store: Store, scene: SceneStore, blurred: tuple[int, ...]
) -> Iterator[list[tuple[Bool, tuple[int, int]]]]:
    """Masks of each frame's objects of some classes, with their corners: where objects overlap, the
    frame's labels show one of them only."""
    frames, height = scene.layout.shape[0], scene.layout.frame(0).height
    rows: Iterator[dict[str, Any]] = iter(())
    if scene.instances is not None:
        own = (pieces for name, pieces in by_scene(store) if name == scene.name)
        rows = (row for pieces in own for piece in pieces for row in piece.rows)
    row = next(rows, None)
    for frame in range(frames):
        found = []
        while row is not None and row["frame"] == frame:
            if row["class"] in blurred:
                found.append(decode_crop(row["rle"], height))
            row = next(rows, None)
        yield found
    if row is not None:
        raise StoreError(f"{store.path}: rows of instances are not in the order of their frames")
