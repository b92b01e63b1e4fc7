"""Label images as people have them: few bits, palettes, colours; every pixel is its class."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from pydantic import ValidationError

from segengine.datasets._labels import read_codes
from segengine.errors import MissingTruthError
from segengine.job import TruthSpec
from segengine.measuring.truth import LabelImages
from segengine.types import FrameRef, Truth, TruthRef

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIZE = (6, 16)
COLORS = ["#000000", "#ff0000", "#00ff7f", "#1234ab"]
BYTES = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS], np.uint8)


def load(path: Path, classes: int, **block: Any) -> Truth:
    spec = TruthSpec(paths=["x"], classes=[str(i) for i in range(classes)], **block)
    ref = FrameRef(0, "x", "x", "f", *SIZE)
    whole = (slice(0, SIZE[0]), slice(0, SIZE[1]))
    return LabelImages(spec).load(ref, TruthRef(str(path), str(path), ""), *whole)


def load_frame(path: Path, position: int, name: str = "x", **more: Any) -> Truth:
    """Of a frame of many in `name`, whose index is half its position, as if thumbnails lay between."""
    spec = TruthSpec(paths=["x"], classes=["a", "b", "c"], **more)
    ref = FrameRef(position // 2, "x", name, "f", *SIZE, position)
    whole = (slice(0, SIZE[0]), slice(0, SIZE[1]))
    uri = f"{path}\0{path}" if more else str(path)
    return LabelImages(spec).load(ref, TruthRef(uri, str(path), ""), *whole)


def numbers(below: int) -> np.ndarray:
    return np.random.default_rng(below).integers(0, below, SIZE).astype(np.uint8)


def write_png(path: Path, values: np.ndarray, bits: int, palette: bytes = b"") -> None:
    """A PNG with so many bits a pixel; neither Pillow nor GDAL writes gray ones of 2 and 4."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    split = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(split.reshape(len(values), -1), axis=1)
    head = struct.pack(">IIBBBBB", *SIZE[::-1], bits, 3 if palette else 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    if palette:
        parts.insert(1, chunk(b"PLTE", palette))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_ids(path: Path, values: np.ndarray) -> None:
    if path.suffix == ".tif":
        size = {"height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": values.dtype}
        with rasterio.open(path, "w", driver="GTiff", **size) as data:
            data.write(values, 1)
    else:
        Image.fromarray(values).save(path)


@pytest.mark.parametrize("kind", ["8.png", "16.png", "32.tif", "float.tif"])
def test_images_of_ids_are_objects(tmp_path: Path, kind: str) -> None:
    labels = numbers(3)
    ids = np.repeat(np.arange(4), 4)[None].repeat(6, 0) * 60
    if kind != "8.png":
        ids = ids * 300
    dtype = {"8.png": "u1", "16.png": "u2", "32.tif": "i4", "float.tif": "f4"}[kind]
    Image.fromarray(labels).save(tmp_path / "a.png")
    write_ids(tmp_path / kind, ids.astype(dtype))
    labels_void = np.where(labels == 2, 255, labels)
    spec = TruthSpec(
        paths=[f"{tmp_path}/{{stem}}.png"],
        instances=f"{tmp_path}/{kind}",
        classes=["a", "b"],
        void=2,
    )
    images, ref = LabelImages(spec), FrameRef(0, "a.jpg", "x", "f", *SIZE)
    assert images.gives == {"truth", "truth_instances", "truth_objects"}
    (truth,) = images.find([("scene", ref)])
    window = slice(1, 5), slice(2, 13)
    found = images.load(ref, truth, *window)
    inside = np.where(labels_void == 255, 0, ids)
    np.testing.assert_array_equal(found.labels[0], labels_void[window])
    assert found.instances is not None
    assert found.objects is not None
    np.testing.assert_array_equal(found.instances[0], inside[window])
    wanted = dict(zip(*np.unique(inside[inside > 0], return_counts=True), strict=True))
    rows = {row["id"]: row["area"] for row in found.objects.to_pylist()}
    assert rows == wanted
    assert len(rows) == 3
    (tmp_path / kind).unlink()
    (alone,) = images.find([("scene", ref)])
    assert alone.fingerprint != truth.fingerprint
    assert images.load(ref, alone, *window).instances is None


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full(SIZE, 1.5, "f4"), "holds 1.5, which is no object's number"),
        (np.full(SIZE, -1, "i4"), "holds -1, which is no object's number"),
        (np.ones((3, 3), "u1"), "is 3 x 3 pixels"),
    ],
)
def test_what_is_no_image_of_ids_is_named(tmp_path: Path, values: np.ndarray, why: str) -> None:
    Image.fromarray(numbers(2)).save(tmp_path / "a.png")
    with rasterio.open(
        tmp_path / "ids.tif", "w", driver="GTiff", height=len(values), width=values.shape[1],
        count=1, dtype=values.dtype,
    ) as data:  # fmt: skip
        data.write(values, 1)
    spec = TruthSpec(
        paths=[f"{tmp_path}/a.png"], instances=f"{tmp_path}/ids.tif", classes=["a", "b"]
    )
    images, ref = LabelImages(spec), FrameRef(0, "a.jpg", "x", "f", *SIZE)
    (truth,) = images.find([("scene", ref)])
    with pytest.raises(MissingTruthError, match=f"ids.tif: {why}"):
        images.load(ref, truth, slice(0, 6), slice(0, 16))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colored", [False, True])
