r"""Paths and globs to entries: what there is to read, under which names, and which source reads it.

    /data/2024-*/scenes/**/*.tif
    fixed|        pattern         `*`, `?`, `[...]` stay inside a component, `**` spans any number

A frame's name is its path below the fixed part, the leading components without glob characters. A
plain file is named by its file name, and of a plain folder everything below it with a known suffix
is listed; what that leaves out is counted by suffix. A bracketed component (`a[1]`) is taken as it
stands where something by that very name exists. Hidden files and, unless a pattern ends in their
suffix, sidecars are left out, and so are segengine's own stores: masks that lie beside their images
are not the next night's input. A link to a folder that is listed anyway is not followed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from segengine.errors import CorruptInputError, TransientInputError
from segengine.guards.schemes import filesystem
from segengine.sources import _beside, _tiff
from segengine.sources._fields import Fields, Scenes, has_fields
from segengine.sources._files import is_url, open_failure, open_input
from segengine.sources._found import Found
from segengine.sources._local import local_file, local_inputs
from segengine.sources._patterns import Pattern, literal, path_matches, split_local
from segengine.sources._remote import about_of, remote_inputs, remote_mark
from segengine.sources._suffixes import IMAGES, SUFFIXES, TIFF
from segengine.sources._volumes import DICOM, NIFTI, SLIDE
from segengine.sources._volumes import suffix_of as _suffix
from segengine.types import Entry
from segengine.urls import public

LARGE = 2**28
"""Pixels of a TIFF from which it is read in windows, as a raster."""


class Unlisted(NamedTuple):
    """Something that is there by name, and nothing more can be said of it."""

    name: str
    uri: str
    reason: str
    kind: str = "error"
    """`corrupt`: as it stands it will never be one; `error`: worth another look."""
    missing: bool = False
    """It is not there, though something names it: one that has a place has vanished."""
    lists: bool = False
    """It is a list of inputs, which nobody knows now."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the paths of a job name."""

    entries: tuple[Entry, ...]
    """Sorted by name as UTF-8 bytes; names are unique."""
    unlisted: tuple[Unlisted, ...]
    """Dangling links, folders that may not be entered, what a catalog has wrong; sorted by name."""
    kind: str = "auto"
    zarrs: frozenset[str] = frozenset()
    """uris of the entries that are Zarr directories."""
    beside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """uris of what lies beside an entry and belongs to it, by the entry's uri."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Files that the paths reach and that are no input by their suffix, counted by it."""
    doubt: str = ""
    """Which key of the `source` block is likely misspelt, and how: no input has what it names."""
    notices: tuple[str, ...] = ()
    """What else there is to say of what the paths name, a line each."""

    def kind_of(self, entry: Entry) -> str:
        """The source that reads an entry: images, raster, video, volume or zarr.

        For `auto` by suffix; of a TIFF the header is read, and a picture is a raster where it lies
        somewhere, or has a mask, by what is beside it. Raises TransientInputError where that
        cannot be read: the kind must not depend on the state of the network.
        """
        if entry.parts and self.kind == "auto":
            return "volume" if _suffix(public(entry.uri)) in DICOM else "raster"
        suffix, beside = _suffix(entry.name), self.beside.get(entry.uri, ())
        if self.kind == "images" and suffix in TIFF and is_url(entry.uri):
            _require_no_void(beside)
        if self.kind != "auto":
            return self.kind
        if entry.uri in self.zarrs:
            return "zarr"
        if suffix in IMAGES and _is_raster(entry.name, beside):
            return "raster"
        if suffix in TIFF:
            return _kind_of_tiff(entry.uri)
        return next((kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes), "images")


