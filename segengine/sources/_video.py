"""A video file that is open: one container, one stream, one thread, and what its decoder yields."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from segengine.errors import CorruptInputError
from segengine.sources._cut import cut
from segengine.sources._damage import Listener, broken_test, reason_of
from segengine.sources._ending import MOST_BYTES, ends_silently, is_cut, with_last
from segengine.sources._files import open_input
from segengine.sources._jpeg import is_damaged
from segengine.sources._keyframes import is_forward_vop, key_frame_test
from segengine.sources._sure import PRIMERS, Doubles, is_sure
from segengine.sources._upright import Turn, turn_of
from segengine.types import FrameRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

MOST_PIXELS = 2**26
"""Pixels of the largest frame that is decoded: 8192 x 8192."""
MOST_FRAMES = 2**24
"""Frames of the longest video: six days of 32 a second."""
MOST_STREAMS = 256
_STRICT = "crccheck+bitstream+buffer+careful"
_CONTAINERS = frozenset({"mov", "mp4", "matroska", "avi"})
_INTRA = frozenset({"mjpeg", "png", "ffv1", "prores", "dnxhd", "rawvideo", "huffyuv", "ffvhuff",
                    "utvideo"})  # fmt: skip
_REORDERED = frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"})

_TAGGED = re.compile(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d{1,9})?)")
"""How programs tag the length of a stream in Matroska."""


class Packet(NamedTuple):
    """A packet that is to yield a frame."""

    pts: int | None
    key: bool
    """A decoder can start here and get every frame from its time stamp on exactly."""


@contextmanager
def open_video(uri: str) -> Iterator[Video]:
    """Raises CorruptInputError or TransientInputError."""
    with open_input(uri) as file:
        if not file.read(1):
            raise CorruptInputError("empty file")
        video = Video(file)
        try:
            yield video
        finally:
            video.close()


class Video:
    """An open file: one container, its first video stream that is no cover, one thread."""

    def __init__(self, file: Any) -> None:
        from av.video.reformatter import VideoReformatter

        self._file = file
        self.listener = Listener()
        self._converter = VideoReformatter()
        self._turns: dict[int, Turn | None] = {}
        self._primers: list[bytes] | None = None
        self._open()

    def _open(self) -> None:
        import av

        self._file.seek(0)
        self._fresh = True
        self.container: Any = None
        try:
            with self.listener:
                # A file object: any name opens, and what reading raises is told from damage.
                self.container = av.open(
                    self._file, metadata_errors="ignore", options={"max_pixels": str(MOST_PIXELS)}
                )
        except CorruptInputError as error:
            raise CorruptInputError(f"not a video: {error}") from error
        try:
            self.stream: Any = _stream(self.container)
            self._context = codec = self.stream.codec_context
            self.require_size(codec.width, codec.height)
            with self.listener:
                codec.options = self._options = options = {
                    "max_pixels": str(MOST_PIXELS),
                    "err_detect": _STRICT,
                }
                codec.thread_type = "NONE"
                codec.thread_count = 1
                codec.copy_opaque = True
                codec.open(strict=False)  # what it has to say of itself is not said of a frame
                self.codec: str = codec.codec.canonical_name
                self.gray = (codec.pix_fmt or "").startswith("gray")
                self.can_start: Callable[[bytes], bool] | None = key_frame_test(self.stream)
                self.is_broken: Callable[[bytes], bool] | None = broken_test(self.stream)
        except BaseException:
            self.close()
            raise
        self.listener.heard = False
        self.ends_silently = ends_silently(self.stream, self.formats)
        self.doubles: Doubles | None = None
        if not is_sure(codec.codec):
            self._prime(options)

    def _prime(self, options: dict[str, str]) -> None:
        if self._primers is None:
            with self.listener:
                self._primers = [bytes(packet) for packet in islice(self.packets(), PRIMERS)]
            self.rewind()
        else:
            self.doubles = Doubles(self.stream, options, self._primers)

    @property
    def doubts(self) -> bool:
        """Whether a frame that was decoded without a complaint need not be what its packet says."""
        return self.doubles is not None or self.codec == "mjpeg"

    def doubt(self, packet: Any, pixels: NDArray[np.uint8], form: str) -> str | None:
        """What speaks against the pixels, in this format, of a packet; None: nothing."""
        if self.codec == "mjpeg" and is_damaged(bytes(packet)):
            return "damaged frame: its packet holds less than the picture, or more"
        if self.doubles is not None and not self.doubles.agree(packet, pixels, form):
            return "damaged frame: its packet does not fill it"
        return None

    def pixels(self, frame: Any, form: str) -> NDArray[np.uint8]:
        """A frame in a format. Making what converts it may take as long as it does: once."""
        return cast("NDArray[np.uint8]", self._converter.reformat(frame, format=form).to_ndarray())

    def turn_of(self, frame: Any) -> Turn | None:
        """`_upright.turn_of`, which is slow, asked once for each rotation that there is."""
        rotation = frame.rotation
        if rotation not in self._turns:
            self._turns[rotation] = turn_of(frame)
        return self._turns[rotation]

    def require_size(self, width: int = 0, height: int = 0) -> None:
        """Raise CorruptInputError where a frame has too many pixels; none: what FFmpeg refused."""
        if not width * height and self.listener.refused is not None:
            width, height = self.listener.refused
        if width * height > MOST_PIXELS:
            raise CorruptInputError(
                f"{width} x {height} pixels, {width * height:,} in all; the limit is "
                f"{MOST_PIXELS:,}"
            )

    def close(self) -> None:
        """Close the container, not the file."""
        if self.container is not None:
            self.container.close()

    @property
    def formats(self) -> frozenset[str]:
        """Names of the container's format."""
        return frozenset(self.container.format.name.split(","))

    @property
    def predictable(self) -> bool:
        """Whether this codec in this container yields a frame a packet, in time stamp order."""
        if not self.formats & _CONTAINERS:
            return False
        # Of a fragment that is lost in ASF these tell nothing, and what is shown in its place depends
        # on where decoding began: at the start of the file.
        if "asf" in self.formats and self.codec in ("h264", "hevc"):
            return False
        # AVI stores no presentation times: frames that are shown in another order have none.
        return self.codec in _INTRA or (
            self.codec in _REORDERED and ("avi" not in self.formats or self.codec == "mpeg4")
        )

    def is_predicted(self, packet: Any) -> bool:
        """Whether it is as `predictable` takes for granted: in AVI, shown where it is stored."""
        if self.codec != "mpeg4" or "avi" not in self.formats:
            return True
        return is_forward_vop(bytes(packet))

    @property
    def seekable(self) -> bool:
        """Whether the container has an index, so that a seek arrives where it was sent.

        MPEG program and transport streams guess time stamps from where reading starts.
        """
        return not _CONTAINERS.isdisjoint(self.formats)

    @property
    def time_base(self) -> float:
        return float(self.stream.time_base)

    @property
    def said(self) -> float | None:
        """Seconds that the header says there are, from the first frame on; None: nothing sure.

        Matroska alone: its header says so before there is a packet, and a file that breaks off is read
        up to there.
        """
        if "matroska" not in self.formats:
            return None
        tagged = _TAGGED.fullmatch(self.stream.metadata.get("DURATION", ""))
        if tagged:
            hours, minutes, seconds = map(float, tagged.groups())
            length = 3600 * hours + 60 * minutes + seconds
        elif self.container.duration is None or len(self.container.streams) > 1:
            return None  # a sound may be longer
        else:
            length = self.container.duration / 1e6
        return length - (self.stream.start_time or 0) * self.time_base

    def cut(self) -> dict[str, Any]:
        """`_cut.cut`. Asked last: the file stands elsewhere then."""
        found = cut(self._file, self.formats, self.stream.index_entries, far=self._file.far)
        if not self.stream.frames:  # of fragments that are not there nothing tells
            found.pop("lost", None)
        return found

    @property
    def rate(self) -> float:
        return float(self.stream.average_rate or self.stream.base_rate or 25)

    def described(self, packet: Any) -> Packet | None:
        """What a packet means for the index; None: no frame comes of it."""
        if packet.is_discard:
            return None
        return Packet(packet.pts, bool(packet.is_keyframe) and self.starts(packet))

    def starts(self, packet: Any) -> bool:
        """Whether the codec can start at a packet."""
        return self.can_start is not None and self.can_start(bytes(packet))

    def is_cut(self, packets: Sequence[bytes], key: int) -> bool:
        """Whether the last packet of the file is cut short; key: the place of the key frame."""
        return is_cut(self.stream, self._options, packets, key)

    def packets(self) -> Iterator[Any]:
        """Packets from here on, up to the end or to where the file breaks off.

        For these and `decode` the listener must be entered by the caller: once for many packets,
        as it takes longer than a small one.
        """
        self._fresh = False
        found = self.container.demux(self.stream)
        while True:
            try:
                packet = next(found, None)
            except Exception as error:
                if isinstance(reason_of(error), CorruptInputError):
                    return
                raise
            if packet is None:
                return
            if packet.size:
                yield packet

    def decode(self, packet: Any) -> list[Any]:
        """Frames of a packet (None: what the decoder still holds); none where it is damaged."""
        try:
            return cast("list[Any]", self._context.decode(packet))
        except Exception as error:
            if not isinstance(reason_of(error), CorruptInputError):
                raise
            self.listener.heard = True
            return []

    def seek(self, pts: int) -> None:
        """Stand at a key frame, or somewhere before it."""
        try:
            self._seek(pts)
            with self.listener:
                packet = next(self.packets(), None)
            if packet is not None and packet.pts is not None and packet.pts <= pts:
                self._seek(pts)
                return
        except CorruptInputError:
            pass
        self.rewind()

    def _seek(self, pts: int) -> None:
        self._fresh = False
        with self.listener:
            self.container.seek(pts, stream=self.stream, backward=True)
        self.listener.heard = False

    def rewind(self) -> None:
        """Stand at the first packet; some containers refuse to seek, so they are opened anew."""
        if not self._fresh:
            self.close()
            self._open()


