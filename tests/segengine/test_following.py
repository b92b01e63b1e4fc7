"""Segments of a video: the same labels for whoever begins where, and none by what is not known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segengine.following import Chain, begins, first_needed


@dataclass
class Heard:
    """Knows the frames that it was told, and labels with their numbers."""

    frames: list[int] = field(default_factory=list)

    @property
    def nbytes(self):
        return 8 * len(self.frames)

    def label(self, pixels):
        self.frames.append(int(pixels))
        return tuple(self.frames)


@dataclass(frozen=True)
class Hears:
    warmup: int
    span: int

    def begin(self):
        return Heard()


def known(frame, warmup, span):
    """What a label is to be of, by the definition."""
    return tuple(range(max(0, frame // span * span - warmup), frame + 1))


sizes = {"warmup": st.integers(1, 12), "span": st.integers(1, 9)}


@given(**sizes, cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1))
def test_shards_in_any_order_are_labelled_by_their_segments(warmup, span, cuts):
    chain = Chain(Hears(warmup, span))
    for start, count in cuts:  # as a worker that goes on from the shard before, or begins anew
        first = chain.aim(start, start + count)
        assert first_needed(start, chain.follows) <= first <= start
        found = [chain.see(i, i) for i in range(first, start + count)]
        wanted = [known(i, warmup, span) for i in range(start, start + count)]
        assert found[start - first :] == wanted


@given(**sizes, count=st.integers(1, 15))
def test_shards_in_order_are_read_once(warmup, span, count):
    chain, told = Chain(Hears(warmup, span)), 0
    for start in range(0, 8 * span, span):
        first = chain.aim(start, start + span)
        for i in range(first, start + span):
            chain.see(i, i)
        told += start + span - first
    assert told == 8 * span + sum(i * span - begins(i, warmup, span) for i in range(8))
    assert chain.nbytes == 0  # all have ended
    amid = Chain(Hears(warmup, 1000))
    assert [amid.aim(i, i + count) for i in range(3) if amid.see(i, i)] == []
    for start in range(0, 90, count):
        assert amid.aim(start, start + count) == start
        for i in range(start, start + count):
            amid.see(i, i)


def test_no_more_segments_are_under_way_than_warm_ups_overlap():
    chain = Chain(Hears(10, 20))
    chain.aim(0, 2000)
    most = 0
    for i in range(2000):
        chain.see(i, i)
        most = max(most, len(chain._under_way))
    assert most == 2


def test_a_frame_that_is_missed_blinds_the_segments_that_may_see_it_another_time():
    chain = Chain(Hears(4, 10))
    chain.aim(0, 30)
    found = []
    for i in range(30):
        if i in (3, 17):
            chain.miss(i, for_good=i == 3)
            found.append(None)
        else:
            found.append(chain.see(i, i))
    assert found[2] == (0, 1, 2)
    assert found[4] == (0, 1, 2, 4)
    # 17 belongs to segment 1, and to the warm-up of segment 2
    assert [i for i, labels in enumerate(found) if labels is None] == [3, *range(17, 30)]
    assert chain.aim(30, 40) == 26
    assert not chain.blind


def test_a_frame_out_of_order_is_an_error():
    chain = Chain(Hears(4, 10))
    chain.aim(0, 5)
    chain.see(0, 0)
    with pytest.raises(ValueError, match="frame 2 comes where 1 is next"):
        chain.see(2, np.int64(2))
