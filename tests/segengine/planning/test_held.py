"""Inputs that are listed and cannot be looked at: their masks stay, whatever source they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import segengine
from segengine.planning.held import sort_out
from segengine.sources.listing import Unlisted
from segengine.store.layouts import load_layouts

pytestmark = pytest.mark.usefixtures("plain_report")


def test_a_photo_behind_a_dangling_link_keeps_its_mask(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 50)))
    path = bench.put("b.png", noise(2, (40, 50)))
    job = bench.job({"kind": "threshold", "method": "fixed", "levels": 100})
    segengine.run(job)
    before = bench.tree()
    path.rename(bench.root / "b.png")
    path.symlink_to(bench.root / "nothing")
    found = segengine.run(job)
    assert [(each.name, each.kind, each.reason) for each in found.failed] == [
        ("b.png", "error", "dangling symbolic link")
    ]
    assert (found.exit_code, found.computed, found.frames) == (3, 0, 2)
    assert any("1 input cannot be looked at now" in each for each in found.messages)
    assert bench.tree() == before
    path.unlink()
    (bench.root / "b.png").rename(path)
    back = segengine.run(job)
    assert (back.exit_code, back.computed) == (0, 0)
    assert bench.tree() == before


def test_what_becomes_of_what_is_known_by_name_only(bench: Any) -> None:
    bench.put("a.png", np.zeros((40, 50), np.uint8))
    path = bench.put("b.png", np.zeros((40, 50), np.uint8))
    segengine.run(bench.job({"kind": "threshold", "method": "fixed", "levels": 100}))
    layouts = load_layouts(bench.open().objects)
    here, away = str(path), str(bench.inputs / "c.png")

    def sorted_out(*unlisted: Unlisted) -> tuple[list[tuple[str, str]], set[str], set[str]]:
        found = sort_out(unlisted, layouts, ["a.png"])
        return [(each.name, each.kind) for each in found.bad], found.held, found.corrupt

    assert sorted_out(Unlisted("b.png", here, "busy")) == ([("b.png", "error")], {"b.png"}, set())
    # By where it lies, where its name is not what was thought.
    assert sorted_out(Unlisted("x", here, "busy")) == ([("b.png", "error")], {"b.png"}, set())
    assert sorted_out(Unlisted("x", away, "busy")) == ([("x", "error")], set(), set())
    assert sorted_out(Unlisted("b.png", away, "bad", "corrupt")) == (
        [("b.png", "corrupt")], set(), {"b.png"},
    )  # fmt: skip
    assert sorted_out(Unlisted("b.png", here, "no such file", missing=True)) == ([], set(), set())
    assert sorted_out(Unlisted("x", away, "no such file", missing=True)) == (
        [("x", "error")], set(), set(),
    )  # fmt: skip
