"""What the objects below a URL are asked through, and fsspec as such: for `gs://`, and what
`segengine.store.s3` leaves to s3fs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from inspect import signature
from typing import Any, Protocol

from segengine.ahead import several
from segengine.errors import StoreError
from segengine.guards import schemes


class Space(Protocol):
    """Objects of one store below a prefix; each call is made once, and raises what it meets."""

    def get(self, key: str) -> bytes | None:
        """The object, or None where there is none."""
        ...

    def tagged(self, key: str) -> tuple[bytes, str] | None:
        """The object and its tag (empty: the store has no conditions), or None."""
        ...

    def exists(self, key: str) -> bool:
        """True where there is such an object."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace, atomically."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write only where there is no such object; False where there is."""
        ...

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        """Write over an object that still has its tag; False where it has not."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it is there."""
        ...

    def delete_many(self, keys: Collection[str]) -> None:
        """Delete those of the objects that are there."""
        ...

    def delete_tree(self, prefix: str) -> None:
        """Delete every object below a prefix."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below a prefix, in no order."""
        ...

    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        """Names (folders, objects) right below a prefix, in no order."""
        ...


def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it. Raises StoreError."""
    try:
        filesystem, path = schemes.filesystem(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{url}: {error}") from error
    return filesystem, str(path)


@lru_cache(maxsize=16)
def _in_one_request(read: Callable[..., Any]) -> dict[str, int]:
    """Options that have a filesystem read an object as it is: s3fs would ask for its size before, to
    read a large one in parts, and of one that is not there whether it is a folder."""
    return {"max_concurrency": 1} if "max_concurrency" in signature(read).parameters else {}


_NOT_MET = ("PreconditionFailed", "ConditionalRequestConflict")
"""An object store's codes where a condition does not hold, or another write is under way."""


@contextlib.contextmanager
def _unless_refused(by: type[OSError]) -> Iterator[list[bool]]:
    """A write on a condition; the list stays empty where that does not hold, which `by` may tell."""
    try:
        yield []
    except OSError as error:
        if not isinstance(error, by) and not any(
            code in f"{error} {error.__cause__}" for code in _NOT_MET
        ):
            raise


class FilesystemSpace:
    """Objects below a path of an fsspec filesystem. Every method raises what that does."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self._system, self._path = filesystem, path.rstrip("/")
        self._is_s3 = hasattr(filesystem, "call_s3")
        """Whether it lets us make requests of our own."""

    def get(self, key: str) -> bytes | None:
        options = _in_one_request(type(self._system)._cat_file) if self._is_s3 else {}
        try:
            return bytes(self._system.cat_file(self._at(key), **options))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def tagged(self, key: str) -> tuple[bytes, str] | None:
        tag = ""
        if self._is_s3:
            # The tag first: it is that of what is read, or of something older, which the store refuses.
            try:
                tag = str(self._ask("head_object", key)["ETag"])
            except FileNotFoundError:
                return None
        data = self.get(key)
        return None if data is None else (data, tag)

    def exists(self, key: str) -> bool:
        if not self._is_s3:
            return bool(self._system.exists(self._at(key)))
        try:  # what is no object might be a folder for s3fs, which asks for that too
            self._ask("head_object", key)
        except FileNotFoundError:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        self._system.pipe_file(self._at(key), data)

    def create(self, key: str, data: bytes) -> bool:
        with _unless_refused(FileExistsError) as done:
            # s3fs and gcsfs send `If-None-Match: *`.
            self._system.pipe_file(self._at(key), data, mode="create")
            done.append(True)
        return bool(done)

    def replace(self, key: str, data: bytes, tag: str) -> bool:
        if not tag:
            self.put(key, data)
            return True
        with _unless_refused(FileNotFoundError) as done:
            self._ask("put_object", key, Body=data, IfMatch=tag)
            done.append(True)
        return bool(done)

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._at(key))

    def delete_many(self, keys: Collection[str]) -> None:
        for _ in several(list(keys), self.delete, far=True):
            pass

    def delete_tree(self, prefix: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.rm(self._at(prefix), recursive=True)

    def keys(self, prefix: str) -> list[str]:
        try:
            found = self._system.find(self._at(prefix))
        except FileNotFoundError:
            return []
        return [str(name).removeprefix(f"{self._path}/") for name in found]

    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        folders, files = [], []
        try:
            for item in self._system.ls(self._at(prefix), detail=True):
                name = str(item["name"]).rstrip("/").rpartition("/")[2]
                if item["type"] == "directory":
                    folders.append(name)
                elif not str(item["name"]).endswith("/"):
                    files.append(name)
        except FileNotFoundError:
            pass
        return folders, files

    def _ask(self, request: str, key: str, **options: Any) -> Any:
        bucket, name, _ = self._system.split_path(self._at(key))
        return self._system.call_s3(request, Bucket=bucket, Key=name, **options)

    def _at(self, key: str) -> str:
        return f"{self._path}/{key}".rstrip("/")
