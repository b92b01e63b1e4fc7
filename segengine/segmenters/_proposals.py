"""Proposals of objects in a whole frame: a network of patches, run once at each of several scales.

The frame is resized to each scale of a pyramid, bordered by mid-grey so that a patch can centre on
its corners, and passed through `bottom_up` once: a score for a patch every 16 pixels of the level.
Of all levels together the best are kept, and `top_down` makes their masks. With the patch's side S
(160) and stride t (16), a patch (i, j) of a level scaled by s covers the frame's rows

    (t i - S / 2) / s  to  (t i + S / 2) / s

and columns likewise; its mask is interpolated there and cut. (The published program rounds rows and
columns of a score's place apart and draws masks up to 16 / s pixels off; this one does not.)

Pinheiro et al. 2015 and 2016; see `segengine.models.deepmask` and `sharpmask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segengine.networks import bundles
from segengine.networks.scale import Scale
from segengine.segmenters._files import path_of
from segengine.segmenters._network import check_bands, require_bands
from segengine.types import Pixels, Prediction

Floats = NDArray[np.float32]

PATCH, BORDER, STRIDE, CELLS = 160, 16, 16, 10
"""As in `segengine.models.deepmask`, which loads Keras."""
ARCHITECTURES = ("deepmask", "sharpmask")
"""Names in a bundle."""
PYRAMID = tuple(2.0 ** (i / 2) for i in range(-5, 2))
"""The published scales, 2^-2.5 to 2^0.5."""
LEVEL = 1 << 25
"""Most pixels of a level, which the trunk sees at once: about 4 GB of maps."""
_GREY = 0.5  # between black and white
_BATCH = 32  # masks made at once


@dataclass(frozen=True, slots=True)
class Found:
    """A proposal on the frame."""

    score: float
    """Probability of an object in the middle of the patch."""
    corner: tuple[int, int]
    """Row and column of the mask's first row and column."""
    mask: NDArray[np.bool_]
    """(y, x), with at least one pixel in its first and last row and column."""


