"""Scenes that may be members of a map: what planning knows of each, which lie on top, which are alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segengine.instants import seconds_of
from segengine.mosaics import Cells, Member
from segengine.planning.layout import Probed
from segengine.sources._grid import Grid
from segengine.sources._lattice import grid_of
from segengine.types import Probe


@dataclass(slots=True)
class Known:
    """A member with what only planning asks."""

    member: Member
    grid: Grid
    order: int
    probe: Probe | None = None
    """None: it is as it was."""
    covers: Cells = (0, 0, 0, 0)
    reaches: Cells = (0, 0, 0, 0)


def looked_at(probed: Probed) -> Known:
    """A scene whose header has just been read."""
    entry, probe = probed.entry, probed.probe
    about, grid = probe.attributes, grid_of(probe)
    item = about.get("stac") or {}
    time = seconds_of(item.get("datetime"))
    member = Member(
        name=entry.name,
        uri=entry.uri,
        fingerprint=entry.fingerprint,
        height=probe.height,
        width=probe.width,
        transform=grid.transform,
        crs=0,
        parts=entry.parts,
        time=about.get("time") if time is None else time,
        clouds=item.get("cloud_cover"),
    )
    return Known(member, grid, entry.order, probe)


def name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def ranked(found: Iterable[Known], how: str) -> list[Known]:
    """Scenes in order, the first on top; equal ones by name."""
    by_name = sorted(found, key=lambda each: name_bytes(each.member.name))
    if how == "path":
        return sorted(by_name, key=lambda each: each.order)
    if how == "cloud":
        return sorted(
            by_name, key=lambda each: (each.member.clouds is None, each.member.clouds or 0.0)
        )
    sign = -1 if how == "newest" else 1
    dated = [each for each in by_name if each.member.time is not None]
    others = [each for each in by_name if each.member.time is None]
    # A name that ends in a date, as most do, stands in for it.
    others = others[::sign]
    return [*sorted(dated, key=lambda each: sign * (each.member.time or 0.0)), *others]


Kind = tuple[int, str, str, tuple[str, ...]]
"""Bands, dtype, kind of source, names of the bands."""


def kind_of(probe: Probe, member: Member) -> Kind:
    return probe.bands, probe.dtype, probe.kind, names_of(member)


def names_of(member: Member) -> tuple[str, ...]:
    """Of a scene of several files, as the job calls its bands; empty: they have none."""
    return tuple(filter(None, (part.name for part in member.parts)))


def described(kind: Kind, named: bool) -> str:
    bands, dtype, _, names = kind
    called = f" ({', '.join(names)})" if named and names else ""
    return f"{bands} band{'s' if bands != 1 else ''} of {dtype}{called}"
