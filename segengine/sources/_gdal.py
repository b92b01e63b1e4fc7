"""What GDAL is let open: formats by an allow list, and nothing else that a file names.

A raster file may name others (a VRT its sources, a mask or an overview beside it), and GDAL opens
these with whatever of its 150 drivers takes them, some of which fetch, run or read anything:

    a.tif, a.tif.msk, a.tif.ovr      their first bytes are those of a format below
    mosaic.vrt                       its XML holds nothing but known elements, and
      SourceFilename -> b.tif        each file lies below the VRT's folder or among the job's
        b.tif.msk ...                paths, links resolved, and is itself looked at in this way

The XML is read by a stricter parser than GDAL's, so what it lets pass means the same to both.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO

from segengine.errors import CorruptInputError
from segengine.sources import _aaigrid, _jp2, _netcdf, _png, _sound
from segengine.sources._files import is_url, one_line, open_failure, open_input, read_bytes
from segengine.sources._pillow import opened

HEAD = 4096
"""Bytes that tell a format."""
REMEDY = "if that is as it should be, set `trust: true` in the job"
SAFE = {
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",
    # Sidecars are then looked for by name, and a folder of a million files is not listed.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
}
"""GDAL's settings while it reads what nobody vouches for."""

_SIGNATURES = (
    ("GTiff", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("JP2OpenJPEG", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("BMP", re.compile(rb"BM.{4}\0{4}", re.DOTALL)),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("HFA", re.compile(rb"EHFA_HEADER_TAG")),
    ("netCDF", re.compile(rb"CDF[\x01\x02\x05]|\x89HDF\r\n\x1a\n")),
    ("VRT", re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<VRTDataset[\s>]")),
    ("DTED", re.compile(rb"(?:VOL1.{76})?(?:HDR1.{76})?UHL1", re.DOTALL)),
    ("AAIGrid", re.compile(rb"\s*(?:ncols|nrows)\s+\d", re.IGNORECASE)),
)
_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_TIFF = ("GTiff",)
_NESTED = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "GIF", "BMP", "WEBP", "HFA", "VRT")
"""What a VRT may name: told by first bytes alone, so that GDAL, which looks again, agrees."""
_REMOTE = frozenset(driver for driver, _ in _SIGNATURES) - {"VRT", "netCDF"}
_MARKUP = re.compile(
    rb"<VRTDataset|<GDAL|<MRF_META|<Service|Capabilities|CoverageOffering|stac_", re.IGNORECASE
)
"""What drivers that fetch look for, some of them anywhere in the first bytes."""
_BESIDE = (".msk", ".MSK", ".ovr", ".OVR")


_MOST_FILES, _DEEPEST = 20_000, 8
"""Of all that one raster names."""
_MOST_BYTES = 1 << 26
"""Of the text of one VRT."""


def driver_of(uri: str, head: bytes) -> str:
    """GDAL's name of the format of a file that begins so. Raises CorruptInputError."""
    require_data(head)
    driver = _told(head)
    if driver:
        return driver
    if uri.lower().endswith(".hgt"):
        return "SRTMHGT"
    if _has_header(uri):
        return "ENVI" if _header(uri).startswith(b"ENVI") else "EHdr"
    names = ", ".join((*(driver for driver, _ in _SIGNATURES), "SRTMHGT", "ENVI", "EHdr"))
    raise CorruptInputError(
        f"damaged raster: not recognized as one of the formats that are read ({names}); "
        "convert it to GeoTIFF, or, if GDAL may try all of its drivers on it, set `trust: true`"
    )


def require_data(head: bytes) -> None:
    """Raise CorruptInputError for what no driver reads, and GDAL would only say so: nothing, or a page."""
    if not head:
        raise CorruptInputError("damaged raster: an empty file")
    if _PAGE.match(head):
        raise CorruptInputError("damaged raster: an HTML page, as of a sign-in or an error")


def is_fragile(head: bytes) -> bool:
    """Whether a file's damage can end the process that reads it, and no look at it can tell."""
    return head.startswith(b"\x89HDF")


def require_sound(file: BinaryIO, head: bytes) -> None:
    """Raise CorruptInputError for a header that would hang, fill or end the process that believes it.

    `file`: one that begins with `head`, wherever it lies; trust in what it names is another matter.
    """
    driver = _told(head)
    if driver == "JP2OpenJPEG":
        _jp2.require_sound(file)
    elif driver == "netCDF" and not is_fragile(head):
        _netcdf.require_sound(file)
    elif driver == "AAIGrid":
        _aaigrid.require_sound(file, head)


def require_sound_file(path: str, head: bytes) -> None:
    """The same of a local file, once until it changes."""
    if _told(head) in ("JP2OpenJPEG", "netCDF", "AAIGrid"):
        _require_sound_file(path, file_mark(path), head)


def _told(head: bytes) -> str:
    """The format that the first bytes tell; empty: none."""
    return next((driver for driver, signature in _SIGNATURES if signature.match(head)), "")


def require_remote(driver: str) -> None:
    """Raise CorruptInputError for a format whose parts cannot be looked at behind a URL."""
    if driver not in _REMOTE:
        raise CorruptInputError(
            f"a {driver} file is not read behind a URL; keep it in a local folder"
        )


def require_harmless_sidecar(head: bytes) -> None:
    """Raise CorruptInputError where a mask or an overview is no TIFF."""
    if not _SIGNATURES[0][1].match(head):
        raise CorruptInputError(f"its mask or overview file is no TIFF; {REMEDY}")


def require_harmless(path: str, driver: str, paths: Sequence[str]) -> None:
    """Raise CorruptInputError where a local raster names what it may not; `paths`: the job's."""
    _Walk(paths, path).file(path, driver, 0)


def require_own_overviews(dataset: Any) -> None:
    """Raise CorruptInputError where metadata names another file as the overviews."""
    named = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
    if named is not None and not re.fullmatch(r":::BASE:::\.?[\w.-]+", named):
        raise CorruptInputError(f"names {named} as its overviews; {REMEDY}")


# Where a VRT's sources may lie


def _among(real: str, paths: Sequence[str]) -> bool:
    """Whether a path without links is a file of the job's paths, or lies in a folder of them."""
    from segengine.sources.listing import is_named

    return any(is_named(real, path) for path in paths)


def _below(real: str, folder: str) -> bool:
    return real.startswith(folder.rstrip("/") + "/")


# Looking at files


@dataclass(slots=True)
class _Walk:
    """One raster and all that it names, bounded."""

    paths: Sequence[str]
    top: str
    seen: set[str] = field(default_factory=set)
    folders: dict[str, str] = field(default_factory=dict)
    above: list[str] = field(default_factory=list)
    """The VRTs around the file at hand, without links."""

    def file(self, path: str, driver: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise CorruptInputError(f"names files that name files, more than {_DEEPEST} deep")
        if driver == "netCDF":
            _require_no_links(path, file_mark(path))
        elif driver == "VRT":
            self._vrt(path, depth)
        for suffix in _BESIDE:
            if os.path.exists(path + suffix):
                self._nested(path + suffix, depth + 1, only=_TIFF, what="mask or overview file")

    def _vrt(self, path: str, depth: int) -> None:
        real = os.path.realpath(path)
        if real in self.above:
            raise CorruptInputError(f"its source {path} holds itself")
        self.above.append(real)
        folders = {os.path.dirname(real), os.path.dirname(os.path.realpath(self.top))}
        for name, relative in _sources(path, file_mark(path)):
            source = _resolved(name, os.path.dirname(real) if relative else os.getcwd())
            target = self._real(source)
            own = any(_below(target, folder) for folder in folders)
            if not own and not _among(target, self.paths):
                raise CorruptInputError(
                    f"its source {name} lies neither below its own folder nor among source.paths; "
                    f"{REMEDY}"
                )
            self._nested(source, depth + 1, only=_NESTED, what="source")
        self.above.pop()

    def _real(self, path: str) -> str:
        """A path without links; that of a folder is looked up once."""
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        if folder not in self.folders:
            self.folders[folder] = os.path.realpath(folder)
        return os.path.join(self.folders[folder], name)

    def _nested(self, path: str, depth: int, *, only: Sequence[str], what: str) -> None:
        if path in self.seen and self._real(path) not in self.above:
            return
        self.seen.add(path)
        if len(self.seen) > _MOST_FILES:
            raise CorruptInputError(f"names more than {_MOST_FILES:,} files")
        mark = file_mark(path)
        if not mark or not stat.S_ISREG(mark[0]):
            raise CorruptInputError(f"its {what} {path} is no file, or is not there")
        driver = _nested_driver(path, mark)
        if driver not in only:
            raise CorruptInputError(f"its {what} {path} is no {' or '.join(only)}; {REMEDY}")
        self.file(path, driver, depth)
        require_sound_file(path, read_head(path))
        try:
            require_whole(path, driver)
        except CorruptInputError as error:
            raise CorruptInputError(f"its {what} {path}: {error}") from error
        _open_alone(path, driver, mark, file_mark(path + ".aux.xml"))


_Mark = tuple[int, ...]


def file_mark(path: str) -> _Mark:
    """What changes where a file does; it need not be there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # behind a URL, or in memory
        return ()
    return (
        status.st_mode,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


@lru_cache(maxsize=1 << 15)
def _nested_driver(path: str, mark: _Mark) -> str:
    """The format of a file that GDAL will open by itself; empty: none, or more than one."""
    head = read_head(path)
    driver = _told(head)
    # Those drivers take the first bytes for text, which ends at a zero.
    return driver if driver == "VRT" or not _MARKUP.search(head.partition(b"\0")[0]) else ""


@lru_cache(maxsize=1 << 12)
def _require_sound_file(path: str, mark: _Mark, head: bytes) -> None:
    with open_input(path) as file:
        require_sound(file, head)


def require_whole(uri: str, driver: str) -> None:
    """Raise CorruptInputError where a PNG ends early, of which GDAL gives what there is, or where a GIF has
    other codes than its pixels'."""
    if driver in _WHOLE and is_url(uri):
        _WHOLE[driver](read_bytes(uri))
    elif driver in _WHOLE:
        _require_local(uri, file_mark(uri), driver)


@lru_cache(maxsize=1 << 12)
def _require_local(path: str, mark: _Mark, driver: str) -> None:
    _WHOLE[driver](read_bytes(path))


def _require_codes(data: bytes) -> None:
    try:
        name, image = opened(data)
        with image:
            _sound.require_sound(name, data, image)
    except CorruptInputError:
        raise
    except Exception as error:  # Pillow raises whatever its parser runs into
        raise CorruptInputError(f"damaged GIF: {one_line(error)}") from error


_WHOLE = {"PNG": _png.require_whole, "GIF": _require_codes}


@lru_cache(maxsize=1 << 15)
def _open_alone(path: str, driver: str, mark: _Mark, metadata: _Mark) -> None:
    """Raise CorruptInputError where a nested file is not what it begins as, or names overviews."""
    import warnings
    from pathlib import Path

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    if driver == "VRT":
        return  # GDAL opens its parts when they are read; they have been looked at
    try:
        with warnings.catch_warnings(), rasterio.Env(**SAFE):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(Path(path), driver=driver) as dataset:
                require_own_overviews(dataset)
    except RasterioError as error:
        raise CorruptInputError(f"its source {path} is damaged") from error


def read_head(uri: str) -> bytes:
    """A file's first bytes; raises as `open_input`."""
    with open_input(uri) as file:
        return file.read(HEAD)


def _has_header(uri: str) -> bool:
    return any(os.path.isfile(name) for name in _header_names(uri))


def _header_names(uri: str) -> Iterator[str]:
    stem = os.path.splitext(uri)[0]
    return (f"{base}{suffix}" for base in (stem, uri) for suffix in (".hdr", ".HDR"))


def _header(uri: str) -> bytes:
    return read_head(next(name for name in _header_names(uri) if os.path.isfile(name)))


@lru_cache(maxsize=256)
def _require_no_links(path: str, mark: _Mark) -> None:
    """Raise CorruptInputError where an HDF5 file has data in another: links, raw parts, mosaics."""
    if not read_head(path).startswith(b"\x89HDF"):
        return  # a classic netCDF is one file
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups, seen = [file], set[int]()
            while groups:
                group = groups.pop()
                for name in group:
                    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                        raise CorruptInputError(f"its {name} lies in another file; {REMEDY}")
                    item = group.get(name)
                    if item is None:
                        continue
                    address = h5py.h5o.get_info(item.id).addr
                    if address in seen:
                        continue
                    seen.add(address)
                    if len(seen) > _MOST_FILES:
                        raise CorruptInputError(f"holds more than {_MOST_FILES:,} objects")
                    if isinstance(item, h5py.Group):
                        groups.append(item)
                    elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                        raise CorruptInputError(
                            f"its data set {name} lies in another file; {REMEDY}"
                        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CorruptInputError("damaged raster: an HDF5 file that cannot be read") from error


# The XML of a VRT

_COMMENT = re.compile(r"<!--(?:[^-<>]|-(?!-))*-->")
_DECLARATION = re.compile(r"\ufeff?\s*<\?xml[^<>]*\?>")
_SRS = re.compile(r"[A-Za-z]\w*:\w+(?:\+\w+)?|[A-Za-z_]\w*\s*\[.*", re.DOTALL)
_WORDS = """
    VRTDataset VRTRasterBand SRS GeoTransform GCPList GCP Metadata MDI OverviewList MaskBand Overview
    BlockXSize BlockYSize Description UnitType Offset Scale NoDataValue HideNoDataValue CategoryNames
    Category ColorInterp ColorTable Entry Histograms HistItem HistMin HistMax BucketCount
    IncludeOutOfRange Approximate HistCounts GDALRasterAttributeTable FieldDefn Name Type Usage Row F
    SimpleSource ComplexSource AveragedSource NoDataFromMaskSource KernelFilteredSource
    SourceFilename SourceBand SourceProperties SrcRect DstRect NODATA UseMaskBand ScaleOffset
    ScaleRatio Exponent SrcMin SrcMax DstMin DstMax Clamp LUT ColorTableComponent Kernel Size Coefs
    MaskValueThreshold RemappedValue
    GDALWarpOptions WarpMemoryLimit ResampleAlg WorkingDataType Option SourceDataset Transformer
    ApproxTransformer MaxError BaseTransformer GenImgProjTransformer SrcGeoTransform
    SrcInvGeoTransform DstGeoTransform DstInvGeoTransform ReprojectTransformer
    ReprojectionTransformer Options SourceSRS TargetSRS SrcGCPTransformer GCPTransformer Order Reversed
    BandList BandMapping SrcNoDataReal SrcNoDataImag DstNoDataReal DstNoDataImag SrcAlphaBand
    DstAlphaBand
"""
_ELEMENTS = frozenset(_WORDS.split())
_NAMES = """
    rasterXSize rasterYSize subClass dataType band blockXSize blockYSize relativeToVRT shared xOff
    yOff xSize ySize dataAxisToSRSAxisMapping coordinateEpoch domain format key c1 c2 c3 c4 index
    tableType name Id Pixel Line X Y Z Info Projection resampling normalized RasterXSize RasterYSize
    DataType BlockXSize BlockYSize src dst
"""
_ATTRIBUTES = frozenset(_NAMES.split())
_FILES = frozenset(("SourceFilename", "SourceDataset"))
_PLACES = frozenset(("SRS", "SourceSRS", "TargetSRS"))
_CLASSES = frozenset(("VRTWarpedDataset", "VRTSourcedRasterBand", "VRTWarpedRasterBand"))
_DOMAINS = frozenset(("", "IMAGE_STRUCTURE", "RPC", "IMAGERY", "COLOR_PROFILE", "xml:XMP"))
_OPTIONS = frozenset(
    ("INIT_DEST", "UNIFIED_SRC_NODATA", "NUM_THREADS", "SAMPLE_GRID", "SAMPLE_STEPS", "XSCALE",
     "YSCALE", "ERROR_OUT_IF_EMPTY_SOURCE_WINDOW", "SKIP_NOSOURCE", "OPTIMIZE_SIZE", "SRC_ALPHA_MAX",
     "DST_ALPHA_MAX", "SOURCE_EXTRA", "APPLY_VERTICAL_SHIFT", "STREAMABLE_OUTPUT",
     "AREA_OF_INTEREST", "CENTER_LONG", "USE_GENERAL_CASE")
)  # fmt: skip


@lru_cache(maxsize=64)
def _sources(path: str, mark: _Mark) -> tuple[tuple[str, bool], ...]:
    """(name, relative to the VRT) of each file that a VRT names. Raises CorruptInputError."""
    return tuple(dict.fromkeys(_named(vrt_tree(path, mark))))


def vrt_tree(path: str, mark: _Mark) -> Any:
    """The elements of a VRT, whatever they are. Raises CorruptInputError."""
    import xml.etree.ElementTree as tree

    if mark and mark[3] > _MOST_BYTES:
        raise CorruptInputError(f"a VRT of {mark[3]:,} bytes; at most {_MOST_BYTES:,} are read")
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8")
        text = _DECLARATION.sub("", _COMMENT.sub("", text), count=1).lstrip("\ufeff")
        if "<!" in text or "<?" in text:
            raise CorruptInputError(f"its XML holds more than elements; {REMEDY}")
        return tree.fromstring(text)
    except OSError as error:
        raise open_failure(path, error) from error
    except (UnicodeDecodeError, tree.ParseError, ValueError) as error:
        raise CorruptInputError(f"damaged raster: not the XML of a VRT: {error}") from error


def _named(root: Any) -> Iterator[tuple[str, bool]]:
    for node in root.iter():
        _require_known(node)
        text = node.text or ""
        if node.tag in _PLACES and text.strip() and not _SRS.fullmatch(text.strip()):
            raise CorruptInputError(f"its {node.tag} is {text.strip()[:80]!r}; {REMEDY}")
        if node.tag in _FILES:
            if len(node):
                raise CorruptInputError(f"its {node.tag} holds elements; {REMEDY}")
            relative = node.get("relativeToVRT", "0")
            if relative not in ("0", "1"):
                raise CorruptInputError(f"its {node.tag} has relativeToVRT {relative!r}")
            yield text, relative == "1"


def _require_known(node: Any) -> None:
    """Names are compared exactly: GDAL does not mind their case, so another case is unknown."""
    held = [
        ("element", node.tag, node.tag in _ELEMENTS),
        *(("attribute", name, name in _ATTRIBUTES) for name in node.attrib),
        ("class", node.get("subClass"), node.get("subClass") in (None, *_CLASSES)),
        ("metadata domain", node.get("domain"), node.get("domain", "") in _DOMAINS),
    ]
    if node.tag == "Option":
        # To GDAL an element inside is as good as an attribute.
        names = [node.attrib[key] for key in ("name", "key") if key in node.attrib]
        plain = len(names) == 1 and names[0] in _OPTIONS and not len(node)
        held.append(("option", " ".join(names), plain))
    for what, name, known in held:
        if not known:
            raise CorruptInputError(
                f"is a VRT with the {what} {name}, which may do more than read pixels; {REMEDY}"
            )


def _resolved(name: str, folder: str) -> str:
    """The path that GDAL will open. Raises CorruptInputError for what is more than a path."""
    special = name.startswith(("<", "/vsi", "{")) or "://" in name
    odd = not name or name != name.strip() or any(ord(letter) < 32 for letter in name)
    if special or odd or (not os.path.isabs(name) and ":" in name):
        raise CorruptInputError(f"its source {name[:200]!r} is no path of a file; {REMEDY}")
    return name if os.path.isabs(name) else os.path.join(folder, name)
