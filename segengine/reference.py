"""The uncut reference: one image, whole, through a segmenter. What every tiled run must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segengine import asked, registry, tiling
from segengine.errors import JobError
from segengine.instances.join import renumbered
from segengine.store.arrays import mask_dtype
from segengine.types import Labels, Plugin, Prediction, Segmenter


def create_segmenter(spec: dict[str, Any]) -> Plugin:
    """A Segmenter or Surveyor from a job's `segmenter` block: `kind`, and the options of that kind.

    Raises JobError that names the option.
    """
    options = dict(spec)
    if "kind" not in options:
        raise JobError("kind: this key is needed, one of `segengine segmenters`")
    kind = options.pop("kind")
    options.pop("instances", None)  # what the engine adds
    plugin: Plugin = registry.create("segmenters", kind, options)
    asked.check(plugin, kind)
    return plugin


def segment(
    image: ArrayLike, segmenter: Plugin | dict[str, Any], *, alpha: bool | None = None
) -> Labels:
    """Labels (y, x) or (n, y, x) of an image (y, x), (y, x, band) or (n, y, x, band), colours RGB.

    `alpha`: whether the fourth of four bands is transparency; omitted: where it looks so (8 bits,
    and the same everywhere, only 0 and 255, or 255 in half of all pixels). It is dropped, as a
    file's is, and the label is void where it is 0.

    `segmenter`: a Segmenter, a Surveyor (fitted on each frame, or for scope scene and run on all
    frames), or a job's `segmenter` block. Where a pixel is NaN in any band the label is void, the
    maximum of the labels' dtype.

    Raises ValueError for another shape or dtype, JobError for a block that is none.
    """
    return predict(image, segmenter, alpha=alpha).labels


def predict(
    image: ArrayLike, segmenter: Plugin | dict[str, Any], *, alpha: bool | None = None
) -> Prediction:
    """As `segment`, with probabilities, instances and objects, as far as the segmenter gives them.

    `image` is (y, x), (y, x, band) or (n, y, x, band); the prediction's labels and instances are (y, x)
    or (n, y, x), its probabilities (y, x, class) or (n, y, x, class). Ids count from 1 in each frame,
    by first pixel in raster order. Raises ValueError for another shape or dtype, JobError for a block
    that is none.
    """
    plugin = create_segmenter(segmenter) if isinstance(segmenter, dict) else segmenter
    given = np.asarray(image)
    if given.ndim not in (2, 3, 4):
        raise ValueError(
            f"image: has shape {given.shape}; give (y, x), (y, x, band) or (n, y, x, band)"
        )
    if given.dtype.kind not in "buif":
        raise ValueError(f"image: is of {given.dtype}; give integers, booleans or real floats")
    pixels = given[..., None] if given.ndim == 2 else given
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    if pixels.shape[-1] == 0:
        raise ValueError(
            f"image: has shape {given.shape}, which is no band; the last axis is bands"
        )
    valid = np.ones(pixels.shape[:3], np.bool_)
    if alpha and pixels.shape[-1] != 4:
        raise ValueError(f"alpha: is the fourth of four bands, and there are {pixels.shape[-1]}")
    if alpha or (alpha is None and _is_transparency(pixels)):
        pixels, valid = pixels[..., :3], pixels[..., 3] != 0
    if pixels.dtype.kind == "f":
        valid &= ~np.isnan(pixels).any(axis=-1)
    if not asked.surveys(plugin):
        found = _call(plugin, pixels, valid)
    elif plugin.scope == "frame":
        parts = [
            _call(plugin.fit(plugin.survey(frame, ok)), frame, ok)
            for frame, ok in zip(pixels[:, None], valid[:, None], strict=True)
        ]
        found = _joined(parts)
    else:
        found = _call(plugin.fit(plugin.survey(pixels, valid)), pixels, valid)
    labels = found.labels
    dtype = mask_dtype(len(plugin.classes))
    void = np.iinfo(dtype).max
    if not valid.all():
        labels = np.where(valid, labels, void).astype(dtype)
    instances, objects = _numbered(found, valid)
    found = Prediction(labels, found.probabilities, instances, objects)
    if isinstance(segmenter, dict) and segmenter.get("instances") is not None:
        found = _with_components(found, segmenter["instances"], plugin.classes, int(void))
    return found if given.ndim == 4 else _first(found)


def _with_components(
    found: Prediction, instances: Any, classes: Sequence[str], void: int
) -> Prediction:
    from segengine.job import instances_of  # pydantic, which a segmenter alone does without

    how = asked.cleaning(instances_of(instances), classes)
    if how is None:
        return asked.with_components(found, classes, void)
    return asked.with_clean_components(found, how, void)


def _numbered(found: Prediction, valid: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Ids by first pixel in raster order, as a store has them, and the table to match."""
    if found.instances is None:
        return None, found.objects
    frames = [
        renumbered(np.where(ok, ids, np.uint32(0)))
        for ids, ok in zip(found.instances, valid, strict=True)
    ]
    objects = found.objects
    if objects is not None:
        from segengine.instances.rows import of_frame, of_frames, renumbered_objects

        tables = [
            renumbered_objects(table, new)
            for i, (_, new) in enumerate(frames)
            if (table := of_frame(objects, i, len(frames))) is not None
        ]
        objects = of_frames(tables) if tables else None
    return np.stack([ids for ids, _ in frames]), objects


def _is_transparency(pixels: NDArray[Any]) -> bool:
    """Whether the last of four bands of 8 bits is alpha, and no infrared."""
    if pixels.shape[-1] != 4 or pixels.dtype != np.uint8 or not pixels.size:
        return False
    last = pixels[..., 3]
    full = int(np.count_nonzero(last == 255))
    if 2 * full >= last.size or full + int(np.count_nonzero(last == 0)) == last.size:
        return full > 0
    return bool(last.min() == last.max())


def _call(segmenter: Segmenter, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> Prediction:
    """Pad to the stride as the engine does at the bottom and right, segment, crop."""
    _, height, width, _ = pixels.shape
    segmenter = asked.placed(segmenter, (0, 0), (height, width))
    if (merger := asked.merger(segmenter)) is not None:
        return asked.merged(merger, pixels, valid)
    pixels = tiling.pad_to(pixels, segmenter.stride)
    found = asked.as_prediction(segmenter.segment(pixels), segmenter, pixels.shape[:3])
    return found.crop((slice(None), slice(0, height), slice(0, width)))


def _joined(parts: list[Prediction]) -> Prediction:
    def join(name: str) -> Any:
        values = [getattr(p, name) for p in parts]
        return None if any(v is None for v in values) else np.concatenate(values)

    tables = [p.objects for p in parts if p.objects is not None]
    objects = None
    if len(tables) == len(parts):
        from segengine.instances.rows import of_frames

        objects = of_frames(tables)
    return Prediction(join("labels"), join("probabilities"), join("instances"), objects)


def _first(found: Prediction) -> Prediction:
    return Prediction(
        found.labels[0],
        None if found.probabilities is None else found.probabilities[0],
        None if found.instances is None else found.instances[0],
        found.objects,
    )
