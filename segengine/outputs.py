"""What a command writes for a user: never over an input of the store, nor over others' files unasked.

An exported file carries its bytes and their digest in an extended attribute, which goes where the
file goes. What has none, or other bytes, was not written by an export, or was changed since. Where a
file system has no such attributes, a file `.segengine-export` in the folder says the same:

    ["sub/photo.png", 1234, "9f0c..."]         a file's path in the folder, its bytes, their digest

Either is there before the file takes its name, so that a kill in between loses nothing.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from segengine import asked
from segengine.errors import JobError, SegengineError, StoreError
from segengine.job import TruthSpec
from segengine.measuring.paths import candidates, ids_of
from segengine.reader import Store
from segengine.sources.listing import is_input, is_named
from segengine.store.layouts import load_outside, load_unplaced
from segengine.store.local import LocalObjects

ATTRIBUTE = "user.segengine.export"
LEDGER = ".segengine-export"
_VRT_SOURCE = re.compile(r"<Source(?:Filename|Dataset)\b([^>]*)>([^<]+)<")
_SIDECARS = (".aux.xml", ".msk", ".ovr")
_WORLD_FILES = (".tfw", ".wld", ".jgw", ".pgw", ".aux.xml", ".prj")
_MOST = 1 << 24
"""Characters of a VRT that are looked through."""
Mark = tuple[int, str]
"""Bytes of a file, and their digest."""


class TakenError(JobError):
    """A file is there that is not, or no more, as one of our commands wrote it."""


class Inputs:
    """The files that a store was made from, as far as they lie on this machine."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._resolved: dict[str, str] = {}

    def check(self, path: Path, *, own: bool = False) -> None:
        """Raise JobError where writing `path` would replace an input, or an object of the store.

        Links count as what they lead to, and a second name of a file as the file. `own`: an export
        wrote what is there.
        """
        real, objects = self._real(path), self._store.objects.base
        if isinstance(objects, LocalObjects) and _lies_in(real, os.path.realpath(objects.root)):
            raise JobError(f"{path}: lies in the store itself; name another place")
        taken = real in self._paths or any(_lies_in(real, folder) for folder in self._folders)
        with suppress(OSError):
            info = os.stat(path)
            taken = taken or (info.st_dev, info.st_ino) in self._nodes
            taken = taken or (not own and any(_lies_in(real, shelf) for shelf in self._shelves))
        if taken:
            raise JobError(f"{path}: is an input of the store; name another place")

    def _real(self, path: Path) -> str:
        if path.is_symlink():
            return os.path.realpath(path)
        folder = os.fspath(path.parent)
        if folder not in self._resolved:
            self._resolved[folder] = os.path.realpath(folder)
        return os.path.join(self._resolved[folder], path.name)

    @cached_property
    def _paths(self) -> frozenset[str]:
        """Real paths of inputs, whether they are there now or not."""
        local = (path for path in self._listed() if "://" not in path and "\0" not in path)
        return frozenset(map(os.path.realpath, local))

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        """Those that are folders, all of which is one input: a Zarr array, a model."""
        return tuple(sorted(path for path in self._paths if os.path.isdir(path)))

    @cached_property
    def _shelves(self) -> tuple[str, ...]:
        """Folders of public data sets, whose annotations the job does not name one by one."""
        if not _is_data_set(self._store.job["source"]):
            return ()
        found = {
            uri.removesuffix(f"/{name}")  # its frames are named by their paths below its root
            for scene in self._store.scenes.values()
            for name, uri in zip(scene.layout.names, scene.layout.uris, strict=True)
            if name
        }
        return tuple(sorted(os.path.realpath(root) for root in found if "://" not in root))

    @cached_property
    def _nodes(self) -> frozenset[tuple[int, int]]:
        """Device and inode of each input that is there."""
        found = set()
        for path in self._paths:
            with suppress(OSError):
                info = os.stat(path)
                found.add((info.st_dev, info.st_ino))
        return frozenset(found)

    def _listed(self) -> Iterator[str]:
        store = self._store
        for unplaced in (*load_unplaced(store.objects), *load_outside(store.objects)):
            yield from _with_parts(unplaced.uri)
        for scene in store.scenes.values():
            for uri in scene.layout.files:
                yield from _with_parts(uri)
        yield from self._truths()
        job = store.job
        yield from _named(job["source"], os.path.isfile)
        for block in ("segmenter", "evaluate"):
            yield from _named(job.get(block), os.path.exists)

    def _truths(self) -> Iterator[str]:
        """Where the label image of each frame lies, or would."""
        measured = json.loads(self._store.metrics.get("truth") or "{}")
        for block in (self._store.job.get("truth"), measured.get("truth")):
            if block:
                spec = TruthSpec.model_validate(block)
                for name, scene in self._store.scenes.items():
                    for ref in scene.frames:
                        yield from (*candidates(spec, ref, name), *ids_of(spec, ref, name))


