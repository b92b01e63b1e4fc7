"""Whether all pixels of a frame come from its packet, and none from what lay in memory before.

Some decoders neither fill nor refuse what a damaged packet leaves out: such pixels are whatever
frame was decoded there last, so two readers of the same file get different ones. A frame of such
codecs counts where two more decoders yield the same, that were given memory with other contents:
each has just decoded another packet of the file, one had its picture inverted, and what they
allocate is filled with a number each (by glibc; of other allocators it is as it comes).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError
from segengine.sources._damage import Listener

PRIMERS = 2
"""Packets of the file that the decoders have decoded before the one that is asked about."""
_FILLS = (0x55, 0xAA)
_M_PERTURB = -6
_FILLING = threading.Lock()
_SURE = frozenset({
    "mjpeg", "png", "apng", "ffv1", "prores", "huffyuv", "ffvhuff", "dvvideo",
    "jpeg2000", "rawvideo", "v210", "v308", "v408", "v410", "yuv4", "y41p", "r10k", "r210", "bmp",
    "bitpacked", "cljr", "avrp",
})  # fmt: skip
"""Codecs that fill their pictures, or say that they could not."""


_UNSURE = frozenset({"cfhd"})
"""Codecs of independent frames that FFmpeg does not call so."""


def is_sure(codec: Any) -> bool:
    """Whether a codec need not be asked twice, or cannot be, since frames build on others."""
    name: str = codec.canonical_name
    return name in _SURE or not (codec.intra_only or name in _UNSURE)


def new_decoder(stream: Any, options: dict[str, str]) -> Any:
    """A further decoder of a stream, with nothing decoded yet."""
    from av import CodecContext

    ours = stream.codec_context
    context: Any = CodecContext.create(ours.codec, "r")
    if ours.extradata:
        context.extradata = ours.extradata
    context.codec_tag = ours.codec_tag
    context.width, context.height = ours.width, ours.height
    context.bits_per_coded_sample = ours.bits_per_coded_sample
    context.options = options
    context.thread_type, context.thread_count = "NONE", 1
    context.open(strict=False)
    return context


class Doubles:
    """Further decoders of a stream, which hold other pictures than the first."""

    def __init__(self, stream: Any, options: dict[str, str], primers: Sequence[bytes]) -> None:
        self._stream = stream
        self._options = options
        self._primers = primers
        self._listener = Listener()

    def agree(self, packet: Any, pixels: NDArray[np.uint8], form: str) -> bool:
        """Whether each decoder yields these pixels, in this format, of a packet."""
        with _FILLING:
            for i, fill in enumerate(_FILLS):
                primer = self._primers[i % len(self._primers)]
                with _filled(fill):
                    found = self._decoded(packet, primer, form, invert=bool(i))
                if found is None or not np.array_equal(found, pixels):
                    return False
        return True

    def _decoded(
        self, packet: Any, primer: bytes, form: str, *, invert: bool
    ) -> NDArray[np.uint8] | None:
        from av import Packet

        try:
            with self._listener:
                context = new_decoder(self._stream, self._options)
                self._prime(context, Packet(primer), invert=invert)
                frames = self._frames(context, packet)
                return frames[0].to_ndarray(format=form) if len(frames) == 1 else None
        except CorruptInputError:
            return None

    def _prime(self, context: Any, primer: Any, *, invert: bool) -> None:
        """Decode a packet, and overwrite its picture: the next one is put in the same place.

        Not by both decoders: what is inverted may be out of bounds, and shown as black.
        """
        for frame in self._frames(context, primer):
            for plane in frame.planes if invert else ():
                values = np.frombuffer(plane, np.uint8)
                np.invert(values, out=values)

    def _frames(self, context: Any, packet: Any) -> list[Any]:
        try:
            with self._listener:
                found: list[Any] = context.decode(packet)
        except CorruptInputError:
            return []
        return found


@contextmanager
def _filled(value: int) -> Iterator[None]:
    """Memory that is allocated inside is not what it was before, where the C library can do so."""
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_M_PERTURB, value)
    try:
        yield
    finally:
        mallopt(_M_PERTURB, 0)


@cache
def _mallopt() -> Any:
    return getattr(ctypes.CDLL(None), "mallopt", None)
