"""PASCAL VOC 2012 segmentation: 20 classes and background, with instances.

Home: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/
Licence: pictures under the terms of use of flickr; annotations for research, with citation

    VOC2012/ImageSets/Segmentation/{train,val,trainval}.txt   one picture's id a line
    VOC2012/JPEGImages/2007_000032.jpg
    VOC2012/SegmentationClass/2007_000032.png                 palette: class, 255 at borders
    VOC2012/SegmentationObject/2007_000032.png                palette: object 1, 2 ..., 255 at borders

Source: Everingham & Winn 2012, "The PASCAL Visual Object Classes Challenge 2012 (VOC2012)
Development Kit"; colours by its `VOClabelcolormap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segengine.datasets._dataset import (
    DataSet,
    Item,
    TruthRefs,
    exists,
    located,
    objects_of_maps,
    pictures,
    truth_of,
    uris_below,
)
from segengine.datasets._labels import read_codes, read_text, scored, translate
from segengine.errors import MissingTruthError
from segengine.types import Color, FrameRef, Source, Truth, TruthRef

CLASSES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
    "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep",
    "sofa", "train", "tvmonitor")  # fmt: skip
"""By number, from 0."""
VOID = 255
"""Of both kinds of image: borders and what is too hard to tell."""
_LISTS = "ImageSets/Segmentation"


@dataclass(frozen=True, slots=True)
class VocSource(DataSet):
    """Pictures and truth of VOC 2012; `split`: train, val or trainval, which None is.

    Where there is no folder `SegmentationObject` at all, there are no instances.
    """

    title: ClassVar[str] = "PASCAL VOC"
    marks: ClassVar[tuple[str, ...]] = (_LISTS,)
    inside: ClassVar[tuple[str, ...]] = ("VOC2012", "VOCdevkit/VOC2012")

    def __post_init__(self) -> None:
        DataSet.__post_init__(self)
        self._chosen(CLASSES)

    @property
    def truth_instances(self) -> bool:
        """Whether there is a folder of objects in all paths."""
        roots = [self._root(path) for path in self.paths]
        return all(exists(f"{root}/SegmentationObject") for root in roots)

    def _pictures(self, root: str) -> Iterable[Item]:
        name = f"{_LISTS}/{self.split or 'trainval'}.txt"
        try:
            lines = read_text(f"{root}/{name}").split()
        except MissingTruthError as error:
            raise ValueError(f"split: {error}") from error
        return pictures(
            root, "JPEGImages", {f"{line}.jpg": f"{name} lists {line}" for line in lines}
        )

    def _catalog(self) -> Sequence[tuple[str, Color | None]]:
        return [(name, color(i)) for i, name in enumerate(CLASSES)]

    def _find(self, root: str, refs: Sequence[FrameRef]) -> TruthRefs:
        folders = [f"{root}/SegmentationClass", f"{root}/SegmentationObject"]
        if not exists(folders[1]):
            del folders[1]
        present = uris_below(*folders)
        found = []
        for ref in refs:
            stem = ref.name.rpartition("/")[2].rpartition(".")[0]
            uris = [f"{folder}/{stem}.png" for folder in folders]
            found.append(located(uris, present, uri="#".join(uris)))
        return found

    def decode(self, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
        """Labels, and where there are any, objects by their number."""
        path, _, objects_path = truth.uri.partition("#")
        chosen = self._chosen(CLASSES)
        table = scored([*CLASSES, ""], chosen)
        codes = {**dict(enumerate(table[:-1].tolist())), VOID: int(table[-1])}
        labels = translate(read_codes(path, size), codes, len(chosen), path)
        if not objects_path:
            return truth_of(labels)
        instances = read_codes(objects_path, size)
        scorable = (instances != VOID) & (labels != table[-1])
        instances = np.where(scorable, instances, 0)
        return truth_of(labels, instances, objects_of_maps(instances, labels))


_: type[Source] = VocSource


def color(number: int) -> Color:
    """The colour of a class: its bits, three at a time, from the top of red, green and blue down.

    >>> color(15), color(20)
    ((192, 128, 128), (0, 64, 128))
    """
    parts = [0, 0, 0]
    for bit in range(8):
        for band in range(3):
            parts[band] |= (number >> (3 * bit + band) & 1) << (7 - bit)
    return parts[0], parts[1], parts[2]
