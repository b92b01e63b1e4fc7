"""Which program an annotation file is of, and which of its pictures is a frame's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol

from segengine.datasets.annotations import coco, cvat, labelme, labelstudio, qupath
from segengine.datasets.annotations.drawn import Drawn
from segengine.datasets.annotations.pictures import Picture, items, object_of, whole
from segengine.errors import SegengineError
from segengine.sources._files import open_input


class Format(Protocol):
    """A program's files."""

    def pictures(self, uri: str) -> Iterator[Picture]:
        """Every picture of a file. Raises SegengineError where it is damaged."""
        ...

    def objects(self, uri: str, picture: Picture, size: tuple[int, int]) -> Iterator[Drawn]:
        """The objects of one. Raises ValueError with what is wrong."""
        ...


FORMATS: dict[str, Format] = {
    "coco": coco,
    "cvat": cvat,
    "label-studio": labelstudio,
    "labelme": labelme,
    "qupath": qupath,
}
_SECTIONS = {"shapes": "labelme", "features": "qupath", **dict.fromkeys(coco.SECTIONS, "coco")}
_KNOWN = "known are JSON of COCO, Label Studio and labelme, CVAT's XML and QuPath's GeoJSON"


@lru_cache(maxsize=256)
def format_of(uri: str, mark: str) -> str:
    """The name of a file's format; `mark`: its fingerprint.

    Raises SegengineError where it is none that is known, or cannot be read.
    """
    try:
        with open_input(uri) as file:
            begins = file.read(1 << 12).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if begins == b"<":
            return "cvat"
        if begins == b"[":
            first = next(items(uri, ()), None)
            feature = first is not None and object_of(first.text).get("type") == "Feature"
            return "qupath" if feature else "label-studio"
        if begins == b"{":
            found = next(items(uri, tuple(_SECTIONS)), None)
            keys = object_of(whole(uri)) if found is None else (found.section,)
            return next(_SECTIONS[key] for key in keys if key in _SECTIONS)
    except (ValueError, OSError) as error:
        raise SegengineError(str(error) if uri in str(error) else f"{uri}: {error}") from error
    except StopIteration:
        pass
    raise SegengineError(f"{uri}: is no annotation file; {_KNOWN}")


class Pictures:
    """The pictures of a file, by the names of frames."""

    def __init__(self, uri: str, found: Sequence[Picture]) -> None:
        self.uri, self._all = uri, found
        self._by_name: dict[str, list[Picture]] = {}
        self._by_last: dict[str, list[Picture]] = {}
        for picture in found:
            self._by_name.setdefault(picture.name, []).append(picture)
            self._by_last.setdefault(picture.name.rpartition("/")[2], []).append(picture)

    def of(self, name: str, alone: bool) -> Picture | str:
        """That of a frame: of its name, or of the end of its path; else why there is none.

        alone: the file is this frame's own.
        """
        if alone and len(self._all) == 1:
            return self._all[0]
        last = self._by_last.get(name.rpartition("/")[2], ())
        near = self._by_name.get(name) or [each for each in last if _same(each, name)]
        if len(near) == 1:
            return near[0]
        if near:
            both = " and ".join(each.name for each in near[:2])
            return f"{self.uri}: {name} may be {both}"
        if len(self._all) == 1 and not self._all[0].name:
            return f"{self.uri}: is of one picture; write a field as {{stem}} in truth.paths"
        return f"{self.uri}: {name}"


def _same(picture: Picture, name: str) -> bool:
    """Whether one path is the end of the other."""
    return f"/{picture.name}".endswith(f"/{name}") or f"/{name}".endswith(f"/{picture.name}")


@lru_cache(maxsize=4)
def pictures_in(uri: str, mark: str) -> tuple[str, Pictures]:
    """The format of a file, and its pictures. Raises SegengineError."""
    name = format_of(uri, mark)
    return name, Pictures(uri, tuple(FORMATS[name].pictures(uri)))
