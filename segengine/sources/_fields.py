"""Paths with `{scene}` and `{band}`: which files make one scene, and which band each of them is.

    S2/{scene}.SAFE/GRANULE/*/IMG_DATA/*_{band}.jp2      bands: [B04, B03]
    S2/*.SAFE/GRANULE/*/IMG_DATA/*_*.jp2                 what is listed
    -> scene T31UDQ: Part(..._B04.jp2), Part(..._B03.jp2)

A field stays inside a component of the path, and one that is there twice means the same text. A file
that the glob finds and whose band is not asked for is of no scene. What is missing or there twice is
for the source to say, of that scene alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Protocol

import xxhash

from segengine.types import Entry, Part

_FIELD = re.compile(r"\{(scene|band)\}")
_TOKEN = re.compile(r"\{scene\}|\{band\}|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


class Match(Protocol):
    """A file as the listing finds it."""

    @property
    def name(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...


def has_fields(path: str) -> bool:
    """Whether a path tells scenes and bands.

    >>> has_fields("S2/{scene}/*_{band}.jp2"), has_fields("S2/*.jp2")
    (True, False)
    """
    return _FIELD.search(path) is not None


@dataclass(frozen=True, slots=True)
class Fields:
    """A path with both fields."""

    glob: str
    """The same for the listing."""
    pattern: re.Pattern[str]
    """Matches names below the glob's fixed part."""

    @classmethod
    def of(cls, path: str, bands: Sequence[str] | None) -> Fields:
        """Raises ValueError for a path with one of the fields, or with one in no place for it."""
        for name in ("scene", "band"):
            if f"{{{name}}}" not in path:
                raise ValueError(
                    f"source.paths: {path} has no {{{name}}}; one scene of several files is told by "
                    "{scene} and {band} together"
                )
        parts = [part for part in path.split("/") if part]
        first = next(i for i, part in enumerate(parts) if has_fields(part))
        seen: set[str] = set()
        tail = [_component(part, bands, seen) for part in parts[first:]]
        return cls(_FIELD.sub("*", path), re.compile("(?:.*/)?" + "".join(tail)[:-1]))

    def told(self, name: str) -> tuple[str, str] | None:
        """Scene and band of a file by its name; None: it is neither's."""
        match = self.pattern.fullmatch(name)
        return None if match is None else (match["scene"], match["band"])


def _component(part: str, bands: Sequence[str] | None, seen: set[str]) -> str:
    """A component of a path as a regular expression, with the `/` after it."""
    if part == "**":
        return "(?:.*/)?"
    return "".join(_regex(token, bands, seen) for token in _TOKEN.findall(part)) + "/"


def _regex(token: str, bands: Sequence[str] | None, seen: set[str]) -> str:
    if token in ("{scene}", "{band}"):
        name = token[1:-1]
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        if name == "scene" or bands is None:
            return f"(?P<{name}>[^/]+)"
        return f"(?P<{name}>{'|'.join(map(re.escape, sorted(bands, key=len, reverse=True)))})"
    if token == "*":
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if token.startswith("[") and len(token) > 1:
        return translate(token)[len("(?s:") : -len(r")\Z")]
    return re.escape(token)


@dataclass(slots=True)
class Scenes:
    """Files by scene and band, as the paths of a job are gone through."""

    bands: tuple[str, ...] | None
    files: dict[str, dict[str, dict[str, Match]]] = field(default_factory=dict)
    """By scene, band and uri."""
    orders: dict[str, int] = field(default_factory=dict)
    """By scene, which of the paths is the first to name it."""

    @classmethod
    def of(cls, paths: Sequence[str], kind: str, bands: Sequence[int | str] | None) -> Scenes:
        """For a job's paths and bands. Raises ValueError where these do not agree."""
        told = [path for path in paths if has_fields(path)]
        if told and kind not in ("auto", "raster"):
            raise ValueError(
                f"source.paths: {told[0]}: {{scene}} and {{band}} make scenes of rasters, not of {kind}"
            )
        if not told and any(isinstance(band, str) for band in bands or ()):
            raise ValueError(
                "source.bands: names of bands need {band} in source.paths; bands of one file have "
                "numbers"
            )
        # A path may tell bands apart by numbers, which are then names too.
        return cls(tuple(map(str, bands)) if told and bands is not None else None)

    def take(self, fields: Fields, matches: Iterable[Match], order: int = 0) -> int:
        """Take those that are a scene's; how many. `order`: which of the paths it is."""
        count = 0
        for match in matches:
            told = fields.told(match.name)
            if told is not None:
                scene, band = told
                self.files.setdefault(scene, {}).setdefault(band, {})[match.uri] = match
                self.orders.setdefault(scene, order)
                count += 1
        return count

    def entries(self) -> list[Entry]:
        """One a scene, with a part a band: those that are missing have no uri."""
        return [self._entry(scene, found) for scene, found in self.files.items()]

    def _entry(self, scene: str, found: Mapping[str, Mapping[str, Match]]) -> Entry:
        names = self.bands or tuple(
            sorted(found, key=lambda n: n.encode("utf-8", "surrogateescape"))
        )
        parts = []
        for name in names:
            uris = sorted(found.get(name, ())) or [""]
            parts += [Part(uri, band=0, name=name) for uri in uris]
        marks = {uri: match.fingerprint for each in found.values() for uri, match in each.items()}
        first = next(part.uri for part in parts if part.uri)
        order = self.orders.get(scene, 0)
        return Entry(scene, first, fingerprint(parts, marks), tuple(parts), order=order)


def fingerprint(parts: Sequence[Part], marks: Mapping[str, str]) -> str:
    """Of a scene of several files; `marks`: each file's own, by its uri."""
    made_of = [(part.name, part.band, marks.get(part.uri, "")) for part in parts]
    return xxhash.xxh3_64_hexdigest(repr(made_of).encode("utf-8", "surrogateescape"))
