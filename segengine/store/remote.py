"""Objects below a URL, each call one request where that can be."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from segengine.errors import StoreError
from segengine.guards import schemes
from segengine.store.access import owned
from segengine.store.blobs import NOBODY, Writer
from segengine.store.fence import require_lock
from segengine.store.filesystems import FilesystemSpace, Space, open_filesystem


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
    del pid
    return open_filesystem(url)


@lru_cache(maxsize=16)
def _space(url: str, pid: int) -> Space:
    """What the objects below a URL are asked through, once a process."""
    if url.partition("://")[0] in ("s3", "s3a"):
        if (reason := schemes.refusal(url)) is not None:
            raise StoreError(f"{url}: {reason}")
        from segengine.store.s3 import open_bucket

        if (bucket := open_bucket(url)) is not None:
            return bucket
    return FilesystemSpace(*_filesystem(url, pid))


@dataclass(frozen=True, slots=True)
class RemoteObjects:
    """Objects below a URL. A put of an object store is atomic by nature."""

    PAUSES: ClassVar[tuple[float, ...]] = (0.25, 1.0, 2.5)
    """Seconds before a call that failed is made again."""
    root: str
    writer: Writer = NOBODY

    def by(self, writer: Writer) -> RemoteObjects:
        return replace(self, writer=writer)

    @owned
    def get(self, key: str) -> bytes | None:
        return self._space().get(key)

    @owned
    def exists(self, key: str) -> bool:
        return self._space().exists(key)

    def obstacle(self, key: str) -> str:
        """Nothing: a key is no path, and there are no folders."""
        return ""

    def clear_way(self, key: str) -> bool:
        """False: nothing lies in the way of an object."""
        return False

    @owned
    def put(self, key: str, data: bytes) -> None:
        require_lock(self)
        self._space().put(key, bytes(data))

    @owned
    def create(self, key: str, data: bytes) -> bool:
        return self._space().create(key, bytes(data))

    @owned
    def swap(self, key: str, old: bytes, new: bytes | None) -> bool:
        space = self._space()
        found = space.tagged(key)
        if found is None or found[0] != old:
            return False
        tag = found[1]
        # A deletion takes no condition everywhere: it follows a write of ours that had one.
        body = old + b"\n" if new is None else new
        if (tag or new is not None) and not space.replace(key, body, tag):
            return False
        if new is None:
            space.delete(key)
        return True

    def flush(self) -> None:
        """Nothing: each object is there once its call returns."""

    @owned
    def delete(self, key: str) -> None:
        require_lock(self)
        self._space().delete(key)

    def delete_many(self, keys: Collection[str]) -> None:
        self._delete_many("", keys)

    @owned
    def _delete_many(self, key: str, keys: Collection[str]) -> None:
        require_lock(self)
        self._space().delete_many(keys)

    @owned
    def delete_tree(self, prefix: str) -> None:
        require_lock(self)
        self._space().delete_tree(prefix)

    def keys(self, prefix: str) -> Iterator[str]:
        yield from self._found(prefix)

    @owned
    def _found(self, prefix: str) -> list[str]:
        return self._space().keys(prefix)

    @owned
    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        folders, objects = self._space().children(prefix)
        return sorted(folders), sorted(objects)

    def _space(self) -> Space:
        return _space(self.root, os.getpid())
