"""COCO: everyday scenes with instances of 80 things, or panoptic truth of 133 things and stuff.

Home: https://cocodataset.org
Licence: annotations CC BY 4.0; pictures under the terms of use of flickr

    val2017/000000000139.jpg                     or images/val2017/, images/, or the root itself
    annotations/instances_val2017.json           polygons and run lengths
    annotations/panoptic_val2017.json            what the ids in the PNGs are
    annotations/panoptic_val2017/000000000139.png    id = R + 256 G + 65536 B

Any set in this format is read: its classes are the categories of its JSON, numbered in their order
there (COCO's ids 1 to 90 become 0 to 79). A crowd region is an object with `crowd`. Of Label Studio's
export (`result.json` beside `images/`) name the file: `annotations: result.json`.

Instances: where they overlap, the map and the labels hold the smaller; a crowd region is void where
nothing else lies on it; what lies in none is a class of its own, the last, `background`.

Panoptic: id 0 is void; things have an instance, stuff has none; a crowd has the label of its class,
as the panoptic quality wants it.

Source: https://cocodataset.org/#format-data, cocodataset/cocoapi and cocodataset/panopticapi.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np

from segengine.datasets._coco import (
    Category,
    Id,
    catalog_of,
    categories_in,
    image_of,
    key_of,
    number_of,
    outlined,
    parse,
    require_images,
    scan,
    whole_area,
    word,
)
from segengine.datasets._dataset import (
    DataSet,
    Item,
    TruthRefs,
    exists,
    files,
    fingerprint,
    located,
    objects_of_maps,
    objects_of_rows,
    pictures,
    truth_of,
    uris_below,
)
from segengine.datasets._json import parsed
from segengine.datasets._labels import read_png, scored, translate, void_type
from segengine.datasets._spans import Span, SpanIndex, digest, locate, read_spans, span_of
from segengine.errors import (
    MissingTruthError,
    SegengineError,
)
from segengine.instances.rle import runs_mask
from segengine.sources._files import is_url
from segengine.types import Color, FrameRef, Source, Truth, TruthRef

BACKGROUND = "background"
_DARK: Color = (32, 32, 36)


@dataclass(frozen=True, slots=True)
class CocoSource(DataSet):
    """Pictures and truth of COCO; `split`: what follows `instances_` or `panoptic_` (val2017).

    Ids of objects count from 1 in the order of the file: COCO's own do not fit 32 bits. Their areas
    and boxes are those annotated, as in COCO's figures.
    """

    title: ClassVar[str] = "COCO"
    marks: ClassVar[tuple[str, ...]] = ("annotations",)

    task: Literal["instances", "panoptic"] = "instances"
    annotations: str | None = None
    """JSON file, absolute or below the root; None: annotations/<task>_<split>.json."""

    def __post_init__(self) -> None:
        DataSet.__post_init__(self)
        if self.task not in ("instances", "panoptic"):
            raise ValueError(f"task: is {self.task!r}; it must be instances or panoptic")

    def _root(self, path: str) -> str:
        return path.rstrip("/") if self.annotations is not None else DataSet._root(self, path)

    def _files(self, root: str) -> dict[str, str]:
        """The JSON files to read, and the folder below the root of the pictures of each."""
        prefix = f"{self.task}_"
        if self.annotations is not None:
            own = self.annotations
            found = [own if own.startswith("/") or is_url(own) else f"{root}/{own}"]
            if not exists(found[0]):
                raise ValueError(f"annotations: {found[0]} does not exist")
        else:
            folder = f"{root}/annotations"
            names = files(folder, f"{prefix}{self.split or '*'}.json")
            found = [f"{folder}/{name}" for name in sorted(names)]
            if not found:
                raise ValueError(
                    f"split: there is no {folder}/{prefix}{self.split or '<split>'}.json; "
                    "name the file in source.annotations"
                )
        places = {}
        for file in found:
            name = file.rpartition("/")[2].removesuffix(".json")
            split = self.split or (name.removeprefix(prefix) if name.startswith(prefix) else "")
            own_folders = (split, f"images/{split}") if split else ()
            places[file] = next((f for f in own_folders if exists(f"{root}/{f}")), "")
        # A JSON of a split whose pictures were not fetched is no truth for anything here.
        if any(places.values()):
            return {file: place for file, place in places.items() if place}
        shared = "images" if exists(f"{root}/images") else ""
        return dict.fromkeys(found, shared)

    def _pictures(self, root: str) -> Iterator[Item]:
        for file, folder in self._files(root).items():
            name = file.rpartition("/")[2]
            below = _Below(root, folder)
            wanted = {
                below.path(image["file_name"]): f"{name} has it as image {image['id']}"
                for image in (parse(found, file) for found in scan(file, ("images",)))
            }
            yield from pictures(root, folder, wanted)

    def _catalog(self) -> Sequence[tuple[str, Color | None]]:
        if not self.paths:
            raise ValueError("paths: the classes of a COCO set are told by its JSON; name it")
        catalogs = {
            file: categories_in(file, fingerprint(file))
            for path in self.paths
            for file in self._files(self._root(path))
        }
        first, *others = catalogs
        for other in others:
            if catalogs[other] != catalogs[first]:
                raise SegengineError(
                    f"{first} and {other} have different categories; name one in source.split"
                )
        return self._named(catalogs[first])

    def _named(self, categories: Sequence[Category]) -> list[tuple[str, Color | None]]:
        catalog = [(each.name, each.color) for each in categories]
        if self.task == "instances" and BACKGROUND not in [name for name, _ in catalog]:
            catalog.append((BACKGROUND, _DARK))
        return catalog

    def _find(self, root: str, refs: Sequence[FrameRef]) -> TruthRefs:
        found: dict[str, TruthRef] = {}
        sources = self._files(root)
        for file, folder in sources.items():
            found.update(self._find_in(file, _Below(root, folder), {ref.name for ref in refs}))
        looked = " or ".join(sources)
        return [found.get(ref.name) or TruthRef("", "", f"{looked}: {ref.name}") for ref in refs]

    def _find_in(
        self, file: str, folder: _Below, names: set[str]
    ) -> Iterator[tuple[str, TruthRef]]:
        """(name, truth) of each frame that a JSON file knows."""
        index = SpanIndex()
        images: dict[str, tuple[Id, Span]] = {}
        categories: list[Span] = []
        maps: dict[Id, str] = {}
        numbers: list[Id] = []
        needed = "images", "annotations"
        for found in scan(file, (*needed, "categories"), needed):
            if found.section == "annotations":
                index.add(key_of(image_of(found, file)), found.offset, found.text)
                if self.task == "panoptic":
                    record = parse(found, file)
                    number = number_of(record["image_id"], found, file)
                    maps[number] = str(record.get("file_name"))
            elif found.section == "categories":
                categories.append(span_of(found.offset, found.text))
            else:
                image = parse(found, file)
                numbers.append(number_of(image["id"], found, file))
                name = folder.name(image["file_name"])
                if name in names:
                    span = span_of(found.offset, found.text)
                    images.setdefault(name, (numbers[-1], span))
        require_images(index, numbers, file)
        pngs = file.removesuffix(".json")
        present = uris_below(pngs) if self.task == "panoptic" else {}
        spans = index.lookup([key_of(number) for number, _ in images.values()])
        head = locate(categories)
        for (name, (number, image_span)), own in zip(images.items(), spans, strict=True):
            mark = digest(*categories, image_span, *own)
            uri = f"{file}#{head};{locate([image_span])};{locate(own)};{mark}"
            if self.task == "instances":
                yield name, TruthRef(uri, mark, "")
            elif not own:
                yield name, TruthRef("", "", f"{file}: image {number}")
            else:
                png = f"{pngs}/{maps[number]}"
                yield name, located([png], present, mark, uri=uri)

    def numbers(self) -> tuple[dict[str, Id], dict[str, Id]]:
        """COCO's own: the id of each image by its frame's name, of each category by its own."""
        images: dict[str, Id] = {}
        kinds: dict[str, Id] = {}
        for path in self.paths:
            for file, folder in self._files(self._root(path)).items():
                kinds |= {each.name: each.id for each in categories_in(file, fingerprint(file))}
                below = _Below(self._root(path), folder)
                for found in scan(file, ("images",)):
                    image = parse(found, file)
                    name = below.name(image["file_name"])
                    images.setdefault(name, number_of(image["id"], found, file))
        return images, kinds

    def decode(self, root: str, size: tuple[int, int], truth: TruthRef) -> Truth:
        """The truth of a frame from its records in the JSON."""
        file, _, places = truth.uri.rpartition("#")
        *located_at, mark = places.split(";")
        texts = [read_spans(file, located) for located in located_at]
        if digest(*(span_of(0, text) for text in chain(*texts))) != mark:
            raise MissingTruthError(f"{file}: has changed since the run began; run again")
        try:
            categories, image, own = ([parsed(t) for t in group] for group in texts)
            known = catalog_of(categories)
            number, *stated = (image[0][key] for key in ("id", "height", "width"))
            strangers = [each["id"] for each in own if each["image_id"] != number]
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise MissingTruthError(f"{file}: not in COCO's format: {word(error)}") from error
        if strangers:
            raise MissingTruthError(f"{file}: annotation {strangers[0]} is of another image")
        if tuple(stated) != size:
            raise MissingTruthError(
                f"{file}: image {number} is {stated[1]} x {stated[0]} pixels there, its picture "
                f"{size[1]} x {size[0]}"
            )
        reader = self._instances if self.task == "instances" else self._panoptic
        try:
            return reader(file, size, known, own)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise MissingTruthError(f"{file}: image {number} is damaged: {word(error)}") from error

    def _table(self, known: Sequence[Category]) -> tuple[dict[Id, int], int, int]:
        """Label of each category's id, that of the background, and the number of labels."""
        catalog = self._named(known)
        chosen = self._chosen([name for name, _ in catalog])
        names = [name for name, _ in catalog]
        labels = dict(zip(names, scored(names, chosen).tolist(), strict=True))
        table = {category.id: labels[category.name] for category in known}
        return table, labels.get(BACKGROUND, 0), len(chosen)

    def _instances(
        self,
        file: str,
        size: tuple[int, int],
        known: Sequence[Category],
        own: Sequence[Mapping[str, Any]],
    ) -> Truth:
        from segengine.instances.rle import compress_runs

        table, background, count = self._table(known)
        dtype = void_type(count)
        void = int(np.iinfo(dtype).max)
        rows, shapes = [], []
        for number, each in enumerate(own, 1):
            try:
                if each["category_id"] not in table:
                    raise ValueError(
                        f"has the category {each['category_id']}, which does not exist"
                    )
                runs, area, box = outlined(each, size)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise MissingTruthError(f"{file}: annotation {each.get('id')} {what}") from error
            label, crowd = table[each["category_id"]], bool(each.get("iscrowd"))
            shapes.append((not crowd, -area, number, label, runs))
            if label != void:
                rows.append((number, label, box, whole_area(area), compress_runs(runs), crowd))
        labels = np.full(size, background, dtype)
        instances = np.zeros(size, np.uint32)
        # The greatest first, so that the smaller stay; crowds before all.
        for single, _, number, label, runs in sorted(shapes, key=lambda shape: shape[:3]):
            mask = runs_mask(runs, *size)
            labels[mask] = label if single else void
            instances[mask] = number if label != void else 0
        return truth_of(labels, instances, objects_of_rows(rows))

    def _panoptic(
        self,
        file: str,
        size: tuple[int, int],
        known: Sequence[Category],
        own: Sequence[Mapping[str, Any]],
    ) -> Truth:
        table, _, count = self._table(known)
        things = {category.id for category in known if category.thing}
        void = int(np.iinfo(void_type(count)).max)
        path = f"{file.removesuffix('.json')}/{own[0]['file_name']}"
        pixels = read_png(path, size)
        if pixels.ndim != 3:
            raise MissingTruthError(f"{path}: is no colour image, and segments are told by colour")
        ids = pixels.astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])
        kinds, numbers, crowds = {0: void}, {0: 0}, set()
        drawn = set(np.unique(ids).tolist())
        for number, segment in enumerate(own[0]["segments_info"], 1):
            name, category = segment["id"], segment["category_id"]
            if category not in table or name not in drawn:
                what = "has no pixel" if category in table else f"has no category {category}"
                raise MissingTruthError(f"{file}: segment {name} {what} in {path}")
            kinds[name] = table[category]
            numbers[name] = number if category in things and table[category] != void else 0
            if segment.get("iscrowd"):
                crowds.add(number)
        strange = sorted(drawn - kinds.keys())
        if strange:
            raise MissingTruthError(f"{path}: segment {strange[0]} is not in {file}")
        classes = translate(ids, kinds, count, path)
        present, inverse = np.unique(ids, return_inverse=True)
        instances = np.array([numbers[each] for each in present.tolist()], np.uint32)[inverse]
        instances = instances.reshape(size)
        return truth_of(classes, instances, objects_of_maps(instances, classes, crowds))


_: type[Source] = CocoSource


@dataclass(frozen=True, slots=True)
class _Below:
    """The folder of a JSON's pictures, which their file names may name too (Label Studio's do)."""

    root: str
    folder: str

    def path(self, file_name: str) -> str:
        """The picture's path below the folder."""
        mark = file_name[len(self.folder) : len(self.folder) + 1]
        doubled = bool(self.folder) and file_name.startswith(self.folder) and mark in ("/", "\\")
        if not doubled or _is_nested(self.root, self.folder):
            return file_name
        return file_name[len(self.folder) + 1 :].replace(mark, "/")

    def name(self, file_name: str) -> str:
        """The name of its frame."""
        return f"{self.folder}/{self.path(file_name)}".lstrip("/")


@lru_cache(maxsize=64)
def _is_nested(root: str, folder: str) -> bool:
    """Whether the folder holds one of its own name."""
    return exists(f"{root}/{folder}/{folder}")
