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

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from segengine.store.access import URL


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

    def delete_many(self, keys: Collection[str]) -> None:
        """Delete those of the objects that are there: many in a request, each folder flushed once."""
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
    from segengine.store.local import LocalObjects

    match = URL.match(path)
    if match is None:
        return LocalObjects(path, writer)
    if match[1].lower() == "file":
        return LocalObjects(path[len("file://") :], writer)
    from segengine.store.remote import RemoteObjects

    return RemoteObjects(path.rstrip("/"), writer)
