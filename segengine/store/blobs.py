"""Whole objects in a folder or an object store: read, write atomically, create once, list, delete.

Everything segengine stores goes through here, so a reader never sees half an object. A local write
goes to `work/tmp` of the store first and is renamed into place; nothing else is ever left behind.

Durable: what `put` has written, its name and the folders above it are on disk when it returns, and so
is the absence of what `delete` has deleted. A record that is put last thus never outlives what it
vouches for, and one that is deleted first never comes back to new bytes. Below `work/` deletions are
not flushed: nothing there is believed without a record.

Fenced: a run writes through a handle that knows it, which refuses once `run.lock` names another.

A failed call raises StoreAccessError: nobody has to guess from an errno whose failure it was.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, Self, TypeVar

from segengine.errors import HEAL, SegengineError, StoreAccessError, StoreError, StoreLockedError
from segengine.guards import schemes
from segengine.store.filesystems import FilesystemSpace, Space, open_filesystem
from segengine.store.keys import ASIDE, GUARD, LOCK, TMP, WORK, is_provisional

RECHECK = 1.0
"""Seconds for which a process believes that its run still holds the lock."""
_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes to a store and how; travels to workers in their tasks."""

    fsync: bool = True
    """Flush to disk (`faults.fsync`); an object store does so by itself."""
    run: str = ""
    """The run that holds `run.lock`; empty: nobody's, and nothing is asked."""
    clears: bool = False
    """Move aside what lies in the place of an object and is none; others say what it is."""


NOBODY = Writer()
"""Who holds no lock: readers, and who writes beside the masks."""


class Objects(Protocol):
    """A flat space of objects; keys use `/`. Small and picklable.

    Every method raises StoreAccessError, and those that write StoreLockedError.
    """

    @property
    def root(self) -> str: ...
    @property
    def writer(self) -> Writer: ...
    def by(self, writer: Writer) -> Self:
        """The same objects, written by another."""
        ...

    def get(self, key: str) -> bytes | None:
        """The object, or None where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """True where there is such an object."""
        ...

    def obstacle(self, key: str) -> str:
        """What lies where an object belongs, or a folder above it, and is none; empty: nothing."""
        ...

    def clear_way(self, key: str) -> bool:
        """Move aside what lies in an object's place and is none; False where nothing does."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write or replace, atomically."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write only if there is no such object; False if there is one. Not flushed."""
        ...

    def swap(self, key: str, old: bytes, new: bytes | None) -> bool:
        """Replace an object, or (None) delete it, only if it is still `old`; False if it is not.

        Of several that try it with the same `old`, one succeeds. Not flushed.
        """
        ...

    def flush(self) -> None:
        """Flush all that was written without being flushed, at once."""
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


def open_objects(path: str, writer: Writer = NOBODY) -> Objects:
    """The objects below a local folder or a URL."""
    match = _URL.match(path)
    if match is None:
        return LocalObjects(path, writer)
    if match[1].lower() == "file":
        return LocalObjects(path[len("file://") :], writer)
    return RemoteObjects(path.rstrip("/"), writer)


# ------------------------------------------------------------------------------------------- errors

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOGIN = ("NoCredentialsError", "PartialCredentialsError", "NoRegionError", "ProfileNotFound")
"""What botocore raises before it asks anybody."""
_WRONG = (errno.EINVAL, errno.ENOSYS, errno.EMSGSIZE, errno.ENAMETOOLONG)
"""An object store's 4xx: it has answered."""
_AGAIN = "run the same command again"


@contextlib.contextmanager
def store_access(where: str) -> Iterator[None]:
    """What is raised inside is the store's: it becomes StoreAccessError."""
    try:
        yield
    except (SegengineError, GeneratorExit):
        raise
    except Exception as error:
        raise access_error(where, error) from error


