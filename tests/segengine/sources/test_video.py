"""Video: every frame, wherever reading starts, equals the one a sequential decode yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.errors import CorruptInputError, TransientInputError
from segengine.sources._color import gray
from segengine.sources._keyframes import exact_start, is_forward_vop
from segengine.sources._video import Decoder
from segengine.sources.video import _KEPT, VideoSource, _decoded, _predicted
from segengine.types import Entry, FrameRef, Probe, Source, Tile, Unreadable

HEIGHT, WIDTH = 48, 64


def encode(
    path: Path,
    codec: str,
    frames: int = 40,
    gop: int = 12,
    stamps: Sequence[int] | None = None,
    pixels: str = "yuv420p",
    container_format: str | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    matrix: Sequence[int] | None = None,
    grain: int = 1,
    **options: str,
) -> Path:
    """A moving texture; `stamps` in milliseconds, `matrix` the display matrix, `grain` noise."""
    height, width = size
    random = np.random.default_rng(3)
    texture = random.integers(0, 256, (height, width + frames, 3), np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 2)
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        if matrix is not None:
            stream.set_display_matrix(list(matrix))
        stream.codec_context.gop_size = gop
        if stamps is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            picture = np.ascontiguousarray(texture[:, i : i + width])
            if grain > 1:
                picture = cv2.add(picture, random.integers(0, grain, picture.shape, np.uint8))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            if stamps is not None:
                frame.pts, frame.time_base = stamps[i], stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sequential(path: Path) -> list[Any]:
    """All frames from the start, with PyAV's own loop."""
    found = []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            try:
                found += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.error.InvalidDataError:
                continue
    return found


def probe(path: Path, **options: Any) -> Probe:
    return VideoSource(**options).probe(Entry(path.name, str(path), ""))


def refs(path: Path, found: Probe) -> list[FrameRef]:
    assert found.positions is not None
    return [
        FrameRef(
            i,
            f"{path.name}#{position}",
            str(path),
            "",
            found.height,
            found.width,
            int(position),
            None if found.seeks is None else (int(found.seeks[i, 0]), int(found.seeks[i, 1])),
        )
        for i, position in enumerate(found.positions)
    ]


def read(frames: Sequence[FrameRef], **options: Any) -> list[Tile | Unreadable]:
    rows, cols = slice(0, frames[0].height), slice(0, frames[0].width)
    return list(VideoSource(**options).read(frames, rows, cols))


def assert_equal(items: Sequence[Tile | Unreadable], expected: Sequence[Any]) -> None:
    assert len(items) == len(expected)
    for item, picture in zip(items, expected, strict=True):
        assert isinstance(item, Tile), item
        np.testing.assert_array_equal(item.pixels, picture)


