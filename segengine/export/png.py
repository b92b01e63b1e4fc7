"""PNG files, one a frame: pixel values are the labels, shown in the class colours.

Up to 255 classes make a palette image (mode P) whose value 255 is void, and transparent; such a
file can be used as a label image again. More classes make a 16-bit grey image without a palette,
whose 65535 is void. The text chunk `segengine` holds class names, void, scene and frame as JSON.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from segengine.export._corrected import corrected_frames, corrected_labels
from segengine.export._targets import Target, targets
from segengine.outputs import claimed
from segengine.reader import open_store
from segengine.store.keys import MASK
from segengine.types import Labels

_BAND = 1 << 24
"""Pixels read at a time: a scene is never in memory as a whole."""


def export(
    store_path: str,
    to: str,
    *,
    level: int = 4,
    corrected: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write every frame of a store as PNG below the folder `to`; the files written.

    `level`: zlib's, 0 to 9. `corrected`: only frames that were put right by hand, as they are then.
    `overwrite`: also files that no export wrote. `say`: told what is left out. Raises JobError, StoreError.
    """
    if not 0 <= level <= 9:
        raise ValueError(f"level: {level!r} is not one of zlib's, 0 to 9")
    store = open_store(store_path)
    only = set(corrected_frames(store, say)) if corrected else None
    chosen = [
        target
        for target in targets(store, to, ".png")
        if only is None or (target.scene.name, target.frame) in only
    ]
    output = claimed(store, to, (target.path for target in chosen), overwrite=overwrite)
    written = []
    for target in chosen:
        with output.replacing(target.path) as partial, partial.open("wb") as file:
            _write(file, target, store.classes, level, corrected)
        written.append(str(target.path))
    output.close()
    return written


def _write(
    file: BinaryIO, target: Target, classes: tuple[str, ...], level: int, corrected: bool
) -> None:
    scene, ref = target.scene, target.scene.layout.frame(target.frame)
    dtype = scene.mask.dtype
    palette = None
    if dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        colors = scene.colors(target.frame)
        palette[: len(colors)] = colors
    about = {
        "classes": list(classes),
        "void": scene.void,
        "scene": scene.name,
        "frame": ref.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
    }
    text = {"segengine": json.dumps(about, ensure_ascii=False)}
    with PngWriter(file, ref.height, ref.width, palette, text=text, level=level) as writer:
        if corrected:
            writer.write(corrected_labels(scene, target.frame))
            return
        for rows in bands(ref.height, ref.width, scene.layout.chunk[1]):
            writer.write(scene.read(MASK, target.frame, rows, slice(0, ref.width)))


def bands(height: int, width: int, chunk: int) -> Iterator[slice]:
    """Rows in bands of whole chunks, so that each chunk is read once."""
    band = max(1, _BAND // max(1, width * chunk)) * chunk
    for start in range(0, height, band):
        yield slice(start, min(start + band, height))


class PngWriter:
    """Writes a PNG row by row: 8-bit palette (value 255 transparent), 16-bit grey or 8-bit RGB.

    PNG specification, third edition (W3C 2025). No row filter: labels are not smooth, and equal
    rows are found by the compression itself.
    """

    def __init__(
        self,
        file: BinaryIO,
        height: int,
        width: int,
        palette: NDArray[np.uint8] | None,
        *,
        text: dict[str, str],
        level: int,
        rgb: bool = False,
    ) -> None:
        """`palette` (256, 3) makes it 8 bit, None 16 bit; `rgb`: three times 8 bit."""
        self._file = file
        self._left, self._width = height, width
        self._dtype = np.dtype(np.uint8 if rgb or palette is not None else ">u2")
        self._samples = 3 if rgb else 1
        self._zlib = zlib.compressobj(level)
        depth, kind = (8, 2) if rgb else (8, 3) if palette is not None else (16, 0)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        if palette is not None:
            self._chunk(b"PLTE", palette.tobytes())
            self._chunk(b"tRNS", b"\xff" * 255 + b"\x00")
        for keyword, value in text.items():
            # keyword, no compression, no language, no translated keyword
            self._chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + value.encode())

    def write(self, rows: Labels) -> None:
        """Append rows (y, x), of RGB (y, x, 3)."""
        if rows.shape[1] != self._width or rows.shape[0] > self._left:
            raise ValueError(
                f"rows: {rows.shape} do not fit, {self._left} x {self._width} are left"
            )
        self._left -= rows.shape[0]
        wide = self._width * self._samples * self._dtype.itemsize
        lines = np.zeros((rows.shape[0], 1 + wide), np.uint8)
        values = np.ascontiguousarray(rows.astype(self._dtype, copy=False))
        lines[:, 1:] = values.view(np.uint8).reshape(-1, wide)
        self._data(self._zlib.compress(lines.data))

    def close(self) -> None:
        """Write the end. Raises ValueError where rows are missing."""
        if self._left:
            raise ValueError(f"rows: {self._left} are missing")
        self._data(self._zlib.flush())
        self._chunk(b"IEND", b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _data(self, data: bytes) -> None:
        if data:
            self._chunk(b"IDAT", data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        check = zlib.crc32(data, zlib.crc32(kind))
        self._file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check))