@dataclass(frozen=True, slots=True)
class _Level:
    """What one scale of the pyramid gave."""

    scale: tuple[float, float]
    """Of rows and columns: the level's size over the frame's."""
    scores: Floats
    """(gy, gx) logits"""
    vectors: Floats
    """(gy, gx, 512)"""
    maps: tuple[Floats, ...]
    """The horizontal maps, each (y, x, channel); map k has 2^k places a step of the grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposer:
    """Finds objects of any kind on whole frames; where they overlap, the map shows the better score."""

    bottom_up: Any
    """(1, h, w, band) -> [vectors, scores, *maps]"""
    top_down: Any
    """vectors (p, 512), and patches of the maps -> logits (p, m, m, 1)"""
    bands: tuple[int, ...] | int
    scale: Scale
    border: tuple[float, ...]
    """Scaled value beyond the frame: one a band, or one for all."""
    pyramid: tuple[float, ...]
    most: int
    """Most proposals a frame."""
    min_score: float
    threshold: float
    """Probability above which a pixel belongs to a mask."""
    duplicates: float
    """A proposal goes whose box overlaps that of a better one with a greater IoU."""
    weights: str
    """Digest of the model's file."""

    version: ClassVar[int] = 1
    classes: ClassVar[tuple[str, ...]] = ("background", "object")
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances", "objects")
    halo: ClassVar[None] = None
    stride: ClassVar[int] = 1

    @property
    def provenance(self) -> str:
        """The engine's version and instruction set."""
        from segengine.engines import tensorflow

        return tensorflow.provenance()

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where pixels of so many bands cannot be labelled."""
        check_bands(self.bands, bands, dtype)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels and instances (n, y, x) of pixels (n, y, x, band), and one row an object.

        `objects` of more than one frame has a further column, `frame`, from 0 on.
        """
        from segengine.instances.rows import of_frames

        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        instances = np.zeros(pixels.shape[:3], np.uint32)
        tables = []
        for i, frame in enumerate(pixels):
            found = self.find(frame)
            ids = draw(found, instances[i])
            tables.append(to_table(found, ids, frame.shape[:2]))
        labels = (instances > 0).astype(np.uint8)
        return Prediction(labels, instances=instances, objects=of_frames(tables))

    def find(self, frame: Pixels) -> list[Found]:
        """Proposals on a frame (y, x, band), the best first."""
        if not isinstance(self.bands, int):
            frame = frame[..., [band - 1 for band in self.bands]]
        scaled = self.scale.apply(frame)
        levels = [self._level(scaled, s) for s in self.pyramid]
        scores = np.concatenate([level.scores.ravel() for level in levels])
        scores = 1 / (1 + np.exp(-scores.astype(np.float64)))
        best = np.argsort(-scores, kind="stable")[: self.most]
        best = best[scores[best] >= self.min_score]
        starts = np.cumsum([0, *(level.scores.size for level in levels)])
        number = np.searchsorted(starts, best, side="right") - 1
        found: list[Found | None] = [None] * len(best)
        for n, level in enumerate(levels):
            mine = np.flatnonzero(number == n)
            places = np.stack(np.divmod(best[mine] - starts[n], level.scores.shape[1]), axis=1)
            for start in range(0, len(mine), _BATCH):
                part = slice(start, start + _BATCH)
                logits = self._masks(level, places[part])
                for k, place, values in zip(mine[part], places[part], logits, strict=True):
                    corner, mask = paste(
                        values, place, level.scale, frame.shape[:2], self.threshold
                    )
                    if mask.size:
                        found[k] = Found(float(scores[best[k]]), corner, mask)
        return without_duplicates([f for f in found if f is not None], self.duplicates)

    def _level(self, scaled: Floats, factor: float) -> _Level:
        import cv2

        size = tuple(max(1, round(n * factor)) for n in scaled.shape[:2])
        if size[0] * size[1] > LEVEL:
            raise ValueError(
                f"pyramid: at a scale of {factor:.3g} this frame has {size[0]:,} x {size[1]:,} pixels, "
                f"and {LEVEL:,} at most are looked at in one piece; leave the larger scales out"
            )
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        planes = [cv2.resize(b, size[::-1], interpolation=how) for b in np.moveaxis(scaled, -1, 0)]
        around = PATCH // 2 + BORDER
        # up to whole steps, so that the last patch is like the others
        padded = [n + 2 * around + -n % STRIDE for n in size]
        image = np.empty((1, *padded, len(planes)), np.float32)
        image[...] = np.array(self.border, np.float32)
        inside = slice(around, around + size[0]), slice(around, around + size[1])
        image[0][inside] = np.stack(planes, axis=-1)
        vectors, scores, *maps = (np.asarray(v)[0] for v in self.bottom_up(image))
        ratio = size[0] / scaled.shape[0], size[1] / scaled.shape[1]
        return _Level(ratio, scores[..., 0], vectors, tuple(maps))

    def _masks(self, level: _Level, places: NDArray[np.intp]) -> Floats:
        """Logits (p, m, m) of the patches at places (p, 2) of a level's grid."""
        vectors = level.vectors[places[:, 0], places[:, 1]]
        patches = []
        for k, whole in enumerate(level.maps):
            side = CELLS << k
            corners = (places << k).tolist()
            patches.append(np.stack([whole[y : y + side, x : x + side] for y, x in corners]))
        logits: Floats = np.asarray(self.top_down(vectors, *patches))[..., 0]
        return logits


