"""What moves: OpenCV's own loop bit for bit, the same for any cut, and found where it was drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import segengine
from segengine.commands.plan import plan
from segengine.commands.verify import verify
from segengine.errors import JobError
from segengine.job import load_job, parse_job
from tests.segengine.moving import idf1, passing, write_video, yard

JOBS = Path(__file__).parents[3] / "deployments/jobs"
QUICK = {"faults": {"fsync": False}}


def by_opencv(pictures, warmup, span, *, history=500, threshold=16.0, shadows=False):
    """OpenCV's loop over each segment and the frames before it; RGB or gray, values 0, 127, 255."""
    found = []
    for start in range(0, len(pictures), span):
        first = max(0, start - warmup)
        mog = cv2.createBackgroundSubtractorMOG2(
            history=history, varThreshold=threshold, detectShadows=shadows
        )
        for i in range(first, min(start + span, len(pictures))):
            picture = pictures[i]
            if picture.shape[-1] == 3:
                picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            mask = mog.apply(picture)
            if i >= start:
                found.append(mask)
    return np.stack(found)


def cut(frames, **sides):
    return {"chunk": 32, "shard": 160, "frames": frames, **sides}


def iou(found, truth):
    return np.count_nonzero(found & truth) / np.count_nonzero(found | truth)


@pytest.fixture(scope="module")
def film():
    return yard(150)


@given(
    count=st.integers(1, 40),
    warmup=st.integers(1, 12),
    span=st.integers(1, 15),
    history=st.integers(1, 60),
    threshold=st.floats(1, 60, allow_nan=False),
    shadows=st.booleans(),
    gray=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_it_is_opencvs_loop_bit_for_bit(
    count, warmup, span, history, threshold, shadows, gray, film
):
    video = np.stack(film[0][30 : 30 + count])[:, :40, :56]
    video = video[..., 1:2] if gray else video
    options = {"history": history, "threshold": threshold, "shadows": shadows}
    spec = {"kind": "background", **options, "warmup": warmup, "segment": span}
    found = segengine.segment(video, spec)
    theirs = by_opencv(video, warmup, span, **options)
    assert np.array_equal(found, np.choose(np.searchsorted([0, 127, 255], theirs), [0, 2, 1]))


@given(
    top=st.integers(0, 95),
    left=st.integers(0, 159),
    high=st.integers(1, 96),
    wide=st.integers(1, 160),
)
@settings(max_examples=25, deadline=None)
def test_a_window_is_labelled_as_in_the_whole(top, left, high, wide, film):
    video = np.stack(film[0][60:75])
    spec = {"kind": "background", "shadows": True, "warmup": 3, "segment": 7}
    window = slice(top, top + high), slice(left, left + wide)
    whole = segengine.segment(video, spec)
    assert np.array_equal(segengine.segment(video[:, *window], spec), whole[:, *window])


def test_threads_change_no_bit(film):
    video, before, found = np.stack(film[0][40:70]), cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 7):
            cv2.setNumThreads(threads)
            found.append(segengine.segment(video, {"kind": "background", "shadows": True}))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_what_moves_is_found_and_shadows_are_told_apart(film):
    pictures, truth, shade = film
    found = segengine.segment(np.stack(pictures), {"kind": "background", "warmup": 40})
    assert iou(found[1:] == 1, (truth | shade)[1:]) >= 0.9
    apart = segengine.segment(
        np.stack(pictures), {"kind": "background", "warmup": 40, "shadows": True}
    )
    assert iou(apart[1:] == 1, truth[1:]) >= 0.9
    # most of the shadows are no longer what moves
    assert np.count_nonzero((apart == 2) & shade) >= 0.9 * np.count_nonzero(shade)
    assert np.count_nonzero((found == 1) & shade) >= 0.9 * np.count_nonzero(shade)


def test_a_long_warm_up_is_as_opencv_over_the_whole_video():
    pictures, truth, shade = yard(420, width=112, seed=2)
    whole = by_opencv(np.stack(pictures), 1, 10_000) == 255
    found = segengine.segment(np.stack(pictures), {"kind": "background"}) == 1
    assert iou(found[200:], (truth | shade)[200:]) >= 0.9
    assert iou(found[200:], whole[200:]) >= 0.9


@pytest.fixture(scope="module")
def wanted(film):
    spec = {"kind": "background", "warmup": 12, "segment": 25, "shadows": True}
    return spec, segengine.segment(np.stack(film[0][:75]), spec)


@pytest.mark.parametrize(
    "store",
    [cut(1), cut(7), cut(25), cut(40), cut(75), cut(1, shard=96), cut(30, shard=96)],
    ids=lambda store: f"{store['frames']}x{store['shard']}",
)
def test_masks_are_the_same_for_any_cut(bench, film, wanted, store, plain_report):
    spec, labels = wanted
    write_video(bench.inputs / "yard.mkv", film[0][:75], codec="ffv1", pixels="bgr0")
    bench.run(spec, store=store, **QUICK)
    assert np.array_equal(bench.open()["yard"].mask[:, :96, :160], labels)
    if store["frames"] == 7:
        assert not verify(str(bench.store)).problems


