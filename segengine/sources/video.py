"""Video through PyAV: frame k is the k-th of a sequential decode, wherever decoding starts."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from threading import Lock
from typing import Any, cast

import numpy as np

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._color import Color, bands_of, recolor, require_color
from segengine.sources._files import changed, unreadable
from segengine.sources._upright import turn_of, turned_size
from segengine.sources._video import MOST_FRAMES, Decoded, Decoder, Video, open_video
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

_LEAST_CUT = 0.5
"""Seconds that a video may end before its header says without a word."""


@dataclass(frozen=True, slots=True)
class VideoSource:
    """Frames as RGB (gray where the video is gray), 8 bit, turned as their display matrix says.

    `probe` demuxes once and predicts from the packets' time stamps what a decoder will yield: one
    frame a packet, in the order of the time stamps. It decodes the first frame, and from the last
    key frame to the end, and compares. The whole video is decoded once at probe time where that
    cannot be relied on: another codec or container than those known to keep to it, time stamps
    missing or repeated, packets that an edit list drops, or a prediction that does not come true.
    A frame that is damaged inside such a video is `corrupt` and keeps its place, and so are those
    that build on it: all up to the next frame that decodes by itself.
    """

    every: int = 1
    """Keep frames 0, every, 2 every, ..."""
    color: Color | None = None
    """Force gray or rgb; None: rgb, or gray where the video is gray."""

    def __post_init__(self) -> None:
        if type(self.every) is not int or self.every < 1:
            raise ValueError(f"every: is {self.every!r}; it must be a whole number from 1")
        require_color(self.color)

    def probe(self, entry: Entry) -> Probe:
        """Positions, times and key frames; raises CorruptInputError or TransientInputError."""
        index = _predicted(entry.uri) or _decoded(entry.uri)
        height, width = turned_size(index.first, turn_of(index.first))
        keys = np.unique(index.keys)
        bounds = np.append(keys, len(index.times))
        kept = np.arange(0, len(index.times), self.every)
        return Probe(
            kind="video",
            height=height,
            width=width,
            bands=bands_of(1 if index.gray else 3, self.color),
            dtype="uint8",
            positions=kept,
            times=index.times[kept],
            seeks=None if index.seeks is None else index.seeks[kept],
            gop=int(np.diff(bounds).max()),
            attributes=index.attributes,
        )

    def read(
        self, frames: Sequence[FrameRef], rows: slice, cols: slice
    ) -> Iterator[Tile | Unreadable]:
        """One item a frame, decoding forward; a step back, or past a key frame, seeks anew.

        What is read next goes on from there, where that is of the same file.
        """
        for (uri, fingerprint), group in groupby(frames, key=lambda r: (r.uri, r.fingerprint)):
            refs = list(group)
            done = 0
            try:
                with _standing(uri, fingerprint) as at:
                    for ref in refs:
                        if at.decoder is None or at.decoder.must_seek(ref):
                            at.decoder = Decoder.start(at.video, ref)
                        with at.video.listener:
                            item = self._tile(at.video, at.decoder.find(ref), ref, rows, cols)
                        yield item
                        done += 1
            except (CorruptInputError, TransientInputError) as error:
                for _rest in refs[done:]:
                    yield unreadable(error)

    def _tile(
        self, video: Video, decoded: Decoded | None, ref: FrameRef, rows: slice, cols: slice
    ) -> Tile | Unreadable:
        if decoded is None:
            return Unreadable("corrupt", "damaged frame: cannot be decoded")
        frame = decoded.frame
        try:
            with video.listener:
                turn = video.turn_of(frame)
                size = turned_size(frame, turn)
                if size != (ref.height, ref.width):
                    return _resized(ref, *size)
                if frame.is_corrupt:
                    return Unreadable("corrupt", "damaged frame: decoded with errors")
                if not decoded.whole:
                    return Unreadable("corrupt", "damaged frame: it, or one that it builds on")
                form = "gray" if video.gray else "rgb24"
                whole = video.pixels(frame, form)
                if decoded.packet is not None:
                    doubt = video.doubt(decoded.packet, whole, form)
                    if doubt is not None:
                        return Unreadable("corrupt", doubt)
                if video.gray:
                    whole = whole[..., None]
        except CorruptInputError as error:
            return unreadable(error)
        upright = whole if turn is None else turn(whole)
        return Tile(np.ascontiguousarray(recolor(upright[rows, cols], self.color)))


_: type[Source] = VideoSource


@dataclass(slots=True)
class _Standing:
    """An open video, and where it stands."""

    of: tuple[str, str]
    """URI and fingerprint."""
    video: Video
    closing: ExitStack
    decoder: Decoder | None = None


class _Kept:
    """The video that this process read last."""

    def __init__(self) -> None:
        self.lock = Lock()  # a shard may be read ahead
        self.held: _Standing | None = None

    def exchange(self, standing: _Standing | None) -> _Standing | None:
        """Keep it, and no longer the one before, which is returned."""
        with self.lock:
            self.held, before = standing, self.held
        return before


_KEPT = _Kept()


@contextmanager
def _standing(uri: str, fingerprint: str) -> Iterator[_Standing]:
    """A video that is kept open afterwards, unless that raised, or nothing tells that it is the same.

    Raises as `open_video`.
    """
    found = _KEPT.exchange(None)
    if found is not None and (not fingerprint or found.of != (uri, fingerprint)):
        found.closing.close()
        found = None
    if found is None:
        closing = ExitStack()
        found = _Standing((uri, fingerprint), closing.enter_context(open_video(uri)), closing)
    with ExitStack() as failed:
        failed.push(found.closing)
        yield found
        if fingerprint:
            failed.pop_all()
            before = _KEPT.exchange(found)
            if before is not None:
                before.closing.close()


def _resized(ref: FrameRef, height: int, width: int) -> Unreadable:
    """Why a frame has another size than was planned: the file is another, or it changes inside."""
    with open_video(ref.uri) as video, video.listener:
        first = next(Decoder(video).frames(), None)
    difference = None
    if first is not None:
        difference = changed(ref, *turned_size(first.frame, turn_of(first.frame)))
    return difference or Unreadable(
        "corrupt",
        f"changes its size in mid-stream: {width} x {height} pixels, {ref.width} x {ref.height} "
        "at the start",
    )


@dataclass(frozen=True, slots=True)
class _Index:
    """What the frames of a video are; arrays are (frame,) in the order of a sequential decode."""

    first: Any
    gray: bool
    said: float | None
    """Seconds that the header says there are."""
    cut: dict[str, Any]
    """`_cut.cut`."""
    times: np.ndarray[Any, np.dtype[np.float64]]
    keys: np.ndarray[Any, np.dtype[np.int64]]
    """Position of the key frame before."""
    seeks: np.ndarray[Any, np.dtype[np.int64]] | None
    """(frame, 2) time stamp of the key frame before, and the frame's position less the number of
    frame packets shown between the two. None: frames can only be counted from the start."""

    @property
    def attributes(self) -> dict[str, Any]:
        """That it ends before its header says, in seconds or, where these do not tell, in bytes.

        What is shown last may be shown for long: by seconds it is not sure.
        """
        if self.said is not None and len(self.times) > 1:
            longest = float(np.diff(self.times).max())
            ends = float(self.times[-1]) + longest
            if self.said - ends > max(_LEAST_CUT, 3 * longest):
                return {"cut": {"ends": round(ends, 3), "said": round(self.said, 3)}}
        return {"cut": self.cut} if self.cut else {}


def _predicted(uri: str) -> _Index | None:
    """The index by demuxing, where that can be relied on."""
    with open_video(uri) as video, video.listener:
        if not video.predictable:
            return None
        packets = []
        for packet in video.packets():
            packets.append(video.described(packet))
            if packets[-1] is None or not video.is_predicted(packet):
                return None
            if len(packets) > MOST_FRAMES:
                raise CorruptInputError(f"more than {MOST_FRAMES:,} frames, which is the limit")
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
        time_base, gray, said, cut = video.time_base, video.gray, video.said, video.cut()
    first = _agrees(uri, shown, keys)
    if first is None:
        return None
    starts = np.searchsorted(shown, keys)
    before = np.searchsorted(keys, shown, side="right") - 1
    seeks = np.stack([np.array(keys)[before], starts[before]], axis=1)
    return _Index(
        first=first,
        gray=gray,
        said=said,
        cut=cut,
        times=(shown - shown[0]) * time_base,
        keys=starts[before],
        seeks=seeks,
    )


def _agrees(uri: str, shown: Any, keys: Sequence[int]) -> Any:
    """The first frame, where a decoder yields it and all from the last key frame on; else None."""
    with open_video(uri) as video, video.listener:
        first = next(Decoder(video).frames(), None)
        if first is None or first.pts != shown[0]:
            return None
    tail = [pts for pts, _ in _tail(uri, keys[-1])]
    return first.frame if tail == shown[shown >= keys[-1]].tolist() else None


def _tail(uri: str, key: int, *, checksum: bool = False) -> list[tuple[int | None, int]]:
    """(time stamp, checksum) of what comes out when decoding from a key frame to the end."""
    with open_video(uri) as video, video.listener:
        video.seek(key)
        return [
            (decoded.pts, _checksum(decoded.frame) if checksum else 0)
            for decoded in Decoder(video, key).frames()
            if decoded.pts is None or decoded.pts >= key
        ]


def _checksum(frame: Any) -> int:
    value = 0
    for plane in frame.planes:
        value = zlib.crc32(plane, value)
    return value


def _decoded(uri: str) -> _Index:
    """The index by decoding the whole video. Raises CorruptInputError where no frame comes out."""
    with open_video(uri) as video, video.listener:
        decoder = Decoder(video)
        first, stamps, sums = None, [], []
        for decoded in decoder.frames():
            first = first or decoded.frame
            stamps.append(decoded.pts)
            sums.append(_checksum(decoded.frame))
        if first is None:
            video.require_size()
            raise CorruptInputError("a video without a frame that can be decoded")
        fed, keys, gray, said = decoder.fed, decoder.keys, video.gray, video.said
        cut, count = video.cut(), len(stamps)
        start = np.zeros(count, np.int64)
        shown = np.array([-1 if pts is None else pts for pts in stamps], np.int64)
        if None in stamps or (np.diff(shown) < 0).any():
            # The decoder's own order is the truth; such time stamps tell neither order nor time.
            return _Index(
                first=first,
                gray=gray,
                said=None,
                cut=cut,
                times=np.arange(count) / video.rate,
                keys=start,
                seeks=None,
            )
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
        return _Index(
            first=first,
            gray=gray,
            said=said,
            cut=cut,
            times=times,
            keys=start,
            seeks=None,
        )
    before = np.searchsorted(usable, shown, side="right") - 1
    origin = np.array(usable)[before]
    # Packets that yield no frame are counted by a reader that starts at the key frame, too.
    rank = np.searchsorted(fed, shown) - np.searchsorted(fed, origin)
    seeks = np.stack([origin, np.arange(count) - rank], axis=1)
    return _Index(
        first=first,
        gray=gray,
        said=said,
        cut=cut,
        times=times,
        keys=np.searchsorted(shown, origin),
        seeks=seeks,
    )
