"""A scene of several files, or of one on a grid that the job asks for: each band brought to that grid.

    Part(B04.jp2), Part(B11.jp2), ...     -> layers, one a file     their headers say the grid
    window of the grid -> each layer's window, from the overview that is fine enough -> one array

What one header says is remembered by the scene's fingerprint: a worker looks once, and then reads pixels.
A plan opens no file of which enough is said elsewhere (`Part.header`); the worker compares.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, OutsideError, TransientInputError
from segengine.sources import _apart
from segengine.sources._area import BETWEEN, Box, area_on
from segengine.sources._bounds import require_bounded
from segengine.sources._dataset import (
    attributes_of,
    dtype_of,
    require_bounded_dataset,
)
from segengine.sources._files import changed
from segengine.sources._grid import (
    IDENTITY,
    Grid,
    called_crs,
    crs_of,
    micrometres,
    same_crs,
    target,
    wkt_of,
)
from segengine.sources._strips import read_window
from segengine.sources._warp import Resampling, Warp
from segengine.types import Bool, Entry, FrameRef, Part, Probe, Tile, Unreadable
from segengine.urls import public

_COARSER = 1 + 1e-6
"""By how much an overview may be coarser than what is asked for: its size is rounded to whole pixels."""
_MOST_PARTS = 4096
_ASTRAY = 1e-3
"""Of a pixel: by how much a corner may lie elsewhere than is said, which may be rounded."""


class Opens(Hashable, Protocol):
    """What a raster source does with one file."""

    @property
    def resolution(self) -> float | str | None: ...
    @property
    def crs(self) -> str | None: ...
    @property
    def resampling(self) -> Resampling: ...
    @property
    def area(self) -> str | Box | None: ...
    @property
    def area_mark(self) -> str: ...
    @property
    def of_assets(self) -> bool:
        """Whether parts are assets of a STAC item: scale and offset that a file tells are applied."""
        ...

    def open(
        self, uri: str, overview: int | None = None, **settings: Any
    ) -> AbstractContextManager[Any]:
        """An open dataset, or one of its overviews."""
        ...

    def bands_of(self, dataset: Any) -> tuple[int, ...]:
        """1-based numbers of the bands to read of a scene of one file."""
        ...

    def data_bands(self, dataset: Any) -> tuple[int, ...]:
        """The same of all bands but alpha."""
        ...

    def pages_of(self, dataset: Any) -> list[str]:
        """Names of its pages, where it has several."""
        ...


@dataclass(frozen=True, slots=True)
class Layer:
    """What of a scene lies in one file."""

    uri: str
    parts: tuple[Part, ...]
    places: tuple[int, ...]
    """Of the parts among the scene's bands."""
    bands: tuple[int, ...]
    """1-based numbers in the file."""
    dtypes: tuple[str, ...]
    """Of each band, once scaled."""
    grid: Grid
    overviews: tuple[float, ...]
    """How many times coarser each is."""
    attributes: dict[str, Any]
    time: float | None = None
    """When it was made, in seconds since 1970, by its TIFF's date tag."""

    @property
    def dtype(self) -> str:
        """One that holds all its bands."""
        return str(np.result_type(*self.dtypes))

    @property
    def name(self) -> str:
        """What a message calls it."""
        return self.parts[0].name


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers and the grid they come to."""

    layers: tuple[Layer, ...]
    grid: Grid

    @property
    def bands(self) -> int:
        """Number of bands."""
        return sum(len(layer.places) for layer in self.layers)

    @property
    def dtype(self) -> str:
        """One that holds all bands."""
        return str(np.result_type(*(layer.dtype for layer in self.layers)))


def probe(source: Opens, entry: Entry) -> Probe:
    """What the headers of a scene's files say. Raises CorruptInputError, TransientInputError."""
    scene = scene_of(source, entry.uri, entry.parts, planned=True)
    if source.area is not None:
        area = area_on(source.area, source.area_mark, scene.grid)
        if not area.anywhere():
            reason = f"source.area {BETWEEN}" if area.touches() else "lies outside source.area"
            raise OutsideError(reason)
    return Probe(
        kind="raster",
        height=scene.grid.height,
        width=scene.grid.width,
        bands=scene.bands,
        dtype=scene.dtype,
        windowed=True,
        attributes=attributes_on(scene, entry.parts),
    )