def test_workers_and_order_change_no_byte(new_bench, film, wanted, clients, plain_report):
    trees = []
    for workers in (0, 1, 2):
        bench = new_bench()
        write_video(bench.inputs / "yard.mkv", film[0][:75], codec="ffv1", pixels="bgr0")
        job = bench.job(wanted[0], store=cut(8), **QUICK)
        segengine.run(job, client=clients(workers) if workers else None)
        trees.append(bench.tree())
    assert trees[0] == trees[1] == trees[2]


def visits(moving):
    """By frame the masks of what walks through (frame, y, x), by lane and how many came there before."""
    found, number = [{} for _ in moving], 0
    for row in (10, 40, 66):
        there = False
        for t, frame in enumerate(moving):
            own = np.zeros_like(frame)
            own[row : row + 20] = frame[row : row + 20]
            number += own.any() and not there
            there = own.any()
            if there:
                found[t][int(number)] = (1, own)
    return found


def test_the_shipped_job_follows_what_moves(bench, film):
    pictures, truth, _ = film
    write_video(bench.inputs / "yard.mkv", pictures, codec="ffv1", pixels="bgr0")
    places = [f"source.paths=[{bench.inputs}]", f"store.path={bench.store}"]
    summary = segengine.run(load_job(JOBS / "background.yaml", places))
    assert summary.exit_code == 0
    store = bench.open()["yard"]
    labels, ids = store.mask[:, :96, :160], store.instances[:, :96, :160]
    assert set(np.unique(labels)) == {0, 1, 2}
    found = [{} for _ in ids]
    for row in pq.read_table(bench.store / "tables/tracks.parquet").to_pylist():
        found[row["frame"]][row["track"]] = (1, ids[row["frame"]] == row["id"])
    assert idf1(visits(truth), found) >= 0.85


def test_a_damaged_frame_is_left_out_of_what_follows(new_bench, film, wanted, plain_report):
    masks = []
    for frames in (75, 9):
        bench = new_bench()
        file = write_video(bench.inputs / "yard.avi", film[0][:75], codec="mjpeg")
        data = bytearray(file.read_bytes())
        at = [i for i in range(len(data) - 3) if data[i : i + 4] == b"00dc"][
            43
        ]  # the header has one
        data[at + 700 : at + 1700] = b"\xff\xd9" * 500  # the end of a picture
        file.write_bytes(data)
        summary = bench.run(wanted[0], store=cut(frames), **QUICK)
        mask = bench.open()["yard"].mask[:]
        assert summary.exit_code == 3
        assert [i for i in range(len(mask)) if (mask[i] == 255).all()] == [42]
        masks.append(mask)
    assert np.array_equal(*masks)


def test_only_what_is_video_of_eight_bits_is_taken(bench):
    bench.put("photos/a.png", np.zeros((32, 32), np.uint8))
    said = (
        r"^segmenter\.kind: background labels a frame by those before it, and scene \S+ is no video"
    )
    with pytest.raises(JobError, match=said):
        bench.run({"kind": "background"})
    write_video(bench.inputs / "a.mkv", passing(2, 48, 64), codec="ffv1")
    with pytest.raises(JobError, match=said):
        bench.run({"kind": "background"})
    (bench.inputs / "photos/a.png").unlink()
    with pytest.raises(JobError, match=r"^source\.skip\.still: background has to see every frame"):
        bench.run({"kind": "background"}, source={"skip": {"still": 0}})
    with pytest.raises(ValueError, match=r"gray or colour of 8 bits, and these are 4 bands"):
        segengine.create_segmenter({"kind": "background"}).check_pixels(4, "uint8")
    both = {"kind": "ensemble", "members": [{"kind": "background"}] * 2}
    with pytest.raises(JobError, match=r"^members\[0\]\.kind: background labels a frame by those"):
        segengine.create_segmenter(both)


def test_the_plan_says_what_shards_cost_that_are_shorter_than_segments(bench, film):
    write_video(bench.inputs / "yard.mkv", film[0], codec="ffv1", pixels="bgr0")
    spec = {"kind": "background", "warmup": 12, "segment": 25}
    told = plan(parse_job(bench.job(spec, store=cut(10)))).notices
    (line,) = (each for each in told if "store.frames" in each)
    starts = range(0, 150, 10)
    seen = sum(s + 10 - max(0, s // 25 * 25 - 12) for s in starts)
    assert line == (
        f"yard: shards of 10 frames look at up to {seen / 150:.1f} for each that they store; with "
        "`store.frames: 25`, or a multiple, at 1.5 at most"
    )
    told = plan(parse_job(bench.job(spec, store=cut(50)))).notices
    assert not [each for each in told if "store.frames" in each]
