"""Patterns of paths: which names they match, and which of these are inputs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from segengine.sources import _beside
from segengine.sources._suffixes import IMAGES, KNOWN, RASTER, SIDECARS, SUFFIXES
from segengine.sources._volumes import suffix_of as _suffix

MAGIC = re.compile(r"[*?\[]")
ESCAPED = re.compile(r"\[([*?\[])\]")


@dataclass(frozen=True, slots=True)
class Pattern:
    """The components below the fixed part; none: a folder, everything below it."""

    parts: tuple[str, ...]
    kind: str

    def wants(
        self, name: str, *, directory: bool = False, beside: Collection[str] = frozenset()
    ) -> bool:
        """Whether a file name that the pattern matches is an input; `beside`: names around it."""
        suffix = _suffix(name)
        if not self.parts:
            if self.kind == "raster" and suffix in IMAGES - RASTER:
                return any(world in beside for world in _beside.world_files(name))
            bare = not suffix or suffix[1:].isdigit()
            if self.kind == "volume" and bare and not directory:
                return True  # as scanners name DICOM: IM000001, 1.2.840.113619.2
            return suffix in (KNOWN if self.kind == "auto" else SUFFIXES.get(self.kind, KNOWN))
        if directory:
            return suffix in KNOWN
        return suffix not in SIDECARS or self.parts[-1].lower().endswith(suffix)

    @property
    def deep(self) -> bool:
        """Whether it reaches any depth."""
        return not self.parts or "**" in self.parts

    def below(self, directory: str) -> list[Pattern]:
        """The patterns that hold inside a sub-directory."""
        if not self.parts:
            return [] if directory.startswith(".") else [self]
        first, *rest = self.parts
        if first == "**":
            inner = Pattern(tuple(rest), self.kind).below(directory) if rest else []
            return [self, *inner] if not directory.startswith(".") else inner
        return [Pattern(tuple(rest), self.kind)] if rest and _matches(first, directory) else []

    def matches(self, name: str) -> bool:
        """Whether a name in this very directory matches."""
        if not self.parts:
            return not name.startswith(".")
        if self.parts[0] == "**":
            rest = self.parts[1:]
            return Pattern(rest, self.kind).matches(name) if rest else not name.startswith(".")
        return len(self.parts) == 1 and _matches(self.parts[0], name)


def _matches(part: str, name: str) -> bool:
    hidden = name.startswith(".") and not part.startswith(".")
    return not hidden and _compiled(part).match(name) is not None


@lru_cache(64)
def _compiled(part: str) -> re.Pattern[str]:
    return re.compile(translate(part))


def literal(part: str) -> str | None:
    """A component without glob characters, `glob.escape` undone; None: it is a pattern."""
    return None if MAGIC.search(ESCAPED.sub("", part)) else ESCAPED.sub(r"\1", part)


def split_local(path: str) -> tuple[str, tuple[str, ...]]:
    """(fixed part, pattern components)."""
    parts = path.split("/")
    fixed = parts[0]
    for i, part in enumerate(parts[1:], 1):
        plain = literal(part)
        if plain is None and not set("*?") & set(part) and os.path.lexists(f"{fixed}/{part}"):
            plain = part
        if plain is None:
            return fixed or "/", tuple(part for part in parts[i:] if part)
        if plain or i == 1:
            fixed = f"{fixed}/{plain}"
    return fixed, ()


def path_matches(pattern: Pattern, name: str) -> bool:
    """Whether a pattern matches a name with the folders that lead to it."""
    *folders, last = name.split("/")
    patterns = [pattern]
    for folder in folders:
        patterns = [inner for outer in patterns for inner in outer.below(folder)]
    return any(inner.matches(last) for inner in patterns)
