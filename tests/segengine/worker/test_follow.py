"""What a worker reads to label a shard by the frames before it, and what it does where it cannot."""

from __future__ import annotations

import numpy as np
import pytest

import segengine
from segengine.types import Unreadable
from segengine.worker import follow
from tests.segengine.moving import write_video, yard

SPEC = {"kind": "background", "warmup": 6, "segment": 20}
COUNT = 60


@pytest.fixture(scope="module")
def film():
    return [picture[:64, :96] for picture in yard(COUNT)[0]]


@pytest.fixture
def read(monkeypatch):
    """Frames that were read, by index; those in `errors` cannot be, so many times."""
    found, errors, real = [], {}, follow.read_frames

    def counted(source, frames, rows, cols):
        for ref, tile in real(source, frames, rows, cols):
            found.append(ref.index)
            left = errors.get(ref.index, 0)
            if left:
                errors[ref.index] = left - 1
            yield ref, Unreadable("error", "the line is down") if left else tile

    monkeypatch.setattr(follow, "read_frames", counted)
    monkeypatch.setattr(follow, "_KEPT", follow._Kept())
    return found, errors


def run(bench, film, frames, **blocks):
    write_video(bench.inputs / "yard.mkv", film, codec="ffv1", pixels="bgr0")
    store = {"chunk": 32, "shard": 96, "frames": frames}
    return bench.run(SPEC, store=store, faults={"fsync": False, **blocks})


def test_one_worker_reads_a_segment_and_its_warm_up_once(bench, film, read, plain_report):
    run(bench, film, 5)
    found, _ = read
    warm = [*range(14, 20), *range(34, 40)]  # before segments 1 and 2, once more each
    assert sorted(found) == sorted([*range(COUNT), *warm])
    assert not follow._KEPT.chains  # the video's last segment has ended


def test_segments_in_one_shard_are_warmed_up_as_it_is_read(bench, film, read, plain_report):
    run(bench, film, COUNT)
    assert read[0] == list(range(COUNT))


def test_a_worker_that_comes_from_elsewhere_begins_anew(
    bench, film, read, monkeypatch, plain_report
):
    monkeypatch.setattr(follow._Kept, "take", lambda self, key: None)
    run(bench, film, 5)
    wanted = [
        i for start in range(0, COUNT, 5) for i in range(max(0, start // 20 * 20 - 6), start + 5)
    ]
    assert read[0] == wanted


def test_what_no_room_is_for_is_not_kept(bench, film, read, monkeypatch, plain_report):
    monkeypatch.setattr(follow, "KEPT_BYTES", 64 * 96 * (5 * 4 * 5 + 1) - 1)
    run(bench, film, 10)
    assert not follow._KEPT.chains
    assert read[0].count(9) == 2
    labels = segengine.segment(np.stack(film), SPEC)
    assert np.array_equal(bench.open()["yard"].mask[:, :64, :96], labels)


def test_a_frame_that_can_be_read_the_second_time_changes_no_mask(bench, film, read, plain_report):
    read[1].update({16: 1, 33: 1})
    summary = run(bench, film, 10, retries=2)
    assert summary.exit_code == 0
    labels = segengine.segment(np.stack(film), SPEC)
    assert np.array_equal(bench.open()["yard"].mask[:, :64, :96], labels)


def test_after_a_frame_that_cannot_be_read_now_nothing_is_guessed(bench, film, read, plain_report):
    read[1][16] = 99
    summary = run(bench, film, 10, retries=0, max_quarantined=1.0)
    assert summary.exit_code == 3
    mask = bench.open()["yard"].mask[:, :64, :96]
    void = [i for i in range(COUNT) if (mask[i] == 255).all()]
    # 16 itself and what follows in its segment; segment 1 has it in its warm-up
    assert void == list(range(16, 40))
    rows = segengine.open_store(str(bench.store)).frames.to_pylist()
    said = [row["reason"] for row in rows if row["frame"] in (16, 17)]
    assert said[0].endswith("the line is down")
    assert said[1].endswith("a frame before it cannot be read now")
    read[1].clear()  # the next run tries once more
    again = run_again(bench)
    assert again.exit_code == 0
    labels = segengine.segment(np.stack(film), SPEC)
    assert np.array_equal(bench.open()["yard"].mask[:, :64, :96], labels)


def run_again(bench):
    store = {"chunk": 32, "shard": 96, "frames": 10}
    return bench.run(SPEC, store=store, faults={"fsync": False})