def _stream(container: Any) -> Any:
    """The stream that is the video, where it is none of what must not be decoded."""
    from av.stream import Disposition

    count = len(container.streams)
    if count > MOST_STREAMS:
        raise CorruptInputError(f"{count} streams; the limit is {MOST_STREAMS}")
    videos = container.streams.video
    if not videos:
        raise CorruptInputError("a file without a video stream")
    stream = next((s for s in videos if not s.disposition & Disposition.attached_pic), None)
    if stream is None:
        raise CorruptInputError("a file without a video stream, but with a cover")
    if stream.codec_context is None:
        raise CorruptInputError("a video in a codec that cannot be decoded here")
    return stream


class _Mark(NamedTuple):
    """A packet, by its place among those fed."""

    serial: float
    pts: int | None


class Decoded(NamedTuple):
    """A frame that a decoder yields."""

    frame: Any
    pts: Any
    whole: bool
    """Neither it nor what it builds on is known to be damaged."""
    packet: Any = None
    """What it was decoded from, where that is to be looked at once more."""


@dataclass(slots=True)
class Decoder:
    """Decodes forward from where a video stands; finds frames by rank among the time stamps fed.

    A decoder hands frames out in the order of their time stamps, so when a frame comes out, every
    packet that is shown before it has been fed: its rank after a key frame is known for certain,
    even where some of those packets yielded no frame.
    """

    video: Video
    seek: int | None = None
    """Time stamp of the key frame it started from; None: the start of the file."""
    fed: list[int] = field(default_factory=list)
    """Sorted time stamps of the packets fed."""
    keys: list[int] = field(default_factory=list)
    orderly: bool = True
    """Every packet fed has a time stamp."""
    _stream: Iterator[Decoded] | None = None
    _frame: Decoded | None = None
    _count: int = -1
    """Frames handed out, less one."""
    _found: int = -2
    """Place in the video of the frame found last, if it was."""
    _serial: int = -1
    _starts: deque[_Mark] = field(default_factory=lambda: deque(maxlen=64))
    """Packets from which on all is whole, until the next damage."""
    _since: list[bytes] = field(default_factory=list)
    """Packets from the last but one of these on, where the end of the file is looked at."""
    _key: int = 0
    """Place of the last of these in them."""
    _begun: float = 0
    """The last of these whose frame came out. What comes out before it is shown before it."""
    _damage: list[_Mark] = field(default_factory=list)
    _kept: deque[tuple[int, Any]] = field(default_factory=lambda: deque(maxlen=64))
    """Packets fed, where they are looked at once more."""

    @classmethod
    def start(cls, video: Video, ref: FrameRef) -> Decoder:
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
        # Not fed yet: decode on inside the group and into the next, and jump over groups that nobody
        # asked for.
        return bool(ref.seek[0] > self.fed[-1]) and ref.position != self._found + 1

    def find(self, ref: FrameRef) -> Decoded | None:
        """The frame, or None where its packet yields none."""
        if ref.seek is None:
            while self._count < ref.position and self._advance():
                pass
            return self._frame if self._count == ref.position else None
        self._found = -2  # no frame comes after it
        target = self._target(ref)
        while target is None or self._frame is None or self._frame.pts < target:
            if not self._advance():
                return None
            target = self._target(ref)
        if self._frame.pts != target:
            return None
        self._found = ref.position
        return self._frame

    def frames(self) -> Iterator[Decoded]:
        """All frames from here on; packets that cannot be decoded yield none."""
        waiting = self.seek
        packets: Any = zip(self.video.packets(), repeat(False))
        if self.video.ends_silently:
            packets = with_last(self.video.packets())
        for packet, last in packets:
            if waiting is not None:
                # What lies before the key frame is not needed to decode it, and may disturb.
                if packet.pts != waiting:
                    continue
                waiting = None
            self._note(packet)
            if self.video.ends_silently:
                self._look_at_the_end(packet, last)
            yield from self._judged(self.video.decode(packet), packet.pts)
        yield from self._judged(self.video.decode(None), None)

    def _note(self, packet: Any) -> None:
        """Take down what a packet is, before it is fed."""
        video = self.video
        self._serial += 1
        if self._serial > MOST_FRAMES:
            raise CorruptInputError(f"more than {MOST_FRAMES:,} frames, which is the limit")
        # A new object each: PyAV finds it again by its id, and small integers share theirs.
        packet.opaque = _Mark(self._serial, packet.pts)
        if video.doubts:
            self._kept.append((self._serial, packet))
        if video.listener.hear():  # between this packet and the one before: one may be missing
            self._damage.append(_Mark(self._serial - 0.5, None))
            video.listener.heard = False
        described = video.described(packet)
        if described is None or described.pts is None:
            self.orderly = self.orderly and described is None
        else:
            insort(self.fed, described.pts)
            if described.key:
                self.keys.append(described.pts)
        if (described is not None and described.key) or (
            # Not so called by the container, or not shown, but a start all the same.
            (self._damage or described is None) and video.starts(packet)
        ):
            self._begin(packet.pts)
        elif self._serial == 0 and self.seek is None and self._first(packet):
            self._begin(None if video.can_start is None else packet.pts)
        if packet.is_corrupt or (video.is_broken is not None and video.is_broken(bytes(packet))):
            self._damage.append(_Mark(self._serial, packet.pts))

    def _look_at_the_end(self, packet: Any, last: bool) -> None:
        """Keep what the last packet builds on, and see whether that is whole."""
        if self._starts and self._starts[-1].serial == self._serial:
            del self._since[: self._key]
            self._key = len(self._since)
        self._since.append(bytes(packet))
        if (
            last
            and self._starts
            and sum(map(len, self._since)) <= MOST_BYTES
            and self.video.is_cut(self._since, self._key)
        ):
            self._damage.append(_Mark(self._serial, packet.pts))

    def _first(self, packet: Any) -> bool:
        """Whether a file may begin so: a decoder of H.264 tells which frames lack a reference."""
        video = self.video
        return video.can_start is None or video.codec == "h264" or video.starts(packet)

    def _begin(self, pts: int | None) -> None:
        if not self._starts:
            self._begun = self._serial
        self._starts.append(_Mark(self._serial, pts))
        if self._damage and self._damage[0].serial < self._starts[0].serial:
            self._damage = [d for d in self._damage if d.serial >= self._starts[0].serial]

    def _judged(self, frames: list[Any], pts: int | None) -> Iterator[Decoded]:
        """Frames as they come out of the decoder, each with whether it is whole."""
        if self.video.listener.hear():
            self._damage.append(_Mark(self._serial, pts))
            self.video.listener.heard = False
        for frame in frames:
            mark, pts = frame.opaque, frame.pts
            serial = self._serial if mark is None else mark.serial
            if frame.is_corrupt:
                insort(self._damage, _Mark(serial, pts), key=lambda mark: mark.serial)
            packet = None
            if self._kept:
                packet = next((kept for place, kept in self._kept if place == serial), None)
            if pts is None and any(start.serial == serial for start in self._starts):
                self._begun = max(self._begun, serial)
            yield Decoded(frame, pts, self._is_whole(serial, pts), packet)

    def _is_whole(self, serial: int, pts: int | None) -> bool:
        """Whether nothing was damaged since the key frame that a frame can be decoded from.

        Frames that are shown before a key frame may build on what was before it, but nothing that
        is shown after it builds on them. Raw streams have no time stamps, but frames come out in the
        order in which they are shown.
        """
        latest = min(serial, self._begun) if pts is None else serial
        for start in reversed(self._starts):
            if start.serial <= latest and (start.pts is None or pts is None or start.pts <= pts):
                break
        else:
            return False
        return not self._damage or not any(
            start.serial <= damage.serial <= serial
            and not (damage.pts is not None and start.pts is not None and damage.pts < start.pts)
            for damage in self._damage
        )

    def _advance(self) -> bool:
        if self._stream is None:
            self._stream = self.frames()
        for decoded in self._stream:
            if self.seek is not None:
                # Shown before the key frame: it refers to frames that were not decoded.
                if decoded.pts is None or decoded.pts < self.seek:
                    continue
                if self._frame is not None and decoded.pts <= self._frame.pts:
                    continue
            self._frame = decoded
            self._count += 1
            return True
        return False

    def _target(self, ref: FrameRef) -> int | None:
        """Time stamp of a frame, as far as the packets fed tell."""
        assert ref.seek is not None
        place = bisect_left(self.fed, ref.seek[0]) + ref.position - ref.seek[1]
        return self.fed[place] if place < len(self.fed) else None
