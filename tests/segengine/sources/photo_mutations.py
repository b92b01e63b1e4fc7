"""Damaged photos and labels through their readers.

    python -m tests.segengine.sources.photo_mutations 2000             so many files of every format
    python -m tests.segengine.sources.photo_mutations 2000 png webp    of these

One line a format, as JSON: what became of the files, the longest time of one, the most memory. The
process may take 1 GiB of address space more than it began with; what needs more is counted.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from segengine.datasets.coco import CocoSource
from segengine.errors import CorruptInputError, MissingTruthError, SegengineError
from segengine.job import TruthSpec
from segengine.measuring.truth import LabelImages
from segengine.sources.images import ImageSource
from segengine.sources.listing import Listing, list_entries
from segengine.types import Entry, FrameRef, TruthRef, Unreadable
from tests.segengine.datasets import standins
from tests.segengine.sources.mutations import damaged, peak_megabytes

MEMORY = 2**30
_COLOUR = np.random.default_rng(2).integers(0, 256, (48, 64, 3), np.uint8)
_CODES = (np.arange(48)[:, None] // 8 + np.arange(64) // 8).astype(np.uint8)


def _pillow(form: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_COLOUR).convert(mode).save(file, form, **options)
    return file.getvalue()


def _heic() -> bytes:
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(_COLOUR)).save(file)
    return file.getvalue()


def _animated(form: str) -> bytes:
    frames = [Image.fromarray(np.roll(_COLOUR, i, 1)) for i in range(4)]
    return _pillow(form, save_all=True, append_images=frames)


def _tiff(**options: object) -> bytes:
    file = io.BytesIO()
    pixels = (_COLOUR.astype(np.uint16) << 8) if options.pop("deep", False) else _COLOUR
    tifffile.imwrite(file, pixels, photometric="rgb", **options)
    return file.getvalue()


def _deep_png() -> bytes:
    return cv2.imencode(".png", _COLOUR.astype(np.uint16) << 8)[1].tobytes()


def _exif() -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010E] = 6, "a photo"
    return block.tobytes()


_XMP = b'<rdf:Description tiff:Orientation="6"/>'
PHOTOS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: _pillow("JPEG", exif=_exif(), xmp=_XMP),
    "jpeg-progressive": lambda: _pillow("JPEG", progressive=True),
    "jpeg-cmyk": lambda: _pillow("JPEG", "CMYK"),
    "mpo": lambda: _animated("MPO"),
    "png": lambda: _pillow("PNG", exif=_exif()),
    "png-palette": lambda: _pillow("PNG", "P", transparency=3),
    "png-deep": _deep_png,
    "apng": lambda: _animated("PNG"),
    "gif": lambda: _animated("GIF"),
    "webp": lambda: _pillow("WEBP", exif=_exif(), xmp=_XMP),
    "webp-lossless": lambda: _pillow("WEBP", "RGBA", lossless=True),
    "webp-animated": lambda: _animated("WEBP"),
    "avif": lambda: _pillow("AVIF", exif=_exif()),
    "heic": _heic,
    "bmp": lambda: _pillow("BMP"),
    "bmp-palette": lambda: _pillow("BMP", "P"),
    "dib": lambda: _pillow("DIB"),
    "tiff": _tiff,
    "tiff-lzw": lambda: _pillow("TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: _pillow("TIFF", compression="tiff_adobe_deflate"),
    "tiff-jpeg": lambda: _pillow("TIFF", compression="jpeg"),
    "tiff-group4": lambda: _pillow("TIFF", "1", compression="group4"),
    "tiff-deep": lambda: _tiff(deep=True),
    "tiff-tiled": lambda: _tiff(tile=(16, 16)),
    "bigtiff": lambda: _tiff(bigtiff=True),
}


def _label(form: str, dtype: str = "uint8") -> bytes:
    file = io.BytesIO()
    Image.fromarray(_CODES.astype(dtype)).save(file, form)
    return file.getvalue()


def _palette_label() -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(_CODES)
    image.putpalette(bytes(range(256)) * 3)
    image.save(file, "PNG")
    return file.getvalue()


def _coco(rle: bool) -> bytes:
    box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": int(rle), "category_id": 1}
    shape: object = [[4, 4, 24, 4, 24, 24, 4, 24]]
    if rle:
        shape = {"size": [48, 64], "counts": [100, 50, 2000, 40, 882]}
    return json.dumps({
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "segmentation": shape, **box}],
        "categories": [{"id": 1, "name": "thing"}],
    }).encode()  # fmt: skip


LABELS: dict[str, Callable[[], bytes]] = {
    "label-png": lambda: _label("PNG"),
    "label-png-deep": lambda: _label("PNG", "uint16"),
    "label-png-palette": _palette_label,
    "label-tiff": lambda: _label("TIFF"),
    "label-bmp": lambda: _label("BMP"),
    "coco-polygon": lambda: _coco(rle=False),
    "coco-rle": lambda: _coco(rle=True),
}
FORMATS = PHOTOS | LABELS
_TEXTS = frozenset(("coco-polygon", "coco-rle"))
_LETTERS = b'0123456789-.eE"[]{},:null '


def damaged_photo(whole: bytes, chance: random.Random, text: bool = False) -> bytes:
    """Damaged; half of the PNGs get right checksums again, so that what they say is taken for true."""
    data = damaged(whole, chance, _LETTERS if text else b"", near=512)
    return mended(data) if chance.random() < 0.5 else data


def mended(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks as they should be."""
    if not data.startswith(b"\x89PNG"):
        return data
    whole, at = bytearray(data), 8
    while at + 12 <= len(whole):
        end = at + 8 + struct.unpack_from(">I", whole, at)[0]
        if end + 4 > len(whole):
            break
        struct.pack_into(">I", whole, end, zlib.crc32(whole[at + 4 : end]))
        at = end + 4
    return bytes(whole)