def paste(
    logits: Floats,
    place: NDArray[np.intp],
    scale: tuple[float, float],
    size: tuple[int, ...],
    threshold: float,
) -> tuple[tuple[int, int], NDArray[np.bool_]]:
    """Corner and mask, cut to its pixels, of a patch's logits (m, m) on a frame of a size.

    place: row and column in the level's grid. The mask is empty where no pixel of the frame has a
    probability above the threshold.
    """
    cut = np.log(threshold / (1 - threshold))
    values = logits
    firsts = []
    for axis in (0, 1):
        start = STRIDE * int(place[axis]) - PATCH // 2
        first = max(0, int(np.ceil(start / scale[axis] - 0.5)))
        stop = min(size[axis], int(np.ceil((start + PATCH) / scale[axis] - 0.5)))
        pixels = np.arange(first, max(first, stop))
        m = logits.shape[axis]
        at = np.clip(((pixels + 0.5) * scale[axis] - start) * m / PATCH - 0.5, 0, m - 1)
        low = np.minimum(at.astype(np.intp), m - 2)
        part = np.expand_dims((at - low).astype(np.float32), 1 - axis)
        values = values.take(low, axis) * (1 - part) + values.take(low + 1, axis) * part
        firsts.append(first)
    mask = values > cut
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (0, 0), np.zeros((0, 0), np.bool_)
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return (firsts[0] + int(rows[0]), firsts[1] + int(columns[0])), mask[inside]


def without_duplicates(found: list[Found], overlap: float) -> list[Found]:
    """Those whose box has an IoU of at most `overlap` with that of each better one that is kept."""
    if overlap >= 1 or not found:
        return found
    corners = np.array([f.corner for f in found], np.float64)
    stops = corners + [f.mask.shape for f in found]
    areas = (stops - corners).prod(axis=1)
    kept: list[int] = []
    for i in range(len(found)):
        low, high = np.maximum(corners[kept], corners[i]), np.minimum(stops[kept], stops[i])
        both = np.clip(high - low, 0, None).prod(axis=1)
        if not (both > overlap * (areas[kept] + areas[i] - both)).any():
            kept.append(i)
    return [found[i] for i in kept]


