"""Satellite scenes and other rasters, read in windows through rasterio and GDAL."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np

from segengine.errors import (
    CorruptInputError,
    MissingInputError,
    MissingTruthError,
    TransientInputError,
)
from segengine.sources import (
    _apart,
    _gdal,
    _hollow,
    _mosaic,
    _parts,
    _said,
    _tiff,
    _vouched,
    _vrt,
)
from segengine.sources._area import require_area
from segengine.sources._bands import choose, require_numbers_or_names
from segengine.sources._dataset import (
    alpha_of,
    attributes_of,
    dtype_of,
    require_bounded_dataset,
    window_of,
)
from segengine.sources._files import (
    GuardedFile,
    changed,
    is_url,
    is_web,
    one_line,
    open_input,
    require_unpacked,
    unreadable,
)
from segengine.sources._grid import Grid, is_measured, require_grid
from segengine.sources._mosaic import Order
from segengine.sources._strips import read_window
from segengine.sources._warp import Resampling
from segengine.types import Bool, Entry, FrameRef, Probe, Source, Tile, Unreadable

_OPTIONS = {
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 2**24,  # bytes; the default, 5 % of the machine, is a lot times many workers
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",  # sidecars by name: a folder of 10,000 is long to list
}
_PIXELS_ONLY = {"GDAL_GEOREF_SOURCES": "PAM"}
"""For a TIFF whose place is known since it was probed: reading its CRS takes most of opening it. Not
NONE, which leaves the nodata of an `.aux.xml` out too."""
_SIDECARS = (".aux.xml", ".msk", ".ovr", ".tfw", ".wld")
"""Looked for behind a URL, each by name: listing a bucket's folder for each open takes long."""

_MOST_OPENED = 100
"""Pages of a TIFF that are opened one by one."""


class ApartError(Exception):
    """A file is to be read in a process of its own, which damage to it may end."""

    def __str__(self) -> str:
        return "an HDF5 file, which is read as an image only; convert it to GeoTIFF"