def test_a_png_of_few_bits_holds_its_numbers(tmp_path: Path, bits: int, colored: bool) -> None:
    path, values = tmp_path / "a.png", numbers(1 << bits)
    palette = bytes(i % 251 for i in range(3 << bits)) if colored else b""
    write_png(path, values, bits, palette)
    classes = min(1 << bits, 255)
    found = load(path, classes)
    np.testing.assert_array_equal(found.labels[0], values)
    assert found.unknown == {}
    np.testing.assert_array_equal(read_codes(str(path), SIZE), values)  # the data sets' reader


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
def test_a_tiff_of_few_bits_holds_its_numbers(tmp_path: Path, bits: int, photometric: str) -> None:
    path, values = tmp_path / "a.tif", numbers(1 << bits)
    options = {"nbits": bits} if bits < 8 else {}
    raster(path, values[None], photometric=photometric, **options)
    found = load(path, min(1 << bits, 255))
    np.testing.assert_array_equal(found.labels[0], values)
    assert found.unknown == {}


def raster(path: Path, bands: np.ndarray, **options: Any) -> None:
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": len(bands)}
    with rasterio.open(path, "w", **profile, dtype=bands.dtype, **options) as data:
        if "colormap" in options:
            data.write_colormap(1, options["colormap"])
        data.write(bands)


def test_nodata_of_a_label_raster_is_void_where_it_is_no_class(tmp_path: Path) -> None:
    path, values = tmp_path / "a.tif", numbers(2).astype(np.int16)
    values[0, :5], values[0, 5] = -9999, 9
    raster(path, values[None], nodata=-9999)
    found = load(path, 2)
    assert found.unknown == {9: 1}
    assert (found.labels[0, 0, :6] == 255).all()
    raster(path, values[None], nodata=0)  # what is listed as a class is one
    assert load(path, 2).labels[0, 1].tolist() == values[1].tolist()


@pytest.mark.parametrize("kind", ["png", "rgba", "palette", "tif", "table", "bmp"])
def test_colours_are_classes(tmp_path: Path, kind: str) -> None:
    wanted = numbers(4)
    path = tmp_path / f"a.{ {'tif': 'tif', 'table': 'tif', 'bmp': 'bmp'}.get(kind, 'png') }"
    pixels = BYTES[wanted]
    pixels[2, 3] = 1, 2, 3
    expected = wanted.copy()
    expected[2, 3] = 255
    if kind == "tif":
        raster(path, np.moveaxis(pixels, -1, 0), photometric="RGB")
    elif kind in ("palette", "table"):
        values = wanted.copy()
        values[2, 3] = 4
        table = [*BYTES.tolist(), [1, 2, 3]]
        if kind == "table":
            raster(path, values[None], photometric="palette")
            with rasterio.open(path, "r+") as data:
                data.write_colormap(1, {i: tuple(c) for i, c in enumerate(table)})
        else:
            image = Image.fromarray(values).convert("L")
            image.putpalette([v for c in table for v in c])
            image.save(path)
    else:
        alpha = np.full((*SIZE, 1), 7, np.uint8)
        Image.fromarray(np.concatenate([pixels, alpha], -1) if kind == "rgba" else pixels).save(
            path
        )
    found = load(path, 4, values=COLORS)
    np.testing.assert_array_equal(found.labels[0], expected)
    assert found.unknown == {"#010203": 1}
    mixed = load(path, 4, values=[0, *COLORS[1:]], void="#010203")
    np.testing.assert_array_equal(mixed.labels[0], expected)
    assert mixed.unknown == {}


