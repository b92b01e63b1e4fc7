"""What no record vouches for, kept so that damage is seen and healed: seals, and second copies.

A record holds the checksums of a shard's stored bytes. Everything else that stays in a store (its
root, layouts, packed records, fits, metadata, tables, figures) is sealed: `records/+seals` holds the
checksum of each. What nothing else could tell again, as the order of a layout or the fit of an
earlier night, is kept twice: its copy lies in `records/+copies/<number>` with those that were sealed
with it, and that of the seals themselves beside them. The root says that its store is sealed, so that
seals which are lost with all copies are missed.

    open(keys)     their seals are broken, in one write; from here on what lies there counts as it is
    put(key)       as often as it takes
    commit()       their new copies, then all seals in one write

A kill anywhere leaves objects that count as they are, or sealed ones: an object and its seal never
contradict each other but by damage. Single records and the report carry their own checksum.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from segengine.errors import HEAL
from segengine.store.blobs import Objects, Writer
from segengine.store.keys import (
    COPIES,
    FITS,
    LAYOUTS,
    REPORT,
    ROOT,
    SCENES,
    SEALS,
    SEALS_COPY,
    copies_key,
)
from segengine.store.sealbook import (
    CHANGED,
    HOLDS_COPIES,
    MISSING,
    Book,
    Seal,
    digest,
    is_kept_twice,
    is_sealed,
    matches,
    packed,
    unpacked,
)

SEALED = "sealed"
"""The root's attribute that says that there are seals."""
MOST_COPIES = 32
"""Objects of copies above which the small ones become one."""
SMALL = 8 << 20
MANY = 128
"""Objects from which on flushing the file system is sooner than flushing each."""
BATCH = 64 << 20
"""Bytes of what is kept twice that are held before they are written."""
NAMED = 5
"""What a notice names of many."""
LESS = "less could be checked without it"


