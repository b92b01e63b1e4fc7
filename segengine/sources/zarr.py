"""Zarr arrays and OME-Zarr images (Zarr v2 and v3), read in windows."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._bands import choose, require_bands
from segengine.sources._bounds import MOST_BANDS, require_bounded
from segengine.sources._files import changed, is_url, one_line, open_failure, unreadable
from segengine.store.remote import zarr_store
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

_FRAME = frozenset({"t", "time", "z", "depth", "frame", "n"})
_BAND = frozenset({"c", "channel", "band", "bands", "channels"})
_Y = frozenset({"y", "lat", "latitude", "row", "height"})
_X = frozenset({"x", "lon", "longitude", "col", "column", "width"})
_NAMES = {"frame": _FRAME, "band": _BAND, "y": _Y, "x": _X}
_OME = ("t", "c", "z", "y", "x")


@dataclass(frozen=True, slots=True)
class ZarrSource:
    """An array, a group with one array, or an OME-Zarr image (its full-resolution level).

    Axes by name (OME-Zarr `axes`, `dimension_names`, `_ARRAY_DIMENSIONS`), in any order: t, time, z
    and frame count frames (t slowest: frame = t * z_size + z), c and band are bands, y and x the
    picture. Without names:

        2 axes   (y, x)
        3 axes   (y, x, band) where the last is at most 4 and the others larger, else (frame, y, x)
        4 axes   (frame, y, x, band)

    An axis of another name is refused. Nodata is NaN, and what xarray masks: the attributes
    `_FillValue` (floats of Zarr v3 in base64) and `missing_value`, and, of a Zarr v2 array that
    xarray wrote (`_ARRAY_DIMENSIONS`), its fill value. A missing chunk reads as the array's fill
    value, as Zarr defines. Booleans become 0 and 1.
    """

    bands: tuple[int, ...] | None = None
    """1-based, in this order; None: all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", require_bands(self.bands))

    def probe(self, entry: Entry) -> Probe:
        """What the metadata says; raises CorruptInputError or TransientInputError."""
        with _failures(entry.uri, "metadata"):
            image = _open(entry.uri)
            bands = self._bands(image)
            return Probe(
                kind="zarr",
                height=image.height,
                width=image.width,
                bands=len(bands),
                dtype=image.dtype,
                windowed=True,
                positions=np.arange(image.frames) if image.counts else None,
                attributes=image.attributes(bands),
            )

    def _bands(self, image: _Image) -> tuple[int, ...]:
        count = min(image.bands, MOST_BANDS + 1)
        bands = choose(self.bands, range(1, count + 1), image.bands)
        require_bounded(image.height, image.width, len(bands), image.frames)
        return bands

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame; each array is opened once a call."""
        images: dict[str, _Image | Unreadable] = {}
        for ref in frames:
            if ref.uri not in images:
                images[ref.uri] = self._image(ref.uri)
            image = images[ref.uri]
            if isinstance(image, Unreadable):
                yield image
            else:
                yield self._tile(image, ref, rows, cols)

    def _image(self, uri: str) -> _Image | Unreadable:
        try:
            with _failures(uri, "metadata"):
                return _open(uri)
        except (CorruptInputError, TransientInputError) as error:
            return unreadable(error)

    def _tile(self, image: _Image, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        try:
            with _failures(ref.uri, "chunk"):
                bands = self._bands(image)
                return changed(ref, image.height, image.width) or image.tile(
                    ref.position, rows, cols, bands
                )
        except (CorruptInputError, TransientInputError) as error:
            return unreadable(error)
        except MemoryError:
            return Unreadable("error", "not enough memory to decode it")


_: type[Source] = ZarrSource


@dataclass(frozen=True, slots=True)
class _Image:
    """An array and what each of its axes is."""

    uri: str
    array: Any
    axes: tuple[str, ...]
    """One of frame (any number of them), band, y, x for each axis."""
    names: tuple[str, ...] = ()
    """Of the bands, where they have names."""

    def size(self, axis: str) -> int:
        """Product of the lengths of the axes of that kind; 1 where there is none."""
        return math.prod(
            n for n, kind in zip(self.array.shape, self.axes, strict=True) if kind == axis
        )

    @property
    def height(self) -> int:
        return self.size("y")

    @property
    def width(self) -> int:
        return self.size("x")

    @property
    def bands(self) -> int:
        return self.size("band")

    @property
    def frames(self) -> int:
        return self.size("frame")

    @property
    def counts(self) -> bool:
        """Whether there is an axis of frames."""
        return "frame" in self.axes

    @property
    def dtype(self) -> str:
        dtype = self.array.dtype
        return "uint8" if dtype.kind == "b" else str(dtype.newbyteorder("="))

    def attributes(self, bands: tuple[int, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        nodata = self.nodata()
        if nodata:
            # JSON has no NaN or infinity; their names serve GDAL as well.
            value = nodata[0].item()
            found["nodata"] = value if math.isfinite(value) else str(value)
        if len(self.names) == self.bands:
            found["band_names"] = [self.names[band - 1] for band in bands]
        return found

    def nodata(self) -> list[np.generic]:
        """The values that stand for no pixel, in the dtype that `tile` returns."""
        attributes = self.array.attrs
        claims = [attributes.get("_FillValue"), attributes.get("missing_value")]
        metadata = self.array.metadata
        if metadata.zarr_format == 2 and "_ARRAY_DIMENSIONS" in attributes:
            claims[0] = metadata.fill_value
        found = (self._value(c) for claim in claims for c in _listed(claim))
        return [value for value in found if value is not None]

    def _value(self, claim: Any) -> np.generic | None:
        """One of the array's own values; None: no pixel can have it."""
        dtype = np.dtype(self.dtype)
        if isinstance(claim, str) and dtype.kind == "f":
            claim = _float(claim)
        try:
            if dtype.kind in "iu" and int(claim) != claim:
                return None
            return cast("np.generic", dtype.type(claim))
        except (TypeError, ValueError, OverflowError):
            return None

    def tile(self, position: int, rows: slice, cols: slice, bands: tuple[int, ...]) -> Tile:
        """The window of one frame."""
        lengths = [
            n for n, kind in zip(self.array.shape, self.axes, strict=True) if kind == "frame"
        ]
        if position >= self.frames:
            raise CorruptInputError(f"has {self.frames} frames, none with index {position}")
        places = iter(int(i) for i in np.unravel_index(position, lengths)) if lengths else iter(())
        # Only the span of the bands asked for is read: each may be a chunk of its own.
        low, high = min(bands) - 1, max(bands)
        parts: Mapping[str, slice] = {"y": rows, "x": cols, "band": slice(low, high)}
        index = tuple(next(places) if kind == "frame" else parts[kind] for kind in self.axes)
        raw = np.asarray(self.array[index])
        kept = [kind for kind in self.axes if kind != "frame"]
        raw = raw.transpose([kept.index(kind) for kind in ("y", "x", "band") if kind in kept])
        raw = raw[..., [band - 1 - low for band in bands]] if "band" in kept else raw[..., None]
        pixels = np.ascontiguousarray(raw, self.dtype)
        valid = np.ones(pixels.shape[:2], np.bool_)
        if pixels.dtype.kind == "f":
            valid &= ~np.isnan(pixels).any(axis=-1)
        for value in self.nodata():
            valid &= (pixels != value).all(axis=-1)
        return Tile(pixels, None if valid.all() else valid)


