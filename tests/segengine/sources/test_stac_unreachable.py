"""Servers that cannot answer now: masks and records stay, each is named once, and nothing waits long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import segengine
from segengine import open_store
from segengine.commands.status import status
from segengine.errors import SegengineError, TransientInputError
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.report._content import _quarantine
from segengine.sources import _stac_documents
from segengine.sources._stac_documents import read_again, read_document

from .buckets import forget_sessions
from .stac_scenes import make_item, pixels, save, write_tiff
from .stac_server import State, serving
from .test_stac_headers import told

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("plain_report")]
NAMES = ("night-0", "night-1", "night-2")
SHARDS = 12
"""Of a scene of 40 x 56 pixels in shards of 16."""


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def web(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a catalog of three nights; documents are asked for again without waiting."""
    items = [
        make_item(tmp_path / "in", name, {"red": pixels(i)}, i) for i, name in enumerate(NAMES)
    ]
    for item in items:
        told(item, "red")
    save(tmp_path / "in", *items)
    # Names of documents are not those of items.
    for name in NAMES:
        (tmp_path / "in" / name / f"{name}.json").rename(tmp_path / "in" / name / "item.json")
    collection = tmp_path / "in" / "collection.json"
    text = collection.read_text()
    for name in NAMES:
        text = text.replace(f"{name}.json", "item.json")
    collection.write_text(text)
    monkeypatch.setattr(_stac_documents, "sleep", lambda _: None)
    with serving(state, tmp_path / "in") as url:
        yield f"{url}/data/catalog.json"
        forget_sessions()


def made(web: str, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    source = {"kind": "stac", "paths": [web], "assets": ["red"], **changes.pop("source", {})}
    spec = {"kind": "threshold", "method": "fixed", "levels": [100]}
    return {
        "source": source,
        "segmenter": spec,
        "store": {"path": str(tmp_path / "m.zarr"), "chunk": 16, "shard": 16},
        "cluster": {"kind": "local", "workers": 1},
        **changes,
    }


def stored(tmp_path: Path) -> dict[str, bytes]:
    """Masks and their records."""
    root = tmp_path / "m.zarr"
    files = [*(root / "scenes").rglob("*"), *(root / "records").glob("*.parquet")]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.is_file()}


def wanted(i: int, level: int = 100) -> NDArray[Any]:
    return np.where(pixels(i) == 7, 255, pixels(i) > level)


REASONS = {
    503: "its asset red: HTTP 503 (Service Unavailable); try again later",
    429: "its asset red: HTTP 429 (Too Many Requests); try again later",
    500: "its asset red: HTTP 500 (Internal Server Error); try again later",
    403: "its asset red: access denied (403): check credentials or the signature",
    404: "its asset red: no such file (HTTP 404)",
}


@pytest.mark.parametrize("code", [503, 403, 404])
def test_an_asset_that_is_refused_keeps_its_mask_and_its_records(
    code: int, web: str, state: State, tmp_path: Path
) -> None:
    job = made(web, tmp_path)
    assert segengine.run(job).exit_code == 0
    before = stored(tmp_path)
    state.failing = {"night-1/red.tif": code}
    found = segengine.run(job)
    assert [(each.name, each.scene, each.kind) for each in found.failed] == [
        ("night-1", "night-1", "error")
    ]
    assert found.failed[0].reason == REASONS[code]
    assert (found.exit_code, found.computed, found.left) == (3, 0, 0)
    assert stored(tmp_path) == before
    told_by = status(job["store"]["path"]).as_json()
    assert told_by["frames"] == {"done": 3, "failed": 0, "left": 0, "gone": 0}
    assert [each["reason"] for each in told_by["quarantine"]] == [REASONS[code]]
    rows = open_store(job["store"]["path"]).frames.to_pylist()
    assert [(row["name"], row["status"]) for row in rows] == [(name, "done") for name in NAMES]
    assert [row["reason"] for row in rows] == ["", REASONS[code], ""]
    assert [each["reason"] for each in _quarantine(open_store(job["store"]["path"]).frames)] == [
        REASONS[code]
    ]
    state.failing = {}
    back = segengine.run(job)
    assert (back.exit_code, back.computed, back.failed) == (0, 0, ())
    assert stored(tmp_path) == before


