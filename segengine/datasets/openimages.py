"""Open Images V6: instance masks of 350 classes, boxes of 600, labels of whole pictures.

Home: https://storage.googleapis.com/openimages/web/index.html
Licence: annotations CC BY 4.0; pictures are listed as CC BY 2.0

    <split>/000026e7ee790996.jpg                        or images/<split>/; train, validation, test
    <split>-annotations-object-segmentation.csv         MaskPath, ImageID, LabelName, BoxID, BoxXMin ...
    masks/<split>/, <split>-masks/ or masks/            the PNGs of MaskPath, flat or by first character
    <split>-annotations-bbox.csv                        ImageID, LabelName, XMin ... IsGroupOf (optional)
    <split>-annotations-human-imagelabels.csv           ImageID, LabelName, Confidence (optional)
    class-descriptions-boxable.csv                      MID, name
    classes-segmentation.txt                            MIDs that have masks (optional)

CSV files lie in the root, `annotations` or `metadata`, under their name or with `oidv6-` before it.
A part of the set is as good as all of it: rows of pictures that are not there are passed over. Only
what was verified is annotated, so what lies in no mask is void. Masks have a size of their own and
are scaled to the picture's, each pixel taking the value at its centre. A box around a group is an
object with `crowd`, its outline the box. Where masks overlap, labels and instances hold the smaller.

Source: https://storage.googleapis.com/openimages/web/download_v6.html, "Data Formats".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine.datasets._csv import find_rows, read_rows, read_table
from segengine.datasets._dataset import (
    DataSet,
    Item,
    TruthRefs,
    by_root,
    exists,
    fingerprint,
    objects_of_rows,
    pictures,
    truth_of,
)
from segengine.datasets._labels import nearest, read_png, read_text, scored, void_type
from segengine.datasets._spans import Span, digest
from segengine.errors import MissingTruthError
from segengine.types import Color, FrameRef, Source, Truth, TruthRef

_SPLITS = ("train", "validation", "test")
_MASKS = "annotations-object-segmentation.csv"
_BOXES = "annotations-bbox.csv"
_LABELS = "annotations-human-imagelabels.csv"
_COLUMNS = {
    _MASKS: ("ImageID", "LabelName", "MaskPath", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"),
    _BOXES: ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"),
    _LABELS: ("ImageID", "LabelName", "Confidence"),
}
_NAMES = ("class-descriptions-boxable.csv", "class-descriptions.csv")
_SEGMENTED = "classes-segmentation.txt"
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""


@dataclass(frozen=True, slots=True)
class OpenImagesSource(DataSet):
    """Pictures and truth of Open Images; `split`: train, validation or test."""

    title: ClassVar[str] = "Open Images"
    marks: ClassVar[tuple[str, ...]] = (*_SPLITS, "images")

    def __post_init__(self) -> None:
        DataSet.__post_init__(self)
        if self.split not in (None, *_SPLITS):
            raise ValueError(f"split: is {self.split!r}; it must be one of {', '.join(_SPLITS)}")

    def image_labels(self, refs: Sequence[FrameRef]) -> list[dict[str, float]]:
        """Of each frame, the names of its picture's labels and their confidence.

        1 is verified to be there, 0 verified not to be. A file is read once for all frames.
        """

        def of(root: str, refs: Sequence[FrameRef]) -> list[dict[str, float]]:
            return [
                {row["LabelName"]: float(row["Confidence"]) for row in rows}
                for rows in self._named_rows(root, refs, _LABELS)
            ]

        return by_root(refs, of)

    def boxes(self, refs: Sequence[FrameRef]) -> list[list[tuple[str, Box]]]:
        """Of each frame, its boxes and the names of their classes, with or without a mask."""

        def of(root: str, refs: Sequence[FrameRef]) -> list[list[tuple[str, Box]]]:
            found = self._named_rows(root, refs, _BOXES)
            return [
                [(row["LabelName"], _box(row, "", (ref.height, ref.width))) for row in rows]
                for ref, rows in zip(refs, found, strict=True)
            ]

        return by_root(refs, of)

    def _named_rows(
        self, root: str, refs: Sequence[FrameRef], kind: str
    ) -> Iterator[list[dict[str, str]]]:
        """The rows of each frame in a file of a kind, with names for MIDs."""
        names, _ = vocabulary(root)
        for located in self._locate(root, refs, kind):
            rows = _read(located)
            yield [{**r, "LabelName": names.get(r["LabelName"], r["LabelName"])} for r in rows]

    def _folders(self, root: str) -> dict[str, str]:
        """Where below the root the pictures of each split lie."""
        found = {}
        for split in _SPLITS if self.split is None else (self.split,):
            places = (split, f"images/{split}", *(("images",) if self.split else ()))
            folder = next((place for place in places if exists(f"{root}/{place}")), None)
            if folder is not None:
                found[split] = folder
        return found

    def _pictures(self, root: str) -> Iterator[Item]:
        folders = self._folders(root)
        if not folders:
            raise ValueError(f"split: {root} has no folder of it; name the split there is")
        for folder in folders.values():
            yield from pictures(root, folder)

    def _catalog(self) -> Sequence[tuple[str, Color | None]]:
        if not self.paths:
            raise ValueError("paths: the classes are told by the set's own files; name it")
        _, names = vocabulary(self._root(self.paths[0]))
        return [(name, None) for name in names]

    def _locate(
        self, root: str, refs: Sequence[FrameRef], kind: str, only: tuple[str, str] | None = None
    ) -> list[Located]:
        """Where the rows of each frame lie in its split's file of a kind."""
        found = [Located("", ())] * len(refs)
        for split, folder in self._folders(root).items():
            own = [i for i, ref in enumerate(refs) if ref.name.startswith(f"{folder}/")]
            path = _metadata(root, f"{split}-{kind}")
            if path and own:
                rows = find_rows(path, _COLUMNS[kind], [_id(refs[i]) for i in own], only)
                for i, (place, spans) in zip(own, rows, strict=True):
                    found[i] = Located(place, tuple(spans))
        return found

    def _find(self, root: str, refs: Sequence[FrameRef]) -> TruthRefs:
        masks = self._locate(root, refs, _MASKS)
        groups = self._locate(root, refs, _BOXES, ("IsGroupOf", "1"))
        named = repr(vocabulary(root))
        found = []
        for ref, own, group in zip(refs, masks, groups, strict=True):
            if not own.spans:
                file = own.uri.rpartition("#")[0] or f"{root}/<split>-{_MASKS}"
                found.append(TruthRef("", "", f"{file}: {_id(ref)}"))
                continue
            paths = [_mask_file(root, row["MaskPath"]) for row in _read(own)]
            marks = [fingerprint(path) for path in paths]
            lost = next((p for p, mark in zip(paths, marks, strict=True) if not mark), None)
            if lost is not None:
                found.append(TruthRef("", "", lost))
                continue
            parts = digest(*own.spans), digest(*group.spans), *marks, named
            mark = xxhash.xxh3_64_hexdigest(repr(parts).encode("utf-8", "surrogateescape"))
            found.append(TruthRef(f"{own.uri}\n{group.uri if group.spans else ''}", mark, ""))
        return found

    def decode(self, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
        """Labels and objects from the masks of a picture and its boxes around groups."""
        from segengine.instances.rle import encode_rle

        names, classes = vocabulary(root)
        chosen = self._chosen(classes)
        table = dict(zip(classes, scored(classes, chosen).tolist(), strict=True))
        dtype = void_type(len(chosen))
        void = int(np.iinfo(dtype).max)
        places = truth.uri.split("\n")
        rows = []
        for crowd, place in enumerate(places):
            file = place.rpartition("#")[0]
            for row in read_rows(place) if place else ():
                what = row.get("MaskPath") or f"{row.get('ImageID')} {row.get('LabelName')}"
                mid = row.get("LabelName", "")
                if mid not in names:
                    raise MissingTruthError(f"{file}: {what}: its label {mid!r} is no class")
                try:
                    box = _box(row, "" if crowd else "Box", size)
                except (KeyError, ValueError) as error:
                    raise MissingTruthError(f"{file}: {what}: no box: {error}") from error
                name = names[mid]
                mask = (
                    _filled(box, size) if crowd else _mask(_mask_file(root, row["MaskPath"]), size)
                )
                label = table.get(name, void)
                if mask.any() and label != void:
                    rows.append((bool(crowd), int(mask.sum()), label, box, mask))
        labels = np.full(size, void, dtype)
        instances = np.zeros(size, np.uint32)
        # Groups first, then the greatest, so that the smaller stay.
        numbered = list(enumerate(rows, 1))
        for number, (crowd, _, label, _, mask) in sorted(
            numbered, key=lambda r: (not r[1][0], -r[1][1])
        ):
            instances[mask] = number
            if not crowd:
                labels[mask] = label
        objects = objects_of_rows(
            (number, label, box, area, encode_rle(mask, (0, 0), size), crowd)
            for number, (crowd, area, label, box, mask) in numbered
        )
        return truth_of(labels, instances, objects)


_: type[Source] = OpenImagesSource


class Located(NamedTuple):
    """Where the rows of a picture lie in a CSV file."""

    uri: str
    spans: tuple[Span, ...]


def vocabulary(root: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Name of each MID, and the names of the classes: of those with masks, where that is told.

    Raises MissingTruthError where no file tells.
    """
    path = next(filter(None, (_metadata(root, name) for name in _NAMES)), None)
    if path is None:
        raise MissingTruthError(f"{root}/{_NAMES[0]}: no such file")
    rows = read_table(read_text(path))
    names = {row[0]: row[1] for row in rows if len(row) > 1 and row[0].startswith("/")}
    segmented = _metadata(root, _SEGMENTED)
    mids = list(names) if segmented is None else read_text(segmented).split()
    return names, tuple(dict.fromkeys(names[mid] for mid in mids if mid in names))


def _metadata(root: str, name: str) -> str | None:
    """A file of the set, wherever it was put."""
    places = [
        f"{root}/{folder}{version}{name}"
        for folder in ("", "annotations/", "metadata/")
        for version in ("", "oidv6-", "oidv7-")
    ]
    return next((place for place in places if exists(place)), None)


def _mask_file(root: str, name: str) -> str:
    """A mask, wherever it was put; where it is not, the first place it could be."""
    split_masks = [f"masks/{s}" for s in _SPLITS] + [f"{s}-masks" for s in _SPLITS]
    places = [
        f"{root}/{folder}/{below}{name}"
        for folder in ("masks", *split_masks)
        for below in ("", f"{name[:1]}/", f"{name[:1].upper()}/")
    ]
    return next((place for place in places if exists(place)), places[0])


def _mask(path: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    pixels = read_png(path)
    return nearest((pixels.max(axis=2) if pixels.ndim == 3 else pixels) > 0, size)


def _box(row: Mapping[str, str], prefix: str, size: tuple[int, int]) -> Box:
    """A row's box: its sides are shares of the picture's."""
    x0, x1, y0, y1 = (float(row[f"{prefix}{side}"]) for side in ("XMin", "XMax", "YMin", "YMax"))
    if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1):
        raise ValueError(f"{x0} to {x1}, {y0} to {y1} is outside the picture")
    return x0 * size[1], y0 * size[0], (x1 - x0) * size[1], (y1 - y0) * size[0]


def _filled(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    x, y, width, height = box
    mask[round(y) : round(y + height), round(x) : round(x + width)] = True
    return mask


def _read(located: Located) -> list[dict[str, str]]:
    return read_rows(located.uri) if located.spans else []


def _id(ref: FrameRef) -> str:
    return ref.name.rpartition("/")[2].rpartition(".")[0]
