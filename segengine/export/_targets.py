"""Where an export puts each frame: one file a frame, named after it.

`sub/photo.jpg` becomes `sub/photo.png`, frame 12 of `clip.avi` becomes `clip/000012.png`. Where
two would meet, the second keeps its suffix (`photo.tif.png`); a name that is not safe in a path,
or that still meets another's, gets an 8-hex hash.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import xxhash

from segengine.reader import SceneStore, Store
from segengine.store.layouts import Layout

_UNSAFE = re.compile(r'[\x00-\x1f\x7f\\/:*?"<>|\ud800-\udfff]')
_LONGEST = 120
"""Characters of a path's part; file systems allow 255 bytes."""


@dataclass(frozen=True, slots=True)
class Target:
    """A frame and the file it goes to."""

    scene: SceneStore
    frame: int
    path: Path


def targets(store: Store, to: str, suffix: str) -> Iterator[Target]:
    """Every frame of a store with its file below `to`.

    A frame that has vanished is exported too, unless a frame of the same name stands elsewhere.
    """
    taken = _Taken()
    later: list[Target] = []
    live: set[str] = set()
    folder = Path(to)
    for scene in store.scenes.values():
        layout = scene.layout
        for frame in range(layout.shape[0]):
            wanted = _wanted(layout, frame)
            if not wanted:  # pruned
                continue
            if bool(layout.gone[frame if layout.stacked else 0]):
                later.append(Target(scene, frame, Path(wanted)))
                continue
            live.add(wanted)
            yield Target(scene, frame, folder / taken.take(wanted, suffix))
    for gone in later:
        wanted = gone.path.as_posix()
        if wanted not in live:
            yield Target(gone.scene, gone.frame, folder / taken.take(wanted, suffix))


def _wanted(layout: Layout, frame: int) -> str:
    """The frame's file, with its own suffix, before anything is made safe."""
    name = layout.names[frame if layout.stacked else 0]
    if layout.stacked or layout.shape[0] == 1:
        return name
    number = frame if layout.positions is None else int(layout.positions[frame])
    path = PurePosixPath(name)
    # the suffix stays, so that a number with dots in it loses nothing
    return f"{path.with_suffix('')}/{number:06d}{path.suffix or '.frame'}"


class _Taken:
    """Files given out so far; compared without case, as some file systems do."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.folders: set[str] = set()

    def take(self, wanted: str, suffix: str) -> str:
        """A safe and free path for the frame: without its own suffix, with it, or with a hash."""
        safe = ("/".join(map(_safe_part, parts)) + suffix for parts in _candidates(wanted))
        found = next(path for path in safe if self._is_free(path))
        folded = found.casefold()
        self.files.add(folded)
        self.folders.update(str(p) for p in PurePosixPath(folded).parents)
        return found

    def _is_free(self, path: str) -> bool:
        folded = path.casefold()
        parents = {str(p) for p in PurePosixPath(folded).parents}
        return not (folded in self.files or folded in self.folders or parents & self.files)


def _candidates(wanted: str) -> Iterator[tuple[str, ...]]:
    """Parts of a frame's path without end, the nicest first; the first part of some is always new."""
    *folders, last = [part for part in wanted.split("/") if part] or ["frame"]
    yield (*folders, PurePosixPath(last).stem or last)
    yield (*folders, last)
    digest = xxhash.xxh32_hexdigest(wanted.encode("utf-8", "surrogateescape"))
    for number in itertools.count(1):
        tail = digest if number == 1 else f"{digest}.{number}"
        yield (*folders, f"{last}-{tail}")
        if folders:  # a folder of that name is a file already
            yield (f"{folders[0]}-{tail}", *folders[1:], last)


def _safe_part(part: str) -> str:
    """One part of a path that every file system takes, and that leads nowhere else.

    >>> _safe_part("a b"), _safe_part("..")
    ('a b', '_-f30f81b0')
    """
    safe = _UNSAFE.sub("_", part).rstrip(". ")
    if safe == part and len(safe) <= _LONGEST:
        return safe
    digest = xxhash.xxh32_hexdigest(part.encode("utf-8", "surrogateescape"))
    return f"{safe[:_LONGEST] or '_'}-{digest}"