@pytest.mark.parametrize("code", [503, 403])
def test_an_item_that_is_refused_is_known_by_where_it_lies(
    code: int, web: str, state: State, tmp_path: Path
) -> None:
    job = made(web, tmp_path)
    segengine.run(job)
    before = stored(tmp_path)
    state.failing = {"night-1/item.json": code}
    found = segengine.run(job)
    assert [(each.name, each.kind) for each in found.failed] == [("night-1", "error")]
    assert str(code) in found.failed[0].reason
    assert (found.exit_code, found.computed) == (3, 0)
    assert stored(tmp_path) == before
    state.failing = {}
    assert segengine.run(job).exit_code == 0
    assert stored(tmp_path) == before


def test_an_item_that_is_not_there_is_gone(web: str, state: State, tmp_path: Path) -> None:
    job = made(web, tmp_path)
    segengine.run(job)
    before = stored(tmp_path)
    state.failing = {"night-1/item.json": 404}
    for _ in range(2):
        found = segengine.run(job)
        assert (found.exit_code, found.computed, found.failed) == (0, 0, ())
        assert any("1 input has vanished" in each for each in found.messages)
    rows = open_store(job["store"]["path"]).frames.to_pylist()
    assert [row["status"] for row in rows] == ["done", "gone", "done"]
    assert stored(tmp_path) == before
    # One that never had a place is named.
    state.failing = {"night-2/item.json": 404}
    fresh = made(web, tmp_path, store={"path": str(tmp_path / "n.zarr"), "chunk": 16, "shard": 16})
    assert [(each.kind, each.reason) for each in segengine.run(fresh).failed] == [
        ("error", "no such file")
    ]


def test_what_has_changed_and_cannot_be_opened_keeps_its_mask(
    web: str, state: State, tmp_path: Path
) -> None:
    """Its mark is another, and its header cannot be read: it is made anew when that can be."""
    item = tmp_path / "in" / "night-1" / "item.json"
    said = json.loads(item.read_text())
    del said["assets"]["red"]["proj:shape"]  # or no plan opens the file
    item.write_text(json.dumps(said))
    job = made(web, tmp_path)
    segengine.run(job)
    before = stored(tmp_path)
    write_tiff(tmp_path / "in" / "night-1" / "red.tif", pixels(9), compress="deflate")
    state.failing, state.heads = {"night-1/red.tif": 503}, False
    found = segengine.run(job)
    assert [each.name for each in found.failed] == ["night-1"]
    assert "HTTP 503" in found.failed[0].reason
    assert (found.computed, stored(tmp_path)) == (0, before)
    state.failing = {}
    assert segengine.run(job).computed == SHARDS
    mask = open_store(job["store"]["path"])["night-1"].mask[0]
    np.testing.assert_array_equal(mask, wanted(9))


def test_what_is_left_of_a_scene_waits_until_it_can_be_looked_at(
    web: str, state: State, tmp_path: Path
) -> None:
    """No worker asks for what the plan could not have; and none waits as long as all before it."""
    job = made(web, tmp_path)
    state.failing, state.heads = {"night-1/red.tif": 503}, False
    found = segengine.run(job)
    assert [(each.name, each.kind) for each in found.failed] == [("night-1", "error")]
    assert "band red: HTTP 503 (Service Unavailable); try again later" in found.failed[0].reason
    tries = 1 + 2  # faults.retries of the first; the others look once
    assert state.asked["GET /data/night-1/red.tif"] <= 2 * (SHARDS + tries)
    state.heads = True
    state.asked.clear()
    found = segengine.run(job)
    assert [(each.name, each.kind) for each in found.failed] == [("night-1", "error")]
    assert (found.computed, found.left) == (0, SHARDS)
    assert state.asked["GET /data/night-1/red.tif"] <= 2
    state.failing = {}
    back = segengine.run(job)
    assert (back.exit_code, back.computed, back.left) == (0, SHARDS, 0)
    store = open_store(job["store"]["path"])
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(store[name].mask[0], wanted(i))


