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
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import Any, NamedTuple

import xxhash

from segengine.errors import CorruptInputError, TransientInputError
from segengine.guards.schemes import filesystem
from segengine.sources import _beside, _buckets, _tiff
from segengine.sources._buckets import About
from segengine.sources._fields import Fields, Scenes, has_fields
from segengine.sources._files import is_url, is_web, open_failure, open_input
from segengine.sources._volumes import DICOM, NIFTI, SLIDE
from segengine.sources._volumes import suffix_of as _suffix
from segengine.store.keys import LAYOUTS, LOCK
from segengine.types import Entry, Part
from segengine.urls import public

_IMAGES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif",
     ".tiff", ".avif", ".heic", ".heif", ".hif")
)  # fmt: skip
_RASTER = frozenset((".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".nc"))
_VIDEO = frozenset((".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts",
                    ".m2ts", ".m2t", ".m1v", ".m2v", ".vob", ".flv", ".f4v", ".wmv", ".asf", ".ogv",
                    ".3gp", ".3g2", ".mxf", ".dv", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf",
                    ".nut", ".divx", ".rm", ".rmvb", ".y4m", ".mjpg", ".mjpeg", ".qt",
                    ".dav"))  # fmt: skip
_ZARR = frozenset((".zarr",))
_TIFF = frozenset((".tif", ".tiff"))
_VOLUME = NIFTI | DICOM | SLIDE
_SUFFIXES = {
    "images": _IMAGES, "raster": _RASTER, "video": _VIDEO, "zarr": _ZARR, "volume": _VOLUME
}  # fmt: skip
_KNOWN = frozenset().union(*_SUFFIXES.values())
_SIDECARS = frozenset((".xml", ".ovr", ".msk", ".tfw", ".tifw", ".wld", ".jgw", ".pgw", ".prj",
                       ".json", ".txt", ".md", ".csv", ".yaml", ".yml"))  # fmt: skip
_ZARR_METADATA = frozenset(("zarr.json", ".zarray", ".zgroup"))
_STORE = frozenset((LOCK, LAYOUTS))
"""What only a segengine store holds: the first before, the second as long as there are scenes."""
_MAGIC = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\[([*?\[])\]")
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
        if self.kind == "images" and suffix in _TIFF and is_url(entry.uri):
            _require_no_void(beside)
        if self.kind != "auto":
            return self.kind
        if entry.uri in self.zarrs:
            return "zarr"
        if suffix in _IMAGES and _is_raster(entry.name, beside):
            return "raster"
        if suffix in _TIFF:
            return _kind_of_tiff(entry.uri)
        return next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), "images")


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
    found: dict[str, _Found] = {}
    skipped: dict[str, str] = {}
    scenes = Scenes.of(paths, kind, bands)
    for order, path in enumerate(paths):
        fields = Fields.of(path, scenes.bands) if has_fields(path) else None
        listed = path if fields is None else fields.glob
        local = not is_url(path) or path.startswith("file://")
        matches = (
            _local(listed.removeprefix("file://"), kind)
            if local
            else _remote(listed, kind, storage_options or {})
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
        _Found(entry.name, entry.uri, entry.fingerprint, parts=entry.parts, order=entry.order)
        for entry in scenes.entries()
    ]
    return _listing([*found.values(), *entries], kind, dict(sorted(left.items())))


def _with_series(found: dict[str, _Found], kind: str) -> tuple[dict[str, _Found], dict[str, str]]:
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
    left |= {e.uri: _Found(e.name, e.uri, e.fingerprint, parts=e.parts) for e in entries}
    passed = {match.uri: _suffix(match.name) for match in others}
    if not left:
        only = counted(Counter(passed.values()))
        raise ValueError(
            f"source.paths: {files[0].name} and what else is named holds no image (only what is skipped: "
            f"{only}); check the path"
        )
    return left, passed


def _is_dicom(match: _Found, kind: str) -> bool:
    """Whether a file is one of DICOM: by its suffix, or where volumes are asked for whatever it is."""
    if kind not in ("auto", "volume") or match.zarr or match.reason or match.parts:
        return False
    suffix = _suffix(match.name)
    return suffix in DICOM or (kind == "volume" and suffix not in NIFTI | SLIDE | _TIFF)


def mark_of(uri: str) -> str:
    """Digest of size and time of a local file and of what lies beside it, or of size and ETag of another.

    Raises CorruptInputError, TransientInputError where there is no such file.
    """
    try:
        if not is_url(uri):
            folder, base = os.path.split(uri)
            status = os.stat(uri)
            return _local_file(
                base, uri, status, lambda name: os.path.exists(os.path.join(folder, name))
            ).fingerprint
        system, root = filesystem(uri)
        system.invalidate_cache()
        return _remote_mark(_about(system.info(root)))
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
    if kind in ("auto", *_SUFFIXES) or not suffixes:
        return "check the path"
    return f"name the files of a source of your own by a glob, as *{suffixes[0]}"


def is_named(real: str, path: str) -> bool:
    """Whether a path without links is what one of `paths` names, or lies in the folder it names."""
    if is_url(path) and not path.startswith("file://"):
        return False
    fixed, parts = _split_local(path.removeprefix("file://"))
    root = os.path.realpath(fixed)
    if not parts and real == root:
        return True
    inner = real.removeprefix(root.rstrip("/") + "/")
    return inner != real and (not parts or _path_matches(_Pattern(parts, "auto"), inner))


def names_itself(path: str, entry: Entry) -> bool:
    """Whether one of `paths` is an input's own, and no folder or pattern that reaches it."""
    if has_fields(path):
        return False
    if is_url(path) and not path.startswith("file://"):
        return public(path) == public(entry.uri) and not _MAGIC.search(_ESCAPED.sub("", path))
    fixed, parts = _split_local(path.removeprefix("file://"))
    return not parts and fixed.rstrip("/") == entry.uri


def is_input(real: str, path: str, kind: str) -> bool:
    """Whether a file, by its path without links, is one that `path` finds for a kind of source."""
    if kind not in ("auto", *_SUFFIXES) or not is_named(real, path):
        return False
    _, parts = _split_local(path.removeprefix("file://"))
    return _Pattern(parts, kind).wants(os.path.basename(real))


class _Found(NamedTuple):
    name: str
    uri: str
    fingerprint: str
    zarr: bool = False
    reason: str = ""
    beside: tuple[str, ...] = ()
    skipped: bool = False
    """Reached, and no input by its suffix."""
    parts: tuple[Part, ...] = ()
    """Of a scene of several files."""
    order: int = 0
    """Which of the paths names it."""


def _listing(found: Collection[_Found], kind: str, skipped: Mapping[str, int]) -> Listing:
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


def _fingerprint(*parts: object) -> str:
    return xxhash.xxh3_64_hexdigest(repr(parts).encode("utf-8", "surrogateescape"))


# Patterns


@dataclass(frozen=True, slots=True)
class _Pattern:
    """The components below the fixed part; none: a folder, everything below it."""

    parts: tuple[str, ...]
    kind: str

    def wants(
        self, name: str, *, directory: bool = False, beside: Collection[str] = frozenset()
    ) -> bool:
        """Whether a file name that the pattern matches is an input; `beside`: names around it."""
        suffix = _suffix(name)
        if not self.parts:
            if self.kind == "raster" and suffix in _IMAGES - _RASTER:
                return any(world in beside for world in _beside.world_files(name))
            bare = not suffix or suffix[1:].isdigit()
            if self.kind == "volume" and bare and not directory:
                return True  # as scanners name DICOM: IM000001, 1.2.840.113619.2
            return suffix in (_KNOWN if self.kind == "auto" else _SUFFIXES.get(self.kind, _KNOWN))
        if directory:
            return suffix in _KNOWN
        return suffix not in _SIDECARS or self.parts[-1].lower().endswith(suffix)

    @property
    def deep(self) -> bool:
        """Whether it reaches any depth."""
        return not self.parts or "**" in self.parts

    def below(self, directory: str) -> list[_Pattern]:
        """The patterns that hold inside a sub-directory."""
        if not self.parts:
            return [] if directory.startswith(".") else [self]
        first, *rest = self.parts
        if first == "**":
            inner = _Pattern(tuple(rest), self.kind).below(directory) if rest else []
            return [self, *inner] if not directory.startswith(".") else inner
        return [_Pattern(tuple(rest), self.kind)] if rest and _matches(first, directory) else []

    def matches(self, name: str) -> bool:
        """Whether a name in this very directory matches."""
        if not self.parts:
            return not name.startswith(".")
        if self.parts[0] == "**":
            rest = self.parts[1:]
            return _Pattern(rest, self.kind).matches(name) if rest else not name.startswith(".")
        return len(self.parts) == 1 and _matches(self.parts[0], name)


def _matches(part: str, name: str) -> bool:
    hidden = name.startswith(".") and not part.startswith(".")
    return not hidden and _compiled(part).match(name) is not None


@lru_cache(64)
def _compiled(part: str) -> re.Pattern[str]:
    return re.compile(translate(part))


def _literal(part: str) -> str | None:
    """A component without glob characters, `glob.escape` undone; None: it is a pattern."""
    return None if _MAGIC.search(_ESCAPED.sub("", part)) else _ESCAPED.sub(r"\1", part)


# Local files


def _local(path: str, kind: str) -> Iterator[_Found]:
    fixed, parts = _split_local(path)
    if parts:
        yield from _Scan(fixed).run([_Pattern(parts, kind)])
        return
    name = os.path.basename(fixed.rstrip("/"))
    try:
        status = os.stat(fixed)
    except FileNotFoundError:
        if os.path.islink(fixed):
            yield _Found(name, fixed, "", reason="dangling symbolic link")
        return
    except OSError as error:
        yield _Found(name, fixed, "", reason=str(open_failure(fixed, error)))
        return
    if not os.path.isdir(fixed):
        folder = os.path.dirname(fixed)
        yield _local_file(name, fixed, status, lambda n: os.path.exists(os.path.join(folder, n)))
    elif _suffix(name) in _ZARR or any(os.path.exists(f"{fixed}/{m}") for m in _ZARR_METADATA):
        yield _Found(name, fixed.rstrip("/"), _zarr_fingerprint(fixed), zarr=True)
    else:
        yield from _Scan(fixed.rstrip("/") or "/").run([_Pattern((), kind)])


def _local_file(
    name: str, path: str, status: os.stat_result, exists: Callable[[str], bool]
) -> _Found:
    """An input, with the marks of all that it is made of."""
    own = status.st_size, status.st_mtime_ns
    if _suffix(name) in _VIDEO:
        return _Found(name, path, _fingerprint(*own))
    folder, base = os.path.split(path)
    beside = tuple(
        os.path.join(folder, each)
        for each in _beside.companions(base, exists)
        if _beside.is_metadata(os.path.join(folder, each))
    )
    parts = [_local_mark(each, os.path.basename(each)) for each in beside]
    if _suffix(name) == ".vrt":
        for source in _beside.named_by(path):
            start = os.path.dirname(source)
            parts.append(_local_mark(source, os.path.relpath(source, folder)))
            around = (".aux.xml", ".msk", ".ovr")
            parts += [
                _local_mark(each, os.path.relpath(each, folder))
                for each in (os.path.join(start, os.path.basename(source) + a) for a in around)
                if os.path.exists(each)
            ]
    return _Found(name, path, _fingerprint(*own, *parts), beside=beside)


def _local_mark(path: str, name: str) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        return name, error.errno
    return name, status.st_size, status.st_mtime_ns


def _split_local(path: str) -> tuple[str, tuple[str, ...]]:
    """(fixed part, pattern components)."""
    parts = path.split("/")
    fixed = parts[0]
    for i, part in enumerate(parts[1:], 1):
        literal = _literal(part)
        if literal is None and not set("*?") & set(part) and os.path.lexists(f"{fixed}/{part}"):
            literal = part
        if literal is None:
            return fixed or "/", tuple(part for part in parts[i:] if part)
        if literal or i == 1:
            fixed = f"{fixed}/{literal}"
    return fixed, ()


@dataclass(frozen=True, slots=True)
class _Scan:
    """One pass over a tree; each directory is listed once."""

    root: str

    def run(self, patterns: list[_Pattern]) -> Iterator[_Found]:
        real = os.path.realpath(self.root)
        try:
            status = os.stat(real)
        except OSError:
            return
        here = frozenset({(status.st_dev, status.st_ino)})
        yield from self._scan(self.root.rstrip("/"), "", patterns, _Way(here, (real,)))

    def _scan(
        self, folder: str, prefix: str, patterns: list[_Pattern], way: _Way
    ) -> Iterator[_Found]:
        try:
            with os.scandir(folder or "/") as items:
                children = list(items)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            yield _Found(prefix or "./", folder, "", reason=str(open_failure(folder, error)))
            return
        beside = _beside.candidates(child.name for child in children)
        inputs: list[str] = []
        others: list[os.DirEntry[str]] = []
        for child in children:
            try:
                directory = child.is_dir()
            except OSError:
                directory = False  # a loop of links: `stat` below says so
            if directory:
                yield from self._directory(child, prefix, patterns, way)
                continue
            matching = [pattern for pattern in patterns if pattern.matches(child.name)]
            if any(pattern.wants(child.name, beside=beside) for pattern in matching):
                inputs.append(child.name)
                yield self._file(child, prefix, beside)
            elif matching:
                others.append(child)
        of_inputs: set[str] = set()
        if beside and others:
            of_inputs.update(*(_beside.companions(n, beside.__contains__) for n in inputs))
        for child in others:
            if child.name not in of_inputs:
                yield _Found(prefix + child.name, child.path, "", skipped=True)

    def _file(self, child: os.DirEntry[str], prefix: str, beside: frozenset[str]) -> _Found:
        try:
            status = child.stat()
        except OSError as error:
            reason = str(open_failure(child.path, error))
            return _Found(prefix + child.name, child.path, "", reason=reason)
        if not beside and _suffix(child.name) != ".vrt":  # as of most folders of photos
            mark = _fingerprint(status.st_size, status.st_mtime_ns)
            return _Found(prefix + child.name, child.path, mark)
        return _local_file(prefix + child.name, child.path, status, beside.__contains__)

    def _directory(
        self,
        child: os.DirEntry[str],
        prefix: str,
        patterns: list[_Pattern],
        way: _Way,
    ) -> Iterator[_Found]:
        name, path = child.name, child.path
        inside = [pattern for outer in patterns for pattern in outer.below(name)]
        matching = [pattern for pattern in patterns if pattern.matches(name)]
        if not inside and not matching:
            return
        if _suffix(name) in _ZARR or any(os.path.exists(f"{path}/{m}") for m in _ZARR_METADATA):
            if any(os.path.exists(f"{path}/{mark}") for mark in _STORE):
                return
            if any(pattern.kind in ("auto", "zarr") or pattern.parts for pattern in matching):
                yield _Found(prefix + name, path, _zarr_fingerprint(path), zarr=True)
                return
            if matching:
                return  # a folder is searched for photos: what is in an array is none
        elif any(pattern.wants(name, directory=True) for pattern in matching):
            status = child.stat()
            yield _Found(prefix + name, path, _fingerprint(status.st_size, status.st_mtime_ns))
            return
        if inside:
            status = child.stat()
            here = (status.st_dev, status.st_ino)
            if here in way.above:
                return  # a link to a folder it lies in
            roots = way.roots
            if child.is_symlink():
                real = os.path.realpath(path)
                if any(p.deep for p in inside) and way.reaches(real):
                    return  # what it leads to is listed under its own name
                roots = (*roots, real)
            yield from self._scan(path, f"{prefix}{name}/", inside, _Way(way.above | {here}, roots))


@dataclass(frozen=True, slots=True)
class _Way:
    """How a scan came to a folder."""

    above: frozenset[tuple[int, int]]
    """Device and inode of the folder and of those that it lies in."""
    roots: tuple[str, ...]
    """Where the scan began and what links led to, without links."""

    def reaches(self, real: str) -> bool:
        """Whether a scan of any depth comes to a folder without this link."""
        for root in self.roots:
            inner = real.removeprefix(root.rstrip("/") + "/")
            if inner != real and not any(part.startswith(".") for part in inner.split("/")):
                return True
        return False


def _zarr_fingerprint(folder: str) -> str:
    """Digest of the names, sizes and times of everything in a Zarr directory."""
    digest, pending = xxhash.xxh3_64(), [folder]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as items:
                children = sorted(items, key=lambda child: child.name)
            for child in children:
                if child.is_dir():
                    pending.append(child.path)
                    continue
                status = child.stat()
                line = f"{child.path[len(folder) :]}\0{status.st_size}\0{status.st_mtime_ns}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        except OSError as error:
            digest.update(
                f"{current[len(folder) :]}\0{error.errno}\n".encode("utf-8", "surrogateescape")
            )
    return digest.hexdigest()


# Object stores and web servers


def _remote(url: str, kind: str, options: Mapping[str, Any]) -> Iterator[_Found]:
    scheme = url.partition("://")[0]
    web = is_web(url)
    # In a web address `?` starts the query: it goes with a file, and never with a glob.
    path, mark, query = url.partition("?") if web else (url, "", "")
    parts = path.split("/")
    first = next(
        (i for i, part in enumerate(parts) if i > 2 and _MAGIC.search(_ESCAPED.sub("", part))),
        len(parts),
    )
    fixed = "/".join(_ESCAPED.sub(r"\1", part) for part in parts[:first]).rstrip("/")
    pattern = _Pattern(tuple(part for part in parts[first:] if part), kind)
    if pattern.parts and mark:
        raise ValueError(f"source.paths: {url}: a glob takes no query; name the files themselves")
    fixed += mark + query
    try:
        system, root = filesystem(fixed, **options)
    except (ValueError, ImportError) as error:
        raise ValueError(f"source.paths: {scheme}:// cannot be read: {error}") from error
    except Exception as error:
        raise open_failure(fixed, error) from error
    try:
        system.invalidate_cache()
        if not pattern.parts:
            single = _remote_file(system, root, fixed)
            if single is not None:
                yield single
                return
        depth = None if pattern.deep else len(pattern.parts)
        details = _buckets.listed(system, root.rstrip("/"), depth)
        if details is None:
            there = system.find(root, maxdepth=depth, withdirs=True, detail=True)
            details = {
                path: None if info["type"] == "directory" else _about(info)
                for path, info in there.items()
            }
    except FileNotFoundError:
        return
    except Exception as error:
        raise open_failure(fixed, error) from error
    yield from _tree(system, root.rstrip("/"), fixed, pattern, details)


def _remote_file(system: Any, root: str, url: str) -> _Found | None:
    """A URL that names an object; None: a prefix, or nothing."""
    name = public(url).rstrip("/").rpartition("/")[2]
    try:
        info = system.info(root)
    except FileNotFoundError:
        return None
    if info["type"] == "directory":
        # A bucket of a million objects is listed once, and not to learn that it is no array.
        if _suffix(name) in _ZARR or any(_info(system, f"{root}/{m}") for m in _ZARR_METADATA):
            found = system.find(root, detail=True)
            return _Found(name, url, _remote_zarr_fingerprint(root, found), zarr=True)
        return None
    return _remote_found(name, url, _about(info), root, lambda path: _about_of(system, path))


def _about_of(system: Any, path: str) -> About | None:
    info = _info(system, path)
    return None if info is None else _about(info)


def _info(system: Any, path: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = system.info(path)
    except FileNotFoundError:
        return None
    return found


def _remote_found(
    name: str,
    url: str,
    about: About,
    path: str,
    find: Callable[[str], About | None],
) -> _Found:
    """An input, with the marks of all that it is made of; `find`: an object by its path, or None."""
    queried = is_web(url) and "?" in url
    # A query may be a signature, which opens this object and no other.
    wanted = _beside.remote_companions(path) if not queried and _suffix(name) in _RASTER else []
    found = {each: told for each in wanted if (told := find(each)) is not None}
    if not found:
        return _Found(name, url, _remote_mark(about))
    stem = url.removesuffix(path.rpartition("/")[2])
    beside = tuple(stem + each.rpartition("/")[2] for each in found)
    marks = [(each.rpartition("/")[2], _remote_mark(told)) for each, told in found.items()]
    return _Found(name, url, _remote_mark(about, *marks), beside=beside)


def _tree(
    system: Any, root: str, url: str, pattern: _Pattern, details: dict[str, About | None]
) -> Iterator[_Found]:
    """The entries among everything below a prefix, of which `details` loses them; folders (None) may be
    among it."""
    arrays = {
        path.rpartition("/")[0] for path in details if path.rpartition("/")[2] in _ZARR_METADATA
    }
    arrays |= {path.rstrip("/") for path in details if _suffix(path) in _ZARR}
    arrays |= {path for path in _folders(root, details) if _suffix(path) in _ZARR}
    web = is_web(url)
    seen = set[str]()
    for path in list(details):
        # An input lies beside no other: of a million, what is told of each is held once.
        known = _suffix(path) in _KNOWN
        about = details.pop(path) if known else details[path]
        name, mark, query = path[len(root) :].strip("/"), "", ""
        if web:  # a page may link to what its query opens
            name, mark, query = name.partition("?")
        if not name:
            continue
        array = _inside(root, name, arrays) if arrays else None
        inner = name if array is None else array[len(root) + 1 :]
        if inner in seen or not _path_matches(pattern, inner):
            continue
        if array is not None:
            if pattern.parts or pattern.kind in ("auto", "zarr"):
                seen.add(inner)
                inside = system.find(array, detail=True)
                if _is_store(array, inside):
                    continue
                mark = _remote_zarr_fingerprint(array, inside)
                yield _Found(inner, f"{url}/{inner}", mark, zarr=True)
        elif about is not None:
            uri = f"{url}/{name}{mark}{query}"
            if pattern.wants(name.rpartition("/")[2]):
                yield _remote_found(name, uri, about, path, details.get)
            else:
                yield _Found(name, uri, "", skipped=True)


def _folders(root: str, paths: Iterable[str]) -> set[str]:
    """All folders below a root that something lies in."""
    found = set[str]()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder not in found and len(folder) > len(root):
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _inside(root: str, name: str, arrays: Collection[str]) -> str | None:
    """The outermost array that a name below a root is, or lies in."""
    parts = name.split("/")
    parents = (f"{root}/{'/'.join(parts[: i + 1])}" for i in range(len(parts)))
    return next((parent for parent in parents if parent in arrays), None)


def _is_store(root: str, found: Collection[str]) -> bool:
    return any(f"{path}/".startswith(f"{root}/{mark}/") for path in found for mark in _STORE)


def _path_matches(pattern: _Pattern, name: str) -> bool:
    *folders, last = name.split("/")
    patterns = [pattern]
    for folder in folders:
        patterns = [inner for outer in patterns for inner in outer.below(folder)]
    return any(inner.matches(last) for inner in patterns)


def _remote_mark(about: About, *more: object) -> str:
    """Digest of size and ETag, or of the time of change where there is no ETag."""
    return _fingerprint(about.size, about.changed, *more)


def _about(info: Mapping[str, Any]) -> About:
    """What fsspec says of an object."""
    keys = {key.lower(): value for key, value in info.items()}
    mark = keys.get("etag") or keys.get("last-modified") or keys.get("lastmodified")
    changed = str(mark or keys.get("mtime") or keys.get("updated"))
    return About(keys.get("size"), changed)


def _remote_zarr_fingerprint(root: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    marks = [
        (path[len(root) :], _remote_mark(_about(info))) for path, info in sorted(found.items())
    ]
    return _fingerprint(*marks)


# A picture: a photo, or a raster?


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
