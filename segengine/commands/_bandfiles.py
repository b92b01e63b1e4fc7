"""Scenes of several files, a band each, told by the files' names.

    in/T1_B02.tif  in/T1_B03.tif  in/T1_TCI.tif  in/T2_B02.tif  in/T2_B03.tif
    -> in/{scene}_{band}.tif, of the bands B02 and B03: scenes T1 and T2
    in/red_T1.tif  in/nir_T1.tif  in/red_T2.tif  in/nir_T2.tif
    -> in/{band}_{scene}.tif
    in/B02/T1.tif  in/B03/T1.tif  in/B02/T2.tif  in/B03/T2.tif, or T1_B02.tif in these folders
    -> in/{band}/{scene}.tif

Names alone are a guess: whether the files of a scene show the same ground is for the headers to say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segengine.commands._oneglob import common, escaped
from segengine.sources.listing import list_entries

_COLOURS = ("coastal", "blue", "green", "yellow", "red", "rededge", "nir", "swir", "lwir", "thermal",
            "cirrus", "pan", "vv", "vh", "hh", "hv")  # fmt: skip
_BAND = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:S[RT]_)?B[0-9]{1,2}A?|band[-_ ]?[0-9]{1,2}[A-Z]?"
    rf"|(?:{'|'.join(_COLOURS)})[0-9]{{0,2}})(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_BESIDE = re.compile(r"(?<![A-Za-z0-9])(?:QA|ST|AOT|WVP|SCL|TCI|VAA|VZA|SAA|SZA)(?![A-Za-z0-9])")
"""What products hold beside bands: quality, angles, temperatures and what these were made from."""
_SCENE = re.compile(r"(?P<mark>[-_. ]+)(?P<scene>.+?)(?P<rest>(?:[-_][0-9]{1,3}m)?\.[A-Za-z0-9]+)")
"""What follows a band that a name begins with."""


@dataclass(frozen=True, slots=True)
class BandFiles:
    """How the files of scenes are named."""

    path: str
    """With {scene} and {band}."""
    bands: tuple[str, ...]
    scenes: tuple[Mapping[str, str], ...]
    """Files of each, by band."""
    exact: bool
    """The path finds these files alone."""

    @property
    def files(self) -> int:
        """Of all scenes."""
        return sum(map(len, self.scenes))


@dataclass(frozen=True, slots=True)
class _Name:
    """What is left of a path without its band."""

    folder: str
    before: str
    after: str


def band_files(uris: Sequence[str]) -> BandFiles | None:
    """How files are named of which most have a band in their names; None: they are no such scenes."""
    return _in_names(uris) or _in_folders(uris)


def _in_folders(uris: Sequence[str]) -> BandFiles | None:
    """The same where each band has a folder, in which files are called by their scenes."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for uri in uris:
        above, _, name = uri.rpartition("/")
        parent, _, band = above.rpartition("/")
        if _BAND.fullmatch(band) and "." in name:
            groups.setdefault((parent, name.replace(band, "{band}")), {})[band] = uri
    groups = {key: files for key, files in groups.items() if len(files) > 1}
    if 2 * sum(map(len, groups.values())) < len(uris) or not groups:
        return None
    # T1_B02.tif in B02, or T1.tif
    ends = Counter("{band}".join(_ends(name)) for _, name in groups)
    end = min(ends, key=lambda each: (-ends[each], each))
    kept = {key: files for key, files in groups.items() if "{band}".join(_ends(key[1])) == end}
    pattern = f"{common([parent for parent, _ in kept])}/{{band}}/{{scene}}{end}"
    return _found(pattern, list(kept.values()))


def _ends(name: str) -> list[str]:
    """What of a file's name comes after its scene, cut where its band stands."""
    scene, *rest = name.split("{band}")
    if not rest:
        return [escaped(scene[scene.rindex(".") :])]
    return [escaped(scene[len(scene.rstrip("_-. ")) :]), *map(escaped, rest)]


