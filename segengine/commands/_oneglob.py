"""Paths as a user gives them, as those of a job: what a shell made of a glob is one glob again.

in/T1/img.tif in/T2/img.tif  -> in/*/img.tif      of which each file has a name of its own
in/B02 in/B03                -> in/*/*.tif
in/{scene}.tif               -> in/[{]scene}.tif  a file of that very name, and no scene's field
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import takewhile

from segengine.sources._fields import has_fields
from segengine.sources._files import is_url
from segengine.sources.listing import list_entries

_GLOB = re.compile(r"([*?\[{])")


def escaped(text: str) -> str:
    """A part of a path that is to be found as it stands.

    >>> escaped("a[1]{scene}.tif")
    'a[[]1][{]scene}.tif'
    """
    return _GLOB.sub(r"[\1]", text)


def as_it_stands(path: str) -> str:
    """A path, without fields where there is a file by that very name."""
    return path.replace("{", "[{]") if has_fields(path) and os.path.lexists(path) else path


def common(folders: Sequence[str]) -> str:
    """A glob of folders: `*` where they differ, `**` where some lie deeper than others.

    >>> common(["in/T1/a", "in/T2/a"]), common(["in/T1", "in/T2/deep"])
    ('in/*/a', 'in/**')
    """
    split = [folder.split("/") for folder in dict.fromkeys(folders)]
    if len({len(parts) for parts in split}) > 1:
        same = takewhile(lambda column: len(set(column)) == 1, zip(*split, strict=False))
        return "/".join([*(escaped(column[0]) for column in same), "**"])
    columns = zip(*split, strict=True)
    return "/".join(escaped(c[0]) if len(set(c)) == 1 else "*" for c in columns)


def one_glob(places: Sequence[str]) -> str | None:
    """The glob that finds what lies at several local paths, and nothing else; None: there is none."""
    if len(places) < 2 or any(is_url(place) or not os.path.lexists(place) for place in places):
        return None
    files = {entry.uri for place in places for entry in list_entries([place]).entries}
    folders, names = zip(*(file.rsplit("/", 1) for file in sorted(files)), strict=True)
    endings = {os.path.splitext(name)[1] for name in names}
    ending = escaped(endings.pop()) if len(endings) == 1 else ""
    last = escaped(names[0]) if len(set(names)) == 1 else f"*{ending}"
    glob = f"{common(folders)}/{last}"
    return glob if {entry.uri for entry in list_entries([glob]).entries} == files else None