def access_error(where: str, error: Exception) -> StoreAccessError:
    """A failed call of a store in words, and whether another try can go better."""
    number = error.errno if isinstance(error, OSError) else None
    said = _said(error)
    if number in _FULL:
        return StoreAccessError(
            f"{where}: the store is full: {said}", f"make room, then {_AGAIN}", True
        )
    if (
        number in _REFUSED
        or isinstance(error, PermissionError)
        or type(error).__name__ in _NO_LOGIN
    ):
        return StoreAccessError(
            f"{where}: the store refuses this user: {said}",
            f"mend its permissions or the credentials, then {_AGAIN}",
            True,
        )
    if not _URL.match(where):
        return StoreAccessError(f"{where}: the store failed: {said}", _AGAIN)
    if isinstance(error, FileNotFoundError):
        return StoreAccessError(
            f"{where}: the store is not there: {said}", f"make its bucket, then {_AGAIN}", True
        )
    if number in _WRONG:
        return StoreAccessError(f"{where}: the store did not accept it: {said}", _AGAIN)
    return StoreAccessError(f"{where}: the store did not answer: {said}", _AGAIN)


def _said(error: Exception) -> str:
    """One line of what happened, with an object store's own code for it."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    response = getattr(error.__cause__ or error, "response", None)
    if isinstance(response, dict):
        code = response.get("Error", {}).get("Code", "")
        text = text if code in text else f"{code}: {text}"
    return " ".join(text.split())


_MISPLACED = (IsADirectoryError, NotADirectoryError, FileExistsError)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_O = TypeVar("_O", bound="LocalObjects | RemoteObjects")


def _owned(
    method: Callable[Concatenate[_O, str, _P], _T],
) -> Callable[Concatenate[_O, str, _P], _T]:
    """Make what a method raises the store's error; try again where that may help."""

    @wraps(method)
    def call(self: _O, key: str, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        pauses = iter(self.PAUSES)
        while True:
            try:
                return method(self, key, *args, **kwargs)
            except SegengineError:
                raise
            except Exception as error:
                if isinstance(error, _MISPLACED) and self.clear_way(key):
                    continue
                failure = access_error(f"{self.root}/{key}".rstrip("/"), error)
                pause = None if failure.fatal else next(pauses, None)
                if pause is None:
                    raise failure from error
            time.sleep(pause)

    return call


# -------------------------------------------------------------------------------------------- fence


@dataclass(slots=True)
class _Session:
    """What this process knows of one run's store."""

    confirmed: float = float("-inf")
    """When the lock was last seen to be the run's."""
    flushed: set[str] = field(default_factory=set)
    """Folders whose names, and those of all above them, are on disk."""


@lru_cache(maxsize=8)
def _session(root: str, run: str) -> _Session:
    """Anew for each run: an earlier one's folders may have been deleted since."""
    del root, run
    return _Session()


def _now() -> float:
    """Seconds that a suspended machine counts too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def require_lock(objects: Objects) -> None:
    """Raise StoreLockedError where the handle's run no longer holds the store's lock."""
    run = objects.writer.run
    if not run:
        return
    session, now = _session(objects.root, run), _now()
    if now - session.confirmed < RECHECK:
        return
    data = objects.get(LOCK)
    held = lock_fields(data)
    if held.get("run") != run:
        who = f"run {held.get('run')} on {held.get('host')}" if held.get("run") else "another run"
        gone = "" if data is not None else ", which has given it back"
        raise StoreLockedError(
            f"{objects.root}: the store was taken over by {who}{gone} while this run stood still; "
            "wait for it, then run the same command again"
        )
    session.confirmed = now


def lock_fields(data: bytes | None) -> dict[str, Any]:
    """What a lock says; nothing where it is torn or of something else."""
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# -------------------------------------------------------------------------------------------- local

_ANY = "*"
"""A name of which there is no object."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
GUARDED = 10.0
"""Seconds to wait for another process that swaps; it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class LocalObjects:
    """Objects as files below a folder."""

    PAUSES: ClassVar[tuple[float, ...]] = ()
    root: str
    writer: Writer = NOBODY

    def by(self, writer: Writer) -> LocalObjects:
        return replace(self, writer=writer)

    @_owned
    def get(self, key: str) -> bytes | None:
        try:
            with open(os.path.join(self.root, key), "rb", buffering=0) as file:
                return file.readall()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    @_owned
    def exists(self, key: str) -> bool:
        return os.path.isfile(os.path.join(self.root, key))

    def obstacle(self, key: str) -> str:
        found = self._obstacle(key)
        if not found:
            return ""
        return "a folder lies in its place" if found == key else f"{found} is no folder, but a file"

    def _obstacle(self, key: str) -> str:
        """The key, or what is above it, that is a folder where a file belongs, or a file."""
        parts = key.split("/")
        above = ("/".join(parts[:n]) for n in range(1, len(parts)))
        for name in above:
            path = os.path.join(self.root, name)
            if os.path.lexists(path) and not os.path.isdir(path):
                return name
        return key if os.path.isdir(os.path.join(self.root, key)) else ""

    def clear_way(self, key: str) -> bool:
        """Move aside what lies in the place of an object, or of what is needed to write it.

        Nothing is deleted but what is empty. False where there is no such thing; raises
        StoreAccessError where this writer leaves it.
        """
        for needed in (key, f"{TMP}/{_ANY}", GUARD):
            found = self._obstacle(needed)
            if not found:
                continue
            if not self.writer.clears:
                where = f"{self.root}/{needed}".removesuffix(f"/{_ANY}")
                raise StoreAccessError(f"{where}: {self.obstacle(needed)}", HEAL, True)
            with (
                store_access(f"{self.root}/{found}"),
                contextlib.suppress(FileNotFoundError),  # another worker was there before
            ):
                self._move_aside(found)
            return True
        return False

    def _move_aside(self, key: str) -> None:
        path = os.path.join(self.root, key)
        if os.path.isdir(path) and not any(files for _, _, files in os.walk(path)):
            import shutil

            shutil.rmtree(path)
            return
        name = aside(key, lambda name: os.path.lexists(os.path.join(self.root, name)))
        target = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(path, target)

    @_owned
    def put(self, key: str, data: bytes) -> None:
        require_lock(self)
        target = os.path.join(self.root, key)
        self._replace(target, data, self.writer.fsync)
        if self.writer.fsync:
            self._flush_name(target)

    def _replace(self, target: str, data: bytes, flush: bool) -> None:
        part = self._write_part(data, flush)
        try:
            self._rename(part, target)
        except BaseException:
            _unlink(part)
            raise

    @_owned
    def create(self, key: str, data: bytes) -> bool:
        part = self._write_part(data, False)
        target = os.path.join(self.root, key)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            # A hard link fails where the name exists, and the name never points to half an object.
            os.link(part, target)
        except FileExistsError:
            if os.path.isdir(target):
                raise IsADirectoryError(errno.EISDIR, "a folder lies there", target) from None
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

    @_owned
    def swap(self, key: str, old: bytes, new: bytes | None) -> bool:
        with self._guard():
            if self.get(key) != old:
                return False
            target = os.path.join(self.root, key)
            if new is None:
                _unlink(target)
                self._clear()
            else:
                self._replace(target, new, False)
            return True

    def _clear(self) -> None:
        """Leave no empty `work/`; the guard's holder may delete it, for others look at what they hold."""
        _unlink(os.path.join(self.root, GUARD))
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(self.root, TMP))
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(self.root, WORK))

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """One process at a time swaps; the kernel lets go for one that dies."""
        import fcntl

        path = os.path.join(self.root, GUARD)
        end = time.monotonic() + GUARDED
        while True:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with contextlib.suppress(FileNotFoundError), open(path, "w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Deleted meanwhile, it guards nothing: others have a new one.
                    held = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
                except BlockingIOError:
                    held = False
                if held:
                    yield
                    return
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"another process stands still with {GUARD}")
            time.sleep(0.01)

    def flush(self) -> None:
        with store_access(self.root):
            _flush_file_system(self.root)

    @_owned
    def delete(self, key: str) -> None:
        require_lock(self)
        path = os.path.join(self.root, key)
        if _unlink(path) and self._flushes(key):
            _flush(os.path.dirname(path))

    @_owned
    def delete_tree(self, prefix: str) -> None:
        require_lock(self)
        path = os.path.join(self.root, prefix)
        if not os.path.lexists(path):
            return
        _remove_tree(path)
        if self._flushes(prefix):
            _flush(os.path.dirname(path))

    def _flushes(self, deleted: str) -> bool:
        return self.writer.fsync and not is_provisional(deleted)

    def keys(self, prefix: str) -> Iterator[str]:
        yield from _names(os.path.join(self.root, prefix), prefix.rstrip("/"))

    @_owned
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

    def _write_part(self, data: bytes, flush: bool) -> str:
        part = os.path.join(self.root, TMP, uuid.uuid4().hex)
        try:
            handle = os.open(part, _NEW, 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(part), exist_ok=True)
            handle = os.open(part, _NEW, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            if flush:
                os.fsync(handle)
        except BaseException:
            _unlink(part)
            raise
        finally:
            os.close(handle)
        return part

    def _rename(self, part: str, target: str) -> None:
        try:
            os.replace(part, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(part, target)

    def _flush_name(self, path: str) -> None:
        """Flush the folder of a new name, and those above it that this process has not seen flushed.

        Another process may have made a folder, and its name may not be on disk yet.
        """
        flushed = _session(self.root, self.writer.run).flushed
        folder = os.path.dirname(path)
        _flush(folder)
        while folder not in flushed and folder != os.path.dirname(folder):
            above = os.path.dirname(folder)
            with contextlib.suppress(PermissionError):  # above the store, we made none
                _flush(above)
            flushed.add(folder)
            folder = above


def aside(key: str, exists: Callable[[str], bool]) -> str:
    """A key that nothing `exists` under, for what is moved out of the way."""
    name, number = f"{ASIDE}/{key}", 1
    while exists(name):
        number += 1
        name = f"{ASIDE}/{key}.{number}"
    return name


def _names(folder: str, prefix: str) -> Iterator[str]:
    """Keys of all files below a folder, whose own is the prefix; half of what `os.walk` takes."""
    try:
        with os.scandir(folder) as found:
            items = list(found)
    except OSError:  # gone, or a file
        return
    for item in items:
        key = f"{prefix}/{item.name}" if prefix else item.name
        if not item.is_dir():
            yield key
        elif not item.is_symlink():
            yield from _names(item.path, key)


def _flush(folder: str) -> None:
    """Flush the names in a folder."""
    handle = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(handle)


def _flush_file_system(root: str) -> None:
    """Flush the file system of a folder: of hundreds of small files, much sooner than one by one."""
    import ctypes

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        if syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), root)
    finally:
        os.close(handle)


