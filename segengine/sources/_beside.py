"""The files beside an input that it is made of: masks, overviews, metadata, where it lies, its header.

    a.tif    a.tif.msk  a.tif.ovr  a.tif.aux.xml      the name and more
             a.tfw  a.tifw  a.wld  a.prj  a.rpb       the stem and another suffix
    m.vrt    all that it names, and what lies beside that

GDAL looks for them by name (its `dataset.files`), so a rule does without opening any input.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from html import unescape

from segengine.sources._files import is_url, open_input

_MORE = (".aux.xml", ".msk", ".ovr", ".msk.ovr", ".ovr.msk", ".aux", ".rrd", ".hdr")
_STEMS = (".aux", ".rrd", ".rde", ".ige", ".hdr", ".prj", ".clr", ".stx", ".sta", ".tab", ".rpb",
          ".imd", ".pvl", ".rpc", ".eph", ".xml", "_rpc.txt", "_metadata.txt", "_metadata.xml")  # fmt: skip
_LANDSAT = ("_mtl.txt", "_mtl.xml")
_PHOTO, _PHOTOS = (
    (".aux.xml", ".msk", ".ovr"),
    frozenset(("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "webp", "gif")),
)
"""What counts beside a photo, which is none where it says where it lies."""
REMOTE = (".aux.xml", ".msk", ".ovr")
"""What is looked for behind a URL, and world files."""
_TAILS = frozenset(end[-4:] for end in (*_MORE, *_STEMS) if not end.endswith(".txt")) | {".wld"}
_TEXTS = frozenset(end[-8:] for end in (*_STEMS, *_LANDSAT) if end.endswith(".txt"))
"""The last letters of all these names: four, or eight, for texts beside photos are many."""
_MOST_FILES, _DEEPEST, _MOST_BYTES = 20_000, 8, 1 << 26
_NAMED = re.compile(
    r"<(?:SourceFilename|SourceDataset)\b([^>]*)>([^<]*)</(?:SourceFilename|SourceDataset)>"
)
_RELATIVE = re.compile(r"""relativeToVRT\s*=\s*["']1["']""")
_SAYS = re.compile(rb"<(?:NoDataValue|GeoTransform|SRS|GCPList)\b")
_ISD = re.compile(rb"<isd\b", re.IGNORECASE)


def world_files(name: str) -> Iterator[str]:
    """Names of what may say where a picture lies: `a.tif` has a.tfw, a.tifw and a.wld."""
    stem, dot, suffix = name.rpartition(".")
    if dot and suffix:
        for each in (f"{suffix[0]}{suffix[-1]}w", f"{suffix}w", "wld"):
            yield from _cases(f"{stem}.", each)


def candidates(names: Iterable[str]) -> frozenset[str]:
    """Those names of a folder that may be beside anything; mostly none."""
    return frozenset(
        name
        for name in names
        if name[-4:].lower() in _TAILS or name[-1:] in "wW" or name[-8:].lower() in _TEXTS
    )


def companions(name: str, exists: Callable[[str], bool]) -> list[str]:
    """Names of what there is of all that may lie beside a file of that name, in a fixed order."""
    stem, _, suffix = name.rpartition(".")
    if suffix.lower() in _PHOTOS:
        wanted = [name + more for more in _PHOTO]
    else:
        wanted = [each for more in _MORE for each in _cases(name, more)]
        wanted += [each for more in _STEMS for each in _cases(stem or name, more)]
        if band := re.fullmatch(r"(.*)_B[0-9A-Z]+", stem, re.IGNORECASE):
            wanted += [each for more in _LANDSAT for each in _cases(band[1], more)]
        if stem.upper().startswith("IMG_"):  # of Pleiades
            wanted += [f"{kind}_{stem[4:]}{end}" for kind in ("DIM", "RPC") for end in _XML]
    wanted += world_files(name)
    return [each for each in dict.fromkeys(wanted) if each != name and exists(each)]


def remote_companions(name: str) -> list[str]:
    """Names that are looked for beside a raster behind a URL; of a photo none."""
    if name.rpartition(".")[2].lower() in _PHOTOS:
        return []
    stem, _, suffix = name.rpartition(".")
    worlds = [f"{stem}.tfw"] if suffix.lower() in ("tif", "tiff") else []
    return [*(name + more for more in REMOTE), *worlds, f"{stem}.wld"]


def _cases(start: str, end: str) -> tuple[str, str]:
    return start + end, start + end.upper()


_XML = (".xml", ".XML")


def is_metadata(path: str) -> bool:
    """Whether a file beside is GDAL's, and not somebody's labels in XML."""
    name = os.path.basename(path).lower()
    if not name.endswith(".xml") or name.endswith((".aux.xml", "_metadata.xml", "_mtl.xml")):
        return True
    return name.startswith(("dim_", "rpc_")) or _says(path, _ISD)


def is_telling(path: str) -> bool:
    """Whether an `.aux.xml` says what no photo has: nodata, or where it lies."""
    return _says(path, _SAYS)


def _says(path: str, words: re.Pattern[bytes]) -> bool:
    with open_input(path) as file:
        return words.search(file.read(1 << 20)) is not None


def named_by(path: str) -> list[str]:
    """The local files that a VRT names, and those that these name, in a fixed order."""
    found: dict[str, None] = {}
    pending = [(path, 0)]
    while pending and len(found) < _MOST_FILES:
        vrt, depth = pending.pop()
        for name in _named_in(vrt):
            if name not in found:
                found[name] = None
                if name.lower().endswith(".vrt") and depth < _DEEPEST:
                    pending.append((name, depth + 1))
    return list(found)[:_MOST_FILES]


def _named_in(vrt: str) -> Iterator[str]:
    try:
        with open(vrt, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MOST_BYTES)
    except OSError:
        return
    for attributes, name in _NAMED.findall(text):
        name = unescape(name)
        if is_url(name) or name.startswith("/vsi"):
            continue
        relative = _RELATIVE.search(attributes) is not None
        yield os.path.join(os.path.dirname(vrt) if relative else os.getcwd(), name)
