"""STAC for a first job: whether a path names some, and what its first items are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segengine.errors import CorruptInputError, TransientInputError
from segengine.planning.layout import Cut, Probed, place
from segengine.sources._files import is_url
from segengine.sources._stac_documents import read_document
from segengine.sources._stac_parquet import is_parquet
from segengine.sources._stac_walk import documents
from segengine.sources.listing import Unlisted
from segengine.sources.stac import StacSource
from segengine.store.layouts import Layout

_NAMES = ("catalog.json", "collection.json")
_SUFFIXES = (".json", ".geojson")


@dataclass(frozen=True, slots=True)
class Items:
    """The first items of a catalog."""

    layouts: Mapping[str, Layout]
    assets: tuple[str, ...]
    """Keys of those that are read of the first item."""


def catalog_at(path: str) -> str | None:
    """What names a document of STAC: its path, also where its folder is given, or a glob of such.

    None: the path names something else.
    """
    if not is_url(path) and os.path.isdir(path):
        found = (os.path.join(path, name) for name in _NAMES)
        return next((each for each in found if os.path.isfile(each) and _is_stac(each)), None)
    if is_parquet(path):
        return path
    name = path.partition("?")[0] if is_url(path) else path
    if not name.lower().endswith(_SUFFIXES):
        return None
    if "*" in path if is_url(path) else not os.path.lexists(path):  # a glob
        several = documents(path)
        return path if several and _is_stac(several[0].uri) else None
    return path if _is_stac(path) else None


def _is_stac(uri: str) -> bool:
    try:
        return _is_document(read_document(uri))
    except CorruptInputError:
        return False


def _is_document(found: Any) -> bool:
    kind = found.get("type") if isinstance(found, Mapping) else None
    if kind == "FeatureCollection":
        features = found.get("features")
        return isinstance(features, list) and any(map(_is_document, features[:1]))
    if kind == "Feature":  # of GeoJSON, unless it has assets
        return "stac_version" in found or isinstance(found.get("assets"), Mapping)
    return "stac_version" in found if isinstance(found, Mapping) else False


def first_items(paths: Sequence[str], most: int) -> Items:
    """What the headers of some items' assets say. Raises ValueError where none is a scene."""
    source = StacSource(paths=tuple(paths))
    probed: list[Probed] = []
    reasons: list[str] = []
    assets: tuple[str, ...] = ()
    for each in source.first(paths, most):
        if isinstance(each, Unlisted):
            reasons.append(f"{each.name}: {each.reason}")
            continue
        entry, keys = each
        try:
            probed.append(Probed(entry, source.probe(entry)))
        except (CorruptInputError, TransientInputError) as error:
            reasons.append(f"{entry.name}: {error}")
            continue
        assets = assets or keys
    if not probed:
        why = f": {reasons[0]}" if reasons else ", and it names no item"
        raise ValueError(f"{paths[0]}: none of the first {most} items can be read{why}")
    entries = {each.entry.name: each.entry for each in probed}
    return Items(place({}, entries, probed, Cut(512, 2048)), assets)