def test_colours_without_their_list_are_refused_with_the_way_out(tmp_path: Path) -> None:
    Image.fromarray(BYTES[numbers(4)]).save(tmp_path / "a.png")
    raster(tmp_path / "a.tif", np.moveaxis(BYTES[numbers(4)], -1, 0), photometric="RGB")
    for name in ("a.png", "a.tif"):
        with pytest.raises(MissingTruthError, match=r"list the colour of each class in truth\.val"):
            load(tmp_path / name, 4)


def test_white_is_a_colour_like_any_other(tmp_path: Path) -> None:
    pixels = np.full((*SIZE, 3), 255, np.uint8)
    pixels[0] = 255, 0, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load(tmp_path / "a.png", 1, values=["#FF0000"])
    assert found.unknown == {"#ffffff": 5 * 16}
    assert load(tmp_path / "a.png", 1, values=["#ff0000"], void=255).unknown == {}
    spec = TruthSpec(paths=["x"], classes=["a"], values=["#ff0000"])
    assert TruthSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"values": [None, "#00ff00"]}, 'quote colours, as in ["#ff0000"]'),
        ({"values": ["red", "#00ff00"]}, "'red' is no pixel value and no colour"),
        ({"values": ["#f00", "#00ff00"]}, "'#f00' is no pixel value and no colour"),
        ({"values": [0, "#000000"]}, "each class needs a pixel value of its own"),
        ({"values": [300, "#000000"]}, "beside colours a number is a level of gray"),
        ({"values": [0, 1], "void": "#000000"}, "void: is a colour, and values holds none"),
    ],
)
def test_what_is_no_colour(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        TruthSpec(paths=["x"], classes=["a", "b"], **block)
    assert message in str(error.value)


def test_sixteen_bits_are_no_colour(tmp_path: Path) -> None:
    Image.fromarray(numbers(2).astype(np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(MissingTruthError, match=r"holds uint16 numbers, and truth\.values lists"):
        load(tmp_path / "a.png", 4, values=COLORS)


def maps(count: int = 23) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 3, (count, *SIZE)).astype(np.uint8)


def write_maps(path: Path, stack: np.ndarray) -> Path:
    if path.suffix == ".tif":
        import tifffile

        tifffile.imwrite(path, stack, photometric="minisblack")
    elif path.suffix == ".zarr":
        import zarr

        zarr.create_array(path, data=stack, chunks=(1, *SIZE))
    else:
        first, *rest = map(Image.fromarray, stack)
        first.save(path, save_all=True, append_images=rest, lossless=True)
    return path


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_frame_has_the_map_of_its_number(tmp_path: Path, suffix: str) -> None:
    stack = maps()
    path = write_maps(tmp_path / f"a{suffix}", stack)
    for number in (0, 1, 2, 22):
        for place, name in ((number, "a.mp4"), (2 * number, "a.tif")):
            np.testing.assert_array_equal(load_frame(path, place, name).labels[0], stack[number])
            both = load_frame(path, place, name, instances="x")
            assert both.instances is not None
            np.testing.assert_array_equal(both.instances[0], stack[number])
    with pytest.raises(MissingTruthError, match=r"no page 23|none with index 23"):
        load_frame(path, 23)
    one = write_maps(tmp_path / f"one{suffix}", stack[:1])
    np.testing.assert_array_equal(load_frame(one, 5).labels[0], stack[0])  # of a camera that stands


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp"])
def test_an_animation_labels_one_frame_only(tmp_path: Path, suffix: str) -> None:
    stack = maps(4)
    path = write_maps(tmp_path / f"a{suffix}", stack)
    if suffix != ".webp":
        np.testing.assert_array_equal(load_frame(path, 0).labels[0], stack[0])
    with pytest.raises(MissingTruthError, match="is an animation"):
        load_frame(path, 1)
