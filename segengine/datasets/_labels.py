"""Label images as arrays, and codes in them as class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, MissingTruthError, TransientInputError
from segengine.sources import _png
from segengine.sources._files import one_line, read_bytes
from segengine.sources._pillow import opened
from segengine.sources._sound import require_sound


def read_text(uri: str) -> str:
    """A text file. Raises MissingTruthError."""
    return read_file(uri).decode("utf-8-sig", "replace")


def read_file(uri: str) -> bytes:
    """A whole file. Raises MissingTruthError."""
    try:
        return read_bytes(uri)
    except (CorruptInputError, TransientInputError) as error:
        raise MissingTruthError(f"{uri}: {error}") from error


def read_png(uri: str, size: tuple[int, int] | None = None) -> NDArray[Any]:
    """Pixels (y, x) or, of a colour PNG, (y, x, 3); of a palette image the indices.

    Raises MissingTruthError where it cannot be read whole, or is not of `size` (y, x).
    """
    data = read_file(uri)
    if not data.startswith(_png.SIGNATURE):
        raise MissingTruthError(f"{uri}: not a PNG")
    try:
        _, image = opened(data)
        with image:
            if size is not None and image.size != size[::-1]:
                raise MissingTruthError(_other_size(uri, image.size[::-1], size))
            require_sound("PNG", data, image)
            pixels = np.asarray(image.convert("RGB") if image.mode == "RGBA" else image)
            if image.mode in ("1", "L"):
                pixels = gray_codes(pixels, data)
    except MissingTruthError:
        raise
    except (CorruptInputError, TransientInputError) as error:
        raise MissingTruthError(f"{uri}: {error}") from error
    except Exception as error:
        # Decoders of damaged data raise a zoo: OSError, SyntaxError, zlib.error ...
        raise MissingTruthError(f"{uri}: damaged: {one_line(error)}") from error
    return pixels


def _other_size(uri: str, found: tuple[int, int], size: tuple[int, int]) -> str:
    return f"{uri}: is {found[1]} x {found[0]} pixels, its image {size[1]} x {size[0]}"


def read_codes(uri: str, size: tuple[int, int]) -> NDArray[Any]:
    """As `read_png`, of an image with one band."""
    pixels = read_png(uri, size)
    if pixels.ndim != 2:
        raise MissingTruthError(f"{uri}: is a colour image, must hold one code a pixel")
    return pixels


def gray_codes(pixels: NDArray[Any], data: bytes) -> NDArray[Any]:
    """Codes of a gray image's pixels: decoders stretch those of PNGs of 1, 2 and 4 bits to 255.

    data: the file.
    """
    if pixels.dtype == np.bool_:  # Pillow's True is a byte of 255
        return np.asarray(pixels.view(np.uint8) != 0).view(np.uint8)
    if not data.startswith(b"\x89PNG") or data[25] != 0 or data[24] not in (2, 4):
        return pixels
    found: NDArray[Any] = pixels // np.uint8(255 // ((1 << data[24]) - 1))
    return found


def void_type(classes: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds the classes and void, its maximum."""
    return np.dtype(np.uint8 if classes < 255 else np.uint16)


def scored(names: Sequence[str], chosen: Sequence[str]) -> NDArray[Any]:
    """Label of each of a set's classes: its place among those chosen, else void.

    >>> scored(["sky", "road", "car"], ["car", "sky"]).tolist()
    [1, 255, 0]
    """
    dtype = void_type(len(chosen))
    place = {name: i for i, name in enumerate(chosen)}
    return np.array([place.get(name, np.iinfo(dtype).max) for name in names], dtype)


def translate(
    codes: NDArray[Any], labels: Mapping[int, int], classes: int, uri: str
) -> NDArray[Any]:
    """Label of each pixel. Raises MissingTruthError for a code that has none, naming the file."""
    present = np.unique(codes)
    unknown = next((int(code) for code in present if int(code) not in labels), None)
    if unknown is not None:
        raise MissingTruthError(f"{uri}: code {unknown} stands for no class")
    dtype = void_type(classes)
    if codes.dtype == np.uint8:
        table = np.zeros(256, dtype)
        table[present] = [labels[int(code)] for code in present]
        found: NDArray[Any] = table[codes]
    else:
        table = np.array([labels[int(code)] for code in present], dtype)
        found = table[np.searchsorted(present, codes)]
    return found


def nearest(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A mask (y, x) at another size: of each pixel's centre, the pixel it falls in.

    Integer arithmetic, so that no rounding decides a tie.
    """
    rows, cols = (
        (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)
        for old, new in zip(mask.shape, size, strict=True)
    )
    scaled: NDArray[Any] = mask[rows[:, None], cols]
    return scaled