def photo(path: Path) -> str:
    """What planning and reading make of a photo."""
    try:
        listing: Listing = list_entries([str(path)])
        listing.kind_of(listing.entries[0])
        found = ImageSource().probe(Entry(path.name, str(path), ""))
    except CorruptInputError:
        return "refused"
    except MemoryError:
        return "memory"
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    (item,) = ImageSource().read([ref], slice(None), slice(None))
    if not isinstance(item, Unreadable):
        return "read"
    return "memory" if "memory" in item.reason else item.kind


def label(path: Path) -> str:
    """What reading it as the truth of a frame makes of a label image."""
    spec = TruthSpec(paths=[str(path)], classes=["a", "b"])
    mark = str(path.stat().st_mtime_ns)
    ref = FrameRef(0, "a", "a", "", *_CODES.shape)
    try:
        LabelImages(spec).load(ref, TruthRef(str(path), mark, ""), *map(slice, _CODES.shape))
    except MissingTruthError:
        return "refused"
    return "read"


def coco(path: Path) -> str:
    """What the COCO source makes of its annotations."""
    root = path.parent
    if not (root / "images").exists():
        standins.picture(root / "images" / "a.png", 1, _CODES.shape)
    source = CocoSource((str(root / "images"),), annotations=str(path))
    try:
        found = standins.reasons(source, root / "images")
    except (SegengineError, ValueError):
        return "refused"
    return "missing" if found else "read"


def outcome(name: str, path: Path) -> str:
    if name in PHOTOS:
        return photo(path)
    return coco(path) if name in _TEXTS else label(path)


def run(name: str, count: int, seed: int) -> dict[str, object]:
    """Outcomes of so many damaged files of a format."""
    outcomes, longest = Counter[str](), 0.0
    whole = FORMATS[name]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{name}"
        path.write_bytes(whole)
        first = outcome(name, path)
        for i in range(count):
            chance = random.Random(f"{seed} {name} {i}")
            path.write_bytes(damaged_photo(whole, chance, name in _TEXTS))
            sys.stderr.write(f"{name} {i}\n")
            start = time.process_time()
            outcomes[outcome(name, path)] += 1
            longest = max(longest, time.process_time() - start)
    return {
        "format": name, "files": count, "whole": first, "outcomes": dict(outcomes),
        "seconds": round(longest, 2), "megabytes": peak_megabytes(),
    }  # fmt: skip


def limit() -> None:
    """From now on the operating system refuses more than so much memory, and ends a hang."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in options.formats:  # what is loaded is not counted
        run(name, 1, 0)
    limit()
    for name in options.formats:
        sys.stdout.write(json.dumps(run(name, options.count, options.seed)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
