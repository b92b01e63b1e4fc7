"""CamVid: driving video with colour-coded labels, in 32 classes or the common 11.

Home: http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/
Licence: none is stated; for research, with citation of Brostow et al. 2008 and 2009

    701_StillsRaw_full/0001TP_006690.png      or  images/, train/, val/, test/
    LabeledApproved_full/0001TP_006690_L.png  or  labels/, train_labels/ ...; with or without _L
    label_colors.txt                          a line a class: R G B name; else as published
    train.txt, val.txt, test.txt              where pictures of all splits lie in one folder

Source: Brostow, Fauqueur & Cipolla 2009, "Semantic object classes in video: A high-definition
ground truth database", and its `label_colors.txt`. The 11 classes: Badrinarayanan, Kendall &
Cipolla 2015, "SegNet"; which of the 32 each holds, as in MathWorks' example of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, Literal

import numpy as np

from segengine.datasets._dataset import (
    DataSet,
    Item,
    TruthRefs,
    exists,
    located,
    pictures,
    truth_of,
    uris_below,
)
from segengine.datasets._labels import read_png, read_text, scored, translate
from segengine.errors import MissingTruthError
from segengine.sources.listing import Unlisted
from segengine.types import Color, FrameRef, Source, Truth, TruthRef

COLORS: dict[str, Color] = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}
"""The 32 classes in the order of `label_colors.txt`."""
VOID = "Void"
"""The class of what was not labelled; it is never scored."""
GROUPS: dict[str, tuple[str, ...]] = {
    "Sky": ("Sky",),
    "Building": ("Building", "Bridge", "Wall", "Tunnel", "Archway"),
    "Pole": ("Column_Pole", "TrafficCone"),
    "Road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "Pavement": ("Sidewalk", "ParkingBlock", "RoadShoulder"),
    "Tree": ("Tree", "VegetationMisc"),
    "SignSymbol": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "Fence": ("Fence",),
    "Car": ("Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"),
    "Pedestrian": ("Pedestrian", "Child", "CartLuggagePram", "Animal"),
    "Bicyclist": ("Bicyclist", "MotorcycleScooter"),
}
"""The 11 classes; each has the colour of the first it holds."""
_FOLDERS = {"701_StillsRaw_full": "LabeledApproved_full", "images": "labels"} | {
    split: f"{split}_labels" for split in ("train", "val", "test")
}
"""Of pictures, and of their labels."""
_CODING = "label_colors.txt"


@dataclass(frozen=True, slots=True)
class CamvidSource(DataSet):
    """Pictures and truth of CamVid.

    `split`: a folder of that name, or a list `<split>.txt` of pictures by name or path.
    """

    title: ClassVar[str] = "CamVid"
    marks: ClassVar[tuple[str, ...]] = tuple(_FOLDERS)

    grouping: Literal["32", "11"] = "32"

    def __post_init__(self) -> None:
        DataSet.__post_init__(self)
        object.__setattr__(self, "grouping", str(self.grouping))
        if self.grouping not in ("32", "11"):
            raise ValueError(f"grouping: is {self.grouping!r}; it must be 32 or 11")
        self._chosen([name for name, _ in self._catalog()])

    @property
    def truth_instances(self) -> bool:
        """CamVid has none."""
        return False

    def _pictures(self, root: str) -> Iterator[Item]:
        folders = [folder for folder in _FOLDERS if exists(f"{root}/{folder}")]
        if self.split is None or self.split in folders:
            for folder in folders if self.split is None else (self.split,):
                yield from pictures(root, folder)
            return
        name = f"{self.split}.txt"
        try:
            lines = read_text(f"{root}/{name}").splitlines()
        except MissingTruthError as error:
            raise ValueError(f"split: {error}") from error
        stems = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
        present = {PurePosixPath(p.name).stem: p for f in folders for p in pictures(root, f)}
        for stem in stems:
            missing = f"no such picture; {name} lists {stem}"
            yield present.get(stem) or Unlisted(stem, f"{root}/{folders[0]}/{stem}.png", missing)

    def _catalog(self) -> Sequence[tuple[str, Color | None]]:
        if self.grouping == "32":
            return list(COLORS.items())
        return [(name, COLORS[held[0]]) for name, held in GROUPS.items()]

    def _find(self, root: str, refs: Sequence[FrameRef]) -> TruthRefs:
        present = uris_below(*(f"{root}/{folder}" for folder in _FOLDERS.values()))
        coding = f"{root}/{_CODING}"
        colors = read_text(coding) if exists(coding) else ""
        found = []
        for ref in refs:
            folder, _, file = ref.name.partition("/")
            stem = f"{root}/{_FOLDERS.get(folder, folder)}/{file.rpartition('.')[0]}"
            path = f"{stem}.png" if f"{stem}.png" in present else f"{stem}_L.png"
            found.append(located([path], present, colors))
        return found

    def decode(self, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
        """Labels by colour."""
        path = truth.uri
        pixels = read_png(path, size)
        if pixels.ndim != 3:
            raise MissingTruthError(f"{path}: has no colours, and classes are told by colour")
        packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        chosen = self._chosen([name for name, _ in self._catalog()])
        names = list(COLORS)
        group = {held: name for name, holds in GROUPS.items() for held in holds}
        kinds = [name if self.grouping == "32" else group.get(name, VOID) for name in names]
        kinds = ["" if kind == VOID else kind for kind in kinds]
        table = dict(zip(names, scored(kinds, chosen).tolist(), strict=True))
        codes = {(r << 16) + (g << 8) + b: table[n] for n, (r, g, b) in coding_of(root).items()}
        try:
            return truth_of(translate(packed, codes, len(chosen), path))
        except MissingTruthError:
            code = next(int(code) for code in np.unique(packed) if int(code) not in codes)
            color = code >> 16, code >> 8 & 255, code & 255
            raise MissingTruthError(f"{path}: colour {color} stands for no class") from None


_: type[Source] = CamvidSource


def coding_of(root: str) -> dict[str, Color]:
    """The colour of each class in the label images: by `label_colors.txt`, else as published.

    Raises MissingTruthError for a line that is none.
    """
    path = f"{root}/{_CODING}"
    if not exists(path):
        return COLORS
    found: dict[str, Color] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        match line.split():
            case []:
                pass
            case [r, g, b, name] if (r + g + b).isdecimal() and name in COLORS:
                found[name] = int(r), int(g), int(b)
            case _:
                raise MissingTruthError(f"{path}: line {number} names no class of CamVid")
    return found
