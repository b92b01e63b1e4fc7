"""What masks are measured against: label images beside the images, or a data set's own truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine import asked
from segengine.corrections import scenes_corrected
from segengine.datasets._labels import gray_codes, void_type
from segengine.errors import MissingTruthError
from segengine.job import TruthSpec, source_options
from segengine.measuring._npy import read_map
from segengine.measuring.counted import scored
from segengine.measuring.paths import candidates, ids_of, stat
from segengine.registry import reader
from segengine.sources import _packed
from segengine.sources._files import one_line, open_input, read_bytes
from segengine.sources._pillow import opened
from segengine.sources._sound import require_sound
from segengine.sources._volumes import NIFTI, suffix_of
from segengine.store.blobs import Objects
from segengine.store.remote import zarr_store
from segengine.types import Bool, FrameRef, Truth, TruthRef
from segengine.urls import public

VERSION = 2
"""Raised when what is read of a truth can change."""
_AND = "\0"
"""Between a frame's labels and the image of its objects; no path holds it."""
_HIGHEST = (1 << 32) - 1
_LARGEST = 1 << 28
"""Pixels of a frame whose objects are read."""
MANY = 256
"""Values without a class that are told apart in a frame."""
_EVERY_BYTE = np.arange(256, dtype=np.uint8)
_COLORED = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
"""Pillow's modes of images that hold colours."""


class TruthProvider(Protocol):
    """Where truth comes from."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of its labels; None: those of the segmenter."""
        ...

    @property
    def gives(self) -> frozenset[str]:
        """`truth`, and of `truth_instances` and `truth_objects` what it has."""
        ...

    def find(self, refs: Sequence[tuple[str, FrameRef]]) -> list[TruthRef]:
        """The truth of frames, each with the name of its scene; in one pass."""
        ...

    def load(
        self,
        ref: FrameRef,
        truth: TruthRef,
        rows: slice,
        cols: slice,
        inside: Bool | None = None,
    ) -> Truth:
        """That of a frame's window, (1, y, x); `inside` (y, x): of it what counts, None: all.

        Objects stay whole. Raises MissingTruthError with the reason.
        """
        ...


@dataclass(frozen=True, slots=True)
class LabelImages:
    """Label images whose paths follow from the frames' names: a job's `truth` block."""

    spec: TruthSpec
    trust: bool = False
    """Label rasters may name any file."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """As the block says."""
        return None if self.spec.classes is None else tuple(self.spec.classes)

    @property
    def gives(self) -> frozenset[str]:
        """Labels, and objects where the job names their images."""
        more = ("truth_instances", "truth_objects")
        return frozenset(("truth", *(more if self.spec.instances else ())))

    def find(self, refs: Sequence[tuple[str, FrameRef]]) -> list[TruthRef]:
        """The first of each frame's candidates that exists."""
        if any("://" in path for path in self.spec.paths):
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(lambda r: find_truth(self.spec, r[1], r[0]), refs))
        return [find_truth(self.spec, ref, scene) for scene, ref in refs]

    def load(
        self,
        ref: FrameRef,
        truth: TruthRef,
        rows: slice,
        cols: slice,
        inside: Bool | None = None,
    ) -> Truth:
        """Labels of a window, its values that are no class, and the objects of the whole frame."""
        if not truth.uri:
            raise MissingTruthError(f"no truth at {truth.looked}")
        size = ref.height, ref.width
        uri, _, ids = truth.uri.partition(_AND)
        own = replace(truth, uri=uri)
        place = place_of(ref)
        block = self.spec.model_dump_json(), self.trust
        if not uri:
            only = _objects(*block, own, ids, place, size).crop((slice(None), rows, cols))
            return scored(only, inside)
        values, nodata = _values(own, place, size, rows, cols, self.trust, self.spec.colors)
        labels = map_labels(values, self.spec)
        seen, counted = (values, labels) if inside is None else (values[inside], labels[inside])
        unknown = unknown_values(seen, self.spec, counted, nodata)
        if not ids:
            return scored(Truth(labels[None], unknown=unknown), inside)
        whole = _objects(*block, own, ids, place, size).crop((slice(None), rows, cols))
        return scored(Truth(labels[None], whole.instances, whole.objects, unknown), inside)

    def objects(self, truth: TruthRef, ids: str, place: int, size: tuple[int, int]) -> Truth:
        """Labels, instances and objects of a whole frame; objects lie where labels are classes."""
        from segengine.datasets._dataset import objects_of_maps, truth_of

        if size[0] * size[1] > _LARGEST:
            raise MissingTruthError(f"{ids}: objects of more than {_LARGEST:,} pixels are not read")
        everything = slice(0, size[0]), slice(0, size[1])
        own = replace(truth, uri=ids)
        found, nodata = _values(own, place, size, *everything, self.trust, False, ids=True)
        instances = _ids(ids, found, nodata)
        if truth.uri:
            values, _ = _values(truth, place, size, *everything, self.trust, self.spec.colors)
            labels = map_labels(values, self.spec)
        else:
            labels = self._labels_of(ids, instances)
            labels[_is(found, nodata)] = np.iinfo(labels.dtype).max
        instances[labels == np.iinfo(labels.dtype).max] = 0
        return truth_of(labels, instances, objects_of_maps(instances, labels))

    def _labels_of(self, ids: str, instances: NDArray[np.uint32]) -> NDArray[Any]:
        """Labels where only objects are known, all of one class."""
        classes = self.spec.classes or ()
        ground = asked.background(classes)
        things = [i for i in range(len(classes)) if i not in ground]
        if len(things) != 1 or not ground:
            raise MissingTruthError(
                f"{ids}: says no classes; list background and one class in truth.classes, or name "
                "label images in truth.paths"
            )
        dtype = void_type(len(classes))
        labels: NDArray[Any] = np.where(instances > 0, things[0], ground[0]).astype(dtype)
        return labels


