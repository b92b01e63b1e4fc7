"""Zarr arrays and OME-Zarr images (Zarr v2 and v3), read in windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segengine.errors import CorruptInputError, TransientInputError
from segengine.objects import zarr_store
from segengine.sources._bands import choose, require_bands
from segengine.sources._files import changed, is_url, one_line, open_failure, unreadable
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

_FRAME = frozenset({"t", "time", "z", "depth", "frame", "n"})
_BAND = frozenset({"c", "channel", "band", "bands", "channels"})
_Y = frozenset({"y", "lat", "latitude", "row", "height"})
_X = frozenset({"x", "lon", "longitude", "col", "column", "width"})
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

    Nodata is NaN, and the array's attribute `_FillValue` or `missing_value`; a missing chunk reads
    as the array's fill value, as Zarr defines. Booleans become 0 and 1.
    """

    bands: tuple[int, ...] | None = None
    """1-based, in this order; None: all."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", require_bands(self.bands))

    def probe(self, entry: Entry) -> Probe:
        """What the metadata says; raises CorruptInputError or TransientInputError."""
        image = _open(entry.uri)
        bands = choose(self.bands, range(1, image.bands + 1), image.bands)
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

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame; each array is opened once a call."""
        images: dict[str, _Image | Unreadable] = {}
        for ref in frames:
            if ref.uri not in images:
                try:
                    images[ref.uri] = _open(ref.uri)
                except (CorruptInputError, TransientInputError) as error:
                    images[ref.uri] = unreadable(error)
            image = images[ref.uri]
            if isinstance(image, Unreadable):
                yield image
                continue
            try:
                bands = choose(self.bands, range(1, image.bands + 1), image.bands)
                yield changed(ref, image.height, image.width) or image.tile(
                    ref.position, rows, cols, bands
                )
            except (CorruptInputError, TransientInputError) as error:
                yield unreadable(error)
            except MemoryError:
                yield Unreadable("error", "not enough memory to decode it")


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
        if nodata is not None:
            found["nodata"] = nodata if math.isfinite(nodata) else str(nodata)
        if len(self.names) == self.bands:
            found["band_names"] = [self.names[band - 1] for band in bands]
        return found

    def nodata(self) -> float | None:
        attributes = self.array.attrs
        value = attributes.get("_FillValue", attributes.get("missing_value"))
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        try:
            return None if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            return None  # xarray encodes some fill values in base64; those dtypes are no pixels

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
        try:
            raw = np.asarray(self.array[index])
        except MemoryError:
            raise
        except Exception as error:
            raise _failure(self.uri, error) from error
        kept = [kind for kind in self.axes if kind != "frame"]
        raw = raw.transpose([kept.index(kind) for kind in ("y", "x", "band") if kind in kept])
        raw = raw[..., [band - 1 - low for band in bands]] if "band" in kept else raw[..., None]
        pixels = np.ascontiguousarray(raw, self.dtype)
        valid = np.ones(pixels.shape[:2], np.bool_)
        if pixels.dtype.kind == "f":
            valid &= ~np.isnan(pixels).any(axis=-1)
        nodata = self.nodata()
        if nodata is not None:
            valid &= (pixels != nodata).all(axis=-1)
        return Tile(pixels, None if valid.all() else valid)


def _failure(uri: str, error: BaseException) -> CorruptInputError | TransientInputError:
    """Chunks are fetched by the operating system or a client library, and decoded by codecs."""
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError) or module in ("botocore", "aiohttp", "gcsfs", "s3fs"):
        return open_failure(uri, error)
    return CorruptInputError(f"damaged chunk: {one_line(error)}")


def _open(uri: str) -> _Image:
    import zarr
    from zarr.errors import ArrayNotFoundError, GroupNotFoundError, NodeNotFoundError
    from zarr.storage import LocalStore

    try:
        store = zarr_store(uri) if is_url(uri) else LocalStore(uri, read_only=True)
        node = zarr.open(store, mode="r")
        return _image(uri, node)
    except (CorruptInputError, TransientInputError):
        raise
    except (ArrayNotFoundError, GroupNotFoundError, NodeNotFoundError, FileNotFoundError) as error:
        if not is_url(uri):
            _require_directory(uri)
        raise CorruptInputError("is no Zarr array or group: no metadata in it") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptInputError(f"damaged Zarr metadata: {one_line(error)}") from error
    except Exception as error:
        raise open_failure(uri, error) from error


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
    if "multiscales" in ome:
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


def _dimension_names(array: Any) -> list[str] | None:
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return list(names) if names and all(names) else None


def _axes(array: Any, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is not None:
        if len(names) != array.ndim:
            raise CorruptInputError(f"names {len(names)} axes of {array.ndim}")
        axes = tuple(_axis(name.lower()) for name in names)
        if None not in axes:
            return tuple(axis for axis in axes if axis is not None)
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


def _axis(name: str) -> str | None:
    for kind, known in (("frame", _FRAME), ("band", _BAND), ("y", _Y), ("x", _X)):
        if name in known:
            return kind
    return None


def _checked(image: _Image) -> _Image:
    if any(image.axes.count(axis) != 1 for axis in ("y", "x")) or image.axes.count("band") > 1:
        raise CorruptInputError(f"its axes are {', '.join(image.axes)}; one y and one x are needed")
    if 0 in image.array.shape:
        raise CorruptInputError(f"an empty array, shape {image.array.shape}")
    if image.array.dtype.kind not in "biuf":
        raise CorruptInputError(f"{image.array.dtype} pixels cannot be segmented")
    return image
