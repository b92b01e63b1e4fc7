"""A video file that is written: frames at given time stamps, in a container that can hold those.

| source | container | codec |
| --- | --- | --- |
| .mov, .mkv, .webm, .avi | the same | H.264; VP9 in .webm; in .avi MPEG-4, or Motion JPEG |
| others, and where that cannot hold the stamps | .mp4 | H.264 |

MP4 counts in any unit, Matroska in milliseconds, AVI in frames of one length. No frame is shown in
another order than it is stored, so that no player has to guess. Nothing of the source is copied: no
sound, no metadata, no thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import SegengineError

_MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
_MILLISECONDS = (".mkv", ".webm")
_H264 = {"crf": "18", "preset": "veryfast", "bf": "0"}
_VP9 = {"crf": "18", "b": "0", "lag-in-frames": "0", "deadline": "realtime", "cpu-used": "6"}
_FINE = {"qmin": "2", "qmax": "4", "bf": "0"}
_MPEG4_UNITS = 65535
"""What MPEG-4 can count of in a second."""
_LIMITED = 1
"""FFmpeg's number of luma from 16 to 235."""
_BT601 = 5
"""FFmpeg's number of the matrix that its conversion takes where none is named."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When the frames of a video are shown: `stamps` in units of `unit` seconds, ascending."""

    stamps: tuple[int, ...]
    unit: Fraction
    rate: Fraction
    """Frames a second, on average."""

    def seconds(self) -> list[Fraction]:
        """The same in seconds."""
        return [stamp * self.unit for stamp in self.stamps]


def container_of(name: str, timing: Timing) -> str:
    """The suffix of what a video of a name is written as.

    >>> even = Timing((0, 2), Fraction(1, 30), Fraction(15))
    >>> [container_of(f"a.{suffix}", even) for suffix in ("avi", "MOV", "mkv", "ts")]
    ['.avi', '.mov', '.mp4', '.mp4']
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".avi" and timing.stamps[0] >= 0:
        return suffix
    if suffix in _MILLISECONDS and all((1000 * t).denominator == 1 for t in timing.seconds()):
        return suffix
    return ".mov" if suffix == ".mov" else ".mp4"


class Encoder:
    """Takes the frames of a video, in order."""

    def __init__(
        self, container: Any, suffix: str, size: tuple[int, int], aspect: Fraction, timing: Timing
    ) -> None:
        codec, options, pixels = _codec(suffix, size, timing)
        self._container, self._timing = container, timing
        self._stream = container.add_stream(codec, rate=timing.rate, options=options)
        self._stream.height, self._stream.width = size
        context = self._stream.codec_context
        context.pix_fmt, context.color_range, context.colorspace = pixels, _LIMITED, _BT601
        if codec == "mjpeg":
            context.color_range = 2  # of which no other is known
        context.sample_aspect_ratio = aspect
        context.time_base = self._stream.time_base = timing.unit
        self._done = 0

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append a frame (y, x, 3) in RGB."""
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._timing.stamps[self._done], self._timing.unit
        self._done += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Append what the codec still holds."""
        self._container.mux(self._stream.encode())


@contextmanager
def encoding(
    path: Path, suffix: str, size: tuple[int, int], aspect: Fraction, timing: Timing
) -> Iterator[Encoder]:
    """An encoder to a new file; `size`: height, width; `aspect`: of a pixel.

    Raises SegengineError where what was written does not have the frames and the time stamps.
    """
    import av

    try:
        # bitexact: no random ids, no times and no versions, so that a store gives the same bytes again
        exact = {"fflags": "+bitexact"}
        with av.open(str(path), "w", format=_MUXERS[suffix], options=exact) as container:
            encoder = Encoder(container, suffix, size, aspect, timing)
            yield encoder
            encoder.close()
        with av.open(str(path)) as container:
            packets = container.demux(container.streams.video[0])
            found = [p.pts * p.time_base for p in packets if p.size and p.pts is not None]
    except av.FFmpegError as error:
        raise SegengineError(f"{path.name}: cannot be encoded: {error}") from error
    if found != timing.seconds():
        raise SegengineError(
            f"{path.name}: has {len(found)} frames as written, of {len(timing.stamps)}, or not all at "
            "their time stamps"
        )


def _codec(suffix: str, size: tuple[int, int], timing: Timing) -> tuple[str, dict[str, str], str]:
    """Name, options and pixel format."""
    if suffix == ".webm":
        return "libvpx-vp9", _VP9, "yuv420p"
    if suffix == ".avi" and timing.unit.denominator > _MPEG4_UNITS:
        return "mjpeg", _FINE, "yuvj420p"
    if suffix == ".avi":
        return "mpeg4", _FINE, "yuv420p"
    # H.264 halves colours in both directions, or not at all where a side is odd.
    return "libx264", _H264, "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"


def aspect_of(ratio: Fraction | None, turned: bool) -> Fraction:
    """Width to height of a pixel as it is shown; `turned`: by a quarter of a circle."""
    if not ratio or ratio < 0:
        return Fraction(1)
    return 1 / Fraction(ratio) if turned else Fraction(ratio)


def timing_of(times: Sequence[float], start: int, unit: Fraction, rate: Fraction) -> Timing:
    """Time stamps of frames that are shown so many seconds after the first, whose stamp is `start`."""
    stamps = tuple(start + round(time / unit) for time in times)
    return Timing(stamps, unit, rate)
