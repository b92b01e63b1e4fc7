"""Export of video: frames and time stamps of the source, and nothing left of what is redacted."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from segengine.errors import JobError, SegengineError
from segengine.export._redaction import margin_of, redact
from segengine.export.video import export
from tests.segengine.moving import passing, read_video, write_video

SIZE = 96, 160
BRIGHT = {"kind": "threshold", "method": "fixed", "levels": [190]}
IRREGULAR = (30 + np.cumsum(np.random.default_rng(5).integers(5, 200, 12))).tolist()
QUARTER = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]


def fill(bench):
    pictures = passing(12, *SIZE)
    of = {
        "a.mp4": {"stamps": IRREGULAR, "unit": Fraction(1, 1000)},
        "b.avi": {"codec": "mpeg4", "stamps": [0, 1, 2, 5, 6, 7, 8, 9, 11, 12, 13, 14]},
        "c.mov": {"matrix": QUARTER},
        "d.mkv": {"stamps": [40 * i for i in range(12)], "unit": Fraction(1, 1000)},
        "e.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "6"},
        "f.ts": {"codec": "mpeg2video"},
    }
    for name, how in of.items():
        write_video(bench.inputs / name, pictures, **how)
    write_video(bench.inputs / "odd.mp4", [p[:-1, :-3] for p in pictures])
    return [*of, "odd.mp4"]


def shown(path: Path) -> list[np.ndarray]:
    """Pictures of a source as it is watched: those of c.mov are turned."""
    _, pictures = read_video(path)
    return [np.rot90(p, -1) for p in pictures] if path.name == "c.mov" else pictures


def test_frames_and_time_stamps_are_the_sources_and_what_is_redacted_is_gone(bench, tmp_path):
    names = fill(bench)
    store = {"chunk": 64, "shard": 192, "frames": 5}
    assert bench.run(BRIGHT, store=store, faults={"fsync": False}).exit_code == 0
    store = bench.open()
    over = export(str(bench.store), str(tmp_path / "over"))
    gone = export(str(bench.store), str(tmp_path / "gone"), redact="object")
    containers = {"f.ts": "f.mp4"}
    for name in names:
        source = bench.inputs / name
        times, _ = read_video(source)
        drawn, hidden = (tmp_path / d / containers.get(name, name) for d in ("over", "gone"))
        assert str(drawn) in over
        assert str(hidden) in gone
        scene = store[Path(name).stem]
        for path in (drawn, hidden):
            assert read_video(path)[0] == times, name
        before, masked = shown(source), [read_video(p)[1] for p in (drawn, hidden)]
        assert len(before) == len(masked[0]) == len(masked[1]) == 12
        for i in (0, 5, 11):
            labels = scene.mask[i][: before[i].shape[0], : before[i].shape[1]]
            inside = labels == 1
            assert 500 < inside.sum() < 4000, name
            reach = 2 * margin_of(*inside.shape) + 5  # a codec bleeds a little
            kernel = np.ones((reach, reach), np.uint8)
            outside = cv2.dilate(inside.astype(np.uint8), kernel) == 0
            source_inside = before[i][inside].mean(axis=-1)
            assert source_inside.std() > 10  # the chequers are there to be lost
            for pictures in masked:
                away = np.abs(pictures[i].astype(int) - before[i])[outside]
                assert away.mean() < 4, name
            after = masked[1][i][inside].mean(axis=-1)
            assert abs(np.corrcoef(after, source_inside)[0, 1]) < 0.25, name
            assert np.abs(masked[0][i].astype(int) - before[i])[inside].mean() > 10, name
    with av.open(str(tmp_path / "gone/a.mp4")) as container:
        assert len(container.streams) == 1


def test_a_class_that_is_not_there_a_store_without_video_and_frames_left_out_are_refused(
    bench, tmp_path
):
    pictures = passing(6, 48, 64)
    write_video(bench.inputs / "a.mp4", pictures)
    bench.run(BRIGHT, source={"every": 2})
    store, to = str(bench.store), str(tmp_path / "out")
    with pytest.raises(
        JobError, match=r"--redact: 'cat' is no class .*there are background, object"
    ):
        export(store, to, redact="object,cat")
    with pytest.raises(JobError, match=r"every is 2"):
        export(store, to, redact=["object"])
    with pytest.raises(JobError, match="names no class"):
        export(store, to, redact=" , ")
    (path,) = export(store, to)  # each mask stays for two frames
    assert read_video(path)[0] == [Fraction(i, 25) for i in range(6)]
    write_video(bench.inputs / "a.mp4", passing(7, 48, 64))
    with pytest.raises(JobError, match=r"a\.mp4: is not the video that was segmented"):
        export(store, to)
    write_video(bench.inputs / "b.mp4", pictures)
    bench.run(BRIGHT)
    (bench.inputs / "b.mp4").unlink()
    with pytest.raises(SegengineError, match=r"1 written, and 1 left out: b\.mp4: "):
        export(store, to)
    assert len(read_video(path)[0]) == 7


def test_what_cannot_be_decoded_never_shows(bench, tmp_path):
    path = write_video(bench.inputs / "a.avi", passing(8, *SIZE), codec="mjpeg")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        at = packets[3].pos + 8 + packets[3].size // 2
    data[at : at + 400] = bytes(400)
    path.write_bytes(data)
    assert bench.run(BRIGHT).exit_code == 3
    (written,) = export(str(bench.store), str(tmp_path / "out"), redact="object")
    times, pictures = read_video(written)
    assert len(times) == 8
    assert pictures[3].mean(axis=-1).std() < 20  # stripes, not the thing, nor the ground
    assert pictures[3].min() > 70
    assert pictures[2].max() > 200


def test_a_frame_that_got_no_mask_is_redacted_wholly(bench, tmp_path, monkeypatch):
    (tmp_path / "refusing_cars.py").write_text(HIDING)
    monkeypatch.syspath_prepend(tmp_path)
    write_video(bench.inputs / "a.mp4", passing(4, *SIZE))
    job = {"faults": {"retries": 0, "max_quarantined": 1}, "trust": True}
    assert bench.run({"kind": "refusing_cars:Refusing"}, **job).exit_code == 3
    (written,) = export(str(bench.store), str(tmp_path / "out"), redact="person")
    for picture in read_video(written)[1]:
        assert cv2.Laplacian(picture, cv2.CV_64F).std() < 3


def test_objects_that_others_hide_are_redacted_where_only_their_rows_show_them(
    bench, tmp_path, monkeypatch
):
    (tmp_path / "hiding_cars.py").write_text(HIDING)
    monkeypatch.syspath_prepend(tmp_path)
    pictures = [np.full((64, 96, 3), 120, np.uint8) for _ in range(4)]
    rng = np.random.default_rng(1)
    for picture in pictures:
        picture[16:48, 16:48] = rng.integers(0, 2, (32, 32, 1)) * 200
    write_video(bench.inputs / "a.mp4", pictures)
    bench.run({"kind": "hiding_cars:Hiding"}, trust=True)
    _, before = read_video(bench.inputs / "a.mp4")
    (written,) = export(str(bench.store), str(tmp_path / "out"), redact="person")
    _, after = read_video(written)
    for i in range(4):
        assert before[i][18:46, 18:46].std() > 50
        assert after[i][18:46, 18:46].std() < 20


HIDING = '''
import numpy as np
import pyarrow as pa

from segengine.instances.rle import encode_rle
from segengine.instances.rows import FRAME, table_of
from segengine.types import Prediction


class Hiding:
    """A person at 16..48 behind a car that covers all of it."""

    classes = ("background", "person", "car")
    halo, stride = None, 1
    outputs = ("labels", "instances", "objects")

    def segment(self, pixels):
        n, h, w, _ = pixels.shape
        labels = np.zeros((n, h, w), np.uint8)
        labels[:, 8:56, 8:80] = 2
        box = np.zeros((h, w), np.uint8)
        box[16:48, 16:48] = 1
        rows = []
        for number, mask in ((1, labels[0] == 2), (2, box == 1)):
            ys, xs = np.nonzero(mask)
            bbox = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            rle = encode_rle(mask, (0, 0), (h, w))
            kind = 2 if number == 1 else 1
            rows.append({"id": number, "class": kind, "score": 1.0, "bbox": [float(v) for v in bbox],
                         "area": int(mask.sum()), "rle": rle})
        table = table_of(rows)
        if n > 1:
            table = pa.concat_tables(
                table.append_column(FRAME, pa.array([i] * len(rows), FRAME.type)) for i in range(n)
            )
        return Prediction(labels, instances=(labels == 2).astype(np.uint32), objects=table)


class Refusing:
    classes = ("background", "person")
    halo, stride = None, 1
    outputs = ("labels",)

    def segment(self, pixels):
        raise RuntimeError("no")
'''


def test_redaction_leaves_sixteen_colours_of_any_object_and_nothing_changes_beyond_its_margin():
    rng = np.random.default_rng(2)
    picture = rng.integers(0, 256, (200, 300, 3), np.uint8)
    region = np.zeros((200, 300), np.bool_)
    region[40:160, 50:250] = True
    other = picture.copy()
    redact(other, region)
    margin = margin_of(200, 300)
    grown = np.zeros_like(region)
    grown[40 - margin : 160 + margin, 50 - margin : 250 + margin] = True
    assert (other[~grown] == picture[~grown]).all()
    # white noise of as many values has as many ranks; what is left of it has 16 at most
    left = other[grown].reshape(120 + 2 * margin, 200 + 2 * margin, 3)[..., 0].astype(float)
    assert np.linalg.matrix_rank(left - left.mean(), tol=60) <= 4
    assert left.std() < 25
    again = picture.copy()
    redact(again, np.zeros_like(region))
    assert (again == picture).all()
