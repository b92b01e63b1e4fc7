"""Which frame lies where: every pixel once, names escaped and unique, and no frame ever moves."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.planning.layout import Cut, Probed, homes, place, scene_name
from segengine.store.layouts import Layout
from segengine.store.values import decode, encode
from segengine.types import Entry, Probe

ALLOWED = re.compile(r"[A-Za-z0-9._-]+")
CUT = Cut(16, 512)
names = st.text(min_size=1, max_size=12).filter(lambda s: "\0" not in s)


def probed(name: str, size: tuple[int, int], fingerprint: str, stacked: bool = True) -> Probed:
    probe = Probe("images" if stacked else "raster", *size, 3, "uint8", stacked=stacked)
    return Probed(Entry(name, f"/data/{name}", fingerprint), probe)


def lay(previous: dict[str, Layout], files: dict[str, Probed]) -> dict[str, Layout]:
    """A night: what is listed now, of which new and changed headers are read."""
    entries = {name: p.entry for name, p in files.items()}
    home = homes(previous, entries)
    known = {
        name: fingerprint
        for layout in previous.values()
        for name, fingerprint in zip(layout.names, layout.fingerprints, strict=True)
        if home[name] == layout.scene
    }
    todo = [p for name, p in files.items() if known.get(name) != p.entry.fingerprint]
    return place(previous, entries, todo, CUT)


sizes = st.sampled_from([(40, 40), (200, 256), (257, 10), (300, 300)])
nights = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b", "c/d", "é", "z"]),
        st.tuples(sizes, st.integers(0, 2), st.booleans()),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(nights)
def test_frames_never_move_and_live_in_one_place(
    story: list[dict[str, tuple[tuple[int, int], int, bool]]],
) -> None:
    layouts: dict[str, Layout] = {}
    for night in story:
        files = {
            name: probed(name, size, f"{size}{version}{stacked}", stacked)
            for name, (size, version, stacked) in night.items()
        }
        before = layouts
        layouts = lay(before, files)
        for scene, old in before.items():
            new = layouts[scene]
            assert new.names == old.names
            assert (new.shape, new.shard, new.chunk) == (old.shape, old.shard, old.chunk)
            assert (new.bands, new.dtype, new.stacked) == (old.bands, old.dtype, old.stacked)
        live = [
            (name, scene, i)
            for scene, layout in layouts.items()
            for i, name in enumerate(layout.names)
            if not layout.gone[i]
        ]
        assert sorted(name for name, _, _ in live) == sorted(files)
        for name, scene, i in live:
            layout, item = layouts[scene], files[name]
            assert layout.fingerprints[i] == item.entry.fingerprint
            assert (layout.heights[i], layout.widths[i]) == (item.probe.height, item.probe.width)
            assert layout.stacked == item.probe.stacked
        # Nothing has changed: the next night lays out the same, and reads no header.
        again = lay(layouts, files)
        assert encode(again) == encode(layouts)


@given(st.lists(names, unique=True, max_size=8))
def test_scene_names_are_escaped_and_unique(wanted: list[str]) -> None:
    taken: list[str] = []
    for name in wanted:
        found = scene_name(name, taken)
        assert ALLOWED.fullmatch(found)
        assert found not in taken
        assert found.strip(".")
        assert not found.startswith("__")
        if found != name:
            assert re.search(r"-[0-9a-f]{8}$", found)
        taken.append(found)


def test_scenes_of_their_own_with_names_that_collide() -> None:
    files = ["a/b.tif", "a_b.tif", "a b.tif", "a.tif", "a.zarr", "..tif"]
    layouts = lay({}, {n: probed(n, (9, 9), "f", stacked=False) for n in files})
    assert len(layouts) == len(files)
    assert {layout.names[0] for layout in layouts.values()} == set(files)
    assert all(ALLOWED.fullmatch(scene) for scene in layouts)
    assert "a" in layouts
    assert "a_b" in layouts


def test_frames_are_sorted_as_utf8_bytes() -> None:
    files = ["b", "B", "é", "a/z", "a.z", "\U0001f600", "\uffee"]
    (layout,) = lay({}, {n: probed(n, (9, 9), "f") for n in files}).values()
    assert list(layout.names) == sorted(files, key=lambda n: n.encode())


def test_frames_of_a_shard() -> None:
    files = {f"{i:02}": probed(f"{i:02}", (9, 9), f"f{i}") for i in range(10)}
    (layout,) = lay({}, files).values()
    assert layout.shard == (4, 256, 256)
    assert layout.grid == (3, 1, 1)
    assert layout.inputs(4, 8) == "f4 f5 f6 f7"
    assert [f.index for f in layout.frames(8)] == [8, 9]
    own = place({}, {}, [probed("x", (600, 90), "g", stacked=False)], replace(CUT, frames=3))["x"]
    assert (own.shard, own.cut, own.shards) == ((1, 512, 512), True, 2)
    whole = place({}, {}, [probed("x", (600, 90), "g", stacked=False)], replace(CUT, whole=True))
    assert (whole["x"].cut, whole["x"].shard[1:]) == (False, (608, 608))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Cut, list[Probed]]:
    """How scenes are cut, and the inputs of one scene: photos of a bucket, a raster or a video."""
    chunk = draw(st.sampled_from([16, 48, 512]))
    cut = Cut(
        chunk,
        chunk * draw(st.integers(1, 6)),
        draw(st.none() | st.integers(1, 40)),
        draw(st.booleans()),
        draw(st.integers(1, 4)),
    )
    size = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    kind, count = draw(st.sampled_from(["images", "raster", "video"])), draw(st.integers(1, 30))
    if kind == "images":
        return cut, [probed(f"{i:02}", size, "f") for i in range(count)]
    gop = draw(st.integers(1, 60))
    probe = Probe(kind, *size, 3, "uint8", positions=np.arange(count) * cut.every, gop=gop)
    return cut, [Probed(Entry("x", "/data/x", "f"), probe)]


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_a_shard_is_whole_chunks_and_no_more_than_the_scene(
    case: tuple[Cut, list[Probed]],
) -> None:
    cut, items = case
    (layout,) = place({}, {p.entry.name: p.entry for p in items}, items, cut).values()
    frames, side, width = layout.shard
    total, *size = layout.shape
    rounded = -(-max(size) // cut.chunk) * cut.chunk
    assert layout.chunk == (1, cut.chunk, cut.chunk)
    assert side == width
    assert side % cut.chunk == 0
    assert side == (rounded if cut.whole else min(cut.shard, rounded))
    assert 1 <= frames <= min(total, cut.frames or total)
    if layout.cut:
        assert frames == 1
    seen = np.zeros(layout.shape, np.uint8)
    for where in np.ndindex(*layout.grid):
        seen[layout.window(where).slices] += 1
    assert (seen == 1).all()


def test_frames_of_a_shard_by_default() -> None:
    def shard(kind: str, count: int, cut: Cut, gop: int = 1) -> tuple[int, int, int]:
        probe = Probe(kind, 64, 64, 3, "uint8", positions=np.arange(count), gop=gop)
        (layout,) = place({}, {}, [Probed(Entry("x", "/x", "f"), probe)], cut).values()
        return layout.shard

    cut = Cut(64, 512)
    assert shard("raster", 1, Cut(512, 2048)) == (1, 512, 512)  # not the 1,024 that would fit
    assert shard("zarr", 1000, cut) == (64, 64, 64)
    assert shard("video", 1000, cut, gop=50) == (100, 64, 64)
    assert shard("video", 90, cut, gop=50) == (90, 64, 64)
    assert shard("zarr", 5, replace(cut, frames=8)) == (5, 64, 64)
    assert shard("video", 500, replace(cut, frames=8), gop=50) == (8, 64, 64)


def test_what_is_laid_out_keeps_its_shards() -> None:
    item = probed("a.tif", (64, 64), "f", stacked=False)
    (laid,) = lay({}, {"a.tif": item}).values()
    old = {laid.scene: replace(laid, shard=(64, 512, 512))}  # as earlier releases cut it
    again = lay(old, {"a.tif": probed("a.tif", (64, 64), "changed", stacked=False)})
    assert again[laid.scene].shard == (64, 512, 512)


def test_an_input_with_places_in_several_scenes_lives_in_the_last() -> None:
    """Unless one of them is not gone, or has its fingerprint again."""

    def gone_at(sizes: list[tuple[int, int]]) -> dict[str, Layout]:
        layouts: dict[str, Layout] = {}
        for i, size in enumerate(sizes):
            layouts = lay(layouts, {"a": probed("a", size, f"f{i}")})
        return lay(layouts, {})

    layouts = gone_at([(40, 40), (300, 300), (600, 40)])
    first, second, third = layouts
    assert homes(layouts, {}) == {"a": third}
    assert homes(layouts, {"a": Entry("a", "/a", "other")}) == {"a": third}
    assert homes(layouts, {"a": Entry("a", "/a", "f1")}) == {"a": second}
    back = lay(layouts, {"a": probed("a", (40, 40), "f0")})
    assert homes(back, {"a": Entry("a", "/a", "f2")}) == {"a": first}


def test_a_scene_is_never_read_by_another_kind_of_source() -> None:
    before = lay({}, {"a": probed("a", (40, 40), "f", stacked=False)})
    other = probed("a", (40, 40), "g", stacked=False)
    other = replace(other, probe=replace(other.probe, kind="zarr"))
    found = lay(before, {"a": other})
    assert {name: (la.kind, la.gone.tolist()) for name, la in found.items()} == {
        "a": ("raster", [True]),
        "a.2": ("zarr", [False]),
    }
    third = lay(found, {"a": replace(other, entry=replace(other.entry, fingerprint="h"))})
    assert list(third) == ["a", "a.2"]
    fourth = lay(third, {"a": probed("a", (41, 40), "i", stacked=False)})
    assert list(fourth) == ["a", "a.2", "a.3"]


def test_names_that_a_file_system_would_not_take() -> None:
    long = [f"{'a' * 300}{i}" for i in range(3)]
    found = [scene_name(name) for name in long]
    assert len(set(found)) == 3
    assert all(len(name) <= 200 and re.search(r"-[0-9a-f]{8}$", name) for name in found)
    assert scene_name("a" * 200) == "a" * 200
    assert len(scene_name("a" * 201)) <= 200


@pytest.mark.parametrize("kind", ["images", "raster", "video", "zarr"])
def test_each_frame_of_a_file_has_a_name_of_its_own(kind: str) -> None:
    probe = Probe(kind, 9, 9, 3, "uint8", stacked=False, positions=np.array([0, 2, 4]))
    item = Probed(Entry("a.tif", "/data/a.tif", "f"), probe)
    (layout,) = lay({}, {"a.tif": item}).values()
    assert [ref.name for ref in layout.frames()] == ["a.tif#0", "a.tif#2", "a.tif#4"]
    (alone,) = lay({}, {"a.tif": probed("a.tif", (9, 9), "f", stacked=False)}).values()
    assert [ref.name for ref in alone.frames()] == ["a.tif"]


def test_a_layout_can_be_committed() -> None:
    (layout,) = lay({}, {"a": probed("a", (9, 9), "f")}).values()
    found = decode(encode(layout))
    assert encode(found) == encode(layout)
    assert found.frame(0) == layout.frame(0)
    np.testing.assert_array_equal(found.heights, layout.heights)
