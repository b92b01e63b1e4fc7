"""Catalogs, items and GeoParquet behind URLs: the same scenes and pixels as from local files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.commands.verify import verify
from segengine.planning.layout import Cut
from segengine.planning.scan import Scan, scan
from segengine.registry import reader
from segengine.types import Tile

from . import buckets
from .buckets import forget_sessions
from .stac_scenes import HEIGHT, WIDTH, make_item, pixels, save, write_tiff
from .stac_server import State, serving

pytestmark = pytest.mark.system
NAMES = ("night-0", "night-1", "night-2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    root = tmp_path_factory.mktemp("stac")
    items = [make_item(root, name, {"red": pixels(i)}) for i, name in enumerate(NAMES)]
    save(root, *items)
    held = []
    for item in items:
        said = json.loads((root / item.id / f"{item.id}.json").read_text())
        said["assets"]["red"]["href"] = f"./{item.id}/red.tif"
        said["links"] = []
        held.append(said)
    to_parquet(parse_stac_items_to_arrow(held), str(root / "items.parquet"))
    return root


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    with serving(State(), folder) as url:
        yield f"{url}/data"
        forget_sessions()


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    with buckets.serving(folder, "scenes", "stac") as url:
        yield url


def listed(path: str, **options: Any) -> Scan:
    return scan(
        {"kind": "stac", "paths": [path], "assets": ["red"], **options}, {}, (), Cut(16, 32)
    )


@pytest.mark.parametrize("end", ["catalog.json", "items.parquet", "night-1/night-1.json"])
@pytest.mark.parametrize("place", ["folder", "web", "bucket"])
def test_scenes_are_the_same_wherever_they_lie(
    place: str, end: str, request: pytest.FixtureRequest
) -> None:
    found = listed(f"{request.getfixturevalue(place)}/{end}")
    assert not found.unplaced
    assert set(found.layouts) == ({"night-1"} if end.startswith("night") else set(NAMES))
    layout = found.layouts["night-1"]
    window = slice(5, HEIGHT), slice(0, WIDTH - 7)
    (tile,) = reader("stac", {"assets": ["red"]}).read([layout.frame(0)], *window)
    assert isinstance(tile, Tile), tile
    np.testing.assert_array_equal(tile.pixels[..., 0], pixels(1)[window])


def test_a_folder_of_a_bucket_is_its_catalog(bucket: str) -> None:
    assert set(listed(f"{bucket}/").layouts) == set(NAMES)
    assert set(listed(f"{bucket}/night-*/*.json").layouts) == set(NAMES)


def test_an_asset_that_changes_behind_a_url_is_stale(web: str, folder: Path) -> None:
    def marks() -> dict[str, str]:
        found = listed(f"{web}/catalog.json").layouts.values()
        return {layout.scene: layout.fingerprints[0] for layout in found}

    before = marks()
    assert marks() == before
    write_tiff(folder / "night-2" / "red.tif", pixels(9), compress="deflate")
    after = marks()
    write_tiff(folder / "night-2" / "red.tif", pixels(2))
    assert [name for name in NAMES if before[name] != after[name]] == ["night-2"]


@pytest.mark.parametrize(
    ("of", "self_link", "mosaic"),
    [
        ("search", "", None),
        ("search", "no/item.json", "newest"),
        ("list.parquet", "no/item.json", None),
        ("items.parquet", "", "newest"),
    ],
)
def test_a_run_behind_a_url_is_verified(
    of: str, self_link: str, mosaic: str | None, folder: Path, tmp_path: Path
) -> None:
    """Wherever the items say that they lie, if they do."""
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    state = State()
    with serving(state, folder) as url:
        for name in NAMES[:2]:
            said = json.loads((folder / name / f"{name}.json").read_text())
            said["assets"]["red"]["href"] = f"{url}/data/{name}/red.tif"
            links = [{"rel": "self", "href": f"{url}/data/{self_link}"}] if self_link else []
            state.items.append({**said, "collection": "nights", "links": links})
        to_parquet(parse_stac_items_to_arrow(state.items), str(folder / "list.parquet"))
        where = {"paths": [f"{url}/data/{of}"]}
        if of == "search":
            where = {"search": {"url": url, "limit": 2}, "paths": []}
        _run_and_verify({**where, "mosaic": mosaic}, tmp_path)
        if of == "search" and not mosaic:
            for item in state.items:
                item["properties"]["eo:cloud_cover"] = 7
            (said,) = verify(str(tmp_path / "m.zarr"), sample=1).skipped
            assert said.endswith(": the input has changed")
            state.items = []
            (said,) = verify(str(tmp_path / "m.zarr"), sample=1).skipped
            assert said.endswith(": the input cannot be read: its item is gone")
        forget_sessions()


@pytest.mark.parametrize("mosaic", [None, "newest"])
def test_items_of_a_page_that_cannot_be_had_have_not_vanished(
    mosaic: str | None, folder: Path
) -> None:
    state = State(page=1)
    with serving(state, folder) as url:
        for name in NAMES:
            said = json.loads((folder / name / f"{name}.json").read_text())
            said["assets"]["red"]["href"] = f"{url}/data/{name}/red.tif"
            state.items.append({**said, "collection": "nights", "links": []})
        spec = {"kind": "stac", "paths": [], "search": {"url": url}, "mosaic": mosaic}
        before = scan(spec, {}, (), Cut(16, 32))
        state.beyond = 404 if mosaic else 400
        after = scan(spec, before.layouts, before.unplaced, Cut(16, 32))
        forget_sessions()
    assert [(each.name, each.kind) for each in after.unplaced] == [("source.search", "corrupt")]
    assert after.held == set(NAMES[1:])
    assert not after.vanished
    assert not any(layout.gone.any() for layout in after.layouts.values())
    members = [la.mosaic.members for la in after.layouts.values() if la.mosaic is not None]
    assert [len(each) for each in members] == ([len(NAMES)] if mosaic else [])


def _run_and_verify(source: dict[str, Any], tmp_path: Path) -> None:
    job = {
        "source": {"kind": "stac", "assets": ["red"], **source},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": [100]},
        "store": {"path": str(tmp_path / "m.zarr"), "chunk": 16, "shard": 32},
    }
    assert segengine.run(job).exit_code == 0
    found = verify(str(tmp_path / "m.zarr"))
    assert found.sampled
    assert not found.problems
    assert not found.skipped