def list_entries(
    paths: Sequence[str],
    kind: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
    bands: Sequence[int | str] | None = None,
) -> Listing:
    """Everything that the paths name. Paths are absolute local ones or URLs, with globs.

    A file that two paths name is one entry, under the first one's name; files of paths with `{scene}`
    and `{band}` are one entry a scene, of the `bands` that are named. Raises ValueError where two
    files would get one name or a path names nothing, TransientInputError where a remote listing
    fails.
    """
    if not paths:
        raise ValueError("source.paths is empty; name a file, a folder or a glob")
    found: dict[str, Found] = {}
    skipped: dict[str, str] = {}
    scenes = Scenes.of(paths, kind, bands)
    for order, path in enumerate(paths):
        fields = Fields.of(path, scenes.bands) if has_fields(path) else None
        listed = path if fields is None else fields.glob
        local = not is_url(path) or path.startswith("file://")
        matches = (
            local_inputs(listed.removeprefix("file://"), kind)
            if local
            else remote_inputs(listed, kind, storage_options or {})
        )
        passed: dict[str, str] = {}
        count = 0
        try:
            if fields is not None:
                files = (each for each in matches if not each.skipped and not each.zarr)
                count = scenes.take(fields, files, order)
                matches = iter(())
            for match in matches:
                if match.skipped:
                    passed[match.uri] = _suffix(match.name)
                else:
                    count += 1
                    found.setdefault(match.uri, match._replace(order=order))
        except (CorruptInputError, TransientInputError) as error:
            raise type(error)(f"{path}: {error}") from error
        if not count:
            only = Counter(passed.values())
            but = f" (only what is skipped: {counted(only)})" if only else ""
            remedy = _remedy(kind, only)
            if fields is not None and scenes.bands:
                called = ", ".join(map(str, scenes.bands))
                remedy += f", and that {{band}} is one of source.bands ({called}) there"
            raise ValueError(f"source.paths: {path} names no input{but}; {remedy}")
        skipped |= passed
    found, passed = _with_series(found, kind)
    skipped |= passed
    left = Counter(suffix for uri, suffix in skipped.items() if uri not in found)
    entries = [
        Found(entry.name, entry.uri, entry.fingerprint, parts=entry.parts, order=entry.order)
        for entry in scenes.entries()
    ]
    return _listing([*found.values(), *entries], kind, dict(sorted(left.items())))


def _with_series(found: dict[str, Found], kind: str) -> tuple[dict[str, Found], dict[str, str]]:
    """Inputs, of DICOM one a series; and by suffix what of it is no image. Raises ValueError."""
    files = [match for match in found.values() if _is_dicom(match, kind)]
    if not files:
        return found, {}
    from segengine.sources import _series  # with NumPy's linear algebra

    try:
        entries, others = _series.grouped(files)
    except TransientInputError as error:
        raise ValueError(f"source.paths: {files[0].name} is DICOM, which {error}") from error
    taken = {match.uri for match in files}
    left = {uri: match for uri, match in found.items() if uri not in taken}
    left |= {e.uri: Found(e.name, e.uri, e.fingerprint, parts=e.parts) for e in entries}
    passed = {match.uri: _suffix(match.name) for match in others}
    if not left:
        only = counted(Counter(passed.values()))
        raise ValueError(
            f"source.paths: {files[0].name} and what else is named holds no image (only what is skipped: "
            f"{only}); check the path"
        )
    return left, passed


def _is_dicom(match: Found, kind: str) -> bool:
    """Whether a file is one of DICOM: by its suffix, or where volumes are asked for whatever it is."""
    if kind not in ("auto", "volume") or match.zarr or match.reason or match.parts:
        return False
    suffix = _suffix(match.name)
    return suffix in DICOM or (kind == "volume" and suffix not in NIFTI | SLIDE | TIFF)


def mark_of(uri: str) -> str:
    """Digest of size and time of a local file and of what lies beside it, or of size and ETag of another.

    Raises CorruptInputError, TransientInputError where there is no such file.
    """
    try:
        if not is_url(uri):
            folder, base = os.path.split(uri)
            status = os.stat(uri)
            return local_file(
                base, uri, status, lambda name: os.path.exists(os.path.join(folder, name))
            ).fingerprint
        system, root = filesystem(uri)
        system.invalidate_cache()
        return remote_mark(about_of(system.info(root)))
    except Exception as error:
        raise open_failure(uri, error) from error


def counted(skipped: Mapping[str, int]) -> str:
    """How many files of which suffix, the most of them first.

    >>> counted({".txt": 3, "": 1, ".md": 1200})
    '1,200 .md, 3 .txt, 1 without a suffix'
    """
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n:,} {suffix or 'without a suffix'}" for suffix, n in ordered)


