"""URLs that differ by their query alone: each is an asset, or a document, of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