class SealedObjects:
    """The objects of a store, each as it was sealed: damaged ones from their copy, or not at all.

    Reading is safe beside a run; only who holds the store's lock may write.
    """

    def __init__(self, base: Objects, *, heals: bool = False) -> None:
        """`heals`: write what was damaged again, from its copy. For who holds the store's lock."""
        self.base, self.heals = base, heals
        self.damaged: dict[str, str] = {}
        """What was found damaged so far, by key: what is wrong."""
        self.healed: dict[str, None] = {}
        """Those of them that were written again."""
        self._unsealed = False
        self._book: Book | None = None
        self._pending: dict[str, Seal] = {}
        self._copies: dict[str, bytes] = {}
        self._bulk = 0
        """Bytes of these."""
        self._held: tuple[str, Mapping[str, bytes]] = ("", {})
        self._guard = threading.RLock()

    # ------------------------------------------------------------------------------------- seals

    @property
    def root(self) -> str:
        """Folder or URL."""
        return self.base.root

    @property
    def book(self) -> Book:
        """The seals, read once."""
        with self._guard:
            if self._book is None:
                self._book = self._load()
            return self._book

    @property
    def unsealed(self) -> bool:
        """True where the seals are lost with their copy: nothing vouches for what they sealed."""
        _ = self.book
        return self._unsealed

    @property
    def published(self) -> str:
        """What the last complete publish stands for; empty while one is due."""
        return self.book.published

    def begin(self) -> None:
        """There is no store yet: all that comes will be sealed."""
        self.book.complete = True

    def _load(self) -> Book:
        data = self.base.get(SEALS)
        book = Book.read(data)
        if book is not None:
            return book
        copy = Book.read(self.base.get(SEALS_COPY))
        if data is not None or copy is not None or self._was_sealed():
            self.damaged[SEALS] = self._what(SEALS, data)
            self._unsealed = copy is None
        return replace(copy or Book(), published="")

    def _was_sealed(self) -> bool:
        """True where there must have been seals: they are there before all that says so."""
        if any(self.base.children(COPIES)):
            return True
        try:
            root = json.loads(self.base.get(ROOT) or b"")
        except (ValueError, RecursionError):  # it is lost itself
            return bool(self.base.children(LAYOUTS)[1])
        try:
            return SEALED in root["attributes"]["segengine"]
        except (KeyError, TypeError):
            return False

    def _save(self) -> None:
        self.book.saves += 1
        data = self.book.stored()
        self.base.put(SEALS, data)
        self.base.put(SEALS_COPY, data)

    def open(self, keys: Iterable[str], *, ahead: Iterable[str] = (), publish: bool = True) -> None:
        """Break the seals of what is about to be written or deleted; `publish`: that is due again.

        `ahead`: of what may be; what is not is sealed as it was at the next commit. Each that is
        written before its seal is broken writes all seals anew. From here on there are seals, if only of
        nothing: no root is written before.
        """
        with self._guard:
            seals = self.book.seals
            there = {key for key in keys if key in seals}
            maybe = {key for key in ahead if key in seals} - there
            if there or maybe or (publish and self.book.published) or not self.book.saves:
                for key in maybe:
                    self._pending.setdefault(key, seals.pop(key))
                for key in there:
                    del seals[key]
                if publish:
                    self.book.published = ""
                self._save()

    def sealed_in(self, folders: Collection[str]) -> list[str]:
        """Keys of what is sealed in folders of the second rank, as `scenes/a`, and of objects there."""
        return [key for key in self.book.seals if "/".join(key.split("/", 2)[:2]) in folders]

    def missing_in(self, folder: str) -> list[str]:
        """Keys of what is sealed right in a folder, is not there and has no copy; one listing tells."""
        start = f"{folder}/"
        there = {start + name for name in self.children(folder)[1]}
        sealed = (k for k in self.book.seals if k.startswith(start) and "/" not in k[len(start) :])
        gone = [key for key in sealed if key not in there]
        with self._guard:
            for key in gone:
                self.damaged.setdefault(key, self._what(key, None))
        return gone

    def is_unsealed(self, key: str) -> bool:
        """Whether nothing vouches for an object that is to be sealed, and nothing is going to."""
        return is_sealed(key) and key not in self.book.seals and key not in self._pending

    def adopt(self, key: str) -> None:
        """Seal, at the next commit, what lies there now: a worker wrote it."""
        data = self.base.get(key)
        if data is not None:
            self._note(key, data)

    def adopt_all(self) -> None:
        """Seal, at the next commit, all there is, where the seals are not complete."""
        if self.book.complete:
            return
        self.book.complete = True
        for key in self.base.keys(""):
            if is_sealed(key) and key not in self._pending and key not in self.book.seals:
                self.adopt(key)

    def commit(self, published: str | None = None) -> None:
        """Seal what was written since the last commit; `published`: and say that all is published."""
        with self._guard:
            book = self.book
            self._write_copies()
            if not self._pending and published in (None, book.published):
                return
            book.seals.update(self._pending)
            self._pending = {}
            if published is not None:
                book.published = published
            dead = self._compacted()
            self._save()
            for name in dead:
                self.base.delete(copies_key(name))
            for key in set(self.damaged) & {*book.seals, SEALS, SEALS_COPY}:
                self.healed[key] = None

    def _note(self, key: str, data: bytes) -> None:
        """Remember what is to be sealed."""
        with self._guard:
            if key == REPORT:  # written by readers too; it is whole by itself
                if key not in self.book.seals:
                    self._pending[key] = Seal("")
                return
            if key in self.book.seals:
                self.open([key])
            self._pending[key] = Seal(digest(data))
            if is_kept_twice(key):
                self._bulk += len(data) - len(self._copies.get(key, b""))
                self._copies[key] = data
                if self._bulk > BATCH:
                    self._write_copies()

    def _write_copies(self) -> None:
        if not self._copies:
            return
        name = self._next_name()
        self.base.put(copies_key(name), packed(self._copies))
        for key in self._copies:
            self._pending[key] = self._pending[key]._replace(copies=name)
        self._copies, self._bulk = {}, 0

    def _next_name(self) -> str:
        numbers = [int(n) for n in self.base.children(COPIES)[1] if n.isdecimal()]
        return f"{max(numbers, default=0) + 1:06}"

    def _compacted(self) -> list[str]:
        """Make few objects of copies out of many; names of those that nothing needs any more."""
        book = self.book
        names = self.base.children(COPIES)[1]
        needed = {seal.copies for seal in book.seals.values() if seal.copies}
        merged = self._small_copies(needed) if len(needed) > MOST_COPIES else {}
        if merged:
            fresh = self._next_name()
            self.base.put(copies_key(fresh), packed(merged))
            for key in merged:
                book.seals[key] = book.seals[key]._replace(copies=fresh)
            needed = {seal.copies for seal in book.seals.values()}
        return [name for name in names if name not in needed]

    def _small_copies(self, names: set[str]) -> dict[str, bytes]:
        """What is still needed of small objects of copies, up to a batch; none of a single one."""
        merged: dict[str, bytes] = {}
        taken = size = 0
        for name in sorted(names):
            data = self.base.get(copies_key(name)) or b""
            if len(data) > SMALL or size + len(data) > BATCH:
                continue
            try:
                found = unpacked(data)
            except ValueError:
                continue
            taken, size = taken + 1, size + len(data)
            merged |= {
                k: found[k]
                for k, s in self.book.seals.items()
                if s.copies == name and digest(found.get(k, b"")) == s.digest
            }
        return merged if taken > 1 else {}

    def forget_copies(self) -> None:
        """Leave no second copy of what is not there any more, as it was: after a commit.

        Killed anywhere, what is needed has its copy, and the same call goes on.
        """
        with self._guard:
            for name in self.base.children(COPIES)[1]:
                data = self.base.get(copies_key(name)) or b""
                try:
                    found = unpacked(data)
                except ValueError:
                    found = {}
                kept = {k for k, seal in self.book.seals.items() if seal.copies == name}
                if kept == found.keys():
                    continue
                copies = {k: found.get(k) or self.base.get(k) or b"" for k in sorted(kept)}
                if copies:
                    fresh = self._next_name()
                    self.base.put(copies_key(fresh), packed(copies))
                    for key in copies:
                        self.book.seals[key] = self.book.seals[key]._replace(copies=fresh)
                    self._save()
                self.base.delete(copies_key(name))

    # ------------------------------------------------------------------------------------ objects

    def get(self, key: str) -> bytes | None:
        """The object as it was sealed; None where there is none, or only its damaged remains."""
        data = self.base.get(key)
        seal = self.book.seals.get(key)
        if seal is None or matches(seal, data):
            return data
        if not self.heals and self._was_written(key, seal):
            return self.get(key)
        what = self._what(key, data)
        with self._guard:
            self.damaged.setdefault(key, what)
            copy = self._copy_of(key, seal)
            if copy is not None and self.heals:
                self.base.put(key, copy)
                self.healed[key] = None
            return copy

    def _what(self, key: str, data: bytes | None) -> str:
        """What is wrong with a damaged object."""
        return CHANGED if data is not None else self.base.obstacle(key) or MISSING

    def lost(self, key: str) -> str:
        """What is wrong with an object of which nothing trusted is left; empty: nothing is known."""
        sealed = key in self.book.seals
        if key in self.damaged or sealed or not self.unsealed:
            return self.damaged.get(key, "")
        return self._what(key, self.base.get(key))  # it may be damaged: nothing vouches for it

    def _was_written(self, key: str, seal: Seal) -> bool:
        """True where a run beside this reader has written an object, or is about to."""
        with self._guard:
            fresh = self._load()
            if fresh.seals.get(key) == seal:
                return False
            self._book = fresh
            return True

    def _copy_of(self, key: str, seal: Seal) -> bytes | None:
        if not seal.copies:
            return None
        if self._held[0] != seal.copies:
            data = self.base.get(copies_key(seal.copies))
            try:
                self._held = seal.copies, {} if data is None else unpacked(data)
            except ValueError:
                self._held = seal.copies, {}
        copy = self._held[1].get(key)
        return copy if copy is not None and digest(copy) == seal.digest else None

    def has(self, key: str, data: bytes) -> bool:
        """True where an object is known to be these bytes; asks its seal before the store."""
        sealed = self._sealed(key)
        return self.base.get(key) == data if sealed is None else sealed == digest(data)

    def vouches(self, key: str, data: bytes) -> bool:
        """True where an object's seal is of these bytes; does not ask the store."""
        return self._sealed(key) == digest(data)

    def _sealed(self, key: str) -> str | None:
        """The digest of an object that was sealed, or will be, and is not known to be damaged."""
        seal = self._pending.get(key) or self.book.seals.get(key)
        return None if seal is None or key in self.damaged else seal.digest

    def exists(self, key: str) -> bool:
        """True where there is such an object, whole or not."""
        return self.base.exists(key)

    def obstacle(self, key: str) -> str:
        """What lies where an object belongs and is none."""
        return self.base.obstacle(key)

    def clear_way(self, key: str) -> bool:
        """Move that aside."""
        return self.base.clear_way(key)

    def put(self, key: str, data: bytes) -> None:
        """Write or replace; sealed at the next commit."""
        if is_sealed(key):
            self._note(key, data)
        self.base.put(key, data)

    @property
    def writer(self) -> Writer:
        """Who writes."""
        return self.base.writer

    def by(self, writer: Writer) -> SealedObjects:
        """The same objects, with all that is known of them, written by another.

        Who holds no lock heals nothing: what looks damaged to him may be another run's.
        """
        found = SealedObjects(self.base.by(writer), heals=self.heals and bool(writer.run))
        found.damaged, found.healed, found._book = self.damaged, self.healed, self._book
        found._unsealed = self._unsealed
        found._pending, found._copies = self._pending, self._copies
        found._bulk = self._bulk
        return found

    @contextmanager
    def together(self, objects: int) -> Iterator[None]:
        """What is written in this block is flushed at its end, at once where it is many `objects`.

        Only for what nothing vouches for before that end.
        """
        if objects < MANY or not self.writer.fsync:
            yield
            return
        base = self.base
        self.base = base.by(replace(base.writer, fsync=False))
        try:
            yield
        finally:
            self.base = base
        base.flush()

    def flush(self) -> None:
        """Flush all that was written without being flushed."""
        self.base.flush()

    def create(self, key: str, data: bytes) -> bool:
        """Write only if there is no such object."""
        return self.base.create(key, data)

    def swap(self, key: str, old: bytes, new: bytes | None) -> bool:
        """Replace or delete an object only if it is still `old`."""
        return self.base.swap(key, old, new)

    def delete(self, key: str) -> None:
        """Delete the object if it is there."""
        if key in self.book.seals:
            self.open([key])
        self._forget(lambda k: k == key)
        self.base.delete(key)

    def delete_many(self, keys: Collection[str]) -> None:
        """Delete those of the objects that are there."""
        gone = set(keys)
        self.open([key for key in gone if key in self.book.seals])
        self._forget(gone.__contains__)
        self.base.delete_many(keys)

    def delete_tree(self, prefix: str) -> None:
        """Delete every object below a prefix."""
        if prefix.startswith((SCENES, LAYOUTS, FITS)):
            below = f"{prefix}/"
            self.open([k for k in self.book.seals if k.startswith(below)])
            self._forget(lambda k: k.startswith(below))
        self.base.delete_tree(prefix)

    def _forget(self, gone: Callable[[str], bool]) -> None:
        with self._guard:
            self._pending = {k: v for k, v in self._pending.items() if not gone(k)}
            self._copies = {k: v for k, v in self._copies.items() if not gone(k)}
            self._bulk = sum(map(len, self._copies.values()))

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys of all objects below a prefix, those that are lost and have a copy too."""
        found = set(self.base.keys(prefix))
        yield from found
        yield from (k for k in self._kept(prefix) if k not in found)

    def children(self, prefix: str) -> tuple[list[str], list[str]]:
        """Names (folders, objects) right below a prefix, as `keys`."""
        folders, files = self.base.children(prefix)
        start = f"{prefix}/" if prefix else ""
        names = [k.removeprefix(start) for k in self._kept(prefix)]
        folders = sorted({*folders, *(n.partition("/")[0] for n in names if "/" in n)})
        return folders, sorted({*files, *(n for n in names if "/" not in n)})

    def _kept(self, prefix: str) -> list[str]:
        """What is kept twice below a prefix; most have none, and are asked for often."""
        if prefix not in HOLDS_COPIES:
            return []
        start = f"{prefix}/" if prefix else ""
        return [k for k, s in self.book.seals.items() if s.copies and k.startswith(start)]

    # ------------------------------------------------------------------------------------- verify

    def check(self) -> Iterator[tuple[str, str]]:
        """(key, what is wrong) of every damaged object that a seal vouches for, and of the seals."""
        book = self.book
        if SEALS in self.damaged:
            yield SEALS, self.damaged[SEALS] + (f"; {LESS}" if self.unsealed else "")
        else:
            yield from self._check_seals_copy()
        needed: dict[str, list[str]] = {}
        for key, seal in sorted(book.seals.items()):
            data = self.base.get(key)
            if not matches(seal, data):
                if not self.heals and self._was_written(key, seal):
                    continue
                yield key, self._what(key, data)
            if seal.copies:
                needed.setdefault(seal.copies, []).append(key)
        for name, keys in sorted(needed.items()):
            data = self.base.get(copies_key(name))
            try:
                found = {} if data is None else unpacked(data)
            except ValueError:
                found = {}
            whole = all(k in found and digest(found[k]) == book.seals[k].digest for k in keys)
            if not whole and (self.heals or not self._was_written(keys[0], book.seals[keys[0]])):
                yield copies_key(name), self._what(copies_key(name), data)

    def _check_seals_copy(self) -> Iterator[tuple[str, str]]:
        """The same of the seals' second copy, which a kill leaves one time behind."""
        saves = self.book.saves
        data = self.base.get(SEALS_COPY)
        copy = Book.read(data)
        if copy is None:
            if data is not None or saves > 1:
                yield SEALS_COPY, self._what(SEALS_COPY, data)
        elif copy.saves < saves - 1 or (copy.saves == saves and copy != self.book):
            yield SEALS_COPY, CHANGED

    def mend(self) -> dict[str, str]:
        """Bring back what is damaged and has a copy, and copies from what is whole.

        Returns what was found; the rest of it has no seal from now on, and is to be made again.
        """
        found = dict(self.check())
        self.damaged |= found
        lost: list[str] = []
        for key in found:
            self.base.clear_way(key)
            if key == SEALS or key.startswith(copies_key("")):
                continue
            copy = self._copy_of(key, self.book.seals[key])
            if copy is None:
                lost.append(key)
            else:
                self.base.put(key, copy)
                self.healed[key] = None
        self.open(lost)
        for key in lost:
            if is_kept_twice(key):
                self.base.delete(key)  # both are lost: better none than a damaged one
        for key in found:
            if key.startswith(copies_key("")) and key != SEALS_COPY:
                name = key.rpartition("/")[2]
                for own in [k for k, s in self.book.seals.items() if s.copies == name]:
                    self.adopt(own)
                self.healed[key] = None
        if not found.keys().isdisjoint((SEALS, SEALS_COPY)):
            self._save()
            self.healed |= dict.fromkeys(found.keys() & {SEALS, SEALS_COPY})
        return found


def damage_notices(objects: SealedObjects) -> list[str]:
    """One line on what was found damaged and brought back, and one on what was not."""
    bad = objects.damaged
    lines = []
    for keys, what in (
        (
            [k for k in bad if k in objects.healed],
            "damaged, and brought back from copies or made again",
        ),
        ([k for k in bad if k not in objects.healed], "damaged; " + HEAL),
    ):
        if keys:
            lines.append(f"stored objects {what}: {named(keys)}")
    return lines


def named(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    found = sorted(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def scenes_called(names: Collection[str], *, aside: bool = False) -> str:
    """One scene by its name, several by their number and the first names; `aside`: within brackets.

    >>> scenes_called(["a"]), scenes_called(["b", "a"]), scenes_called(["b", "a"], aside=True)
    ('scene a', '2 scenes (a, b)', '2 scenes: a, b')
    """
    told = named(names)
    if len(names) == 1:
        return f"scene {told}"
    return f"{len(names):,} scenes: {told}" if aside else f"{len(names):,} scenes ({told})"
