"""In which order shards are handed out."""

from __future__ import annotations

import os
from typing import Any

import pytest

from segengine.stages.order import in_order

MEAN = {"kind": "threshold"}


@pytest.mark.usefixtures("plain_report")
def test_orders(bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "c.png": (40, 40, 3),
        "a.png": (40, 300, 3),
        "d.png": (30, 30, 3),
        "b.png": (20, 280, 3),
    }
    for i, (name, shape) in enumerate(sizes.items()):
        os.utime(bench.put(name, noise(i, shape)), (i, i))
    bench.put("one.zarr", noise(9, (3, 60, 70, 3)))
    os.utime(bench.inputs / "one.zarr", (1.5, 1.5))
    bench.run(MEAN, store={"shard": 256, "frames": 1})
    layouts = [scene.layout for scene in bench.open().scenes.values()]

    def names(order: Any) -> list[str]:
        found = []
        for layout, rows in in_order(layouts, order):
            places = range(layout.grid[0]) if rows is None else rows
            found += [layout.frame_name(int(f) * layout.shard[0]) for f in places]
        assert len(found) == sum(layout.grid[0] for layout in layouts)
        return found

    zarr = [n for layout in layouts if not layout.stacked for n in map(layout.frame_name, range(3))]
    assert names("path") == ["a.png", "b.png", "c.png", "d.png", *zarr]
    assert names("newest") == ["b.png", "d.png", *zarr, "a.png", "c.png"]
    assert names("smallest") == ["d.png", "c.png", *zarr, "b.png", "a.png"]
    # A time that nobody knows comes last, and an item's stands above its file's.
    dated = next(layout for layout in layouts if not layout.stacked)
    dated.attributes["stac"] = {"datetime": "2026-05-01T10:00:00Z"}
    assert names("newest") == [*zarr, "b.png", "d.png", "a.png", "c.png"]
    dated.attributes["stac"] = {"datetime": "2026-05-01t10:00:00z"}
    assert names("newest") == [*zarr, "b.png", "d.png", "a.png", "c.png"]
    (bench.inputs / "b.png").unlink()
    (bench.inputs / "d.png").unlink()
    assert names("newest") == [*zarr, "a.png", "c.png", "d.png", "b.png"]
