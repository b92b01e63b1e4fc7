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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segengine.instances import SCHEMA, encode_rle
from segengine.types import Pixels, Prediction, Segmenter

if TYPE_CHECKING:
    import pyarrow as pa

    from segengine.models.maskrcnn.config import Config
    from segengine.models.maskrcnn.postprocess import Instance

Scale = Literal["fit", "native"]


@dataclass(frozen=True, slots=True)
class MaskRcnn:
    """A network and its weights, by name; each process loads them once."""

    config: Config
    source: str
    """`coco`, or the path of a weight file."""
    weights: str
    """SHA-256 of the weight file."""
    classes: tuple[str, ...]
    scale: Scale = "fit"
    overlap: int = 256
    weights_url: str | None = None

    version: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances", "objects")

    @property
    def halo(self) -> int | None:
        return None if self.scale == "fit" else self.overlap

    @property
    def stride(self) -> int:
        return 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Maps (n, y, x) of pixels (n, y, x, band), and one row an object.

        `objects` of more than one frame has a further column, `frame`, from 0 on. Frames go through
        the network one by one, so that a frame's objects do not depend on what it came with.
        """
        from segengine.models.maskrcnn.postprocess import instances
        from segengine.models.maskrcnn.preprocess import prepare, to_bytes

        detect = _detector(self.config, self.source, self.weights, self.weights_url)
        drawn = []
        for frame in to_bytes(pixels, self.config.bands):
            prepared = prepare(self.config, frame, native=self.scale == "native")
            found = instances(self.config, prepared, detect(prepared.image, prepared.window))
            drawn.append(draw(found, prepared.shape, len(self.classes)))
        return Prediction(
            np.stack([labels for labels, _, _ in drawn]),
            instances=np.stack([ids for _, ids, _ in drawn]),
            objects=_joined([objects for _, _, objects in drawn]),
        )


def create(
    weights: str = "coco",
    preset: str = "matterport",
    scale: Scale = "fit",
    classes: Sequence[str] | None = None,
    backbone: str | None = None,
    min_score: float | None = None,
    min_side: int | None = None,
    max_side: int | None = None,
    max_detections: int | None = None,
    overlap: int = 256,
    weights_url: str | None = None,
) -> MaskRcnn:
    """Mask R-CNN with the weights and constants of a published network, or with one's own.

    weights: `coco` (fetched once into the cache folder; `weights_url` names another address, with
    `#sha256=<hex>` a checked one), or the path of a file of the preset's format. preset: matterport
    or torchvision. classes: names, background first; without them COCO's. min_score: least score
    of an object. min_side, max_side: sides of the resized frame, in pixels. max_detections: most
    objects a frame or window.
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
    changes: dict[str, Any] = {
        "min_score": min_score,
        "min_side": min_side,
        "max_side": max_side,
        "max_detections": max_detections,
    }
    config = preset_config(
        preset,
        None if classes is None else len(classes),
        backbone,
        **{name: value for name, value in changes.items() if value is not None},
    )
    names = class_names(config) if classes is None else tuple(classes)
    digest = _digest(resolve(weights, weights_url))
    return MaskRcnn(config, weights, digest, names, scale, overlap, weights_url)


def draw(
    found: Sequence[Instance], shape: tuple[int, int], classes: int
) -> tuple[NDArray[Any], NDArray[np.uint32], pa.Table]:
    """Labels (y, x), ids (y, x) and objects of a frame's instances, which come best first.

    An instance without a pixel is dropped.
    """
    import pyarrow as pa

    kept = [(one, area) for one in found if (area := int(np.count_nonzero(one.cutout.mask)))]
    labels = np.zeros(shape, np.uint8 if classes < 256 else np.uint16)
    ranks = np.zeros(shape, np.uint32)
    for rank in range(len(kept), 0, -1):
        one = kept[rank - 1][0]
        height, width = one.cutout.mask.shape
        at = np.s_[one.cutout.y : one.cutout.y + height, one.cutout.x : one.cutout.x + width]
        labels[at][one.cutout.mask] = one.label
        ranks[at][one.cutout.mask] = rank
    shown, first = np.unique(ranks, return_index=True)
    inside = shown > 0
    visible = shown[inside][np.argsort(first[inside])]
    hidden = np.setdiff1d(np.arange(1, len(kept) + 1), visible)
    order = np.concatenate([visible, hidden]).astype(np.int64)
    ids = np.zeros(len(kept) + 1, np.uint32)
    ids[order] = np.arange(1, len(kept) + 1)
    rows: list[dict[str, Any]] = []
    for number, rank in enumerate(order.tolist(), start=1):
        one, area = kept[rank - 1]
        y1, x1, y2, x2 = one.box
        values = (
            number,
            one.label,
            one.score,
            [x1, y1, x2 - x1, y2 - y1],
            area,
            encode_rle(one.cutout.mask, (one.cutout.y, one.cutout.x), shape),
        )
        rows.append(dict(zip(SCHEMA.names, values, strict=True)))
    return labels, ids[ranks], pa.Table.from_pylist(rows, schema=SCHEMA)


def _joined(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(
        table.append_column("frame", pa.array([i] * table.num_rows, pa.int64()))
        for i, table in enumerate(tables)
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Detect = Callable[[NDArray[np.float32], tuple[int, int, int, int]], dict[str, NDArray[Any]]]


@lru_cache(maxsize=1)
def _detector(config: Config, source: str, digest: str, url: str | None) -> Detect:
    """The network with its weights, for one image at a time."""
    import tensorflow as tf

    from segengine.models.maskrcnn.download import resolve
    from segengine.models.maskrcnn.network import network
    from segengine.models.maskrcnn.weights import load

    path = resolve(source, url)
    if _digest(path) != digest:
        raise ValueError(f"weights: {path}: is not the file that the run was planned with")
    model = network(config)
    load(model, config, path)
    image = tf.TensorSpec((1, None, None, config.bands), tf.float32)
    window = tf.TensorSpec((1, 4), tf.float32)

    @tf.function(input_signature=(image, window))  # type: ignore[untyped-decorator]
    def graph(image: Any, window: Any) -> Any:
        return model({"image": image, "window": window}, training=False)

    def detect(
        image: NDArray[np.float32], window: tuple[int, int, int, int]
    ) -> dict[str, NDArray[Any]]:
        found = graph(image[None], np.array([window], np.float32))
        return {name: value.numpy() for name, value in found.items()}

    return detect


_: type[Segmenter] = MaskRcnn
