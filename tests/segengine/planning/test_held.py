"""Inputs that are listed and cannot be looked at: their masks stay, whatever source they are of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio import Affine

import segengine
from segengine.planning.held import sort_out
from segengine.sources.listing import Unlisted
from segengine.store.layouts import load_layouts
from tests.segengine.sources.stac_scenes import make_item, pixels, save

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


@pytest.mark.parametrize("change", [{"resolution": 20}, {"crs": "EPSG:3857"}, {"bands": [2]}])
def test_what_could_not_be_looked_at_as_the_source_changed_is_laid_out_anew_later(
    change: dict[str, Any], new_bench: Any
) -> None:
    """Its old grid is not that of the job: a night later the store is that of a fresh run."""
    bench, fresh = new_bench(), new_bench()
    for each in (bench, fresh):
        each.inputs.mkdir()
        for i, name in enumerate("ab"):
            layers = np.random.default_rng(i).integers(0, 200, (2, 60, 70), np.uint8)
            with rasterio.open(
                each.inputs / f"{name}.tif", "w", driver="GTiff", count=2, height=60, width=70,
                dtype="uint8", crs="EPSG:32632", transform=Affine(10, 0, 5e5, 0, -10, 5e6),
            ) as file:  # fmt: skip
                file.write(layers)
    spec = {"kind": "threshold", "method": "fixed", "levels": 100}
    source = {"kind": "raster", "paths": [str(bench.inputs)], "bands": [1]}
    segengine.run(bench.job(spec, source=source))
    held = np.asarray(bench.open()["b"].mask)
    path = bench.inputs / "b.tif"
    path.rename(bench.root / "b.tif")
    path.symlink_to(bench.root / "nothing")
    found = segengine.run(bench.job(spec, source=source | change))
    assert [(each.name, each.kind) for each in found.failed] == [("b.tif", "error")]
    np.testing.assert_array_equal(np.asarray(bench.open()["b"].mask), held)
    path.unlink()
    (bench.root / "b.tif").rename(path)
    assert segengine.run(bench.job(spec, source=source | change)).exit_code == 0
    changed = source | change | {"paths": [str(fresh.inputs)]}
    segengine.run(fresh.job(spec, source=changed))
    for name in ("a", "b"):
        ours, theirs = bench.open()[name], fresh.open()[name]
        np.testing.assert_array_equal(np.asarray(ours.mask), np.asarray(theirs.mask))
        assert ours.layout.attributes["transform"] == theirs.layout.attributes["transform"]
    assert list(bench.open().scenes) == ["a", "b"]
    assert segengine.run(bench.job(spec, source=source | change)).computed == 0


@pytest.mark.parametrize("mosaic", [{}, {"mosaic": "newest"}])
@pytest.mark.parametrize(
    ("broken", "said"),
    [("collection", "{"), ("collection", "<html>"), ("collection", '{"type": "Collection"}'),
     ("catalog", "{")],
)  # fmt: skip
def test_items_of_a_catalog_that_cannot_be_read_have_not_vanished(
    broken: str, said: str, mosaic: dict[str, str], bench: Any
) -> None:
    items = [make_item(bench.inputs, name, {"red": pixels(i)}, i) for i, name in enumerate("ab")]
    save(bench.inputs, *items)
    source = {"kind": "stac", "paths": [str(bench.inputs / "catalog.json")], "assets": ["red"]}
    job = bench.job({"kind": "threshold", "method": "otsu"}, source=source | mosaic)
    segengine.run(job)
    before = bench.tree()
    collection = bench.inputs / f"{broken}.json"
    text = collection.read_text()
    collection.write_text(said)
    for _ in range(2):
        found = segengine.run(job)
        assert [(each.name, each.kind) for each in found.failed] == [(broken, "corrupt")]
        assert found.computed == 0
        assert not any("vanished" in line for line in found.messages)
        assert bench.tree() == before
    collection.write_text(text)
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