@dataclass(frozen=True, slots=True)
class DataSetTruth:
    """The truth that a public data set's own source reads."""

    source: Any

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Those of the chosen subset."""
        return tuple(self.source.truth_classes)

    @property
    def gives(self) -> frozenset[str]:
        """Labels, and instances where the set has them."""
        more = ("truth_instances", "truth_objects")
        return frozenset(("truth", *(more if asked.has_truth_instances(self.source) else ())))

    def find(self, refs: Sequence[tuple[str, FrameRef]]) -> list[TruthRef]:
        """One pass over the set's lists."""
        return list(self.source.find_truth([ref for _, ref in refs]))

    def load(
        self,
        ref: FrameRef,
        truth: TruthRef,
        rows: slice,
        cols: slice,
        inside: Bool | None = None,
    ) -> Truth:
        """Labels, instances and objects of a window."""
        if not truth.uri:
            raise MissingTruthError(f"no truth at {truth.looked}")
        found: Truth = self.source.load_truth(ref, truth, rows, cols)
        return scored(found, inside)


def of_job(job: Mapping[str, Any], classes: Sequence[str] | None = None) -> str:
    """How a job's truth is read, as JSON that travels; empty: it has none.

    The `truth` block goes before a data set's own. classes: those of a block that names none.
    """
    trust = bool(job.get("trust"))
    if job.get("truth"):
        block = {"truth": dict(job["truth"])}
        if classes is not None and block["truth"].get("classes") is None:
            block["truth"]["classes"] = list(classes)
        return json.dumps(block | ({"trust": True} if trust else {}), sort_keys=True)
    source = source_options(job, trust)
    kind = source.get("kind", "auto")
    if asked.has_truth(kind):
        return json.dumps({"source": source}, sort_keys=True)
    return ""


def with_corrections(text: str, objects: Objects, classes: Sequence[str]) -> str:
    """How truth is read with a store's corrections over it, as `of_job` says it; `text`: without.

    `classes`: the segmenter's. The same where nothing was corrected.
    """
    if not scenes_corrected(objects):
        return text
    block = {"base": text, "corrections": objects.root, "classes": list(classes)}
    return json.dumps(block, sort_keys=True)


@lru_cache(maxsize=8)
def from_json(text: str) -> TruthProvider:
    """The provider behind `of_job`."""
    block = json.loads(text)
    if "corrections" in block:
        from segengine.measuring.corrected import Corrected

        base = from_json(block["base"]) if block["base"] else None
        return Corrected(base, block["corrections"], tuple(block["classes"]))
    if "truth" in block:
        spec = TruthSpec.model_validate(block["truth"])
        if spec.drawn:
            from segengine.measuring.annotated import AnnotationFiles

            return AnnotationFiles(spec)
        return LabelImages(spec, block.get("trust", False))
    return DataSetTruth(reader(block["source"]["kind"], block["source"]))


