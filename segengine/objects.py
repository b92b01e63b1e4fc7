"""Whole objects in a folder or an object store: read, write atomically, create once, list, delete.

Everything segengine stores goes through here, so a reader never sees half an object. A local write
goes to `work/tmp` of the store first and is renamed into place; nothing else is ever left behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from segengine.errors import StoreError

TMP = "work/tmp"
_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Objects(Protocol):
    """A flat space of objects; keys use `/`. Small and picklable."""

    @property
    def root(self) -> str: ...
    def get(self, key: str) -> bytes | None:
        """The object, or None where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """True where there is such an object."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace, atomically."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write only if there is no such object; False if there is one."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it is there."""
        ...

    def delete_tree(self, prefix: str) -> None:
        """Delete every object below a prefix."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys of all objects below a prefix, in no order."""
        ...

    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        """Names (folders, objects) right below a prefix, each sorted."""
        ...


def open_objects(path: str) -> Objects:
    """The objects below a local folder or a URL."""
    match = _URL.match(path)
    if match is None:
        return LocalObjects(path)
    if match[1].lower() == "file":
        return LocalObjects(path[len("file://") :])
    return RemoteObjects(path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class LocalObjects:
    """Objects as files below a folder."""

    root: str

    def get(self, key: str) -> bytes | None:
        try:
            return Path(self.root, key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def exists(self, key: str) -> bool:
        return os.path.isfile(os.path.join(self.root, key))

    def put(self, key: str, data: bytes) -> None:
        part = self._write_part(data)
        try:
            self._rename(part, os.path.join(self.root, key))
        except BaseException:
            _unlink(part)
            raise

    def create(self, key: str, data: bytes) -> bool:
        part = self._write_part(data)
        target = os.path.join(self.root, key)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            # A hard link fails where the name exists, and the name never points to half an object.
            os.link(part, target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return self._create_in_place(target, data)
        finally:
            _unlink(part)
        return True

    def _create_in_place(self, target: str, data: bytes) -> bool:
        try:
            with open(target, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def delete(self, key: str) -> None:
        _unlink(os.path.join(self.root, key))

    def delete_tree(self, prefix: str) -> None:
        import shutil

        shutil.rmtree(os.path.join(self.root, prefix), ignore_errors=True)

    def keys(self, prefix: str) -> Iterator[str]:
        for folder, _, files in os.walk(os.path.join(self.root, prefix)):
            base = os.path.relpath(folder, self.root).replace(os.sep, "/")
            for name in files:
                yield f"{base}/{name}" if base != "." else name

    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(os.path.join(self.root, prefix)) as found:
                for item in found:
                    (folders if item.is_dir() else files).append(item.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        return sorted(folders), sorted(files)

    def _write_part(self, data: bytes) -> str:
        part = os.path.join(self.root, TMP, uuid.uuid4().hex)
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(part), exist_ok=True)
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
        except BaseException:
            _unlink(part)
            raise
        return part

    def _rename(self, part: str, target: str) -> None:
        try:
            os.replace(part, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(part, target)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def zarr_store(path: str) -> Any:
    """What zarr-python opens a local path or a URL with, for reading.

    A URL shares the client that everything else here uses; `FsspecStore.from_url` would make a
    second one, which nobody ever closes.
    """
    if "://" not in path:
        return path
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    filesystem, inner = _filesystem(path, os.getpid())
    wrapped = AsyncFileSystemWrapper(filesystem, asynchronous=True)
    return FsspecStore(wrapped, read_only=True, path=inner)


@lru_cache(maxsize=16)
def _filesystem(url: str, pid: int) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, once a process: its event loop does not survive a fork."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{url}: {error}") from error
    return filesystem, str(path)


@dataclass(frozen=True, slots=True)
class RemoteObjects:
    """Objects below a URL, through fsspec. A put of an object store is atomic by nature."""

    root: str

    def get(self, key: str) -> bytes | None:
        filesystem, path = self._at(key)
        try:
            return bytes(filesystem.cat_file(path))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def exists(self, key: str) -> bool:
        filesystem, path = self._at(key)
        return bool(filesystem.exists(path))

    def put(self, key: str, data: bytes) -> None:
        filesystem, path = self._at(key)
        filesystem.pipe_file(path, bytes(data))

    def create(self, key: str, data: bytes) -> bool:
        filesystem, path = self._at(key)
        try:
            # s3fs and gcsfs send `If-None-Match: *`.
            filesystem.pipe_file(path, bytes(data), mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if "PreconditionFailed" in str(error) or "ConditionalRequestConflict" in str(error):
                return False
            raise
        return True

    def delete(self, key: str) -> None:
        filesystem, path = self._at(key)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm_file(path)

    def delete_tree(self, prefix: str) -> None:
        filesystem, path = self._at(prefix)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(path, recursive=True)

    def keys(self, prefix: str) -> Iterator[str]:
        filesystem, path = self._at(prefix)
        base = filesystem._strip_protocol(self.root).rstrip("/") + "/"
        try:
            found = filesystem.find(path)
        except FileNotFoundError:
            return
        for item in found:
            yield str(item).removeprefix(base)

    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        filesystem, path = self._at(prefix)
        folders, files = [], []
        try:
            for item in filesystem.ls(path, detail=True):
                name = str(item["name"]).rstrip("/").rpartition("/")[2]
                if item["type"] == "directory":
                    folders.append(name)
                elif not str(item["name"]).endswith("/"):
                    files.append(name)
        except FileNotFoundError:
            pass
        return sorted(folders), sorted(files)

    def _at(self, key: str) -> tuple[Any, str]:
        filesystem, path = _filesystem(self.root, os.getpid())
        return filesystem, f"{path.rstrip('/')}/{key}".rstrip("/")
