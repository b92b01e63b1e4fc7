"""Inputs in folders: one pass over a tree, and the marks of what an input is made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import xxhash

from segengine.sources import _beside
from segengine.sources._files import open_failure
from segengine.sources._found import Found, fingerprint_of
from segengine.sources._patterns import Pattern, split_local
from segengine.sources._suffixes import STORE, VIDEO, ZARR, ZARR_METADATA
from segengine.sources._volumes import suffix_of as _suffix


def local_inputs(path: str, kind: str) -> Iterator[Found]:
    """What a path finds: a file, an array, or a tree's files that a pattern matches."""
    fixed, parts = split_local(path)
    if parts:
        yield from _Scan(fixed).run([Pattern(parts, kind)])
        return
    name = os.path.basename(fixed.rstrip("/"))
    try:
        status = os.stat(fixed)
    except FileNotFoundError:
        if os.path.islink(fixed):
            yield Found(name, fixed, "", reason="dangling symbolic link")
        return
    except OSError as error:
        yield Found(name, fixed, "", reason=str(open_failure(fixed, error)))
        return
    if not os.path.isdir(fixed):
        folder = os.path.dirname(fixed)
        yield local_file(name, fixed, status, lambda n: os.path.exists(os.path.join(folder, n)))
    elif _suffix(name) in ZARR or any(os.path.exists(f"{fixed}/{m}") for m in ZARR_METADATA):
        yield Found(name, fixed.rstrip("/"), _zarr_fingerprint(fixed), zarr=True)
    else:
        yield from _Scan(fixed.rstrip("/") or "/").run([Pattern((), kind)])


def local_file(
    name: str, path: str, status: os.stat_result, exists: Callable[[str], bool]
) -> Found:
    """An input, with the marks of all that it is made of."""
    own = status.st_size, status.st_mtime_ns
    if _suffix(name) in VIDEO:
        return Found(name, path, fingerprint_of(*own))
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
    return Found(name, path, fingerprint_of(*own, *parts), beside=beside)


def _local_mark(path: str, name: str) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        return name, error.errno
    return name, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class _Scan:
    """One pass over a tree; each directory is listed once."""

    root: str

    def run(self, patterns: list[Pattern]) -> Iterator[Found]:
        real = os.path.realpath(self.root)
        try:
            status = os.stat(real)
        except OSError:
            return
        here = frozenset({(status.st_dev, status.st_ino)})
        yield from self._scan(self.root.rstrip("/"), "", patterns, _Way(here, (real,)))

    def _scan(
        self, folder: str, prefix: str, patterns: list[Pattern], way: _Way
    ) -> Iterator[Found]:
        try:
            with os.scandir(folder or "/") as items:
                children = list(items)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            yield Found(prefix or "./", folder, "", reason=str(open_failure(folder, error)))
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
                yield Found(prefix + child.name, child.path, "", skipped=True)

    def _file(self, child: os.DirEntry[str], prefix: str, beside: frozenset[str]) -> Found:
        try:
            status = child.stat()
        except OSError as error:
            reason = str(open_failure(child.path, error))
            return Found(prefix + child.name, child.path, "", reason=reason)
        if not beside and _suffix(child.name) != ".vrt":  # as of most folders of photos
            mark = fingerprint_of(status.st_size, status.st_mtime_ns)
            return Found(prefix + child.name, child.path, mark)
        return local_file(prefix + child.name, child.path, status, beside.__contains__)

    def _directory(
        self,
        child: os.DirEntry[str],
        prefix: str,
        patterns: list[Pattern],
        way: _Way,
    ) -> Iterator[Found]:
        name, path = child.name, child.path
        inside = [pattern for outer in patterns for pattern in outer.below(name)]
        matching = [pattern for pattern in patterns if pattern.matches(name)]
        if not inside and not matching:
            return
        if _suffix(name) in ZARR or any(os.path.exists(f"{path}/{m}") for m in ZARR_METADATA):
            if any(os.path.exists(f"{path}/{mark}") for mark in STORE):
                return
            if any(pattern.kind in ("auto", "zarr") or pattern.parts for pattern in matching):
                yield Found(prefix + name, path, _zarr_fingerprint(path), zarr=True)
                return
            if matching:
                return  # a folder is searched for photos: what is in an array is none
        elif any(pattern.wants(name, directory=True) for pattern in matching):
            status = child.stat()
            yield Found(prefix + name, path, fingerprint_of(status.st_size, status.st_mtime_ns))
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