def _listed(claim: Any) -> list[Any]:
    return claim if isinstance(claim, list) else [] if claim is None else [claim]


def _float(text: str) -> float | None:
    """A float as xarray writes it (base64 of eight bytes), or as text."""
    try:
        data = base64.b64decode(text, validate=True)
        return float(struct.unpack("<d", data)[0]) if len(data) == 8 else float(text)
    except ValueError:
        return None


@contextmanager
def _failures(uri: str, what: str) -> Iterator[None]:
    """Ours for whatever zarr, its codecs or the client of a store raise while reading.

    Chunks are fetched by the operating system or a client library, whose failures pass; all else
    is said of content.
    """
    try:
        yield
    except (CorruptInputError, TransientInputError, MemoryError):
        raise
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if isinstance(error, OSError) or module in (
            "botocore",
            "aiohttp",
            "aiobotocore",
            "gcsfs",
            "s3fs",
            "fsspec",
        ):
            raise open_failure(uri, error) from error
        where = "Zarr metadata" if what == "metadata" else what
        raise CorruptInputError(f"damaged {where}: {one_line(error)}") from error


def _open(uri: str) -> _Image:
    import zarr
    from zarr.errors import ArrayNotFoundError, GroupNotFoundError, NodeNotFoundError
    from zarr.storage import LocalStore

    try:
        store = zarr_store(uri) if is_url(uri) else LocalStore(uri, read_only=True)
        return _image(uri, zarr.open(store, mode="r"))
    except (ArrayNotFoundError, GroupNotFoundError, NodeNotFoundError, FileNotFoundError) as error:
        if not is_url(uri):
            _require_directory(uri)
        raise CorruptInputError("is no Zarr array or group: no metadata in it") from error


