"""Truth that people have drawn: files of annotation programs beside the images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from segengine.datasets.annotations.drawn import Painted, painted
from segengine.datasets.annotations.formats import FORMATS, pictures_in
from segengine.datasets.annotations.pictures import Picture
from segengine.errors import (
    CorruptInputError,
    MissingTruthError,
    SegengineError,
    TransientInputError,
)
from segengine.job import TruthSpec
from segengine.measuring.counted import scored
from segengine.measuring.paths import candidates, stat
from segengine.types import Bool, FrameRef, Truth, TruthRef

_AND = "\0"
"""Between a file, the format, the place and the digest of a picture in it; no path holds it."""
LARGEST = 1 << 28
"""Pixels of a frame whose objects are read."""
_OWN = re.compile(r"\{(frame|index|name|stem|path)\}")
_OF_VIDEO = re.compile(r"\{(frame|index)\}")


@dataclass(frozen=True, slots=True)
class AnnotationFiles:
    """A job's `truth` block whose paths are annotation files: one a frame, or one for many."""

    spec: TruthSpec

    @property
    def classes(self) -> tuple[str, ...] | None:
        """As the block says."""
        return None if self.spec.classes is None else tuple(self.spec.classes)

    @property
    def gives(self) -> frozenset[str]:
        """All: what is drawn are objects."""
        return frozenset(("truth", "truth_instances", "truth_objects"))

    def find(self, refs: Sequence[tuple[str, FrameRef]]) -> list[TruthRef]:
        """The picture of each frame in the first of its files that exists.

        A file for many frames is read once. Raises SegengineError where it is damaged.
        """
        marks: dict[str, str | None] = {}
        return [self._find(scene, ref, marks) for scene, ref in refs]

    def _find(self, scene: str, ref: FrameRef, marks: dict[str, str | None]) -> TruthRef:
        paths = candidates(self.spec, ref, scene)
        for template, path in zip(self.spec.paths, paths, strict=True):
            if path not in marks:
                marks[path] = stat(path)
            mark = marks[path]
            if mark is None:
                continue
            if _is_own(template, ref):
                return TruthRef(path, mark, "")
            kind, pictures = pictures_in(path, mark)
            found = pictures.of(ref.name, alone=False)
            if isinstance(found, str):
                return TruthRef("", "", found)
            uri = _AND.join((path, kind, found.place, found.mark))
            return TruthRef(uri, found.mark or mark, "")
        return TruthRef("", "", " or ".join(paths))

    def load(
        self,
        ref: FrameRef,
        truth: TruthRef,
        rows: slice,
        cols: slice,
        inside: Bool | None = None,
    ) -> Truth:
        """Labels and instances of a window, (1, y, x), and the objects of the whole frame."""
        if not truth.uri:
            raise MissingTruthError(f"no truth at {truth.looked}")
        if self.spec.classes is None:
            raise MissingTruthError(f"{truth.uri}: truth.classes must list the classes to score")
        size = ref.height, ref.width
        whole = _whole(tuple(self.spec.classes), truth, ref.name, size)
        return scored(whole.window(rows, cols, inside), inside)


def _is_own(template: str, ref: FrameRef) -> bool:
    """Whether a path names a file for each frame."""
    many = ref.name.rpartition("#")[2].isdigit() and "#" in ref.name
    return (_OF_VIDEO if many else _OWN).search(template) is not None


@lru_cache(maxsize=2)
def _whole(classes: tuple[str, ...], truth: TruthRef, name: str, size: tuple[int, int]) -> Painted:
    """A frame that is cut in windows is read once."""
    uri, *where = truth.uri.split(_AND)
    if size[0] * size[1] > LARGEST:
        raise MissingTruthError(f"{uri}: objects of more than {LARGEST:,} pixels are not read")
    try:
        if where:
            kind, place, mark = where
            picture = Picture("", place, mark)
        else:
            kind, pictures = pictures_in(uri, truth.fingerprint)
            found = pictures.of(name, alone=True)
            if isinstance(found, str):
                raise MissingTruthError(f"no truth at {found}")
            picture = found
        drawn = list(FORMATS[kind].objects(uri, picture, size))
    except MissingTruthError:
        raise
    except SegengineError as error:
        raise MissingTruthError(str(error)) from error
    except (ValueError, CorruptInputError, TransientInputError) as error:
        raise MissingTruthError(f"{uri}: {error}") from error
    except (KeyError, TypeError, AttributeError, OverflowError, IndexError) as error:
        raise MissingTruthError(f"{uri}: is damaged: {error}") from error
    return painted(drawn, classes, size)