def find_truth(spec: TruthSpec, ref: FrameRef, scene: str) -> TruthRef:
    """The first of a frame's candidates that exists, with the fingerprint of its size and time."""
    paths = candidates(spec, ref, scene)
    for path in paths:
        found = stat(path)
        if found is not None:
            return _with_ids(spec, ref, scene, TruthRef(path, found, ""))
    if not paths:
        (path,) = paths = ids_of(spec, ref, scene)
        if (found := stat(path)) is not None:
            return TruthRef(f"{_AND}{path}", found, "")
    return TruthRef("", "", " or ".join(paths))


def _with_ids(spec: TruthSpec, ref: FrameRef, scene: str, labels: TruthRef) -> TruthRef:
    """A frame's labels with the image of its objects, where there is one."""
    if spec.instances is None:
        return labels
    (path,) = ids_of(spec, ref, scene)
    mark = stat(path)
    if mark is None:
        return labels
    both = xxhash.xxh3_64_hexdigest(f"{labels.fingerprint} {mark}".encode())
    return TruthRef(f"{labels.uri}{_AND}{path}", both, "")


@lru_cache(maxsize=2)
def _objects(
    block: str, trust: bool, truth: TruthRef, ids: str, place: int, size: tuple[int, int]
) -> Truth:
    """A frame that is cut in windows is read once."""
    images = LabelImages(TruthSpec.model_validate_json(block), trust)
    return images.objects(truth, ids, place, size)


def place_of(ref: FrameRef) -> int:
    """Which of a label file's maps is a frame's, where there are several: that of the same number.

    Of a TIFF's pages, without the thumbnails between them; of a video, by the source's frames.
    """
    paged = public(ref.uri).lower().endswith((".tif", ".tiff"))
    return ref.index if ref.position and paged else ref.position


def _is(values: NDArray[Any], nodata: float | None) -> Bool:
    """Where a file says that nothing is known."""
    return np.zeros(values.shape, np.bool_) if nodata is None else np.asarray(values == nodata)


def _ids(uri: str, values: NDArray[Any], nodata: float | None) -> NDArray[np.uint32]:
    """Numbers of objects. Raises MissingTruthError for what is none."""
    if values.dtype == np.bool_:
        raise MissingTruthError(f"{uri}: has one bit a pixel, which tells no objects apart")
    wide = np.where(_is(values, nodata), values.dtype.type(0), values)
    strange = (wide < 0) | (wide > _HIGHEST)
    if wide.dtype.kind == "f":
        strange |= ~(wide == np.floor(wide))
    if strange.any():
        raise MissingTruthError(f"{uri}: holds {wide[strange][0]}, which is no object's number")
    return wide.astype(np.uint32)


