"""What masks are measured against: label images beside the images, or a data set's own truth."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from segengine import registry
from segengine.errors import MissingTruthError
from segengine.inputs import reader
from segengine.job import TRUTH_FIELD, TruthSpec, source_options
from segengine.objects import zarr_store
from segengine.schemes import filesystem
from segengine.sources._files import read_bytes
from segengine.types import FrameRef, Truth, TruthRef
from segengine.urls import public

_LARGE = 1 << 26
"""Pixels above which a label TIFF is read in windows."""


_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
"""What a whole PNG ends with."""


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

    def load(self, ref: FrameRef, truth: TruthRef, rows: slice, cols: slice) -> Truth:
        """That of a frame's window, (1, y, x). Raises MissingTruthError with the reason."""
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
        """Labels only."""
        return frozenset(("truth",))

    def find(self, refs: Sequence[tuple[str, FrameRef]]) -> list[TruthRef]:
        """The first of each frame's candidates that exists."""
        if any("://" in path for path in self.spec.paths):
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(lambda r: find_truth(self.spec, r[1], r[0]), refs))
        return [find_truth(self.spec, ref, scene) for scene, ref in refs]

    def load(self, ref: FrameRef, truth: TruthRef, rows: slice, cols: slice) -> Truth:
        """Labels of a window."""
        return Truth(load_truth(self.spec, truth, ref, rows, cols, self.trust)[None])


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
        has = bool(getattr(self.source, "truth_instances", False))
        return frozenset(("truth", *(more if has else ())))

    def find(self, refs: Sequence[tuple[str, FrameRef]]) -> list[TruthRef]:
        """One pass over the set's lists."""
        return list(self.source.find_truth([ref for _, ref in refs]))

    def load(self, ref: FrameRef, truth: TruthRef, rows: slice, cols: slice) -> Truth:
        """Labels, instances and objects of a window."""
        if not truth.uri:
            raise MissingTruthError(f"no truth at {truth.looked}")
        found: Truth = self.source.load_truth(ref, truth, rows, cols)
        return found


def of_job(job: Mapping[str, Any]) -> str:
    """How a job's truth is read, as JSON that travels; empty: it has none.

    The `truth` block goes before a data set's own.
    """
    trust = bool(job.get("trust"))
    if job.get("truth"):
        block = {"truth": dict(job["truth"])}
        return json.dumps(block | ({"trust": True} if trust else {}), sort_keys=True)
    source = source_options(job, trust)
    kind = source.get("kind", "auto")
    if kind != "auto" and hasattr(registry.load("sources", kind), "find_truth"):
        return json.dumps({"source": source}, sort_keys=True)
    return ""


@lru_cache(maxsize=4)
def from_json(text: str) -> TruthProvider:
    """The provider behind `of_job`."""
    block = json.loads(text)
    if "truth" in block:
        return LabelImages(TruthSpec.model_validate(block["truth"]), block.get("trust", False))
    return DataSetTruth(reader(block["source"]["kind"], block["source"]))


def candidates(spec: TruthSpec, ref: FrameRef, scene: str) -> list[str]:
    """Paths where a frame's truth may lie, in the order of `truth.paths`."""
    path = PurePosixPath(ref.name.partition("#")[0] if "#" in ref.name else ref.name)
    if not ref.name.partition("#")[2].isdigit():
        path = PurePosixPath(ref.name)
    fields = {
        "name": path.name,
        "stem": path.stem,
        "path": str(path.with_suffix("")),
        "parent": str(path.parent) if str(path.parent) != "." else "",
        "scene": scene,
        "frame": str(ref.position),
        "index": str(ref.index),
    }

    def fill(match: re.Match[str]) -> str:
        if match[2] or match[3]:
            return "{" if match[2] else "}"
        return fields[match[1]]

    return [TRUTH_FIELD.sub(fill, template) for template in spec.paths]


def find_truth(spec: TruthSpec, ref: FrameRef, scene: str) -> TruthRef:
    """The first of a frame's candidates that exists, with the fingerprint of its size and time."""
    paths = candidates(spec, ref, scene)
    for path in paths:
        found = _stat(path)
        if found is not None:
            return TruthRef(path, found, "")
    return TruthRef("", "", " or ".join(paths))


def _stat(path: str) -> str | None:
    if "://" not in path:
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return None
        return xxhash.xxh3_64_hexdigest(f"{info.st_size} {info.st_mtime_ns}".encode())
    try:
        system, inner = filesystem(path)
        about = system.info(inner)
    except (OSError, ValueError):
        return None
    mark = about.get("ETag") or about.get("LastModified") or about.get("mtime")
    return xxhash.xxh3_64_hexdigest(f"{about.get('size')} {mark}".encode())


