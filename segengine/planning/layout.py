"""Which frame lies where: scenes, their shapes and shards, and how later runs add to them.

A layout is committed before its scene's first shard; after that a frame never moves. New images
become further scenes, a changed one keeps its place if its new size still fits there, and a
vanished one keeps its place as `gone`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash

from segengine import tiling
from segengine.sources._volumes import without_suffix
from segengine.store.keys import METADATA, PACKED
from segengine.store.layouts import Layout
from segengine.types import Entry, Probe


@dataclass(frozen=True, slots=True)
class Cut:
    """How scenes are cut, from the job's `store` block and the segmenter."""

    chunk: int
    shard: int
    frames: int | None = None
    whole: bool = False
    """The segmenter needs whole frames: a shard covers the frame, whatever `shard` says."""
    every: int = 1


@dataclass(frozen=True, slots=True)
class Probed:
    """An input with what its header said."""

    entry: Entry
    probe: Probe


_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9._-]")


def scene_name(wanted: str, taken: Iterable[str] = ()) -> str:
    """`wanted` escaped to [A-Za-z0-9._-], with a hash where that changed it or it would collide.

    >>> scene_name("longmont"), scene_name("a b")
    ('longmont', 'a_b-19d57fc4')
    """
    escaped = _NOT_ALLOWED.sub("_", wanted)
    reserved = escaped.strip(".") == "" or escaped.startswith("__")
    reserved = reserved or escaped.endswith((PACKED, METADATA)) or len(escaped) > 200
    if escaped == wanted and not reserved and escaped not in taken:
        return escaped
    digest = xxhash.xxh32_hexdigest(wanted.encode("utf-8", "surrogateescape"))
    stem = escaped[:180].strip(".") or "scene"
    return f"s{stem}-{digest}" if stem.startswith("__") else f"{stem}-{digest}"


def place(
    previous: Mapping[str, Layout], entries: Mapping[str, Entry], probed: Sequence[Probed], cut: Cut
) -> dict[str, Layout]:
    """Layouts of this run: `previous` brought up to date, then scenes for what has no place yet.

    `entries` are all inputs now listed, by name; `probed` those of them that are new or changed and
    have a readable header. Frames are placed in the order of their names as UTF-8 bytes.
    """
    by_name = {p.entry.name: p for p in probed}
    home = homes(previous, entries)
    layouts = {name: _updated(layout, entries, by_name, home) for name, layout in previous.items()}
    placed = {
        name
        for layout in layouts.values()
        for name, gone in zip(layout.names, layout.gone, strict=True)
        if not gone
    }
    fresh = [p for p in probed if p.entry.name not in placed]
    fresh.sort(key=lambda p: p.entry.name.encode("utf-8", "surrogateescape"))
    buckets: dict[str, list[Probed]] = {}
    for item in fresh:
        if item.probe.stacked:
            height, width = tiling.bucket(item.probe.height, item.probe.width)
            base = f"{height}x{width}-{item.probe.dtype}-{item.probe.bands}"
            buckets.setdefault(base, []).append(item)
    for base, items in sorted(buckets.items()):
        name = _next_name(base, layouts)
        layouts[name] = _bucket_layout(name, items, cut)
    for item in fresh:
        if not item.probe.stacked:
            name = _own_name(item.entry, layouts)
            layouts[name] = own_layout(name, item, cut)
    return layouts


def outgrown(previous: Mapping[str, Layout], probed: Sequence[Probed]) -> frozenset[str]:
    """Scenes that the inputs, read with other options (other bands, another `every`), do not fit."""
    by_name = {p.entry.name: p.probe for p in probed}
    return frozenset(
        scene
        for scene, layout in previous.items()
        if any(
            name in by_name and not gone and not _fits(layout, by_name[name])
            for name, gone in zip(layout.names, layout.gone, strict=True)
        )
    )


def homes(layouts: Mapping[str, Layout], entries: Mapping[str, Entry]) -> dict[str, str]:
    """The scene each frame's name lives in.

    An input that outgrew its scene has a place in several: its home is the one where it is not gone,
    else the one whose fingerprint it has again, else the last.
    """
    found: dict[str, str] = {}
    several = set[str]()
    for scene, layout in layouts.items():
        several.update(name for name in layout.names if found.setdefault(name, scene) != scene)
    best: dict[str, tuple[bool, bool]] = {}
    for scene, layout in layouts.items() if several else ():
        for name, fingerprint, gone in zip(
            layout.names, layout.fingerprints, layout.gone, strict=True
        ):
            if name not in several:
                continue
            entry = entries.get(name)
            rank = (not gone, entry is not None and entry.fingerprint == fingerprint)
            if name not in best or rank >= best[name]:
                best[name], found[name] = rank, scene
    return found


