"""Video through PyAV: frame k is the k-th of a sequential decode, wherever decoding starts."""

from __future__ import annotations

import zlib
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._color import Color, bands_of, recolor, require_color
from segengine.sources._files import changed, one_line, open_input, unreadable
from segengine.sources._keyframes import key_frame_test
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTAINERS = frozenset({"mov", "mp4", "matroska", "avi"})
_INTRA = frozenset({"mjpeg", "png", "ffv1", "prores", "dnxhd", "rawvideo", "huffyuv", "ffvhuff",
                    "utvideo"})  # fmt: skip
_REORDERED = frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"})


@dataclass(frozen=True, slots=True)
class VideoSource:
    """Frames as RGB (gray where the video is gray), 8 bit, not rotated.

    `probe` demuxes once and predicts from the packets' time stamps what a decoder will yield: one
    frame a packet, in the order of the time stamps. It decodes the first frame, and from the last
    key frame to the end, and compares. The whole video is decoded once at probe time where that
    cannot be relied on: another codec or container than those known to keep to it, time stamps
    missing or repeated, packets that an edit list drops, or a prediction that does not come true.
    A frame that is damaged inside such a video is `corrupt` and keeps its place.
    """

    every: int = 1
    """Keep frames 0, every, 2 every, ..."""
    color: Color | None = None
    """Force gray or rgb; None: rgb, or gray where the video is gray."""

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 1:
            raise ValueError(f"source.every is {self.every!r}; it must be a whole number from 1")
        require_color(self.color)

    def probe(self, entry: Entry) -> Probe:
        """Positions, times and key frames; raises CorruptInputError or TransientInputError."""
        index = _predicted(entry.uri) or _decoded(entry.uri)
        first = index.first
        keys = np.unique(index.keys)
        bounds = np.append(keys, len(index.times))
        kept = np.arange(0, len(index.times), self.every)
        return Probe(
            kind="video",
            height=first.height,
            width=first.width,
            bands=bands_of(1 if _is_gray(first) else 3, self.color),
            dtype="uint8",
            positions=kept,
            times=index.times[kept],
            seeks=None if index.seeks is None else index.seeks[kept],
            gop=int(np.diff(bounds).max()),
        )

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame, decoding forward; a step back, or past a key frame, seeks anew."""
        for uri, group in groupby(frames, key=lambda ref: ref.uri):
            refs = list(group)
            done = 0
            try:
                with _open(uri) as video:
                    for frame in _find(video, refs):
                        yield self._tile(frame, refs[done], rows, cols)
                        done += 1
            except (CorruptInputError, TransientInputError) as error:
                for _rest in refs[done:]:
                    yield unreadable(error)

    def _tile(self, frame: Any, ref: FrameRef, rows: slice, cols: slice) -> Tile | Unreadable:
        if frame is None:
            return Unreadable("corrupt", "damaged frame: cannot be decoded")
        difference = changed(ref, frame.height, frame.width)
        if difference is not None:
            return difference
        if frame.is_corrupt:
            return Unreadable("corrupt", "damaged frame: decoded with errors")
        if _is_gray(frame):
            whole = frame.to_ndarray(format="gray")[..., None]
        else:
            whole = frame.to_ndarray(format="rgb24")
        return Tile(np.ascontiguousarray(recolor(whole[rows, cols], self.color)))


_: type[Source] = VideoSource


def _find(video: _Video, refs: Sequence[FrameRef]) -> Iterator[Any]:
    """The decoded frame of each ref, None where its packet yields none."""
    decoder = None
    for ref in refs:
        if decoder is None or decoder.must_seek(ref):
            decoder = _Decoder.start(video, ref)
        yield decoder.find(ref)


def _is_gray(frame: Any) -> bool:
    return cast("str", frame.format.name).startswith("gray")


@dataclass(frozen=True, slots=True)
class _Packet:
    """A packet that is to yield a frame."""

    pts: int | None
    key: bool
    """A decoder can start here and get every frame from its time stamp on exactly."""


@dataclass(frozen=True, slots=True)
class _Index:
    """What the frames of a video are; arrays are (frame,) in the order of a sequential decode."""

    first: Any
    times: np.ndarray[Any, np.dtype[np.float64]]
    keys: np.ndarray[Any, np.dtype[np.int64]]
    """Position of the key frame before."""
    seeks: np.ndarray[Any, np.dtype[np.int64]] | None
    """(frame, 2) time stamp of the key frame before, and the frame's position less the number of
    frame packets shown between the two. None: frames can only be counted from the start."""


def _predicted(uri: str) -> _Index | None:
    """The index by demuxing, where that can be relied on."""
    with _open(uri) as video:
        if not video.predictable:
            return None
        packets = [video.described(packet) for packet in video.packets()]
        if any(packet is None for packet in packets):
            return None
        stamps = [packet.pts for packet in packets if packet is not None]
        if not stamps or None in stamps or len(set(stamps)) != len(stamps):
            return None
        order = cast("list[int]", stamps)
        keys = sorted(
            packet.pts for packet in packets if packet and packet.key and packet.pts is not None
        )
        shown = np.sort(np.array(order, np.int64))
        if not keys or keys[0] != shown[0] or order[0] != keys[0]:
            return None
        time_base = video.time_base
    first = _agrees(uri, shown, keys)
    if first is None:
        return None
    starts = np.searchsorted(shown, keys)
    before = np.searchsorted(keys, shown, side="right") - 1
    seeks = np.stack([np.array(keys)[before], starts[before]], axis=1)
    return _Index(first, (shown - shown[0]) * time_base, starts[before], seeks)


def _agrees(uri: str, shown: Any, keys: Sequence[int]) -> Any:
    """The first frame, where a decoder yields it and all from the last key frame on; else None."""
    with _open(uri) as video:
        first = next(_Decoder(video).frames(), None)
        if first is None or first.pts != shown[0]:
            return None
    tail = [pts for pts, _ in _tail(uri, keys[-1])]
    return first if tail == shown[shown >= keys[-1]].tolist() else None


def _tail(uri: str, key: int, *, checksum: bool = False) -> list[tuple[int | None, int]]:
    """(time stamp, checksum) of what comes out when decoding from a key frame to the end."""
    with _open(uri) as video:
        video.seek(key)
        return [
            (frame.pts, _checksum(frame) if checksum else 0)
            for frame in _Decoder(video).frames()
            if frame.pts is None or frame.pts >= key
        ]


def _checksum(frame: Any) -> int:
    value = 0
    for plane in frame.planes:
        value = zlib.crc32(plane, value)
    return value


def _decoded(uri: str) -> _Index:
    """The index by decoding the whole video. Raises CorruptInputError where no frame comes out."""
    with _open(uri) as video:
        decoder = _Decoder(video)
        first, stamps, sums = None, [], []
        for frame in decoder.frames():
            first = first or frame
            stamps.append(frame.pts)
            sums.append(_checksum(frame))
        if first is None:
            raise CorruptInputError("a video without a frame that can be decoded")
        fed, keys = decoder.fed, decoder.keys
        count = len(stamps)
        start = np.zeros(count, np.int64)
        shown = np.array([-1 if pts is None else pts for pts in stamps], np.int64)
        if None in stamps or (np.diff(shown) < 0).any():
            # The decoder's own order is the truth; such time stamps tell neither order nor time.
            return _Index(first, np.arange(count) / video.rate, start, None)
        times = (shown - shown[0]) * video.time_base
        usable = sorted(key for key in keys if key in set(stamps))
        exact = (
            video.seekable
            and decoder.orderly
            and (np.diff(shown) > 0).all()
            and len(set(fed)) == len(fed)
            and set(stamps) <= set(fed)
            and usable[:1] == stamps[:1]
        )
    if not exact or _tail(uri, usable[-1], checksum=True) != [
        pair for pair in zip(stamps, sums, strict=True) if pair[0] >= usable[-1]
    ]:
        return _Index(first, times, start, None)
    before = np.searchsorted(usable, shown, side="right") - 1
    origin = np.array(usable)[before]
    # Packets that yield no frame are counted by a reader that starts at the key frame, too.
    rank = np.searchsorted(fed, shown) - np.searchsorted(fed, origin)
    seeks = np.stack([origin, np.arange(count) - rank], axis=1)
    return _Index(first, times, np.searchsorted(shown, origin), seeks)


@dataclass(slots=True)
class _Decoder:
    """Decodes forward from where a video stands; finds frames by rank among the time stamps fed.

    A decoder hands frames out in the order of their time stamps, so when a frame comes out, every
    packet that is shown before it has been fed: its rank after a key frame is known for certain,
    even where some of those packets yielded no frame.
    """

    video: _Video
    seek: int | None = None
    """Time stamp of the key frame it started from; None: the start of the file."""
    fed: list[int] = field(default_factory=list)
    """Sorted time stamps of the packets fed."""
    keys: list[int] = field(default_factory=list)
    orderly: bool = True
    """Every packet fed has a time stamp."""
    _stream: Iterator[Any] | None = None
    _frame: Any = None
    _count: int = -1
    """Frames handed out, less one."""

    @classmethod
    def start(cls, video: _Video, ref: FrameRef) -> _Decoder:
        """A decoder that stands at or before a frame."""
        if ref.seek is None:
            video.rewind()
            return cls(video)
        video.seek(ref.seek[0])
        return cls(video, ref.seek[0])

    def must_seek(self, ref: FrameRef) -> bool:
        """Whether a frame lies behind, or cheaper to reach from its own key frame."""
        if ref.seek is None or self.seek is None:
            return (ref.seek is None) != (self.seek is None) or ref.position < self._count
        if ref.seek[0] < self.seek:
            return True
        if self._frame is None:
            return ref.seek[0] != self.seek
        target = self._target(ref)
        if target is not None:
            return bool(target < self._frame.pts)
        # Not fed yet: decode on inside the group, and jump over groups that nobody asked for.
        return bool(ref.seek[0] > self.fed[-1])

    def find(self, ref: FrameRef) -> Any:
        """The frame, or None where its packet yields none."""
        if ref.seek is None:
            while self._count < ref.position and self._advance():
                pass
            return self._frame if self._count == ref.position else None
        while self._frame is None or not self._reached(ref):
            if not self._advance():
                return None
        return self._frame if self._frame.pts == self._target(ref) else None

    def frames(self) -> Iterator[Any]:
        """All frames from here on; packets that cannot be decoded yield none."""
        for packet in self.video.packets():
            described = self.video.described(packet)
            if described is None or described.pts is None:
                self.orderly = self.orderly and described is None
            else:
                insort(self.fed, described.pts)
                if described.key:
                    self.keys.append(described.pts)
            yield from self.video.decode(packet)
        yield from self.video.decode(None)

    def _advance(self) -> bool:
        if self._stream is None:
            self._stream = self.frames()
        for frame in self._stream:
            if self.seek is not None:
                # Shown before the key frame: it refers to frames that were not decoded.
                if frame.pts is None or frame.pts < self.seek:
                    continue
                if self._frame is not None and frame.pts <= self._frame.pts:
                    continue
            self._frame = frame
            self._count += 1
            return True
        return False

    def _target(self, ref: FrameRef) -> int | None:
        """Time stamp of a frame, as far as the packets fed tell."""
        assert ref.seek is not None
        place = bisect_left(self.fed, ref.seek[0]) + ref.position - ref.seek[1]
        return self.fed[place] if place < len(self.fed) else None

    def _reached(self, ref: FrameRef) -> bool:
        target = self._target(ref)
        return target is not None and self._frame.pts >= target


@dataclass(slots=True)
class _Video:
    """An open file: one container, its first video stream, one thread."""

    container: Any
    stream: Any
    is_key: Callable[[Any], bool]

    @property
    def predictable(self) -> bool:
        """Whether this codec in this container yields a frame a packet, in time stamp order."""
        formats = set(self.container.format.name.split(","))
        codec = self.stream.codec_context.name
        if not formats & _CONTAINERS:
            return False
        # AVI stores no presentation times: frames that are shown in another order have none.
        return codec in _INTRA or (codec in _REORDERED and "avi" not in formats)

    @property
    def seekable(self) -> bool:
        """Whether the container has an index, so that a seek arrives where it was sent.

        MPEG program and transport streams guess time stamps from where reading starts.
        """
        return not _CONTAINERS.isdisjoint(self.container.format.name.split(","))

    @property
    def time_base(self) -> float:
        return float(self.stream.time_base)

    @property
    def rate(self) -> float:
        return float(self.stream.average_rate or self.stream.base_rate or 25)

    def described(self, packet: Any) -> _Packet | None:
        """What a packet means for the index; None: no frame comes of it."""
        if packet.is_discard:
            return None
        return _Packet(packet.pts, bool(packet.is_keyframe) and self.is_key(packet))

    def packets(self) -> Iterator[Any]:
        """Packets from here on, up to the end or to where the file breaks off."""
        import av

        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet
        except av.error.FFmpegError:
            return

    def decode(self, packet: Any) -> list[Any]:
        """Frames of a packet (None: what the decoder still holds); none where it is damaged."""
        import av

        try:
            return list(self.stream.codec_context.decode(packet))
        except av.error.FFmpegError:
            return []

    def seek(self, pts: int) -> None:
        """Stand at a key frame, or somewhere before it."""
        import av

        try:
            self.container.seek(pts, stream=self.stream, backward=True)
            packet = next(self.packets(), None)
            if packet is not None and packet.pts is not None and packet.pts <= pts:
                self.container.seek(pts, stream=self.stream, backward=True)
                return
        except av.error.FFmpegError:
            pass
        self.rewind()

    def rewind(self) -> None:
        """Stand at the first packet."""
        import av

        start = min(self.stream.start_time or 0, 0)
        try:
            self.container.seek(start - 2**40, stream=self.stream, backward=True)
        except av.error.FFmpegError:
            self.container.seek(start, stream=self.stream, backward=True)


@contextmanager
def _open(uri: str) -> Iterator[_Video]:
    """Raises CorruptInputError or TransientInputError."""
    import av

    with open_input(uri) as file:
        if not file.read(1):
            raise CorruptInputError("empty file")
        file.seek(0)
        try:
            # A file object: any name opens, and what reading raises is told from damaged content.
            container = av.open(file, metadata_errors="ignore")
        except (av.error.FFmpegError, UnicodeError) as error:
            text = one_line(getattr(error, "strerror", None) or error)
            raise CorruptInputError(f"not a video: {text}") from error
        with container:
            if not container.streams.video:
                raise CorruptInputError("a file without a video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise CorruptInputError("a video in a codec that cannot be decoded here")
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            yield _Video(container, stream, key_frame_test(stream))