IRREGULAR = np.cumsum(np.random.default_rng(5).integers(5, 200, 40)).tolist()
VIDEOS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"codec": "libx264", "bf": "3", "b-pyramid": "normal"},
    "long-gop.mp4": {"codec": "libx264", "gop": 250, "bf": "3"},
    "variable.mp4": {"codec": "libx264", "bf": "2", "stamps": IRREGULAR},
    "tiny-gop.mp4": {"codec": "libx264", "gop": 2, "bf": "1"},
    "open-gop.mkv": {"codec": "libx264", "bf": "3", "x264-params": "open-gop=1:keyint=12"},
    "refresh.mp4": {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=10"},
    "motion.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4-b.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg4-b.mp4": {"codec": "mpeg4", "bf": "2"},
    "h264.avi": {"codec": "libx264", "bf": "2"},
    "program.mpg": {"codec": "mpeg2video", "bf": "2"},
    "alt-ref.webm": {"codec": "libvpx-vp9"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(params=VIDEOS)
def video(request: pytest.FixtureRequest, folder: Path) -> Path:
    path = folder / request.param
    return path if path.exists() else encode(path, **VIDEOS[request.param])


def test_conforms() -> None:
    assert isinstance(VideoSource(), Source)


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_a_wrong_every_names_the_option(every: Any) -> None:
    with pytest.raises(ValueError, match=r"^every: is"):
        VideoSource(every=every)


def test_any_order_equals_a_sequential_decode(video: Path) -> None:
    expected = sequential(video)
    found = probe(video)
    assert found.positions is not None
    assert found.positions.tolist() == list(range(40)) == list(range(len(expected)))
    assert found.times is not None
    assert found.times[0] == 0
    assert (np.diff(found.times) > 0).all()
    all_refs = refs(video, found)
    assert_equal(read(all_refs), expected)
    for order in ([39], [17, 18, 19], [5, 4, 3, 30, 0], [11, 12, 25, 38, 39, 39]):
        assert_equal(read([all_refs[i] for i in order]), [expected[i] for i in order])


@pytest.mark.parametrize("name", ["b-frames.mp4", "variable.mp4", "mpeg4-b.avi", "h264.avi"])
def test_every_third(name: str, folder: Path) -> None:
    path = folder / name
    if not path.exists():
        encode(path, **VIDEOS[name])
    found = probe(path, every=3)
    assert found.positions is not None
    assert found.positions.tolist() == list(range(0, 40, 3))
    assert_equal(read(refs(path, found), every=3), sequential(path)[::3])
    every_frame = probe(path)
    assert found.times is not None
    assert every_frame.times is not None
    np.testing.assert_array_equal(found.times, every_frame.times[::3])
    assert found.gop == every_frame.gop  # in frames of the file


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places of the frames for which a decoder started anew."""
    found: list[int] = []
    start = Decoder.start

    def noted(video: Any, ref: FrameRef) -> Decoder:
        found.append(ref.position)
        return start(video, ref)

    monkeypatch.setattr(Decoder, "start", noted)
    return found


def test_what_is_read_next_goes_on_from_there(video: Path, started: list[int]) -> None:
    expected = sequential(video)
    all_refs = [replace(ref, fingerprint="1") for ref in refs(video, probe(video))]
    started.clear()
    for part in (slice(0, 7), slice(7, 8), slice(8, 30), slice(30, 40), slice(5, 9), slice(9, 33)):
        assert_equal(read(all_refs[part]), expected[part])
    assert started == [0, 5]


def test_a_video_in_the_place_of_another_is_opened_anew(tmp_path: Path, started: list[int]) -> None:
    path = encode(tmp_path / "a.mp4", "libx264")
    before = refs(path, probe(path))
    assert_equal(read([replace(ref, fingerprint="1") for ref in before[:9]]), sequential(path)[:9])
    other = encode(tmp_path / "b.mp4", "libx264", grain=60)
    other.replace(path)
    for fingerprint in ("2", ""):  # without one nobody knows whether it is the same
        after = [replace(ref, fingerprint=fingerprint) for ref in refs(path, probe(path))]
        started.clear()
        assert_equal(read(after[9:15]), sequential(path)[9:15])
        assert_equal(read(after[15:20]), sequential(path)[15:20])
        assert started == ([9] if fingerprint else [9, 15])


def test_one_that_failed_is_not_kept(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264")
    frames = [replace(ref, fingerprint="1") for ref in refs(path, probe(path))]
    reading = VideoSource().read(frames, slice(0, HEIGHT), slice(0, WIDTH))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert _KEPT.held is None


@given(st.lists(st.integers(0, 39), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_random_access(folder: Path, order: list[int]) -> None:
    path = folder / "b-frames.mp4"
    if not path.exists():
        encode(path, **VIDEOS[path.name])
    all_refs = refs(path, probe(path))
    expected = sequential(path)
    assert_equal(read([all_refs[i] for i in order]), [expected[i] for i in order])


def test_times_of_a_variable_rate_video(folder: Path) -> None:
    path = encode(folder / "times.mp4", "libx264", stamps=IRREGULAR)
    times = probe(path).times
    assert times is not None
    np.testing.assert_allclose(times, (np.array(IRREGULAR) - IRREGULAR[0]) / 1000, atol=1e-3)


def test_key_frames_are_named(folder: Path) -> None:
    path = encode(folder / "keys.mp4", "libx264", gop=10, bf="2", sc_threshold="0")
    found = probe(path)
    assert found.gop == 10
    assert found.seeks is not None
    assert found.seeks[:, 1].tolist() == [i // 10 * 10 for i in range(40)]


def test_a_gradual_refresh_is_no_place_to_start(folder: Path) -> None:
    path = encode(folder / "refresh-only.mp4", **VIDEOS["refresh.mp4"])
    found = probe(path)
    assert found.gop == 40


def test_only_what_is_shown_as_it_is_stored_is_planned_without_decoding_all(folder: Path) -> None:
    found = {}
    for name in ("mpeg4.avi", "mpeg4-b.avi", "mpeg4-b.mp4"):
        path = folder / name
        if not path.exists():
            encode(path, **VIDEOS[name])
        found[name] = _predicted(str(path))
    assert found["mpeg4-b.avi"] is None
    for name in ("mpeg4.avi", "mpeg4-b.mp4"):
        index, decoded = found[name], _decoded(str(folder / name))
        assert index is not None
        np.testing.assert_allclose(index.times, decoded.times)
        np.testing.assert_array_equal(index.keys, decoded.keys)


def test_vops_that_come_as_they_are_shown() -> None:
    intra, predicted, both_ways = (b"\0\0\1\xb6" + bytes([kind << 6]) for kind in range(3))
    picture = bytes(range(1, 100))
    assert is_forward_vop(intra + picture)
    assert is_forward_vop(picture + predicted + picture)
    assert not is_forward_vop(both_ways + picture)
    assert not is_forward_vop(predicted + picture + both_ways + picture)  # packed
    assert is_forward_vop(predicted + picture[:3])
    assert not is_forward_vop(predicted + picture[:2])  # may be a header that says: not coded
    late = predicted[:4] + b"\x7f" + b"\xff" * 30  # after 240 seconds
    assert not is_forward_vop(late + b"\0" + picture[:2])
    assert is_forward_vop(late + b"\0" + picture[:3])
    assert not is_forward_vop(picture)


def test_nal_units_of_both_framings() -> None:
    recovery = bytes([6, 6, 1])
    for unit, exact in (
        (bytes([0x65, 1]), True),
        (bytes([0x41, 1]), False),
        (recovery + b"\x84", True),
        (recovery + b"\x30", False),
    ):
        assert exact_start(b"\0\0\0\1" + unit, None) is exact
        assert exact_start(len(unit).to_bytes(4, "big") + unit, 4) is exact
    assert exact_start(b"", 4) is False


def test_windows_and_gray(folder: Path) -> None:
    path = encode(folder / "window.avi", "mjpeg", frames=3, pixels="yuvj420p")
    found = probe(path, color="gray")
    assert (found.bands, found.dtype) == (1, "uint8")
    items = list(VideoSource(color="gray").read(refs(path, found), slice(5, 9), slice(7, 30)))
    assert_equal(items, [gray(picture)[5:9, 7:30] for picture in sequential(path)])


def test_a_gray_video_has_one_band(folder: Path) -> None:
    path = encode(folder / "gray.mkv", "ffv1", frames=3, pixels="gray")
    found = probe(path)
    assert found.bands == 1
    assert_equal(read(refs(path, found)), [picture[..., :1] for picture in sequential(path)])


def damage(path: Path, victim: int) -> None:
    """Overwrite the body of the packet of one frame."""
    with av.open(str(path)) as container:
        stamps = sorted(
            (packet.pts, packet.pos, packet.size)
            for packet in container.demux(container.streams.video[0])
            if packet.pts is not None
        )
    _, place, size = stamps[victim]
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["motion.avi", "h.mp4"])
def test_a_damaged_packet_costs_its_own_frame(tmp_path: Path, name: str) -> None:
    # Every frame a key frame: none depends on the damaged one.
    codec, pixels = ("mjpeg", "yuvj420p") if name.endswith("avi") else ("libx264", "yuv420p")
    path = encode(tmp_path / name, codec, frames=20, gop=1, pixels=pixels)
    expected = sequential(path)
    damage(path, 7)
    found = probe(path)
    assert found.frames == 20
    items = read(refs(path, found))
    bad = items.pop(7)
    assert isinstance(bad, Unreadable)
    assert bad.kind == "corrupt"
    assert "damaged frame" in bad.reason
    assert_equal(items, expected[:7] + expected[8:])


def test_an_undecodable_tail_is_not_counted(tmp_path: Path) -> None:
    path = encode(tmp_path / "tail.avi", "mjpeg", frames=20, pixels="yuvj420p")
    damage(path, 19)
    damage(path, 18)
    expected = sequential(path)
    found = probe(path)
    assert found.frames == len(expected) == 18
    assert_equal(read(refs(path, found)), expected)


def test_a_file_that_breaks_off_keeps_what_decodes(tmp_path: Path) -> None:
    path = encode(tmp_path / "cut.avi", "mjpeg", frames=20, pixels="yuvj420p")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    expected = sequential(path)
    found = probe(path)
    assert 0 < found.frames < 20
    assert_equal(read(refs(path, found))[:-1], expected[: found.frames - 1])


def test_what_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for content, words in ((b"", "empty file"), (b"hello, I am text", "not a video")):
        path.write_bytes(content)
        with pytest.raises(CorruptInputError, match=words):
            probe(path)
    path.unlink()
    with pytest.raises(TransientInputError, match="no such file"):
        probe(path)


def test_no_frame_that_decodes(tmp_path: Path) -> None:
    path = encode(tmp_path / "none.avi", "mjpeg", frames=2, pixels="yuvj420p")
    damage(path, 0)
    damage(path, 1)
    with pytest.raises(CorruptInputError, match="without a frame"):
        probe(path)


def test_a_vanished_file_fails_every_frame(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", "mjpeg", frames=4, pixels="yuvj420p")
    frames = refs(path, probe(path))
    other = encode(tmp_path / "b.avi", "mjpeg", frames=4, pixels="yuvj420p")
    path.unlink()
    items = read([*frames, replace(frames[0], uri=str(other))])
    assert [type(item) for item in items] == [Unreadable] * 4 + [Tile]
    assert items[0] == Unreadable("error", "no such file")


def test_odd_names(tmp_path: Path) -> None:
    path = encode(tmp_path / "%d #1?ä.avi", "mjpeg", frames=2, pixels="yuvj420p")
    assert_equal(read(refs(path, probe(path))), sequential(path))
