"""What a scene's records add up to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segengine.planning.layout import Cut, Probed, place
from segengine.stages.tables import NO_PIXEL, SceneFigures
from segengine.store.kinds import FrameFailure, MaskRecord
from segengine.store.layouts import Layout
from segengine.types import Entry, Probe


def bucket(count: int, side: int = 40) -> Layout:
    """Photos in shards of two frames."""
    probe = Probe("images", side, side, 3, "uint8", stacked=True)
    items = [Probed(Entry(f"{i}.png", f"/in/{i}.png", "f"), probe) for i in range(count)]
    (layout,) = place({}, {}, items, Cut(16, 256, frames=2)).values()
    return layout


def record(shard: int, valid: list[int], *failures: tuple[int, str, str]) -> MaskRecord:
    first = 2 * shard
    return MaskRecord(
        scene="s",
        shard=(shard, 0, 0),
        box=(first, 0, 0, first + len(valid), 256, 256),
        inputs="in",
        job="job",
        areas=tuple((n, 65536 - n) for n in valid),
        failures=tuple(FrameFailure(*f) for f in failures),
    )


def failed(layout: Layout, *records: MaskRecord) -> list[tuple[Any, ...]]:
    figures = SceneFigures(layout, 1, lambda: False)
    for each in records:
        figures.add(each)
    assert all(f.scene == layout.scene for f in figures.failed())
    return [(f.name, f.frame, f.kind, f.reason) for f in figures.failed()]


def test_frames_with_a_failure_are_quarantined_in_their_order() -> None:
    broken = (2, "corrupt", "2.png: torn"), (0, "error", "0.png: slow")
    found = failed(bucket(3), record(1, [0], broken[0]), record(0, [0, 9], broken[1]))
    assert found == [("0.png", 0, "error", "slow"), ("2.png", 2, "corrupt", "torn")]


def test_a_scene_without_one_valid_pixel_is_corrupt() -> None:
    found = failed(bucket(3), record(0, [0, 0]), record(1, [0]))
    assert found == [(f"{i}.png", i, "corrupt", NO_PIXEL) for i in range(3)]
    own = failed(bucket(3), record(0, [0, 0], (1, "error", "1.png: slow")), record(1, [0]))
    assert own[1] == ("1.png", 1, "error", "slow")
    assert len(own) == 3


@pytest.mark.parametrize(
    "records", [[record(0, [0, 0])], [record(0, [0, 0]), record(1, [1])], []],
    ids=["unfinished", "one pixel", "not begun"],
)  # fmt: skip
def test_frames_that_may_still_be_labelled_are_not(records: list[MaskRecord]) -> None:
    assert failed(bucket(3), *records) == []


def test_what_has_vanished_is_not_quarantined() -> None:
    layout = replace(bucket(3), gone=np.array([True, False, False]))
    broken = record(0, [0, 0], (0, "error", "0.png: slow")), record(1, [0])
    assert [name for name, *_ in failed(layout, *broken)] == ["1.png", "2.png"]
    assert failed(layout, broken[0], record(1, [5])) == []