def _remove_tree(folder: str) -> None:
    """Delete a folder and all in it, as far as that goes; what links lead to stays.

    A third of what `shutil.rmtree` takes, which opens every folder to be safe from strangers who swap
    one for a link meanwhile: in a store that they can write to they need no such trick.
    """
    with contextlib.suppress(OSError):
        if os.path.islink(folder):
            return
        with os.scandir(folder) as found:
            items = list(found)
        for item in items:
            if item.is_dir(follow_symlinks=False):
                _remove_tree(item.path)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(item.path)
        os.rmdir(folder)


def _unlink(path: str) -> bool:
    """False where nothing was there."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


# ------------------------------------------------------------------------------------------- remote


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

    @_owned
    def get(self, key: str) -> bytes | None:
        return self._space().get(key)

    @_owned
    def exists(self, key: str) -> bool:
        return self._space().exists(key)

    def obstacle(self, key: str) -> str:
        """Nothing: a key is no path, and there are no folders."""
        return ""

    def clear_way(self, key: str) -> bool:
        """False: nothing lies in the way of an object."""
        return False

    @_owned
    def put(self, key: str, data: bytes) -> None:
        require_lock(self)
        self._space().put(key, bytes(data))

    @_owned
    def create(self, key: str, data: bytes) -> bool:
        return self._space().create(key, bytes(data))

    @_owned
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

    @_owned
    def delete(self, key: str) -> None:
        require_lock(self)
        self._space().delete(key)

    @_owned
    def delete_tree(self, prefix: str) -> None:
        require_lock(self)
        self._space().delete_tree(prefix)

    def keys(self, prefix: str) -> Iterator[str]:
        yield from self._found(prefix)

    @_owned
    def _found(self, prefix: str) -> list[str]:
        return self._space().keys(prefix)

    @_owned
    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        folders, objects = self._space().children(prefix)
        return sorted(folders), sorted(objects)

    def _space(self) -> Space:
        return _space(self.root, os.getpid())
