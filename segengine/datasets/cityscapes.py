"""Cityscapes: street scenes of 50 cities in 19 or 30 classes, fine and coarse, with instances.

Home: https://www.cityscapes-dataset.com
Licence: its own, non-commercial, after registration: https://www.cityscapes-dataset.com/license/

    leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png
    gtFine/<split>/<city>/<frame>_gtFine_labelIds.png        label id of each pixel
    gtFine/<split>/<city>/<frame>_gtFine_instanceIds.png     id * 1000 + number, or a label id;
                                                             without it a frame has labels alone

Source of the table: mcordts/cityscapesScripts, `cityscapesscripts/helpers/labels.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

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
from segengine.datasets._labels import read_codes, scored, translate
from segengine.types import Color, FrameRef, Source, Truth, TruthRef


class Label(NamedTuple):
    """One of the labels of the set."""

    name: str
    id: int
    train_id: int
    """Number among the 19 classes that are scored; 255: none of them."""
    category: str
    has_instances: bool
    color: Color


LABELS = tuple(
    Label(*row)
    for row in (
        ("unlabeled", 0, 255, "void", False, (0, 0, 0)),
        ("ego vehicle", 1, 255, "void", False, (0, 0, 0)),
        ("rectification border", 2, 255, "void", False, (0, 0, 0)),
        ("out of roi", 3, 255, "void", False, (0, 0, 0)),
        ("static", 4, 255, "void", False, (0, 0, 0)),
        ("dynamic", 5, 255, "void", False, (111, 74, 0)),
        ("ground", 6, 255, "void", False, (81, 0, 81)),
        ("road", 7, 0, "flat", False, (128, 64, 128)),
        ("sidewalk", 8, 1, "flat", False, (244, 35, 232)),
        ("parking", 9, 255, "flat", False, (250, 170, 160)),
        ("rail track", 10, 255, "flat", False, (230, 150, 140)),
        ("building", 11, 2, "construction", False, (70, 70, 70)),
        ("wall", 12, 3, "construction", False, (102, 102, 156)),
        ("fence", 13, 4, "construction", False, (190, 153, 153)),
        ("guard rail", 14, 255, "construction", False, (180, 165, 180)),
        ("bridge", 15, 255, "construction", False, (150, 100, 100)),
        ("tunnel", 16, 255, "construction", False, (150, 120, 90)),
        ("pole", 17, 5, "object", False, (153, 153, 153)),
        ("polegroup", 18, 255, "object", False, (153, 153, 153)),
        ("traffic light", 19, 6, "object", False, (250, 170, 30)),
        ("traffic sign", 20, 7, "object", False, (220, 220, 0)),
        ("vegetation", 21, 8, "nature", False, (107, 142, 35)),
        ("terrain", 22, 9, "nature", False, (152, 251, 152)),
        ("sky", 23, 10, "sky", False, (70, 130, 180)),
        ("person", 24, 11, "human", True, (220, 20, 60)),
        ("rider", 25, 12, "human", True, (255, 0, 0)),
        ("car", 26, 13, "vehicle", True, (0, 0, 142)),
        ("truck", 27, 14, "vehicle", True, (0, 0, 70)),
        ("bus", 28, 15, "vehicle", True, (0, 60, 100)),
        ("caravan", 29, 255, "vehicle", True, (0, 0, 90)),
        ("trailer", 30, 255, "vehicle", True, (0, 0, 110)),
        ("train", 31, 16, "vehicle", True, (0, 80, 100)),
        ("motorcycle", 32, 17, "vehicle", True, (0, 0, 230)),
        ("bicycle", 33, 18, "vehicle", True, (119, 11, 32)),
    )
)
"""By id. The license plate, id -1, is drawn in no image."""
_UNLABELLED = 4
"""Ids below: no class, but what is not labelled or not seen."""
_INSTANCE = 1000
_ALONE = "#labels"
"""Marks the truth of a frame without an instance image."""


@dataclass(frozen=True, slots=True)
class CityscapesSource(DataSet):
    """Pictures and truth of Cityscapes; `split`: train, val, test or train_extra.

    A region of several objects that could not be told apart (a label id in the instance image) is
    one object with `crowd`; its pixels are labelled like any.
    """

    title: ClassVar[str] = "Cityscapes"
    marks: ClassVar[tuple[str, ...]] = ("leftImg8bit",)

    labels: Literal["fine", "coarse"] = "fine"
    ids: Literal["train", "all"] = "train"
    """train: the 19 classes of the benchmark; all: the 30 that are annotated."""

    def __post_init__(self) -> None:
        DataSet.__post_init__(self)
        if self.labels not in ("fine", "coarse"):
            raise ValueError(f"labels: is {self.labels!r}; it must be fine or coarse")
        if self.ids not in ("train", "all"):
            raise ValueError(f"ids: is {self.ids!r}; it must be train or all")
        self._chosen([label.name for label in self._labels()])

    def _labels(self) -> list[Label]:
        if self.ids == "all":
            return [label for label in LABELS if label.id >= _UNLABELLED]
        return sorted((x for x in LABELS if x.train_id != 255), key=lambda label: label.train_id)

    def _pictures(self, root: str) -> Iterable[Item]:
        folder = f"leftImg8bit/{self.split}" if self.split else "leftImg8bit"
        if not exists(f"{root}/{folder}"):
            raise ValueError(f"split: there is no folder {root}/{folder}")
        return (p for p in pictures(root, folder) if p.name.endswith("_leftImg8bit.png"))

    def _catalog(self) -> Sequence[tuple[str, Color | None]]:
        return [(label.name, label.color) for label in self._labels()]

    def _find(self, root: str, refs: Sequence[FrameRef]) -> TruthRefs:
        kind = f"gt{self.labels.capitalize()}"
        stems = [
            f"{root}/{kind}/"
            + ref.name.removeprefix("leftImg8bit/").replace("_leftImg8bit.png", "")
            for ref in refs
        ]
        present = uris_below(*sorted({stem.rpartition("/")[0] for stem in stems}))
        found = []
        for stem in stems:
            labels, instances = (f"{stem}_{kind}_{image}Ids.png" for image in ("label", "instance"))
            both = [labels, instances] if instances in present else [labels]
            uri = labels if len(both) == 2 else f"{labels}{_ALONE}"
            found.append(located(both, present, uri=uri))
        return found

    def decode(self, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
        """Labels, and the instances of people and vehicles by their number in the set."""
        path = truth.uri.removesuffix(_ALONE)
        chosen = self._chosen([label.name for label in self._labels()])
        asked = {label.name for label in self._labels()}
        table = scored([label.name if label.name in asked else "" for label in LABELS], chosen)
        codes = dict(enumerate(table.tolist()))
        labels = translate(read_codes(path, size), codes, len(chosen), path)
        if truth.uri.endswith(_ALONE):
            return truth_of(labels)
        path = path.replace("_labelIds.png", "_instanceIds.png")
        instances = read_codes(path, size).astype(np.int64)
        ids = np.where(instances >= _INSTANCE, instances // _INSTANCE, instances)
        kinds = translate(ids, codes, len(chosen), path)
        things = np.array([label.has_instances for label in LABELS])
        instances = np.where(things[ids] & (kinds != np.iinfo(kinds.dtype).max), instances, 0)
        crowds = set(np.unique(instances[instances < _INSTANCE]).tolist())
        return truth_of(labels, instances, objects_of_maps(instances, kinds, crowds))


_: type[Source] = CityscapesSource