@dataclass(frozen=True, slots=True)
class RasterSource:
    """Anything GDAL opens; s3://, gs:// and https:// in ranges, credentials from the environment.

    Bands keep their values (colour tables are not applied, nor scale and offset); several dtypes
    are promoted to one that holds them. An alpha band is no band but a mask. A pixel is valid where
    every chosen band is: not nodata, not masked, alpha above 0, not NaN. Like pages of a TIFF are
    frames of one scene.
    """

    of_assets: ClassVar[bool] = False
    """Files are assets of a STAC item."""

    bands: tuple[int | str, ...] | None = None
    """1-based, in this order; of scenes of several files names; None: all but alpha."""
    paths: tuple[str, ...] = ()
    """The job's: what a VRT may name beside what lies below its own folder."""
    trust: bool = False
    """A file may name any other, and GDAL may use all of its drivers."""
    resolution: float | str | None = None
    """Side of a pixel of the scene's grid, in units of its CRS, or as `10 m`, which counts where that is
    in metres; None: that of its finest band."""
    crs: str | None = None
    """The CRS of the scene's grid; None: its own."""
    resampling: Resampling = "nearest"
    """How pixels of one grid become those of another."""
    area: str | tuple[float, float, float, float] | None = None
    """A file of polygons, or west, south, east, north in degrees; outside is void, and not read."""
    area_mark: str = ""
    """Digest of what the area's file said when it was planned; empty: not known."""
    mosaic: Order | None = None
    """Overlapping scenes are one map, and which of them is on top; None: each is its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", require_numbers_or_names(self.bands))
        object.__setattr__(self, "paths", tuple(self.paths))
        require_grid(self.resolution, self.crs, self.resampling)
        object.__setattr__(self, "area", require_area(self.area))
        _mosaic.require_order(self.mosaic)

    def probe(self, entry: Entry) -> Probe:
        """What the header says; raises CorruptInputError or TransientInputError."""
        try:
            if self.mosaic is not None:
                return _mosaic.probe(self, entry)
            if self._is_gridded(entry):
                return _parts.probe(self, entry)
            with self.open(entry.uri) as dataset:
                pages = _pages(dataset)
                if pages:
                    _tiff.require_own_masks(entry.uri)
                    with _open_page(pages[0]) as first:
                        return self._probe(entry.uri, first, pages)
                return self._probe(entry.uri, dataset, pages)
        except ApartError:
            return _apart.probe(self, entry)

    def _probe(self, uri: str, dataset: Any, pages: list[str]) -> Probe:
        bands = self.bands_of(dataset)
        require_bounded_dataset(dataset, len(bands))
        dtype = dtype_of(dataset, bands)
        _require_alike(uri, dataset, pages)
        return Probe(
            kind="raster",
            height=dataset.height,
            width=dataset.width,
            bands=len(bands),
            dtype=dtype,
            windowed=True,
            positions=np.arange(len(pages)) if pages else None,
            attributes=attributes_of(dataset, bands),
        )

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame; only the blocks under the window are decoded."""
        for ref in frames:
            try:
                yield self.tile(ref, rows, cols)
            except (CorruptInputError, TransientInputError) as error:
                yield unreadable(error)
            except MemoryError:
                yield Unreadable("error", "not enough memory to decode it")

    def within(self, ref: FrameRef, rows: slice, cols: slice) -> Bool | None:
        """(y, x) pixels of a window that lie in the area; None: there is none. Raises as `probe`."""
        if ref.mosaic is not None:
            return _mosaic.within(self, ref, rows, cols)
        return None if self.area is None else _parts.within(self, ref, rows, cols)

    def beyond(self, ref: FrameRef, side: int) -> Bool | None:
        """(y, x) squares of `side` pixels that surely lie outside the area, or hold nodata alone;
        None: nothing is known."""
        outside = None if self.area is None else _parts.beyond(self, ref, side)
        void = self._hollow(ref, side)
        if outside is None or void is None or outside.shape != void.shape:
            return void if outside is None else outside
        return outside | void

    def _hollow(self, ref: FrameRef, side: int) -> Bool | None:
        """Of a scene on the grid of its one file here."""
        own = not ref.parts and self.crs is None and self.resolution is None and self.mosaic is None
        if not own or ref.position or is_url(ref.uri):
            return None
        alone = _mosaic.alone(self)

        def is_void(rows: slice, cols: slice) -> bool:
            found = alone.tile(ref, rows, cols)
            return isinstance(found, Tile) and found.valid is not None and not found.valid.any()

        return _hollow.hollow(ref.uri, side, is_void)

    def tile(self, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        """The window of one frame; raises CorruptInputError or TransientInputError."""
        try:
            return self._tile_here(ref, rows, cols)
        except ApartError:
            return _apart.read(self, ref, rows, cols)

    def _is_gridded(self, scene: Entry | FrameRef) -> bool:
        """Whether a scene comes to a grid that is not, or need not be, that of its one file."""
        if scene.parts or self.crs is not None or self.area is not None:
            return True
        if not isinstance(self.resolution, str):
            return self.resolution is not None
        return _lies_in_metres(self, scene.uri, scene.fingerprint)

    def _tile_here(self, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        if ref.mosaic is not None:
            return _mosaic.read(self, ref, rows, cols)
        if self._is_gridded(ref):
            return _parts.read(self, ref, rows, cols)
        known = _PIXELS_ONLY if ref.uri.lower().endswith((".tif", ".tiff")) else {}
        with self.open_page(ref.uri, ref.position, **known) as page:
            found = self._window(page, ref, rows, cols)
            mask = _mask_of(page, ref)
            if mask is None or isinstance(found, Unreadable):
                return found
            with _open_page(mask) as pixels:
                _vouched.require(pixels, rows, cols)
                inside = pixels.read(1, window=window_of(rows, cols)) > 0
        return Tile(found.pixels, inside if found.valid is None else inside & found.valid)

    def _window(self, dataset: Any, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        difference = changed(ref, dataset.height, dataset.width)
        if difference is not None:
            return difference
        bands = self.bands_of(dataset)
        require_bounded_dataset(dataset, len(bands))
        dtype = dtype_of(dataset, bands)
        area = (rows.stop - rows.start) * (cols.stop - cols.start)
        _apart.allow(area * len(bands) * np.dtype(dtype).itemsize)
        return Tile(*read_window(dataset, bands, dtype, rows, cols))

    @contextmanager
    def open_page(self, uri: str, position: int, **settings: Any) -> Iterator[Any]:
        """As `open`; of a TIFF of several pages, one of them."""
        with self.open(uri, **settings) as dataset:
            pages = _pages(dataset)
            if not pages:
                yield dataset
                return
            if position >= len(pages):
                raise CorruptInputError(f"has no page {position}")
            with _open_page(pages[position]) as page:
                yield page

    @contextmanager
    def open(self, uri: str, overview: int | None = None, **settings: Any) -> Iterator[Any]:
        """An open dataset, with GDAL's settings while it is open; GDAL's errors become ours.

        `overview`: of which one of its overviews is opened in its place, counted from the finest.
        Raises ApartError for what is only opened in a process of its own.
        """
        import rasterio
        from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning

        remote = _Remote(uri, self.trust, alone=self.of_assets) if is_url(uri) else None
        options = _OPTIONS | settings | ({} if self.trust else _gdal.SAFE)
        level = {} if overview is None else {"overview_level": overview}
        try:
            driver = self._driver(uri, remote)
            with rasterio.Env(**options), warnings.catch_warnings():
                for kind in (NotGeoreferencedWarning, NodataShadowWarning):
                    warnings.simplefilter("ignore", kind)
                # As a Path a name is taken as it stands; in a string `?` and `#` would be parsed.
                with (
                    rasterio.open(Path(uri), driver=driver, **level)
                    if remote is None
                    else rasterio.open(uri, driver=driver, opener=remote.open, **level) as dataset
                ):
                    if not self.trust:
                        _gdal.require_own_overviews(dataset)
                    with _said.require_silence(lambda: _vrt.require_jpegs(uri)):
                        yield dataset
        except (
            CorruptInputError, TransientInputError, MissingTruthError, MemoryError, ApartError,
        ):  # fmt: skip
            raise
        except Exception as error:
            # GDAL's own (CPLE_*) are plain exceptions, and not all are wrapped.
            if remote is not None and remote.failures:
                raise remote.failures[0] from error
            raise CorruptInputError(_reason(uri, error)) from error
        finally:
            if remote is not None:
                remote.close()

    def _driver(self, uri: str, remote: _Remote | None) -> str | None:
        """The one driver that GDAL may use, after a look at what the file names; None: any."""
        head = _gdal.read_head(uri) if remote is None else remote.head()
        require_unpacked(head)
        if _gdal.is_fragile(head) and not _apart.inside():
            raise ApartError
        if remote is None:
            _gdal.require_sound_file(uri, head)
        if self.trust:
            _gdal.require_data(head)
            return None
        driver = _gdal.driver_of(uri, head)
        _gdal.require_whole(uri, driver)
        if remote is None:
            _gdal.require_harmless(uri, driver, self.paths)
        else:
            _gdal.require_remote(driver)
        return driver

    def pages_of(self, dataset: Any) -> list[str]:
        """GDAL's names of a TIFF's pages, where it has several."""
        return _pages(dataset)

    def bands_of(self, dataset: Any) -> tuple[int, ...]:
        """1-based numbers of the bands to read. Raises CorruptInputError where there are none."""
        return choose(self.bands, self.data_bands(dataset), dataset.count)

    def data_bands(self, dataset: Any) -> tuple[int, ...]:
        """All its bands but alpha. Raises CorruptInputError where there are none."""
        if dataset.count == 0:
            held = len(dataset.subdatasets)
            raise CorruptInputError(
                f"holds {held} data sets and no bands of its own; convert the one meant to GeoTIFF"
            )
        alpha = alpha_of(dataset)
        return tuple(band for band in dataset.indexes if band != alpha) or (1,)


_: type[Source] = RasterSource


@lru_cache(maxsize=1024)
def _lies_in_metres(source: RasterSource, uri: str, fingerprint: str) -> bool:
    """Whether a resolution in metres says anything of a file; others are read as they are."""
    with source.open(uri) as dataset:
        if _pages(dataset) or not dataset.crs:
            return False
        a, b, c, d, e, f = (float(value) for value in tuple(dataset.transform)[:6])
        height, width = dataset.shape
        return is_measured(Grid(height, width, (a, b, c, d, e, f), dataset.crs.to_wkt()))


def _reason(uri: str, error: BaseException) -> str:
    """What GDAL says, without the name of the file. It could be opened: its content is at fault."""
    if isinstance(error, UnicodeEncodeError):
        return "its name is not valid UTF-8, which GDAL cannot open; rename it"
    text = one_line(error.__cause__ or error)
    for name in (uri, os.path.basename(uri)):
        text = text.replace(name, "")
    text = re.sub(r"/vsiriopener\S*", "", text).lstrip("':, ")
    return f"damaged raster: {text or 'cannot be decoded'}"


class _Remote:
    """Opens for GDAL what lies behind a URL, and remembers why that failed.

    Not GDAL's own network drivers: rasterio holds the interpreter while these wait, so that a
    worker's heartbeat stops; and credentials and endpoint are those the listing used.
    """

    def __init__(self, uri: str, trust: bool, alone: bool = False) -> None:
        """`alone`: nothing beside it belongs to it, as of an asset of a STAC item."""
        self.uri, self.trust = uri, trust
        # A query may be a signature, which opens nothing beside.
        self.alone = alone or (is_web(uri) and "?" in uri)
        self.failures: list[CorruptInputError | TransientInputError] = []
        self._first: _Reported | None = None

    def head(self) -> bytes:
        """The first bytes; the open file is the one that GDAL gets, with what it has fetched."""
        self._first = _Reported(self.uri, self.failures)
        head = self._first.read(_gdal.HEAD)
        _gdal.require_sound(cast("BinaryIO", self._first), head)
        self._first.seek(0)
        return head

    def close(self) -> None:
        """Close what GDAL did not take."""
        if self._first is not None:
            self._first.close()

    def open(self, path: str, mode: str = "rb", **_: object) -> Any:
        stem = os.path.splitext(self.uri)[0]
        if path != self.uri and self.alone:
            raise FileNotFoundError(path)
        if path != self.uri and path not in {
            f"{base}{suffix}" for base in (self.uri, stem) for suffix in _SIDECARS
        }:
            raise FileNotFoundError(path)
        if path == self.uri and self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            file = _Reported(path, self.failures)
            if not self.trust and path.endswith((".msk", ".ovr")):
                _gdal.require_harmless_sidecar(file.read(_gdal.HEAD))
                file.seek(0)
            return file
        except (CorruptInputError, TransientInputError) as error:
            if path == self.uri or not isinstance(error, MissingInputError):
                self.failures.append(error)
            raise FileNotFoundError(path) from error


class _Reported(GuardedFile):
    """GDAL only hears that a read failed; the list keeps why."""

    def __init__(self, uri: str, failures: list[CorruptInputError | TransientInputError]) -> None:
        super().__init__(uri)
        self._failures = failures

    def read(self, size: int = -1) -> bytes:
        try:
            return super().read(size)
        except (CorruptInputError, TransientInputError) as error:
            self._failures.append(error)
            raise


def _open_page(page: str) -> Any:
    import rasterio

    return rasterio.open(page)


def _pages(dataset: Any) -> list[str]:
    """GDAL's names of a TIFF's pages (`GTIFF_DIR:2:a.tif`) where it has several, in the file's order."""
    if dataset.driver != "GTiff" or len(dataset.subdatasets) < 2:
        return []
    # rasterio sorts them as text, the tenth before the second
    return sorted(dataset.subdatasets, key=lambda name: int(name.split(":", 2)[1]))


def _mask_of(page: Any, ref: FrameRef) -> str | None:
    """GDAL's name of the mask of one page of several, which it finds only for a file as a whole."""
    if not page.name.startswith("GTIFF_DIR:"):
        return None
    kind, directory, file = page.name.split(":", 2)
    masks = _masks if ref.fingerprint else _masks.__wrapped__
    mask = masks(ref.uri, ref.fingerprint).get(int(directory) - 1)
    return None if mask is None else f"{kind}:{mask + 1}:{file}"


@lru_cache(maxsize=64)
def _masks(uri: str, fingerprint: str) -> dict[int, int]:
    """Places of masks in a TIFF's chain of directories, by those of their pages."""
    try:
        with open_input(uri) as file:
            return {p.index: p.mask for p in _tiff.pages(file) if p.mask is not None}
    except CorruptInputError:
        return {}


def _require_alike(uri: str, dataset: Any, pages: list[str]) -> None:
    """Raise CorruptInputError where the pages of a TIFF are no frames of one scene; `dataset`: one.

    To open a page GDAL walks through all before it: thousands would take minutes.
    """
    found = _layouts(uri) if pages else []
    if len(found) != len(pages):
        if len(pages) > _MOST_OPENED:
            raise CorruptInputError(
                f"its {len(pages):,} pages have directories that cannot be read"
            )
        found = [(_layout(dataset), _ground(dataset))]
        for page in pages[1:]:
            with _open_page(page) as other:
                found.append((_layout(other), _ground(other)))
    if len({layout for layout, _ in found}) > 1:
        raise CorruptInputError(
            "its pages differ in size, bands or dtype; store each in a file of its own"
        )
    # Writers of stacks leave the place out of all pages but the first.
    if found and {ground for _, ground in found if ground} - {found[0][1]}:
        raise CorruptInputError(
            "its pages lie in different places; store each in a file of its own"
        )


def _layouts(uri: str) -> list[tuple[object, object]]:
    """What the pages of a TIFF must share: layout and place (empty: it has none).

    None where their directories cannot be read.
    """
    try:
        with open_input(uri) as file:
            return [(page.layout[:5], page.ground) for page in _tiff.pages(file)]
    except CorruptInputError:
        return []


def _layout(page: Any) -> object:
    return page.shape, page.dtypes


def _ground(page: Any) -> object:
    """Where an open page lies; empty: nothing says so."""
    points, _ = page.gcps
    found = page.crs, page.transform, [p.asdict() for p in points]
    return "" if page.crs is None and page.transform.is_identity and not points else str(found)