def attributes_on(scene: Scene, parts: Sequence[Part]) -> dict[str, Any]:
    """JSON values for the group of a scene: its first band's, and the grid's."""
    first = next(layer for layer in scene.layers if 0 in layer.places)
    attributes = dict(first.attributes)
    for key in ("crs_wkt", "transform", "gcps", "rpcs"):
        attributes.pop(key, None)
    if scene.grid.wkt:
        attributes["crs_wkt"] = scene.grid.wkt
    if scene.grid.transform != IDENTITY:
        attributes["transform"] = list(scene.grid.transform)
    if parts and all(part.name for part in parts):
        attributes["band_names"] = [part.name for part in parts]
    return attributes


def read(source: Opens, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
    """A window of the scene's grid. Raises CorruptInputError, TransientInputError."""
    scene = known(source, ref)
    difference = changed(ref, scene.grid.height, scene.grid.width)
    if difference is not None:
        return difference
    area = None if source.area is None else area_on(source.area, source.area_mark, scene.grid)
    shape = rows.stop - rows.start, cols.stop - cols.start
    dtype = np.dtype(scene.dtype)
    _apart.allow(shape[0] * shape[1] * scene.bands * dtype.itemsize)
    corner = rows.start, cols.start
    whole = slice(0, shape[0]), slice(0, shape[1])
    if area is None:
        return _read(source, scene, corner, shape, [whole])
    inside = area.inside(rows, cols)
    if inside.all():
        return _read(source, scene, corner, shape, [whole])
    if not inside.any():
        return Tile(np.zeros((*shape, scene.bands), dtype), inside)
    found = _read(source, scene, corner, shape, list(area.reads(inside)))
    # What is read beside the area depends on the window, and must not be seen.
    found.pixels[~inside] = 0
    return Tile(found.pixels, inside if found.valid is None else inside & found.valid)


def within(source: Opens, ref: FrameRef, rows: slice, cols: slice) -> Bool | None:
    """(y, x) pixels of a window that lie in the area; None: there is none. Raises as `read`."""
    if source.area is None:
        return None
    return area_on(source.area, source.area_mark, known(source, ref).grid).inside(rows, cols)


def beyond(source: Opens, ref: FrameRef, side: int) -> Bool | None:
    """(y, x) squares of `side` pixels that surely lie outside the area; None: there is none."""
    if source.area is None:
        return None
    return area_on(source.area, source.area_mark, known(source, ref).grid).beyond(side)


def _read(
    source: Opens,
    scene: Scene,
    corner: tuple[int, int],
    shape: tuple[int, int],
    boxes: Sequence[tuple[slice, slice]],
) -> Tile:
    """A window of so many rows and columns from a corner on; of it what lies in the boxes."""
    whole = len(boxes) == 1 and tuple(s.stop - s.start for s in boxes[0]) == shape
    if whole and len(scene.layers) == 1 and scene.layers[0].places == tuple(range(scene.bands)):
        ((only, there),) = _layer(source, scene, scene.layers[0], corner, boxes)
        return Tile(only, there)
    pixels = np.zeros((*shape, scene.bands), scene.dtype)
    valid = np.ones(shape, np.bool_)
    for layer in scene.layers:
        found = _layer(source, scene, layer, corner, boxes)
        for box, (part, there) in zip(boxes, found, strict=True):
            pixels[(*box, list(layer.places))] = part
            if there is not None:
                valid[box] &= there
    return Tile(pixels, None if valid.all() else valid)


def known(source: Opens, ref: FrameRef) -> Scene:
    """What the headers of a frame's files say, of those that were looked at before without opening them."""
    if not ref.fingerprint:
        return scene_of(source, ref.uri, ref.parts)
    return _remembered(source, ref.uri, ref.parts, ref.fingerprint)


@lru_cache(maxsize=64)
def _remembered(source: Opens, uri: str, parts: tuple[Part, ...], fingerprint: str) -> Scene:
    return scene_of(source, uri, parts)


def scene_of(source: Opens, uri: str, parts: tuple[Part, ...], *, planned: bool = False) -> Scene:
    """What the headers of a scene's files say; opens every file once.

    `planned`: but those of which enough is said.
    """
    _require_whole(parts)
    layers = []
    files: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        files.setdefault(part.uri, []).append(i)
    for file, places in files.items():
        own = tuple(parts[i] for i in places)
        with named(own[0]):
            told = _told(file, tuple(places), own)
            if planned and told is not None:
                layers.append(told)
                continue
            with source.open(file) as dataset:
                layer = _look(source, dataset, file, tuple(places), parts)
            if told is not None:
                _require_as_told(layer, told)
            layers.append(layer)
    if not parts:
        with source.open(uri) as dataset:
            layers.append(_look(source, dataset, uri, (), ()))
    names = [layer.name for layer in layers]
    grids = [layer.grid for layer in layers]
    grid = target(grids, names, source.resolution, source.crs or "")
    for layer in layers:
        if not grid.placed:
            break
        if layer.grid == grid:
            continue
        with named(layer.parts[0]):
            if not Warp(grid, layer.grid, source.resampling).meets:
                raise CorruptInputError(
                    "lies elsewhere than the others"
                    if len(layers) > 1
                    else "lies nowhere in source.crs"
                )
    return Scene(tuple(layers), grid)


def _require_whole(parts: Sequence[Part]) -> None:
    """Raise CorruptInputError for bands that are missing, or there twice, by name."""
    if len(parts) > _MOST_PARTS:
        raise CorruptInputError(f"has {len(parts):,} bands; at most {_MOST_PARTS:,} are read")
    missing = [part.name for part in parts if not part.uri]
    if missing:
        raise CorruptInputError(f"has no file of band {', '.join(missing)}")
    by_name: dict[str, set[str]] = {}
    for part in parts:
        by_name.setdefault(part.name, set()).add(part.uri)
    for name, uris in by_name.items():
        if name and len(uris) > 1:
            raise CorruptInputError(
                f"has {len(uris)} files of band {name}: {', '.join(sorted(map(public, uris)))}"
            )


@contextmanager
def named(part: Part) -> Iterator[None]:
    """Errors say which band they are of."""
    try:
        yield
    except (CorruptInputError, TransientInputError) as error:
        if not part.name:
            raise
        raise type(error)(f"band {part.name}: {error}") from error


def _look(
    source: Opens, dataset: Any, uri: str, places: tuple[int, ...], parts: tuple[Part, ...]
) -> Layer:
    own = tuple(parts[i] for i in places)
    if source.pages_of(dataset):
        raise CorruptInputError("has several pages, of which a scene on one grid takes none")
    if own:
        bands = tuple(_band(source, dataset, part) for part in own)
    else:
        bands = source.bands_of(dataset)
        own, places = (Part(uri),) * len(bands), tuple(range(len(bands)))
    if source.of_assets:
        own = tuple(_scaled(dataset, band, part) for band, part in zip(bands, own, strict=True))
    require_bounded_dataset(dataset, len(bands))
    place = tuple(float(value) for value in tuple(dataset.transform)[:6])
    tags = dataset.tags()
    if place == IDENTITY and not dataset.crs and not dataset.gcps[0]:
        place = micrometres(tags)
    return Layer(
        uri=uri,
        parts=own,
        places=places,
        bands=bands,
        dtypes=tuple(
            _dtype(dtype_of(dataset, (band,)), part) for band, part in zip(bands, own, strict=True)
        ),
        grid=Grid(
            dataset.height,
            dataset.width,
            place,  # type: ignore[arg-type] # six of them
            wkt_of(dataset.crs),
        ),
        overviews=tuple(map(float, dataset.overviews(bands[0]))),
        attributes=_with_nodata(attributes_of(dataset, bands), own[0]),
        time=_seconds(tags.get("TIFFTAG_DATETIME")),
    )


def _told(uri: str, places: tuple[int, ...], parts: tuple[Part, ...]) -> Layer | None:
    """A file by what is said of it; None: that is not enough. Raises CorruptInputError."""
    header = parts[0].header
    if header is None or any(part.header != header or part.dtype is None for part in parts):
        return None
    try:
        wkt = wkt_of(crs_of(header.crs))
    except ValueError:
        return None
    if not wkt:
        return None
    require_bounded(header.height, header.width, len(parts))
    return Layer(
        uri=uri,
        parts=parts,
        places=places,
        bands=tuple(max(part.band, 1) for part in parts),
        dtypes=tuple(_dtype(str(part.dtype), part) for part in parts),
        grid=Grid(header.height, header.width, header.transform, wkt),
        overviews=(),
        attributes=_with_nodata({}, parts[0]),
    )


def _require_as_told(layer: Layer, told: Layer) -> None:
    """Raise CorruptInputError where a file is not what is said of it: its scene was laid out by that."""
    here, there = layer.grid, told.grid
    if (here.height, here.width) != (there.height, there.width):
        raise CorruptInputError(
            f"its file has {here.width} x {here.height} pixels, and its item says {there.width} x "
            f"{there.height}"
        )
    if not same_crs(here.wkt, there.wkt):
        raise CorruptInputError(
            f"its file lies in {called_crs(here.wkt)}, and its item says {called_crs(there.wkt)}"
        )
    off = max(math.dist(one, other) for one, other in zip(here.corners, there.corners, strict=True))
    if not off <= _ASTRAY * math.sqrt(there.area):
        raise CorruptInputError(
            f"its file lies elsewhere than its item says: at {here.transform}, not {there.transform}"
        )
    if layer.dtypes != told.dtypes:
        raise CorruptInputError(
            f"its file gives {layer.dtype} pixels, and its item says {told.dtype}"
        )


def _with_nodata(attributes: dict[str, Any], part: Part) -> dict[str, Any]:
    nodata = part.nodata
    if nodata is not None:
        attributes["nodata"] = nodata if math.isfinite(nodata) else str(nodata)
    return attributes


def _seconds(text: str | None) -> float | None:
    """Seconds since 1970 of a TIFF's date, which has no zone: UTC is taken; None: it is none.

    >>> _seconds("2026:05:01 10:30:00"), _seconds("0000:00:00 00:00:00")
    (1777631400.0, None)
    """
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _band(source: Opens, dataset: Any, part: Part) -> int:
    if part.band == 0:
        only = source.data_bands(dataset)
        if len(only) > 1:
            hint = f"; write {part.name}:1 for the first" if source.of_assets else ""
            raise CorruptInputError(
                f"its file has {len(only)} bands, and a scene of several files takes one of each{hint}"
            )
        return only[0]
    if part.band > dataset.count:
        raise CorruptInputError(f"band {part.band} of its file asked, {dataset.count} present")
    return part.band


def _scaled(dataset: Any, band: int, part: Part) -> Part:
    """A part with its file's scale and offset, where nothing else is said of these."""
    scale, offset = dataset.scales[band - 1], dataset.offsets[band - 1]
    told = part.scale is not None or part.offset is not None
    if told or (scale, offset) == (1.0, 0.0):
        return part
    if scale == 0:
        raise CorruptInputError("its file has a scale of 0, with which all of its pixels are alike")
    if not (math.isfinite(scale) and math.isfinite(offset)):
        raise CorruptInputError(
            f"its file has the scale {scale:g} and the offset {offset:g}, which are no finite numbers"
        )
    return replace(part, scale=scale, offset=offset)


def _changes(part: Part) -> bool:
    """Whether scale and offset change its pixels: they keep their dtype where they do not."""
    return part.scale not in (None, 1.0) or part.offset not in (None, 0.0)


def _dtype(stored: str, part: Part) -> str:
    if _changes(part):
        return "float32"
    # What is said of a file may be wrong: nothing of its values is lost for it.
    fits = part.dtype is not None and np.can_cast(stored, part.dtype, "safe")
    return part.dtype if fits and part.dtype is not None else stored


def _layer(
    source: Opens,
    scene: Scene,
    layer: Layer,
    corner: tuple[int, int],
    boxes: Sequence[tuple[slice, slice]],
) -> Iterator[tuple[NDArray[Any], Bool | None]]:
    """A layer's pixels (y, x, band) and where they are valid, in boxes from a corner of the grid on."""
    warp = Warp(scene.grid, layer.grid, source.resampling)
    overview = overview_of(warp, layer.overviews)
    with named(layer.parts[0]), source.open(layer.uri, overview) as dataset:
        size = dataset.height, dataset.width
        if overview is None and size != (layer.grid.height, layer.grid.width):
            raise TransientInputError("has changed since it was planned; run again")
        if overview is not None:
            warp = replace(warp, source=coarser(layer.grid, *size))

        def window(rows: slice, cols: slice) -> tuple[NDArray[Any], Bool | None]:
            return window_in(dataset, layer, rows, cols)

        for rows, cols in boxes:
            yield warp.read(
                window,
                slice(corner[0] + rows.start, corner[0] + rows.stop),
                slice(corner[1] + cols.start, corner[1] + cols.stop),
                len(layer.bands),
                layer.dtype,
            )


def overview_of(warp: Warp, overviews: Sequence[float]) -> int | None:
    """The coarsest overview that is no coarser than what is asked for, as `gdalwarp -ovr AUTO` does."""
    if warp.plain or not overviews:
        return None
    sx, sy = warp.scale
    most = min(1 / sx, 1 / sy) * _COARSER
    fit = [i for i, factor in enumerate(overviews) if 1 < factor <= most]
    return max(fit, key=lambda i: overviews[i], default=None)


def coarser(grid: Grid, height: int, width: int) -> Grid:
    """The grid of an overview of so many rows and columns."""
    a, b, c, d, e, f = grid.transform
    x, y = grid.width / width, grid.height / height
    return Grid(height, width, (a * x, b * y, c, d * x, e * y, f), grid.wkt)


def window_in(
    dataset: Any, layer: Layer, rows: slice, cols: slice
) -> tuple[NDArray[Any], Bool | None]:
    """Pixels (y, x, band) of a window of a layer's open file, and where they are valid."""
    if not any(_changes(part) or part.nodata is not None for part in layer.parts):
        return read_window(dataset, layer.bands, layer.dtype, rows, cols)
    stored = str(np.result_type(*(dataset.dtypes[band - 1] for band in layer.bands)))
    raw, sure = read_window(dataset, layer.bands, stored, rows, cols)
    valid = np.ones(raw.shape[:2], np.bool_) if sure is None else sure
    scaled = np.empty(raw.shape, layer.dtype)
    for i, part in enumerate(layer.parts):
        before = raw[..., i]
        if part.nodata is not None and not np.isnan(part.nodata):
            valid &= before != part.nodata
        if not _changes(part):
            scaled[..., i] = before
            continue
        scale = 1.0 if part.scale is None else part.scale
        offset = 0.0 if part.offset is None else part.offset
        # Rounded once, to what is kept.
        scaled[..., i] = before * np.float64(scale) + np.float64(offset)
    return scaled, None if valid.all() else valid