class Output:
    """A folder that files are exported to."""

    def __init__(self, folder: Path, own: dict[str, set[Mark]]) -> None:
        self.folder, self._own = folder, own
        self._new: dict[str, Mark] = {}

    def is_own(self, path: Path) -> bool:
        """Whether a file is as an export wrote it."""
        if path.is_symlink():
            return False
        known = self._own.get(self._name(path), set()) | _tags(path)
        try:
            return bool(known) and _mark(path) in known
        except OSError:
            return False

    @contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """A file to write that takes its place only when it is whole. Raises StoreError."""
        with replacing(path) as partial:
            yield partial
            mark = _mark(partial)
            if not _tag(partial, mark):
                self._note(self._name(path), mark)

    def close(self) -> None:
        """Keep one line of each file that was written now; no list where there is nothing to list."""
        if not self._own:
            return
        kept = {
            name: {self._new[name]} if name in self._new else marks
            for name, marks in self._own.items()
            if (self.folder / name).exists()
        }
        with replacing(self.folder / LEDGER) as partial:
            partial.write_bytes(
                b"".join(_line(name, mark) for name in sorted(kept) for mark in sorted(kept[name]))
            )

    def _note(self, name: str, mark: Mark) -> None:
        self._new[name] = mark
        if mark not in self._own.setdefault(name, set()):
            with (self.folder / LEDGER).open("ab") as file:
                file.write(b"\n" + _line(name, mark))  # the last line may be torn
            self._own[name].add(mark)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def claimed(store: Store, to: str, paths: Iterable[Path], *, overwrite: bool) -> Output:
    """The folder `to`, made if it is not there, when all of `paths` below it may be written.

    Raises JobError, before anything is written, for an input or an object of the store, and without
    `overwrite` for a file that no export wrote.
    """
    if "://" in to:
        raise JobError(f"--out {to}: exports go to a local folder; copy it from there")
    folder, inputs = Path(to), Inputs(store)
    inputs.check(folder / LEDGER)
    output = Output(folder, _read(folder / LEDGER))
    for path in paths:
        there = os.path.lexists(path) and not path.is_dir()
        own = there and output.is_own(path)
        inputs.check(path, own=own)
        if there and not own and not overwrite:
            raise TakenError(
                f"{path}: is there, and not as an export wrote it; add --overwrite, or name another "
                "folder with --out"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"--out {to}: cannot be made a folder: {error.strerror}") from error
    return output


def placed(folder: Path, made: Path, *, overwrite: bool) -> None:
    """Put all files below `made` at the same places below `folder`; what is there already stays.

    Raises JobError, before anything is written, without `overwrite` for a file that we did not write.
    """
    output = Output(folder, _read(folder / LEDGER))
    todo = []
    for file in sorted(path for path in made.rglob("*") if path.is_file()):
        path = folder / file.relative_to(made)
        own = output.is_own(path)
        if own and _mark(path) == _mark(file):
            continue
        if os.path.lexists(path) and not own and not overwrite:
            raise JobError(
                f"{path}: is there, and not as this command wrote it; add --overwrite, or name "
                "another folder with --out"
            )
        todo.append((file, path))
    for file, path in todo:
        with output.replacing(path) as partial:
            shutil.copyfile(file, partial)
    output.close()


