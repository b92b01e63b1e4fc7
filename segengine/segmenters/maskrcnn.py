"""Mask R-CNN: objects with box, class, score and mask; COCO's classes with the published weights.

    segmenter: {kind: mask-rcnn, weights: coco}                      # photos
    segmenter: {kind: mask-rcnn, weights: coco, scale: native}       # scenes larger than the network

With `scale: fit` the network sees a whole frame, resized as its preset says. With `scale: native` it
sees windows at their own size, with `overlap` pixels of context; an object in the overlap of two
windows is found in each.

Where objects overlap, `labels` and `instances` show the one with the higher score; `objects` has
all of each. Ids count from 1 by an object's first pixel in the map, in raster order; an object that
others hide wholly has no pixel there, and comes last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from segengine.errors import SegengineError
from segengine.guards.copies import copied
from segengine.instances.rows import of_frames
from segengine.networks import bundles
from segengine.segmenters._files import path_of
from segengine.types import Color, Pixels, Prediction, Segmenter

if TYPE_CHECKING:
    from segengine.models.maskrcnn.config import Config
    from segengine.models.maskrcnn.detect import Detect
    from segengine.networks.bundles import Bundle

Scale = Literal["fit", "native"]
ARCHITECTURE = "mask-rcnn"
"""Its name in a bundle."""
OVERLAP = 256
"""Pixels of context around a window."""


@dataclass(frozen=True, slots=True)
class MaskRcnn:
    """A network and its weights, by name; each process loads them once."""

    config: Config
    source: str
    """`coco`, or the path of a weight file or bundle."""
    classes: tuple[str, ...]
    scale: Scale = "fit"
    overlap: int = OVERLAP
    weights_url: str | None = None
    colors: tuple[Color, ...] = ()

    version: ClassVar[int] = 2
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances", "objects")
    slow: ClassVar[bool] = True

    @property
    def weights(self) -> str:
        """SHA-256 of the weight file, of a bundle of what it says too; `coco` is fetched for it."""
        return _digest(self.source, self.weights_url, _stamp(self.source, self.weights_url))

    @property
    def provenance(self) -> str:
        """The engine's version and what it runs on."""
        from segengine.engines import tensorflow

        return tensorflow.provenance()

    @property
    def halo(self) -> int | None:
        return None if self.scale == "fit" else self.overlap

    @property
    def stride(self) -> int:
        return 1

    def describe(self) -> tuple[str, ...]:
        """The resolved configuration, for `segengine plan`: a line for each of its parts."""
        given = self.config.to_dict()
        lines = [f"weights: {self.source}, SHA-256 {self.weights}"]
        lines.append(f"scale: {self.scale}, halo {self.halo}, {len(self.classes)} classes")
        lines += [f"{name}: {value}" for name, value in given.items() if name != "classes"]
        return tuple(lines)

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where pixels of so many bands cannot be labelled, or nothing can: the
        weights are loaded."""
        if bands not in (1, self.config.bands):
            raise ValueError(f"bands: the network takes {self.config.bands}, the image has {bands}")
        self._network()

    def _network(self) -> Detect:
        return _detector(self.config, self.source, self.weights, self.weights_url)

    def segment(self, pixels: Pixels) -> Prediction:
        """Maps (n, y, x) of pixels (n, y, x, band), and one row an object.

        `objects` of more than one frame has a further column, `frame`, from 0 on. Frames go through
        the network one by one, so that a frame's objects do not depend on what it came with.
        """
        from segengine.models.maskrcnn.maps import draw
        from segengine.models.maskrcnn.preprocess import to_bytes

        detect = self._network()
        native, count = self.scale == "native", len(self.classes)
        frames = to_bytes(pixels, self.config.bands)
        drawn = [draw(detect(frame, native), frame.shape[:2], count) for frame in frames]
        return Prediction(
            np.stack([labels for labels, _, _ in drawn]),
            instances=np.stack([ids for _, ids, _ in drawn]),
            objects=of_frames([objects for _, _, objects in drawn]),
        )


def create(
    weights: str = "coco",
    preset: str | None = None,
    scale: Scale = "fit",
    classes: Sequence[str] | None = None,
    backbone: str | None = None,
    min_score: float | None = None,
    min_side: int | None = None,
    max_side: int | None = None,
    max_detections: int | None = None,
    overlap: int = OVERLAP,
    weights_url: str | None = None,
) -> MaskRcnn:
    """Mask R-CNN with the weights and constants of a published network, or with one's own.

    weights: `coco` (fetched once into the cache folder; `weights_url` names another address, with
    `#sha256=<hex>` a checked one), the path of a file of the preset's format, or the bundle of a
    training, which brings preset, backbone and classes. preset: matterport (by default) or
    torchvision. classes: names, background first; without them COCO's. min_score: least score
    of an object. min_side, max_side: sides of the resized frame, in pixels. max_detections: most
    objects a frame or window. scale: fit (frames resized as the preset does) or native (larger ones
    in windows at full resolution). overlap: pixels of context of those windows. backbone: where the
    weights are of another than the preset's. weights_url: address of the `coco` weights.
    """
    from segengine.models.maskrcnn.config import preset as preset_config
    from segengine.models.maskrcnn.download import resolve
    from segengine.models.maskrcnn.names import class_names

    if scale not in get_args(Scale):
        raise ValueError(f"scale: must be one of {', '.join(get_args(Scale))}, not {scale!r}")
    if type(overlap) is not int or overlap < 0:
        raise ValueError(f"overlap: must be a number of pixels, 0 or more, not {overlap!r}")
    if classes is not None and len(set(classes)) != len(classes):
        raise ValueError(f"classes: each needs a name of its own, got {list(classes)}")
    given: dict[str, Any] = {
        "min_score": min_score,
        "min_side": min_side,
        "max_side": max_side,
        "max_detections": max_detections,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if bundles.is_bundle(path_of("weights", weights)):
        for option, value in (("preset", preset), ("backbone", backbone), ("classes", classes)):
            if value is not None:
                raise ValueError(f"{option}: {weights} is a bundle, which says so itself")
        try:
            bundle = bundles.read(Path(weights))
            if bundle.architecture != ARCHITECTURE:
                raise ValueError(f"is a {bundle.architecture}, which `kind: model` takes")
        except (OSError, ValueError) as error:
            raise ValueError(f"weights: {weights}: {error}") from error
        return of_bundle(weights, bundle, scale, overlap, changes)
    count = None if classes is None else len(classes)
    config = preset_config(preset or "matterport", count, backbone, **changes)
    names = class_names(config) if classes is None else tuple(classes)
    if weights != "coco":  # loading a job fetches nothing
        resolve(weights)  # it is there
    return MaskRcnn(
        config=config,
        source=weights,
        classes=names,
        scale=scale,
        overlap=overlap,
        weights_url=weights_url,
    )


def of_bundle(
    path: str,
    bundle: Bundle,
    scale: Scale = "fit",
    overlap: int = OVERLAP,
    changes: Mapping[str, Any] | None = None,
) -> MaskRcnn:
    """The segmenter of a training's bundle of Mask R-CNN at `path`; `changes` to its constants.

    Raises ValueError naming what is wrong with them.
    """
    from segengine.models.maskrcnn.config import preset as preset_config

    options = {"preset": "matterport", **bundle.shaping, **(changes or {})}
    name = options.pop("preset")
    config = preset_config(name, len(bundle.classes), bands=bundle.bands, **options)
    return MaskRcnn(config, path, bundle.classes, scale, overlap, colors=bundle.colors)


@contextmanager
def _opened(source: str, url: str | None) -> Iterator[tuple[str, Path]]:
    """What a bundle says of the weights, else nothing, and their file while the context lasts."""
    from segengine.models.maskrcnn.download import resolve

    if bundles.is_bundle(Path(source)):
        with bundles.opened(Path(source)) as (bundle, file):
            yield bundle.to_json(), file
    else:
        yield "", resolve(source, url)


def _stamp(source: str, url: str | None) -> tuple[int, ...]:
    """Sizes and times of the files behind the weights: they change where a file does."""
    from segengine.models.maskrcnn.download import resolve

    path = Path(source)
    if not bundles.is_bundle(path):
        path = resolve(source, url)
    about = [file.stat() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return tuple(number for one in about for number in (one.st_size, one.st_mtime_ns))


@lru_cache(maxsize=4)
def _digest(source: str, url: str | None, stamp: tuple[int, ...]) -> str:
    with _opened(source, url) as (said, path):
        return _sha256(said, path)


def _sha256(said: str, path: Path) -> str:
    state = hashlib.sha256(said.encode())
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@lru_cache(maxsize=1)
def _detector(config: Config, source: str, digest: str, url: str | None) -> Detect:
    """The network with the weights of that digest, for one frame at a time."""
    from segengine.models.maskrcnn.detect import detector
    from segengine.models.maskrcnn.network import network
    from segengine.models.maskrcnn.weights import load

    model = network(config)
    with _opened(source, url) as (said, path), copied([(path, path.name)]) as folder:
        file = folder / path.name
        if _sha256(said, file) != digest:
            raise SegengineError(f"{source}: was changed while it was read; run again")
        load(model, config, file)
    return detector(model, config)


_: type[Segmenter] = MaskRcnn