def _in_names(uris: Sequence[str]) -> BandFiles | None:
    """The same where files are called by their bands."""
    groups: dict[_Name, dict[str, str]] = {}
    told = beside = 0
    for uri in uris:
        folder, _, name = uri.rpartition("/")
        found = list(_BAND.finditer(name))
        if not found or "?" in name or found[-1][0].startswith("ST_"):  # temperatures
            beside += _BESIDE.search(name) is not None
            continue
        told += 1
        band = found[-1]
        key = _Name(folder, name[: band.start()], name[band.end() :])
        groups.setdefault(key, {})[band[0]] = uri
    groups = {key: files for key, files in groups.items() if len(files) > 1}
    if not groups or 2 * told < len(uris) - beside:
        return None
    ends = _scenes_last(list(groups)) or {key: key.after for key in groups}
    # one resolution of several: scenes lie in each of them
    suffixes = Counter(ends.values())
    suffix = min(suffixes, key=lambda each: (-suffixes[each], each))
    groups = {key: files for key, files in groups.items() if ends[key] == suffix}
    pattern = _pattern(list(groups), suffix)
    return None if pattern is None else _found(pattern, list(groups.values()))


def _found(pattern: str, groups: Sequence[Mapping[str, str]]) -> BandFiles | None:
    """Scenes of files, as a path with fields finds them; None: it finds others, or not all of these."""
    counts = Counter(band for files in groups for band in files)
    bands = sorted((b for b, count in counts.items() if 2 * count >= len(groups)), key=_in_order)
    if len(bands) < 2:
        return None
    scenes = tuple({b: files[b] for b in bands if b in files} for files in groups)
    mine = {uri for files in scenes for uri in files.values()}
    try:
        entries = list_entries([pattern], "raster", bands=bands).entries
    except ValueError:
        return None
    found_files = [part.uri for entry in entries for part in entry.parts if part.uri]
    if not mine <= set(found_files):
        return None
    if any(len(entry.parts) > len(bands) for entry in entries):
        return None  # two files of one band
    return BandFiles(pattern, tuple(bands), scenes, exact=mine == set(found_files))


def _scenes_last(names: Sequence[_Name]) -> dict[_Name, str] | None:
    """Where names begin with their band and end with their scene, as red_S0.tif: what is left of each,
    with `{scene}`; None: they are not like that.

    What several folders have alike, as in T1/B02_10m.tif and T2/B02_10m.tif, tells no scene.
    """
    found = {name: _SCENE.fullmatch(name.after) for name in names if not name.before}
    matches = {name: match for name, match in found.items() if match is not None}
    scenes = Counter(name.after for name in names)
    if len(matches) < max(2, len(names)) or max(scenes.values()) > 1:
        return None
    if len({match["scene"] for match in matches.values()}) < 2:
        return None
    return {
        name: f"{escaped(match['mark'])}{{scene}}{escaped(match['rest'])}"
        for name, match in matches.items()
    }


def _pattern(names: Sequence[_Name], suffix: str) -> str | None:
    """A path with {scene} and {band} that finds these; None: there is none."""
    if suffix != names[0].after:  # red_S0.tif
        return f"{common([name.folder for name in names])}/{{band}}{suffix}"
    suffix = escaped(suffix)
    if all(not name.before for name in names):  # T1/B02.tif
        parents = [name.folder.rpartition("/")[0] for name in names]
        return f"{common(parents)}/{{scene}}/{{band}}{suffix}"
    marks = {name.before[len(name.before.rstrip("_-. ")) :] for name in names}
    if len(marks) > 1 or any(not name.before.rstrip("_-. ") for name in names):
        return None
    folder = common([name.folder for name in names])
    return f"{folder}/{{scene}}{escaped(marks.pop())}{{band}}{suffix}"


def _in_order(band: str) -> tuple[int, int, str]:
    """By number, or by wavelength; B8A comes after B08."""
    number = re.search(r"[0-9]+", band)
    colour = re.match("[a-z]*", band.lower())
    name = colour[0] if colour else ""
    rank = _COLOURS.index(name) if name in _COLOURS else -1
    return rank, int(number[0]) if number else 0, band