def taken_up(store: Store, written: Iterable[str]) -> tuple[int, str]:
    """How many exported files the store's next run would find as inputs, and by which path."""
    source, kind = store.job["source"], store.job["source"]["kind"]
    files = [os.path.realpath(file) for file in written]
    for path in source["paths"]:
        found = sum(_documents(files, path) if kind == "stac" else _inputs(files, path, kind))
        if found:
            return found, path
    return 0, ""


def _inputs(files: Iterable[str], path: str, kind: str) -> Iterator[bool]:
    return (is_input(file, path, kind) for file in files)


def _documents(files: Iterable[str], path: str) -> Iterator[bool]:
    """Which of them STAC's source would read, unless it is named a catalog or an item itself."""
    from segengine.sources._stac_walk import looked_for

    pattern = looked_for(path)
    return (bool(pattern) and is_named(file, pattern) for file in files)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes its place only when it is whole. Raises StoreError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # never through a link that has this name
        yield partial
        partial.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _with_parts(uri: str) -> Iterator[str]:
    """A file, and those that a raster is made of besides: sidecars, a VRT's sources."""
    todo, seen = [uri], set()
    while todo:
        path = todo.pop()
        if path in seen or "://" in path:
            continue
        seen.add(path)
        yield path
        yield from (path + suffix for suffix in _SIDECARS)
        yield from (os.path.splitext(path)[0] + suffix for suffix in _WORLD_FILES)
        if path.lower().endswith(".vrt"):
            todo += _vrt_sources(path)


def _vrt_sources(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MOST)
    except OSError:
        return []
    folder = os.path.dirname(path)
    # without `relativeToVRT` GDAL takes a path as it stands; one that is not absolute, from anywhere
    return [os.path.join(folder, html.unescape(m[2]).strip()) for m in _VRT_SOURCE.finditer(text)]


def _is_data_set(source: dict[str, Any]) -> bool:
    """True where annotations lie in files that the job does not name one by one."""
    kind = source.get("kind", "auto")
    try:
        return asked.has_truth(kind)
    except SegengineError:
        return False


def _named(block: Any, counts: Callable[[str], bool]) -> Iterator[str]:
    """Absolute paths in a block of the job, of those that count."""
    if isinstance(block, dict):
        block = list(block.values())
    if isinstance(block, list | tuple):
        for value in block:
            yield from _named(value, counts)
    elif isinstance(block, str) and os.path.isabs(block) and "\0" not in block and counts(block):
        yield block


def _mark(path: Path) -> Mark:
    """Bytes of a file and their digest."""
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _tag(path: Path, mark: Mark) -> bool:
    """Let a file say that an export wrote it; False where the file system cannot."""
    try:
        os.setxattr(path, ATTRIBUTE, json.dumps(mark).encode())
    except (OSError, AttributeError):  # AttributeError: Python has it on Linux only
        return False
    return True


def _tags(path: Path) -> set[Mark]:
    """What a file says of itself."""
    try:
        size, digest = json.loads(os.getxattr(path, ATTRIBUTE))
    except (OSError, AttributeError, ValueError, TypeError):
        return set()
    return {(size, digest)}


def _line(name: str, mark: Mark) -> bytes:
    return json.dumps([name, *mark]).encode() + b"\n"


def _read(path: Path) -> dict[str, set[Mark]]:
    """What a folder's list says; a line that a kill or a hand has torn says nothing."""
    found: dict[str, set[Mark]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return found
    for line in lines:
        with suppress(ValueError, TypeError):
            name, size, digest = json.loads(line)
            found.setdefault(name, set()).add((size, digest))
    return found