def load_truth(
    spec: TruthSpec,
    truth: TruthRef,
    ref: FrameRef,
    rows: slice,
    cols: slice,
    trust: bool = False,
) -> NDArray[Any]:
    """Truth labels (y, x) of a frame's window; what is not scored has the dtype's maximum.

    `trust`: a label raster may name any file.

    Raises MissingTruthError with the reason where there is none, or it does not fit the frame.
    """
    if not truth.uri:
        raise MissingTruthError(f"no truth at {truth.looked}")
    size = ref.height, ref.width
    values = _values(truth.uri, truth.fingerprint, size, rows, cols, trust)
    return map_labels(values, spec)


def map_labels(values: NDArray[Any], spec: TruthSpec) -> NDArray[Any]:
    """Pixel values to class indices; what is no class has the dtype's maximum."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if values.dtype.kind == "f":
        whole = np.nan_to_num(values, nan=-1)
        values = np.where(whole == np.floor(whole), whole, -1).astype(np.int64)
    classes = len(spec.classes) if spec.classes is not None else None
    dtype = np.dtype(np.uint8 if (classes or 256) < 255 else np.uint16)
    void = 255 if dtype == np.uint8 else 65535
    if spec.values is None and values.dtype == np.uint8 and dtype == np.uint8:
        table = np.arange(256, dtype=np.uint8)
        if classes is not None:
            table[classes:] = void
        if spec.void is not None and 0 <= spec.void < 256:
            table[spec.void] = void
        import cv2

        # three times as fast as indexing; it takes no empty array
        mapped: NDArray[Any] = cv2.LUT(values, table) if values.size else values
        return mapped
    result = np.full(values.shape, void, dtype)
    codes = spec.values if spec.values is not None else range(classes or void)
    if spec.values is None:
        inside = (values >= 0) & (values < len(codes))
        if spec.void is not None:
            inside &= values != spec.void
        result[inside] = values[inside]
        return result
    for index, code in enumerate(codes):
        result[values == code] = index
    return result


def _values(
    uri: str, fingerprint: str, size: tuple[int, int], rows: slice, cols: slice, trust: bool
) -> NDArray[Any]:
    suffix = PurePosixPath(public(uri)).suffix.lower()
    try:
        if suffix in (".tif", ".tiff", ".vrt", ".jp2"):
            return _raster_values(uri, size, rows, cols, trust)
        if suffix == ".zarr":
            return _zarr_values(uri, size, rows, cols)
        whole = _image_values(uri, fingerprint)
    except MissingTruthError:
        raise
    except Exception as error:
        raise MissingTruthError(f"{uri}: cannot be read: {error}") from error
    _check_size(uri, whole.shape, size)
    return whole[rows, cols]


@lru_cache(maxsize=2)
def _image_values(uri: str, fingerprint: str) -> NDArray[Any]:
    """A label image whole; palette images give their indices."""
    import io

    from PIL import Image, UnidentifiedImageError

    data = read_bytes(uri)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if (image.format, image.mode) == ("PNG", "L") and data.endswith(_PNG_END):
                quick = _gray_png(data)
                if quick is not None:
                    return quick
            if image.mode not in ("1", "L", "P", "I", "F") and not image.mode.startswith("I;16"):
                raise MissingTruthError(
                    f"{uri}: a label image has one band of class indices, this one is {image.mode}"
                )
            return np.asarray(image)
    except UnidentifiedImageError:  # its message is an address in memory
        raise MissingTruthError(f"{uri}: cannot be read: it is no image") from None


def _gray_png(data: bytes) -> NDArray[np.uint8] | None:
    """An 8-bit gray PNG through OpenCV, which takes two thirds of Pillow's time; None: let that say why."""
    import cv2

    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    gray = found is not None and found.ndim == 2 and found.dtype == np.uint8
    return np.asarray(found, np.uint8) if gray else None


def _raster_values(
    uri: str, size: tuple[int, int], rows: slice, cols: slice, trust: bool
) -> NDArray[Any]:
    from rasterio.windows import Window

    # The source knows what GDAL may open.
    with reader("raster", {"trust": trust}).open(uri) as data:  # type: ignore[attr-defined]
        if data.count != 1:
            raise MissingTruthError(f"{uri}: a label raster has one band, this has {data.count}")
        _check_size(uri, data.shape, size)
        values: NDArray[Any] = data.read(1, window=Window.from_slices(rows, cols))
        return values


def _zarr_values(uri: str, size: tuple[int, int], rows: slice, cols: slice) -> NDArray[Any]:
    import zarr

    from segengine.sources import _chunks

    array = zarr.open_array(zarr_store(uri), mode="r")
    _chunks.require_bounded_chunks(array)
    array = _chunks.bounded(array)
    _check_size(uri, array.shape[-2:], size)
    at: tuple[Any, ...] = (*(0,) * (array.ndim - 2), rows, cols)
    return np.asarray(array[at])


def _check_size(uri: str, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != size:
        raise MissingTruthError(
            f"{uri}: is {found[0]} x {found[1] if len(found) > 1 else 1} pixels, its frame "
            f"{size[0]} x {size[1]}"
        )
