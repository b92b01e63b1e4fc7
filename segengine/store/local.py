"""Objects as files: renamed into place, flushed with their names, deleted for good."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from segengine.errors import HEAL, StoreAccessError
from segengine.store.access import owned, store_access
from segengine.store.blobs import NOBODY, Writer
from segengine.store.fence import require_lock, session_of
from segengine.store.keys import ASIDE, GUARD, TMP, WORK, is_provisional

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

    @owned
    def get(self, key: str) -> bytes | None:
        try:
            with open(os.path.join(self.root, key), "rb", buffering=0) as file:
                return file.readall()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    @owned
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

    @owned
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

    @owned
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

    @owned
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

    @owned
    def delete(self, key: str) -> None:
        require_lock(self)
        path = os.path.join(self.root, key)
        if _unlink(path) and self._flushes(key):
            _flush(os.path.dirname(path))

    def delete_many(self, keys: Collection[str]) -> None:
        quick = self.by(replace(self.writer, fsync=False))
        for key in keys:
            quick.delete(key)
        for folder in {os.path.dirname(key) for key in keys if self._flushes(key)}:
            self._flush_folder(folder)

    @owned
    def _flush_folder(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            _flush(os.path.join(self.root, key))

    @owned
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

    @owned
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
        flushed = session_of(self.root, self.writer.run).flushed
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
