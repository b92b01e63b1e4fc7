"""Under which tag a class is stored: short, with a version, and never the path of a module.

A class may then move, and what was stored before is still read. `NAMED` has ours. Of a class that moves
its second column is changed; of one whose fields change the version is raised, and the old tag stays, with
what makes the new class of the old fields.

Another package gives its classes tags of its own:

    @stored_as("acme-fit/1", former=("acme.segmenters:Fit",))
    @dataclass(frozen=True)
    class Fit: ...

What it stored before that is found by its former names. A class without a tag is stored by its path.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)

NAMED: Mapping[str, str] = {
    "layout/1": "segengine.store.layouts:Layout",
    "unplaced/1": "segengine.store.layouts:Unplaced",
    "window/1": "segengine.types:Window",
    "frame-ref/1": "segengine.types:FrameRef",
    "part/1": "segengine.types:Part",
    "header/1": "segengine.types:Header",
    "mosaic/1": "segengine.mosaics:Mosaic",
    "mosaic-member/1": "segengine.mosaics:Member",
    "vanished/1": "segengine.worker.vanished:Kept",
    "frame-failure/1": "segengine.store.kinds:FrameFailure",
    "surveyed/1": "segengine.worker.tasks:Surveyed",
    "pieces/1": "segengine.instances.pieces:Pieces",
    "seen-object/1": "segengine.instances.join:Seen",
    "object-parts/1": "segengine.instances.parts:Parts",
    "parcels/1": "segengine.instances.merging:Parcels",
    "k-means/1": "segengine.segmenters.kmeans:KMeans",
    "k-means-cells/1": "segengine.segmenters._cells:Cells",
    "histogram/1": "segengine.segmenters._histogram:Histogram",
    "histogram-sums/1": "segengine.segmenters._histogram:Sums",
    "threshold-cuts/1": "segengine.segmenters.threshold:Cuts",
    "crossings/1": "segengine.segmenters._crossings:Crossings",
    "gradient/1": "segengine.segmenters._gradient:Gradient",
    "canny/1": "segengine.segmenters.edges:Canny",
    "contrast/1": "segengine.segmenters.edges:Contrast",
    "edges/1": "segengine.segmenters.edges:Edges",
    "edge-regions/1": "segengine.segmenters.edges:Regions",
    "loss-pixels/1": "segengine.losses._statistic:PixelState",
    "loss-region/1": "segengine.losses._statistic:RegionPart",
    "loss-regions/1": "segengine.losses._statistic:RegionState",
    "loss-images/1": "segengine.losses._statistic:ImageState",
    "seam-pairs/1": "segengine.metrics.seams:Pairs",
}
"""Tag and where its class is, `module:name`."""
FORMER: Mapping[str, str] = {
    "segengine.layout:Layout": "layout/1",
    "segengine.layout:Unplaced": "unplaced/1",
    "segengine.types:Window": "window/1",
    "segengine.types:FrameRef": "frame-ref/1",
    "segengine.gone:Kept": "vanished/1",
    "segengine.records:FrameFailure": "frame-failure/1",
    "segengine.work:Surveyed": "surveyed/1",
    "segengine.linking:Pieces": "pieces/1",
    "segengine.joining:Seen": "seen-object/1",
    "segengine.segmenters.kmeans:KMeans": "k-means/1",
    "segengine.segmenters._cells:Cells": "k-means-cells/1",
    "segengine.segmenters._histogram:Histogram": "histogram/1",
    "segengine.segmenters._histogram:Sums": "histogram-sums/1",
    "segengine.segmenters.threshold:Cuts": "threshold-cuts/1",
    "segengine.segmenters._crossings:Crossings": "crossings/1",
    "segengine.segmenters._gradient:Gradient": "gradient/1",
    "segengine.segmenters.edges:Canny": "canny/1",
    "segengine.segmenters.edges:Contrast": "contrast/1",
    "segengine.segmenters.edges:Edges": "edges/1",
    "segengine.segmenters.edges:Regions": "edge-regions/1",
    "segengine.losses._statistic:PixelState": "loss-pixels/1",
    "segengine.losses._statistic:RegionPart": "loss-region/1",
    "segengine.losses._statistic:RegionState": "loss-regions/1",
    "segengine.losses._statistic:ImageState": "loss-images/1",
    "segengine.metrics.seams:Pairs": "seam-pairs/1",
}
"""What a class was stored as before there were tags, and its tag."""

_REGISTERED: dict[str, type] = {}
_TAG_OF: dict[type, str] = {}
_FORMER: dict[str, str] = {}


def stored_as(tag: str, *, former: tuple[str, ...] = ()) -> Callable[[_Class], _Class]:
    """Register a dataclass or named tuple under a tag, `name/version`.

    `former`: the paths, `module:name`, under which releases without tags stored it. Raises ValueError
    for a tag that another class has.
    """
    name, _, version = tag.partition("/")
    if not (name and version.isdecimal() and name.replace("-", "").isalnum()):
        raise ValueError(f"{tag!r} is no tag: name it `my-fit/1`")

    def register(kind: _Class) -> _Class:
        known = _REGISTERED.get(tag)
        path = path_of(kind)
        if tag in NAMED or (known is not None and path_of(known) != path):
            raise ValueError(f"{tag} is taken by {NAMED.get(tag) or path_of(known or kind)}")
        _REGISTERED[tag], _TAG_OF[kind] = kind, tag
        _FORMER.update(dict.fromkeys((path, *former), tag))
        return kind

    return register


def path_of(kind: type) -> str:
    """`module:name` of a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def tag_of(kind: type) -> str:
    """What a class is stored as."""
    return _TAG_OF.get(kind) or _own().get(path_of(kind)) or path_of(kind)


@cache
def _own() -> Mapping[str, str]:
    return {path: tag for tag, path in NAMED.items()}


def class_of(stored: str, trusted: tuple[str, ...]) -> type:
    """The class behind what a value is stored as, from one of the `trusted` top-level packages.

    Raises ValueError where that is none of their dataclasses or named tuples, and is not looked for.
    """
    tag = FORMER.get(stored) or _FORMER.get(stored) or stored
    found: Any = _REGISTERED.get(tag)
    if found is None:
        path = NAMED.get(tag, tag)
        if ":" not in path:
            raise ValueError(f"{stored}: no class is stored under that tag here")
        module, _, name = path.partition(":")
        if module.partition(".")[0] not in trusted:
            raise ValueError(f"{stored}: not a class this job's segmenter may commit")
        found = _at(module, name, stored)
    if getattr(found, "__module__", "").partition(".")[0] not in trusted:
        raise ValueError(f"{stored}: not a class of that module")
    if not (isinstance(found, type) and _is_plain(found)):
        raise ValueError(f"{stored}: not a dataclass or named tuple")
    return found


def _at(module: str, name: str, stored: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ValueError(f"{stored}: {type(error).__name__}: {error}") from error
    return found


def _is_plain(kind: type) -> bool:
    named = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return named or dataclasses.is_dataclass(kind)