def test_another_job_leaves_the_mask_until_it_can_be_looked_at(
    web: str, state: State, tmp_path: Path
) -> None:
    segengine.run(made(web, tmp_path))
    state.failing = {"night-1/item.json": 503}
    job = made(web, tmp_path, segmenter={"kind": "threshold", "method": "fixed", "levels": [150]})
    found = segengine.run(job)
    assert (found.computed, found.left) == (2 * SHARDS, SHARDS)
    store = open_store(job["store"]["path"])
    for i, level in enumerate((150, 100, 150)):
        np.testing.assert_array_equal(store[NAMES[i]].mask[0], wanted(i, level))
    state.failing = {}
    assert segengine.run(job).computed == SHARDS
    store = open_store(job["store"]["path"])
    np.testing.assert_array_equal(store["night-1"].mask[0], wanted(1, 150))


def test_no_fit_that_lasts_is_made_without_it(web: str, state: State, tmp_path: Path) -> None:
    spec = {"kind": "kmeans", "clusters": 2, "scope": "run"}
    segengine.run(made(web, tmp_path, segmenter=spec))
    before = stored(tmp_path)
    state.failing = {"night-1/red.tif": 503}
    assert segengine.run(made(web, tmp_path, segmenter=spec)).computed == 0
    with pytest.raises(SegengineError, match="survey: night-1: its asset red: HTTP 503"):
        segengine.run(made(web, tmp_path, segmenter=spec | {"clusters": 3}))
    assert stored(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("what", ["red.tif", "item.json"])
def test_a_map_keeps_what_it_shows_of_it(what: str, web: str, state: State, tmp_path: Path) -> None:
    """What another scene changes below it waits too: it cannot be made without this one."""
    write_tiff(tmp_path / "in" / "night-2" / "red.tif", np.full((40, 56), 7, "uint16"))  # nodata
    job = made(web, tmp_path, source={"mosaic": "newest"})
    segengine.run(job)
    mask = open_store(job["store"]["path"])["mosaic"].mask[0]
    before = stored(tmp_path)
    state.failing = {f"night-1/{what}": 503}
    found = segengine.run(job)
    assert [(each.name, each.scene, each.kind) for each in found.failed] == [
        ("night-1", None, "error")
    ]
    assert (found.computed, stored(tmp_path)) == (0, before)
    write_tiff(tmp_path / "in" / "night-0" / "red.tif", pixels(5), compress="deflate")
    found = segengine.run(job)
    assert (found.computed, found.left) == (0, SHARDS)
    assert stored(tmp_path) == before
    state.failing = {}
    assert segengine.run(job).computed == SHARDS
    below = pixels(1) == 7
    again = open_store(job["store"]["path"])["mosaic"].mask[0]
    np.testing.assert_array_equal(again[~below], mask[~below])
    np.testing.assert_array_equal(again[below], wanted(5)[below])


def test_a_scene_that_is_gone_leaves_its_map(web: str, state: State, tmp_path: Path) -> None:
    job = made(web, tmp_path, source={"mosaic": "newest"})
    segengine.run(job)
    state.failing = {"night-2/item.json": 404}
    found = segengine.run(job)
    assert (found.exit_code, found.failed, found.computed) == (0, (), SHARDS)
    assert any("1 scene has vanished from a map" in each for each in found.messages)


def test_a_scene_without_a_place_is_looked_at_once(web: str, state: State) -> None:
    """However many shards it would have; the reason says what is wrong."""
    spec = {"kind": "stac", "paths": [web], "assets": ["red"]}
    for code, reason in REASONS.items():
        state.failing = {"night-1/red.tif": code}
        state.asked.clear()
        found = scan(spec, {}, (), Cut(16, 16))
        assert [each.reason for each in found.unplaced] == [reason]
        assert found.frames == 3
        assert state.asked.total() <= 16


def test_the_next_shard_does_not_wait_for_a_document_again(web: str, state: State) -> None:
    uri = web.replace("catalog.json", "night-1/item.json")
    state.failing = {"night-1/item.json": 503}
    for _ in range(9):
        with pytest.raises(TransientInputError, match=r"HTTP 503 .*; try again later"):
            read_again(uri)
    assert state.asked.total() == _stac_documents._TRIES
    state.failing = {}
    assert read_document(uri)["id"] == "night-1"  # who plans always looks
    assert read_again(uri)["id"] == "night-1"


def test_a_server_that_is_not_there_is_no_missing_file(web: str) -> None:
    from segengine.errors import MissingInputError
    from segengine.sources.listing import mark_of

    with pytest.raises(TransientInputError, match=r"^cannot be reached: .*try again later$") as one:
        mark_of("http://127.0.0.1:9/red.tif")
    assert not isinstance(one.value, MissingInputError)
