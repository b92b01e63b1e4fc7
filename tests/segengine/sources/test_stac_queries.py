"""URLs that differ by their query alone: each is an asset, or a document, of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segengine.commands.verify import _check_inputs
from segengine.planning.layout import Cut
from segengine.planning.scan import scan
from segengine.sources.stac import StacSource
from segengine.store.layouts import Layout
from segengine.types import FrameRef, Tile

from .buckets import forget_sessions
from .stac_scenes import HEIGHT, WIDTH, make_item, pixels
from .stac_server import State, serving

pytestmark = pytest.mark.system
WHOLE = slice(0, HEIGHT), slice(0, WIDTH)
BANDS = ("red", "nir")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[State, Path, str]]:
    folder = tmp_path_factory.mktemp("in")
    item = make_item(folder, "night", {key: pixels(i) for i, key in enumerate(BANDS)})
    state = State()
    with serving(state, folder) as url:
        said = item.to_dict(include_self_link=False)
        (folder / "item.json").write_text(json.dumps(said))
        yield state, folder, f"{url}/data"
        forget_sessions()


def sign(folder: Path, url: str, seconds: float) -> None:
    """The item with other signatures."""
    said = json.loads((folder / "item.json").read_text())
    for key in BANDS:
        said["assets"][key]["href"] = f"{url}/get?file=night/{key}.tif&sig={time.time() + seconds}"
    (folder / "item.json").write_text(json.dumps(said))


def laid_out(path: str, **more: Any) -> Layout:
    spec = {"kind": "stac", "paths": [path], "assets": list(BANDS), **more}
    (layout,) = scan(spec, {}, (), Cut(16, 32)).layouts.values()
    return layout


def refused(ref: FrameRef) -> FrameRef:
    """With signatures that have run out."""
    parts = [replace(part, uri=f"{part.uri.partition('&')[0]}&sig=1") for part in ref.parts]
    return replace(ref, parts=tuple(parts))


@pytest.mark.parametrize("mosaic", [None, "newest"])
@pytest.mark.parametrize("stored", [False, True])
def test_assets_that_differ_by_query_stay_apart_as_they_are_signed_anew(
    served: tuple[State, Path, str], stored: bool, mosaic: str | None
) -> None:
    """`stored`: as the layout of a store has them, which keeps no query."""
    state, folder, url = served
    sign(folder, url, 100)
    path = f"{url}/item.json"
    layout = laid_out(path, mosaic=mosaic)
    sign(folder, url, 200)
    shown = layout.public
    ref = shown.frame(0) if stored else layout.frame(0)
    if stored:
        assert not any("sig=" in uri for uri in shown.files)
        assert shown.public is shown
    elif ref.mosaic is None:
        ref = refused(ref)
    else:
        (member,) = ref.mosaic.members
        members = (replace(member, parts=refused(member.ref).parts),)
        ref = replace(ref, mosaic=replace(ref.mosaic, members=members))
    state.signed = True
    try:
        source = StacSource(paths=(path,), assets=BANDS, mosaic=mosaic)  # type: ignore[arg-type]
        (tile,) = source.read([ref], *WHOLE)
    finally:
        state.signed = False
    assert isinstance(tile, Tile), tile
    for i in range(len(BANDS)):
        np.testing.assert_array_equal(tile.pixels[..., i], pixels(i))


def test_documents_that_differ_by_query_are_each_read(served: tuple[State, Path, str]) -> None:
    """And one that is signed anew at each link is the same: a loop is none the longer."""
    _, folder, url = served
    pages = {
        "top": [("item", "a.json"), ("item", "b.json"), ("item", "a.json&X-Amz-Signature=1"),
                ("child", "sub.json")],
        "sub": [("item", "c.json"), ("child", "more.json&page=2")],
        "more": [("child", "sub.json&se=2026-05-01&sig=2"), ("child", "more.json&page=2")],
    }  # fmt: skip
    for name, links in pages.items():
        held = [{"rel": rel, "href": f"get?file={file}"} for rel, file in links]
        said = {"type": "Catalog", "stac_version": "1.0.0", "id": name, "links": held}
        (folder / f"{name}.json").write_text(json.dumps(said))
    for name in "abc":
        item = json.loads((folder / "item.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps({**item, "id": name}))
    path = f"{url}/get?file=top.json"
    found = StacSource(paths=(path,), assets=BANDS).list([path])
    assert [each.name for each in found.entries] == ["a", "b", "c"]
    assert [(each.name, "a loop" in each.reason) for each in found.unlisted] == [
        ("more", True), ("more (2)", True),
    ]  # fmt: skip


def test_a_list_that_is_sent_in_pages_is_read_to_its_end(
    served: tuple[State, Path, str],
) -> None:
    _, folder, url = served
    said = json.loads((folder / "item.json").read_text())

    def page(name: str, **link: str) -> None:
        links = [{"rel": "next", **link}] if link else []
        held = [{**said, "id": name}]
        about = {"type": "FeatureCollection", "features": held, "links": links}
        (folder / f"{name}.json").write_text(json.dumps(about))

    page("p0", href="get?file=p1.json&token=1")
    page("p1", href="get?file=p2.json")
    page("p2", href="get?file=p0.json")  # back to the first: read once
    path = f"{url}/get?file=p0.json"
    found = StacSource(paths=(path,), assets=BANDS).list([path])
    assert [each.name for each in found.entries] == ["p0", "p1", "p2"]
    assert not found.unlisted
    page("p1", href="get?file=p2.json", method="POST")
    found = StacSource(paths=(path,), assets=BANDS).list([path])
    assert [each.name for each in found.entries] == ["p0", "p1"]
    assert [each.lists for each in found.unlisted] == [True]
    page("p1", href="get?file=gone.json")
    found = StacSource(paths=(path,), assets=BANDS).list([path])
    assert [each.lists for each in found.unlisted] == [True]


def test_verify_looks_at_each_of_items_that_differ_by_query(
    served: tuple[State, Path, str],
) -> None:
    _, folder, url = served
    said = json.loads((folder / "item.json").read_text())
    features = []
    for name in "xy":
        links = [{"rel": "self", "href": f"{url}/get?file={name}.json"}]
        features.append({**said, "id": name, "links": links})
    listed = {"type": "FeatureCollection", "features": features}
    (folder / "list.json").write_text(json.dumps(listed))
    spec = {"kind": "stac", "paths": [f"{url}/list.json"], "assets": list(BANDS)}
    layouts = scan(spec, {}, (), Cut(16, 32)).layouts
    x, y = (layouts[name].public.frame(0) for name in "xy")
    assert (x.uri, x.parts) == (y.uri, y.parts)
    job: Any = SimpleNamespace(source_options=lambda: spec)
    _check_inputs([x, y], "stac", job)
    with pytest.raises(RuntimeError, match="x: the input has changed"):
        _check_inputs([replace(x, fingerprint="other"), y], "stac", job)