def _require_directory(uri: str) -> None:
    import os

    try:
        os.scandir(uri).close()
    except NotADirectoryError as error:
        raise CorruptInputError("is a file, not a Zarr directory") from error
    except OSError as error:
        raise open_failure(uri, error) from error


def _image(uri: str, node: Any) -> _Image:
    import warnings

    import zarr
    from zarr.errors import ZarrUserWarning

    if isinstance(node, zarr.Array):
        return _checked(_Image(uri, node, _axes(node, _dimension_names(node))))
    attributes = node.attrs.asdict()
    ome = attributes.get("ome", attributes)
    if isinstance(ome.get("multiscales"), list):  # the Zarr convention of that name has an object
        return _checked(_ome(uri, node, ome))
    with warnings.catch_warnings():
        # Other files beside the arrays are nobody's fault.
        warnings.simplefilter("ignore", ZarrUserWarning)
        members = dict(node.members())
    arrays = [name for name, member in members.items() if isinstance(member, zarr.Array)]
    if len(arrays) == 1:
        return _image(uri, members[arrays[0]])
    if not arrays and "bioformats2raw.layout" in ome and "1" not in members and "0" in members:
        return _image(uri, members["0"])
    listed = ", ".join(sorted(members)[:5]) + (", ..." if len(members) > 5 else "")
    raise CorruptInputError(
        f"a Zarr group that is no image and holds {len(members)} members ({listed}); "
        "name one of them in source.paths"
    )


def _ome(uri: str, node: Any, ome: Mapping[str, Any]) -> _Image:
    """Level 0 of the first multiscale image (OME-NGFF 0.4 and 0.5, and earlier without axes)."""
    scales = ome["multiscales"][0]
    array = node[scales["datasets"][0]["path"]]
    axes = [a["name"] if isinstance(a, Mapping) else str(a) for a in scales.get("axes", _OME)]
    channels = ome.get("omero", {}).get("channels", [])
    names = tuple(str(channel.get("label") or "") for channel in channels)
    return _Image(uri, array, _axes(array, axes), names if all(names) else ())


def _dimension_names(array: Any) -> list[str | None] | None:
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return list(names) if names and any(names) else None


def _axes(array: Any, names: Sequence[str | None] | None) -> tuple[str, ...]:
    if names is not None:
        if len(names) != array.ndim:
            raise CorruptInputError(f"names {len(names)} axes of {array.ndim}")
        return tuple(map(_axis, names))
    match array.shape:
        case (_, _):
            return "y", "x"
        case (height, width, last) if last <= 4 and min(height, width) > last:
            return "y", "x", "band"
        case (_, _, _):
            return "frame", "y", "x"
        case (_, _, _, _):
            return "frame", "y", "x", "band"
    raise CorruptInputError(
        f"an array of {array.ndim} axes without known names; name them in dimension_names"
    )


def _axis(name: str | None) -> str:
    for kind, known in _NAMES.items():
        if str(name).lower() in known:
            return kind
    said = "an axis without a name beside others with one" if name is None else f"an axis {name!r}"
    known_names = "; ".join(f"{kind}: {', '.join(sorted(n))}" for kind, n in _NAMES.items())
    raise CorruptInputError(f"has {said}; rename it to one that is known ({known_names})")


def _checked(image: _Image) -> _Image:
    from segengine.sources import _chunks

    if any(image.axes.count(axis) != 1 for axis in ("y", "x")) or image.axes.count("band") > 1:
        raise CorruptInputError(f"its axes are {', '.join(image.axes)}; one y and one x are needed")
    if 0 in image.array.shape:
        raise CorruptInputError(f"an empty array, shape {image.array.shape}")
    if image.array.dtype.kind not in "biuf":
        raise CorruptInputError(f"{image.array.dtype} pixels cannot be segmented")
    _chunks.require_bounded_chunks(image.array)
    return replace(image, array=_chunks.bounded(image.array))