def draw(found: Sequence[Found], instances: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Draw a frame's objects, the best on top; -> the id of each.

    Ids are numbered by first pixel in raster order; those that are wholly covered come last.
    """
    drawn = np.zeros(instances.shape, np.int64)
    for number, item in reversed(list(enumerate(found, 1))):
        (y, x), (height, width) = item.corner, item.mask.shape
        drawn[y : y + height, x : x + width][item.mask] = number
    seen, first = np.unique(drawn, return_index=True)
    order = seen[np.argsort(first)]
    order = order[order > 0]
    hidden = np.setdiff1d(np.arange(1, len(found) + 1), order)
    ids = np.zeros(len(found) + 1, np.int64)
    ids[np.concatenate([order, hidden])] = np.arange(1, len(found) + 1)
    instances[...] = ids[drawn]
    return ids[1:]


def to_table(found: Sequence[Found], ids: NDArray[np.int64], size: tuple[int, ...]) -> Any:
    """A frame's objects as rows of `objects`, by id."""
    import pyarrow as pa

    from segengine.instances.rle import encode_rle
    from segengine.instances.rows import SCHEMA

    rows = []
    for i in np.argsort(ids):
        (y, x), (height, width) = found[i].corner, found[i].mask.shape
        rows.append(
            {
                "id": int(ids[i]),
                "class": 1,
                "score": found[i].score,
                "bbox": [x, y, width, height],
                "area": int(found[i].mask.sum()),
                "rle": encode_rle(found[i].mask, (y, x), (size[0], size[1])),
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def create(
    architecture: str,
    weights: str,
    bands: Sequence[int] | int | None = None,
    scale: Mapping[str, Any] | None = None,
    pyramid: Sequence[float] | None = None,
    most: int = 100,
    min_score: float = 0.5,
    threshold: float = 0.2,
    duplicates: float = 1.0,
) -> Proposer:
    """Proposals of a trained network of an architecture.

    weights: the bundle of its training, or its `.keras` or `.weights.h5` file. bands: 1-based numbers
    of the raster's bands, or their count. scale: as for `model`; of 3 bands ImageNet's by default.
    pyramid: scales at which objects of about 92 pixels are looked for; by default 2^-2.5 to 2^0.5 in
    steps of 2^0.5. What is left out of bands, scale and pyramid is taken from a bundle. most:
    proposals a frame. min_score: the least that counts. threshold: probability above which a pixel
    belongs to a mask. duplicates: a proposal goes whose box overlaps a better one's with a greater
    IoU; 1: none goes.
    """
    _check("most", most, 1, 100_000, int)
    _check("min_score", min_score, 0, 1)
    _check("threshold", threshold, 1e-6, 1 - 1e-6)
    _check("duplicates", duplicates, 0, 1)
    if pyramid is not None:
        _check_pyramid(pyramid)
    if bands is not None:
        require_bands(bands)
    path = path_of("weights", weights)
    try:
        bundle = bundles.read(path) if bundles.is_bundle(path) else None
        if bundle is not None and "pyramid" in bundle.inference:
            _check_pyramid(bundle.inference["pyramid"])
    except (OSError, ValueError) as error:
        raise ValueError(f"weights: {weights}: {error}") from error
    if bundle is not None:
        bands = bundle.bands if bands is None else bands
        scale = bundle.scale if scale is None else scale
        pyramid = bundle.inference.get("pyramid", PYRAMID) if pyramid is None else pyramid
    bands = 3 if bands is None else bands
    numbers = bands if isinstance(bands, int) else tuple(bands)
    count = numbers if isinstance(numbers, int) else len(numbers)
    if scale is None and count != 3:
        raise ValueError(f"scale: has no default for {count} bands; set it")
    found = Scale.of(bundles.IMAGENET if scale is None else scale)
    found.check(count)
    centred = zip(*np.broadcast_arrays(found.mean, found.std), strict=True)
    border = tuple(float((_GREY - m) / s) for m, s in centred)
    if scale is not None and "range" in scale:
        border = (_GREY,)
    model, digest = _load(architecture, path, count)
    return Proposer(
        bottom_up=_traced(model.get_layer("bottom_up")),
        top_down=_traced(model.get_layer("top_down")),
        bands=numbers,
        scale=found,
        border=border,
        pyramid=PYRAMID if pyramid is None else tuple(pyramid),
        most=most,
        min_score=min_score,
        threshold=threshold,
        duplicates=duplicates,
        weights=digest,
    )


def _load(architecture: str, path: Path, bands: int) -> tuple[Any, str]:
    """The model of a bundle, a `.keras` or a `.weights.h5` file, and the file's digest."""
    from segengine.segmenters import _files, _keras

    try:
        if bundles.is_bundle(path):
            _, model, digest = _files.open_bundle(path, architecture)
        elif not path.is_file():
            raise ValueError("there is no such file, and no bundle")
        elif path.name.endswith((".weights.h5", ".keras")):
            with _files.private(path) as copy:
                digest = _files.digest(copy)
                if copy.suffix == ".keras":
                    model = _keras.load_whole(copy)
                else:
                    model = _keras.load_weights(copy, architecture, bands, 1, (None, None), {})
        else:
            raise ValueError(
                "give a bundle, or a .keras or .weights.h5 file; the published .t7 files cannot be "
                "read safely, train the network again"
            )
        if model.name != architecture or model.inputs[0].shape[-1] != bands:
            raise ValueError(
                f"it is a {model.name} of {model.inputs[0].shape[-1]} bands, and a {architecture} "
                f"of {bands} is asked for"
            )
    except (OSError, ValueError) as error:
        raise ValueError(f"weights: {path}: {error}") from error
    return model, digest


def _traced(model: Any) -> Any:
    """The model as one compiled function for inputs of any size, without dropout."""
    from segengine.engines.tensorflow import library

    tf = library()
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]
    return tf.function(
        lambda *inputs: model(inputs if len(inputs) > 1 else inputs[0], training=False),
        input_signature=specs,
        autograph=False,
    )


def _check_pyramid(factors: Any) -> None:
    if not isinstance(factors, Sequence) or isinstance(factors, str) or not factors:
        raise ValueError(f"pyramid: needs a list with at least one scale, not {factors!r}")
    for factor in factors:
        _check("pyramid", factor, 1 / 64, 8)


def _check(option: str, value: Any, least: float, most: float, kind: Any = int | float) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        name = "an integer" if kind is int else "a number"
        raise ValueError(f"{option}: must be {name} from {least:g} to {most:g}, not {value!r}")
