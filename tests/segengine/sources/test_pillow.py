"""Every mode in every format that Pillow writes: as Pillow reads it, or a reason that names it.

`python -m tests.segengine.sources.test_pillow` prints the table.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from segengine.errors import CorruptInputError
from segengine.sources.images import ImageSource
from segengine.types import Entry, FrameRef, Unreadable

Image.init()
MODES = ("1", "L", "LA", "La", "P", "PA", "I", "I;16", "I;16B", "I;16L", "F", "RGB", "RGBA", "RGBa",
         "RGBX", "CMYK", "YCbCr", "HSV", "LAB")  # fmt: skip
PHOTOS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")
STUBS = ("BUFR", "GRIB", "HDF5", "WMF")
"""Which Pillow writes only by a plug-in."""
ADDED = ("HEIF",)
"""Which Pillow writes where another library, such as imageio, has registered it; we read it."""
OTHERS = tuple(sorted(set(Image.SAVE) - set(PHOTOS) - set(STUBS) - set(ADDED)))
ANIMATED = ("AVIF", "GIF", "MPO", "PNG", "WEBP")
OPTIONS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "AVIF": ({"quality": 90, "subsampling": "4:4:4"}, {"quality": 40}),
    "GIF": ({}, {"interlace": 0}, {"transparency": 3}),
    "JPEG": ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"dpi": (9, 9)}),
    "PNG": ({}, {"transparency": 3}, {"optimize": True}, {"bits": 4}, {"dpi": (9, 9)}),
    "TIFF": (
        {}, {"big_tiff": True}, {"tiffinfo": {338: 0}}, {"tiffinfo": {262: 0}}, {"strip_size": 100},
        *({"compression": c} for c in ("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits",
          "jpeg", "zstd", "lzma", "webp", "group3", "group4", "tiff_ccitt", "tiff_lzw")),
        {"compression": "tiff_lzw", "tiffinfo": {317: 2}},
    ),
    "WEBP": ({"lossless": True}, {"lossless": True, "exact": True}, {"quality": 50}, {"exif": b""}),
}  # fmt: skip

RASTER = "which is no photo; read it with source.kind: raster"
REFUSED = {
    "refused: a TIFF image in colours that cannot be read as RGB (LAB)",
    f"refused: a TIFF of 37 x 23 pixels, 1 bands of int32, {RASTER}",
    f"refused: a TIFF of 37 x 23 pixels, 4 bands of uint8, {RASTER}",
}
"""Of TIFFs that Pillow reads."""


def picture(mode: str, size: tuple[int, int] = (37, 23)) -> Image.Image:
    """Pixels of a mode, transparent ones among them."""
    width, height = size
    rng = np.random.default_rng(3)
    colour = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).resize(size)
    alpha = Image.fromarray((rng.integers(0, 3, (height, width)) * 127).astype(np.uint8))
    if mode in ("LA", "RGBA"):
        image = colour.convert(mode)
        image.putalpha(alpha)
        return image
    if mode in ("La", "RGBa", "PA"):
        return picture({"PA": "RGBA"}.get(mode, mode.upper())).convert(mode)
    if mode.startswith("I"):
        deep = rng.integers(0, 65536, (height, width)).astype(
            np.int32 if mode == "I" else np.uint16
        )
        data = deep.astype(">u2" if mode == "I;16B" else deep.dtype).tobytes()
        return Image.frombytes(mode, size, data)
    if mode == "F":
        return Image.fromarray(rng.normal(size=(height, width)).astype(np.float32))
    return Image.new(mode, size, 128) if mode == "LAB" else colour.convert(mode)


def written(form: str) -> Iterator[tuple[str, bytes]]:
    """(description, file) of all that Pillow writes in a format."""
    for mode in MODES:
        for options in OPTIONS.get(form, ({},)):
            turned = ({}, {"exif": turned_exif(6)}) if form in (*ANIMATED, "JPEG") else ({},)
            for more in turned if form != "GIF" else ({},):
                yield from attempt(form, mode, options | more)
        if form in ANIMATED:
            again = picture(mode).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            yield from attempt(form, mode, {"save_all": True, "append_images": [again]})


def turned_exif(way: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = way
    return exif.tobytes()


def attempt(form: str, mode: str, options: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    file = io.BytesIO()
    try:
        picture(mode).save(file, form, **options)
        if form in PHOTOS:
            Image.open(file).load()
    except Exception:  # noqa: BLE001 - whatever its encoders raise
        return  # Pillow does not write that, or not what it reads
    yield f"{mode} {options}", file.getvalue()


def theirs(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (y, x, band) and what is no pixel, by Pillow."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode == "P" or ("transparency" in image.info and image.mode in ("L", "RGB")):
        image = image.convert("RGBA" if image.mode != "L" else "LA")
    plain = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
    plain |= dict.fromkeys(("CMYK", "YCbCr", "RGBX"), "RGB")
    image = image.convert(plain.get(image.mode, image.mode))
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    valid = np.ones(pixels.shape[:2], np.bool_)
    if image.mode in ("LA", "RGBA"):
        pixels, valid = pixels[..., :-1], pixels[..., -1] > 0
    return pixels, valid


def outcome(path: Path, data: bytes) -> str:
    """`equal`, `wrong: ...` or `refused: ...`."""
    path.write_bytes(data)
    try:
        found = ImageSource().probe(Entry(path.name, str(path), ""))
    except CorruptInputError as error:
        return f"refused: {error}"
    ref = FrameRef(0, path.name, str(path), "", found.height, found.width)
    (tile,) = ImageSource().read([ref], slice(None), slice(None))
    if isinstance(tile, Unreadable):
        return f"wrong: planned, and then {tile.reason}"
    pixels, valid = theirs(data)
    if tile.pixels.shape != pixels.shape or tile.pixels.dtype != pixels.dtype.newbyteorder("="):
        return f"wrong: {tile.pixels.shape} {tile.pixels.dtype}, not {pixels.shape} {pixels.dtype}"
    same_valid = np.array_equal(valid, True if tile.valid is None else tile.valid) or (
        tile.valid is None and valid.all()
    )
    if not same_valid:
        return "wrong: other pixels are void"
    return "equal" if np.array_equal(tile.pixels, pixels) else "wrong: other values"


def outcomes(form: str, folder: Path) -> dict[str, str]:
    """Of each file of a format."""
    return {what: outcome(folder / "a", data) for what, data in written(form)}


@pytest.mark.filterwarnings("ignore")  # Pillow's of what it will not write any more
@pytest.mark.parametrize("form", PHOTOS)
def test_a_photo_is_as_pillow_reads_it(tmp_path: Path, form: str) -> None:
    found = outcomes(form, tmp_path)
    assert {what: said for what, said in found.items() if said.startswith("wrong")} == {}
    assert sum(said == "equal" for said in found.values()) >= 3
    refused = {said for said in found.values() if said != "equal"}
    assert refused == (REFUSED if form == "TIFF" else set())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", OTHERS)
def test_what_is_no_photo_is_named(tmp_path: Path, form: str) -> None:
    found = outcomes(form, tmp_path)
    assert found
    for what, said in found.items():
        assert said.startswith("refused: a"), what
        assert ", which is not read; " in said, what
        assert "not an image" not in said, what


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for form in (*PHOTOS, *OTHERS):
            found = outcomes(form, Path(folder))
            count = Counter(said.partition(":")[0] for said in found.values())
            reasons = Counter(said for said in found.values() if said != "equal")
            sys.stdout.write(f"{form}: {len(found)} tried, {dict(count)}\n")
            for said, times in reasons.items():
                first = next(what for what in found if found[what] == said)
                sys.stdout.write(f"    {times} x {said}   ({first})\n")


if __name__ == "__main__":
    main()