def map_labels(values: NDArray[Any], spec: TruthSpec) -> NDArray[Any]:
    """Pixel values to class indices; what is no class has the dtype's maximum."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    classes = len(spec.classes) if spec.classes is not None else None
    dtype = np.dtype(np.uint8 if (classes or 256) < 255 else np.uint16)
    void = 255 if dtype == np.uint8 else 65535
    if values.dtype == np.uint8 and values.size:
        import cv2

        # three times as fast as indexing; it takes no empty array
        table = _mapped(_EVERY_BYTE, spec, dtype, classes or void)
        mapped: NDArray[Any] = cv2.LUT(values, table).reshape(values.shape)
        return mapped
    return _mapped(values, spec, dtype, classes or void)


def _mapped(
    values: NDArray[Any], spec: TruthSpec, dtype: np.dtype[Any], classes: int
) -> NDArray[Any]:
    result = np.full(values.shape, np.iinfo(dtype).max, dtype)
    codes = spec.codes
    if codes is None:
        inside = (values >= 0) & (values < classes)
        if values.dtype.kind == "f":
            inside &= values == np.floor(values)
        if spec.void_code is not None:
            inside &= values != spec.void_code
        result[inside] = values[inside]
        return result
    order = np.argsort(codes)
    ascending = np.array(codes, np.int64)[order]
    place = np.minimum(np.searchsorted(ascending, values), len(codes) - 1)
    inside = ascending[place] == values
    result[inside] = order[place[inside]]
    return result


def unknown_values(
    values: NDArray[Any], spec: TruthSpec, labels: NDArray[Any], nodata: float | None = None
) -> dict[int | float | str, int]:
    """Pixels of each value that is neither a class, nor void, nor nodata; the smallest `MANY`.

    labels: what `map_labels` made of them. Of windows, the smallest of all are among the smallest
    of each, so that their sum does not depend on the cuts.
    """
    if not labels.size or labels.max() < np.iinfo(labels.dtype).max:
        return {}
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if values.dtype == np.uint8:
        counts = _histogram(values)
        kinds = np.flatnonzero(counts).astype(np.uint8)
        strange = map_labels(kinds, spec) == np.iinfo(labels.dtype).max
        kinds, counts = kinds[strange], counts[kinds[strange]]
    else:
        kinds, counts = np.unique(values[labels == np.iinfo(labels.dtype).max], return_counts=True)
    known = np.isin(kinds, [v for v in (spec.void_code, nodata) if v is not None])
    known |= kinds != kinds  # NaN
    found = zip(kinds[~known][:MANY].tolist(), counts[~known][:MANY].tolist(), strict=True)
    return {f"#{v:06x}" if spec.colors else v: int(n) for v, n in found}


def _histogram(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each value (y, x); OpenCV counts in float32, which is exact up to 2^24."""
    import cv2

    total = np.zeros(256, np.int64)
    for part in np.array_split(values.ravel(), -(-values.size // (1 << 24)) or 1):
        if part.size:
            total += cv2.calcHist([part], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return total


def _values(
    truth: TruthRef,
    place: int,
    size: tuple[int, int],
    rows: slice,
    cols: slice,
    trust: bool,
    colors: bool,
    *,
    ids: bool = False,
) -> tuple[NDArray[Any], float | None]:
    """Values of a window, and which of them is the file's nodata; with `colors` numbers of colours.

    ids: they are objects, of a colour image red + 256 green + 65,536 blue.
    """
    uri = truth.uri
    suffix = PurePosixPath(public(uri)).suffix.lower()
    try:
        if suffix in (".tif", ".tiff", ".vrt", ".jp2"):
            return _raster_values(uri, place, size, rows, cols, trust, colors)
        if suffix_of(public(uri)) in NIFTI:
            return _volume_values(truth, place, size, rows, cols, colors), None
        if suffix == ".zarr":
            return _zarr_values(uri, place, size, rows, cols, colors), None
        if suffix == ".npy":
            return _grays(uri, read_map(uri, place, size)[rows, cols], colors), None
        whole = _image_values(uri, truth.fingerprint, place == 0, size, colors, ids)
    except MissingTruthError:
        raise
    except Exception as error:
        raise MissingTruthError(f"{uri}: cannot be read: {one_line(error)}") from error
    return whole[rows, cols], None


@lru_cache(maxsize=2)
def _image_values(
    uri: str, fingerprint: str, first: bool, size: tuple[int, int], colors: bool, ids: bool
) -> NDArray[Any]:
    """A label image whole, of `size`; palette images give their indices, with `colors` their colours."""
    data = read_bytes(uri)
    name, image = opened(data)
    with image:
        _check_size(uri, image.size[::-1], size)  # before its pixels ask for memory
        if not first and getattr(image, "n_frames", 1) > 1:
            raise MissingTruthError(
                f"{uri}: is an animation, of which the first picture is read; write a TIFF of a "
                "page a frame, or a file a frame ({frame} in truth.paths)"
            )
        require_sound(name, data, image)
        if colors and image.mode in ("1", *_COLORED):
            return _numbers(np.asarray(image.convert("RGB")))
        if ids and image.mode in ("RGB", "RGBA"):
            return _numbers_of(np.asarray(image))
        if image.mode not in ("1", "L", "P", "I", "F") and not image.mode.startswith("I;16"):
            raise MissingTruthError(_not_one_band(uri, image.mode))
        return _grays(uri, gray_codes(np.asarray(image), data), colors)


def _not_one_band(uri: str, found: str) -> str:
    return (
        f"{uri}: a label image has one band of class indices, this one is {found}; "
        "list the colour of each class in truth.values"
    )


def _numbers(colors: NDArray[Any]) -> NDArray[np.uint32]:
    """(y, x) a number for each colour (y, x, 3): red x 65536 + green x 256 + blue."""
    found = np.zeros(colors.shape[:-1], np.uint32)
    for band in range(3):
        found = found << np.uint32(8) | colors[..., band]
    return found


def _numbers_of(colors: NDArray[Any]) -> NDArray[np.uint32]:
    """(y, x) the object of each colour (y, x, band), as in COCO's panoptic PNGs; none where alpha is 0."""
    found = _numbers(colors[..., 2::-1])
    return found if colors.shape[-1] == 3 else np.where(colors[..., 3] > 0, found, np.uint32(0))


def _grays(uri: str, values: NDArray[Any], colors: bool) -> NDArray[Any]:
    """Values of one band; with `colors` numbers of these levels of gray."""
    if not colors:
        return values
    if values.dtype != np.uint8:
        raise MissingTruthError(
            f"{uri}: holds {values.dtype} numbers, and truth.values lists colours"
        )
    return values * np.uint32(0x010101)


def _raster_values(
    uri: str,
    place: int,
    size: tuple[int, int],
    rows: slice,
    cols: slice,
    trust: bool,
    colors: bool,
) -> tuple[NDArray[Any], float | None]:
    from rasterio.windows import Window

    window = Window.from_slices(rows, cols)
    # The source knows what GDAL may open.
    source: Any = reader("raster", {"trust": trust})
    with source.open_page(uri, place) as data:
        _check_size(uri, data.shape, size)
        with open_input(uri) as file:
            _packed.require_window(file, place, rows, cols)
        if colors and data.count in (3, 4) and data.dtypes[0] == "uint8":
            return _numbers(np.moveaxis(data.read([1, 2, 3], window=window), 0, -1)), None
        if data.count != 1:
            raise MissingTruthError(_not_one_band(uri, f"of {data.count} bands"))
        values: NDArray[Any] = data.read(1, window=window)
        if not colors:
            return values, data.nodata
        return _through_table(uri, values, data), None


def _through_table(uri: str, values: NDArray[Any], data: Any) -> NDArray[Any]:
    """Colours of a raster's band by its colour table; without one, grays."""
    try:
        table = data.colormap(1)
    except ValueError:
        return _grays(uri, values, True)
    colors = np.zeros((max(table) + 1, 3), np.uint8)
    for index, color in table.items():
        colors[index] = color[:3]
    found: NDArray[Any] = _numbers(colors)[np.minimum(values, len(colors) - 1)]
    return found


def _zarr_values(
    uri: str, place: int, size: tuple[int, int], rows: slice, cols: slice, colors: bool
) -> NDArray[Any]:
    import zarr

    from segengine.sources import _chunks

    array = zarr.open_array(zarr_store(uri), mode="r")
    _chunks.require_bounded_chunks(array)
    array = _chunks.bounded(array)
    _check_size(uri, array.shape[-2:], size)
    maps = array.shape[:-2]
    count = math.prod(maps)
    if 1 < count <= place:
        raise MissingTruthError(f"{uri}: has {count} maps, none with index {place}")
    number = np.unravel_index(place if count > 1 else 0, maps) if maps else ()
    at: tuple[Any, ...] = (*map(int, number), rows, cols)
    return _grays(uri, np.asarray(array[at]), colors)


def _volume_values(
    truth: TruthRef, place: int, size: tuple[int, int], rows: slice, cols: slice, colors: bool
) -> NDArray[Any]:
    from segengine.sources._nifti import open_nifti

    with open_nifti(truth.uri, truth.fingerprint) as volume:
        about = volume.header
        _check_size(truth.uri, (about.height, about.width), size)
        if about.channels > 1:
            raise MissingTruthError(_not_one_band(truth.uri, f"of {about.channels} channels"))
        if 1 < about.frames <= place:
            raise MissingTruthError(
                f"{truth.uri}: has {about.frames} slices, none with index {place}"
            )
        stored = volume.rows(place if about.frames > 1 else 0, rows, cols)
        return _grays(truth.uri, about.rescale.applied(stored[..., 0], about.dtype), colors)


def _check_size(uri: str, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != size:
        raise MissingTruthError(
            f"{uri}: is {found[0]} x {found[1] if len(found) > 1 else 1} pixels, its frame "
            f"{size[0]} x {size[1]}"
        )
