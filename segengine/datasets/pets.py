"""Oxford-IIIT Pet: cats and dogs of 37 breeds, with trimaps and boxes around their heads.

Home: https://www.robots.ox.ac.uk/~vgg/data/pets/
Licence: CC BY-SA 4.0

    images/Abyssinian_100.jpg
    annotations/list.txt, trainval.txt, test.txt   picture, class 1-37, species 1-2, breed
    annotations/trimaps/Abyssinian_100.png         1 pet, 2 background, 3 border
    annotations/xmls/Abyssinian_100.xml            box of the head, for a part of the pictures

Source: Parkhi, Vedaldi, Zisserman & Jawahar 2012, "Cats and dogs", and the set's README.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from segengine.datasets._dataset import (
    DataSet,
    Item,
    TruthRefs,
    exists,
    located,
    objects_of_maps,
    pictures,
    root_of,
    truth_of,
    uris_below,
)
from segengine.datasets._labels import read_codes, read_text, scored, translate
from segengine.errors import MissingTruthError
from segengine.types import Color, FrameRef, Source, Truth, TruthRef

TRIMAP = ("pet", "background", "border")
"""Of the codes 1, 2, 3."""
BREEDS = ("Abyssinian", "american_bulldog", "american_pit_bull_terrier", "basset_hound", "beagle",
    "Bengal", "Birman", "Bombay", "boxer", "British_Shorthair", "chihuahua", "Egyptian_Mau",
    "english_cocker_spaniel", "english_setter", "german_shorthaired", "great_pyrenees", "havanese",
    "japanese_chin", "keeshond", "leonberger", "Maine_Coon", "miniature_pinscher", "newfoundland",
    "Persian", "pomeranian", "pug", "Ragdoll", "Russian_Blue", "saint_bernard", "samoyed",
    "scottish_terrier", "shiba_inu", "Siamese", "Sphynx", "staffordshire_bull_terrier",
    "wheaten_terrier", "yorkshire_terrier")  # fmt: skip
"""By class number, from 1; cats are written with a capital."""


@dataclass(frozen=True, slots=True)
class PetsSource(DataSet):
    """Pictures and truth of Oxford-IIIT Pet; `split`: trainval or test.

    The pet is one object. With `target: breed` its label is its breed, and the border is void.
    """

    title: ClassVar[str] = "Oxford-IIIT Pet"
    marks: ClassVar[tuple[str, ...]] = ("annotations/trimaps",)
    inside: ClassVar[tuple[str, ...]] = ("oxford-iiit-pet",)

    target: Literal["trimap", "breed"] = "trimap"

    def __post_init__(self) -> None:
        DataSet.__post_init__(self)
        if self.target not in ("trimap", "breed"):
            raise ValueError(f"target: is {self.target!r}; it must be trimap or breed")
        self._chosen(self._names())

    def head(self, ref: FrameRef) -> tuple[int, int, int, int] | None:
        """xmin, ymin, xmax, ymax of the head as the set gives them; None where it gives none.

        Raises MissingTruthError where the file is damaged.
        """
        import xml.etree.ElementTree as tree

        path = f"{root_of(ref)}/annotations/xmls/{_stem(ref)}.xml"
        if not exists(path):
            return None
        try:
            box = tree.fromstring(read_text(path)).find("object/bndbox")
            x0, y0, x1, y1 = (
                int(box.findtext(side, "")) if box is not None else 0
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
        except tree.ParseError as error:
            raise MissingTruthError(f"{path}: damaged: {error}") from error
        except ValueError as error:
            raise MissingTruthError(f"{path}: damaged: its box is no four numbers") from error
        return None if box is None else (x0, y0, x1, y1)

    def _names(self) -> tuple[str, ...]:
        return TRIMAP if self.target == "trimap" else (*BREEDS, "background")

    def _pictures(self, root: str) -> Iterable[Item]:
        name = f"{self.split or 'list'}.txt"
        wanted = {
            f"{stem}.jpg": f"annotations/{name} lists {stem}" for stem, _ in _rows(root, name)
        }
        return pictures(root, "images", wanted)

    def _catalog(self) -> Sequence[tuple[str, Color | None]]:
        return [(name, None) for name in self._names()]

    def _find(self, root: str, refs: Sequence[FrameRef]) -> TruthRefs:
        folder = f"{root}/annotations/trimaps"
        present = uris_below(folder)
        name = f"{self.split or 'list'}.txt"
        breeds = dict(_rows(root, name)) if self.target == "breed" else {}
        found = []
        for ref in refs:
            path = f"{folder}/{_stem(ref)}.png"
            if self.target == "trimap":
                found.append(located([path], present))
            elif _stem(ref) in breeds:
                breed = breeds[_stem(ref)]
                found.append(located([path], present, breed, uri=f"{path}#{breed}"))
            else:
                found.append(TruthRef("", "", f"{root}/annotations/{name}: {_stem(ref)}"))
        return found

    def decode(self, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
        """Labels, and the pet as the object 1."""
        path, _, number = truth.uri.partition("#")
        pet = "pet"
        if self.target == "breed":
            if number not in map(str, range(1, len(BREEDS) + 1)):
                raise MissingTruthError(f"{path}: its class {number} in the list is no breed")
            pet = BREEDS[int(number) - 1]
        chosen = self._chosen(self._names())
        codes = dict(enumerate(scored([pet, *TRIMAP[1:]], chosen).tolist(), 1))
        trimap = read_codes(path, size)
        labels = translate(trimap, codes, len(chosen), path)
        instances = (trimap == 1) & (labels != np.iinfo(labels.dtype).max)
        return truth_of(labels, instances, objects_of_maps(instances, labels))


_: type[Source] = PetsSource


def _stem(ref: FrameRef) -> str:
    return ref.name.rpartition("/")[2].rpartition(".")[0]


def _rows(root: str, name: str) -> Iterator[tuple[str, str]]:
    """(picture, class number) of each line of a list."""
    try:
        text = read_text(f"{root}/annotations/{name}")
    except MissingTruthError as error:
        raise ValueError(f"split: {error}") from error
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words[0], words[1] if len(words) > 1 else ""