def _updated(
    layout: Layout,
    entries: Mapping[str, Entry],
    probed: Mapping[str, Probed],
    home: Mapping[str, str],
) -> Layout:
    uris, fingerprints = list(layout.uris), list(layout.fingerprints)
    heights, widths, gone = layout.heights.copy(), layout.widths.copy(), layout.gone.copy()
    extra: dict[str, Any] = {}
    for i, name in enumerate(layout.names):
        entry = entries.get(name)
        if entry is None:
            gone[i] = True
            continue
        if name not in probed:
            # Known, or its header cannot be read any more: then the worker will say so.
            if home[name] == layout.scene:
                uris[i], fingerprints[i], gone[i] = entry.uri, entry.fingerprint, False
                extra = {"parts": entry.parts}
        elif _fits(layout, probed[name].probe):
            probe = probed[name].probe
            uris[i], fingerprints[i], gone[i] = entry.uri, entry.fingerprint, False
            heights[i], widths[i] = probe.height, probe.width
            if not layout.stacked:
                extra = {
                    "parts": entry.parts,
                    "positions": probe.positions,
                    "times": probe.times,
                    "seeks": probe.seeks,
                    "attributes": dict(probe.attributes),
                }
        else:
            gone[i] = True
    return replace(
        layout,
        uris=tuple(uris),
        fingerprints=tuple(fingerprints),
        heights=heights,
        widths=widths,
        gone=gone,
        **extra,
    )


def _fits(layout: Layout, probe: Probe) -> bool:
    """Whether a changed input can keep its place: a scene's shape never changes."""
    same_kind = (layout.stacked, layout.bands, layout.dtype) == (
        probe.stacked,
        probe.bands,
        probe.dtype,
    )
    if not same_kind or (layout.kind != probe.kind and not layout.stacked):
        return False
    if layout.stacked:
        return tiling.bucket(probe.height, probe.width) == layout.shape[1:]
    return (probe.frames, probe.height, probe.width) == layout.shape


def _next_name(base: str, layouts: Mapping[str, Layout]) -> str:
    number, name = 1, base
    while name in layouts:
        number += 1
        name = f"{base}.{number}"
    return name


def _own_name(entry: Entry, layouts: Mapping[str, Layout]) -> str:
    frame_name = entry.name
    # A scene of several files has a name that is no file's.
    stem = without_suffix(frame_name) if not entry.parts else frame_name
    own = [n for n, layout in layouts.items() if frame_name in layout.names]
    if own:  # its old place has another shape
        return _next_name(min(own, key=len), layouts)
    name = scene_name(stem, layouts)
    if name in layouts:
        name = scene_name(frame_name, [frame_name])
    return _next_name(name, layouts)


def _bucket_layout(name: str, items: Sequence[Probed], cut: Cut) -> Layout:
    height, width = tiling.bucket(items[0].probe.height, items[0].probe.width)
    shape = (len(items), height, width)
    return Layout(
        scene=name,
        kind=items[0].probe.kind,
        shape=shape,
        bands=items[0].probe.bands,
        dtype=items[0].probe.dtype,
        shard=_shard(shape, items[0].probe, cut),
        chunk=(1, cut.chunk, cut.chunk),
        names=tuple(i.entry.name for i in items),
        uris=tuple(i.entry.uri for i in items),
        fingerprints=tuple(i.entry.fingerprint for i in items),
        heights=np.array([i.probe.height for i in items], np.int32),
        widths=np.array([i.probe.width for i in items], np.int32),
        gone=np.zeros(len(items), np.bool_),
        stacked=True,
        windowed=False,
    )


def own_layout(name: str, item: Probed, cut: Cut) -> Layout:
    """A scene of its own."""
    probe = item.probe
    shape = (probe.frames, probe.height, probe.width)
    return Layout(
        scene=name,
        kind=probe.kind,
        shape=shape,
        bands=probe.bands,
        dtype=probe.dtype,
        shard=_shard(shape, probe, cut),
        chunk=(1, cut.chunk, cut.chunk),
        names=(item.entry.name,),
        uris=(item.entry.uri,),
        fingerprints=(item.entry.fingerprint,),
        heights=np.array([probe.height], np.int32),
        widths=np.array([probe.width], np.int32),
        gone=np.zeros(1, np.bool_),
        stacked=False,
        windowed=probe.windowed,
        positions=probe.positions,
        times=probe.times,
        seeks=probe.seeks,
        attributes=dict(probe.attributes),
        parts=item.entry.parts,
    )


def _shard(shape: tuple[int, int, int], probe: Probe, cut: Cut) -> tuple[int, int, int]:
    """A new scene's shard: whole chunks, and never more than the scene can fill."""
    total, height, width = shape
    most = tiling.round_up(max(height, width), cut.chunk)
    side = max(cut.shard, most) if cut.whole else cut.shard
    if max(height, width) > side:
        return 1, side, side
    frames = cut.frames or tiling.frames_per_shard(side, height, width)
    if cut.frames is None and probe.kind == "video":
        size = height * width * probe.bands * np.dtype(probe.dtype).itemsize
        frames = tiling.video_frames_per_shard(frames, probe.gop, cut.every, size)
    return min(frames, total), most, most