def _remedy(kind: str, only: Mapping[str, int]) -> str:
    """What to do where a path names no input: a folder holds those of known suffixes alone."""
    if kind == "auto" and ".json" in only:
        return "check the path, or set source.kind: stac where these are STAC"
    suffixes = sorted(filter(None, only), key=lambda suffix: -only[suffix])
    if kind in ("auto", *SUFFIXES) or not suffixes:
        return "check the path"
    return f"name the files of a source of your own by a glob, as *{suffixes[0]}"


def is_named(real: str, path: str) -> bool:
    """Whether a path without links is what one of `paths` names, or lies in the folder it names."""
    if is_url(path) and not path.startswith("file://"):
        return False
    fixed, parts = split_local(path.removeprefix("file://"))
    root = os.path.realpath(fixed)
    if not parts and real == root:
        return True
    inner = real.removeprefix(root.rstrip("/") + "/")
    return inner != real and (not parts or path_matches(Pattern(parts, "auto"), inner))


def names_itself(path: str, entry: Entry) -> bool:
    """Whether one of `paths` is an input's own, and no folder or pattern that reaches it."""
    if has_fields(path):
        return False
    if is_url(path) and not path.startswith("file://"):
        return public(path) == public(entry.uri) and literal(path) is not None
    fixed, parts = split_local(path.removeprefix("file://"))
    return not parts and fixed.rstrip("/") == entry.uri


def is_input(real: str, path: str, kind: str) -> bool:
    """Whether a file, by its path without links, is one that `path` finds for a kind of source."""
    if kind not in ("auto", *SUFFIXES) or not is_named(real, path):
        return False
    _, parts = split_local(path.removeprefix("file://"))
    return Pattern(parts, kind).wants(os.path.basename(real))


def _listing(found: Collection[Found], kind: str, skipped: Mapping[str, int]) -> Listing:
    entries, unlisted, names = [], [], dict[str, str]()
    for match in found:
        other = names.setdefault(match.name, match.uri)
        if other != match.uri and public(other) == public(match.uri):
            raise ValueError(
                f"source.paths: {other} is named twice, with two queries; a frame is named by its "
                "path alone"
            )
        if other != match.uri:
            raise ValueError(
                f"source.paths: {other} and {match.uri} would both be named {match.name}; "
                "use one glob over their common folder"
            )
        if match.reason:
            unlisted.append(Unlisted(match.name, match.uri, match.reason))
        else:
            entries.append(
                Entry(match.name, match.uri, match.fingerprint, match.parts, order=match.order)
            )
    return Listing(
        tuple(sorted(entries, key=_sort_key)),
        tuple(sorted(unlisted, key=_sort_key)),
        kind,
        zarrs=frozenset(match.uri for match in found if match.zarr),
        beside={match.uri: match.beside for match in found if match.beside},
        skipped=skipped,
    )


def _sort_key(item: Entry | Unlisted) -> bytes:
    return item.name.encode("utf-8", "surrogateescape")


def _is_raster(name: str, beside: Sequence[str]) -> bool:
    """Whether what lies beside a picture says where it lies, or what of it is no pixel."""
    worlds = {each.rpartition("/")[2] for each in _beside.world_files(name)}
    return any(
        _base(each) in worlds
        or _base(each).lower().endswith(".msk")
        or (each.partition("?")[0].endswith(".aux.xml") and _beside.is_telling(each))
        for each in beside
    )


def _base(uri: str) -> str:
    return public(uri).rpartition("/")[2]


def _require_no_void(beside: Sequence[str]) -> None:
    """Raise CorruptInputError for what the images source does not look for behind a URL."""
    for each in beside:
        if _base(each).endswith((".msk", ".aux.xml")):
            raise CorruptInputError(
                f"has {_base(each)} beside it, which says what of it is no pixel; "
                "read it with source.kind: raster"
            )


def _kind_of_tiff(uri: str) -> str:
    try:
        with open_input(uri) as file:
            pages = _tiff.pages(file)
    except CorruptInputError:
        return "images"  # which says what is wrong with it
    photo = all(page.plain and not page.georeferenced and page.pixels <= LARGE for page in pages)
    return "images" if photo else "raster"
