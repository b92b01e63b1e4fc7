"""Whole objects in a folder: atomic, exclusive, and nothing else left behind."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from segengine.errors import StoreAccessError, StoreLockedError
from segengine.store import fence, local
from segengine.store.access import access_error
from segengine.store.blobs import Writer, open_objects
from segengine.store.keys import ASIDE, LOCK
from segengine.store.local import LocalObjects


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(str(tmp_path / "store"))


def test_put_get_delete(objects: LocalObjects) -> None:
    assert objects.get("a/b/c") is None
    objects.put("a/b/c", b"1")
    objects.put("a/b/c", b"22")
    assert objects.get("a/b/c") == b"22"
    assert objects.get("a/b") is None
    assert objects.get("a/b/c/d") is None
    objects.delete("a/b/c")
    objects.delete("a/b/c")
    assert objects.get("a/b/c") is None


def test_listing(objects: LocalObjects) -> None:
    for key in ("a/1", "a/b/2", "a/b/3", "c"):
        objects.put(key, b"")
    assert sorted(objects.keys("a")) == ["a/1", "a/b/2", "a/b/3"]
    assert objects.children("a") == (["b"], ["1"])
    assert objects.children("none") == ([], [])
    assert list(objects.keys("none")) == []
    objects.delete_tree("a")
    objects.delete_tree("a")
    assert objects.children("a") == ([], [])
    assert objects.get("c") == b""


def test_only_one_of_many_creates(objects: LocalObjects) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: objects.create("lock", bytes([i])), range(32)))
    assert made.count(True) == 1
    assert objects.get("lock") == bytes([made.index(True)])
    assert os.listdir(Path(objects.root, "work/tmp")) == []


def test_a_reader_never_sees_half_an_object(objects: LocalObjects) -> None:
    sizes = [1 << 20, 3 << 20]
    objects.put("x", bytes(sizes[0]))
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [objects.put("x", bytes(sizes[i % 2])) for i in range(20)])
        while not writing.done():
            assert len(objects.get("x") or b"") in sizes
        writing.result()


def test_a_failed_write_leaves_what_was_there(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.put("x", b"old")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreAccessError, match=r"the store is full: No space left.*; make room"):
        objects.put("x", b"new")
    assert objects.get("x") == b"old"
    assert os.listdir(Path(objects.root, "work/tmp")) == []


@pytest.mark.parametrize("what", ["put", "create", "below a file", "delete"])
def test_a_folder_in_an_objects_place_is_said_or_moved_aside(
    what: str, objects: LocalObjects
) -> None:
    folder = Path(objects.root, "a/b")
    folder.mkdir(parents=True)
    (folder / "mine").write_text("mine")
    writes: dict[str, Callable[[LocalObjects], Any]] = {
        "put": lambda o: o.put("a/b", b"1"),
        "create": lambda o: o.create("a/b", b"1"),
        "below a file": lambda o: o.put("a/b/c/d", b"1"),
        "delete": lambda o: o.delete("a/b"),
    }
    key = "a/b"
    if what == "below a file":
        shutil.rmtree(folder)
        folder.write_text("mine")
        key = "a/b/c/d"
    assert objects.obstacle(key) in (
        "a folder lies in its place",
        "a/b is no folder, but a file",
    )
    with pytest.raises(StoreAccessError, match="--repair") as told:
        writes[what](objects)
    assert objects.obstacle(key) in str(told.value)
    clearing = objects.by(Writer(clears=True))
    writes[what](clearing)
    assert objects.obstacle(key) == ""
    assert objects.get(key) == (None if what == "delete" else b"1")
    (moved,) = (p for p in Path(objects.root, ASIDE).rglob("*") if p.is_file())
    assert moved.read_text() == "mine"


def test_what_is_moved_aside_takes_no_place_of_what_was(objects: LocalObjects) -> None:
    clearing = objects.by(Writer(clears=True))
    for text in "ab":
        folder = Path(objects.root, "x")
        folder.mkdir(parents=True)
        (folder / "mine").write_text(text)
        clearing.put("x", b"1")
        clearing.delete("x")
    found = sorted(p.read_text() for p in Path(objects.root, ASIDE).rglob("mine"))
    assert found == ["a", "b"]


def test_an_empty_folder_in_the_way_goes(objects: LocalObjects) -> None:
    Path(objects.root, "x/y").mkdir(parents=True)
    objects.by(Writer(clears=True)).put("x", b"1")
    assert objects.get("x") == b"1"
    assert not Path(objects.root, ASIDE).exists()


def test_urls_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segengine.guards import schemes

    monkeypatch.setattr(schemes, "SERVED", (*schemes.SERVED, "memory"))
    assert open_objects(str(tmp_path)) == LocalObjects(str(tmp_path))
    assert open_objects(f"file://{tmp_path}") == LocalObjects(str(tmp_path))
    remote = open_objects("memory://objects-test/store/")
    remote.put("a/b", b"1")
    assert remote.get("a/b") == b"1"
    assert remote.get("a/c") is None
    assert list(remote.keys("a")) == ["a/b"]
    assert remote.children("") == (["a"], [])
    remote.delete_tree("a")
    assert remote.get("a/b") is None


@pytest.mark.parametrize("place", ["local", "memory"])
def test_one_of_many_swaps(
    place: str, objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segengine.guards import schemes

    monkeypatch.setattr(schemes, "SERVED", (*schemes.SERVED, "memory"))
    store = objects if place == "local" else open_objects("memory://swap-test/store")
    assert not store.swap("lock", b"old", b"new")
    store.put("lock", b"old")
    assert not store.swap("lock", b"older", b"new")
    assert store.get("lock") == b"old"
    assert store.swap("lock", b"old", b"new")
    assert store.get("lock") == b"new"
    assert not store.swap("lock", b"old", None)
    assert store.swap("lock", b"new", None)
    assert store.get("lock") is None


def test_of_many_that_swap_at_once_one_succeeds(objects: LocalObjects) -> None:
    objects.put("lock", b"old")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: objects.swap("lock", b"old", bytes([i])), range(32)))
    assert done.count(True) == 1
    assert objects.get("lock") == bytes([done.index(True)])


def test_a_swap_waits_for_no_guard_that_was_deleted(objects: LocalObjects) -> None:
    """Of two processes that hold a guard's file and its successor, neither guards the other."""
    objects.put("lock", b"old")
    with objects._guard():
        objects.delete_tree("work")
        assert objects.swap("lock", b"old", b"new")
    assert objects.swap("lock", b"new", b"newer")


def test_a_guard_whose_holder_stands_still_is_an_error_in_time(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GUARDED", 0.05)
    objects.put("lock", b"old")
    with objects._guard(), pytest.raises(StoreAccessError, match="stands still with"):
        objects.swap("lock", b"old", b"new")


@pytest.mark.parametrize("held", [b'{"run": "b", "host": "h"}', b"junk", b"", None])
def test_a_run_that_lost_the_lock_writes_no_more(
    held: bytes | None, objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.put(LOCK, b'{"run": "a"}')
    mine = objects.by(Writer(run="a"))
    mine.put("x", b"1")
    objects.delete(LOCK)
    if held is not None:
        objects.put(LOCK, held)
    monkeypatch.setattr(fence, "RECHECK", 0.0)
    for write in (
        lambda: mine.put("x", b"2"),
        lambda: mine.delete("x"),
        lambda: mine.delete_many(["x"]),
        lambda: mine.delete_tree("x"),
    ):
        with pytest.raises(StoreLockedError, match="the store was taken over by"):
            write()
    assert mine.get("x") == b"1"
    objects.put("x", b"3")  # nobody's handle asks for no lock
    assert objects.get("x") == b"3"


class Calls:
    """What is flushed, renamed and unlinked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        real = os.fsync, os.replace, os.unlink

        def fsync(handle: int) -> None:
            real[0](handle)
            self.made.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))

        def rename(source: str, target: str) -> None:
            real[1](source, target)
            self.made.append(("rename", target))

        def unlink(path: str, **options: int) -> None:
            real[2](path, **options)
            self.made.append(("unlink", path))

        for name, function in (("fsync", fsync), ("replace", rename), ("unlink", unlink)):
            monkeypatch.setattr(os, name, function)

    def below(self, root: str) -> list[tuple[str, str]]:
        """Those inside a store, as keys, parts as `part`."""
        found = []
        for name, path in self.made:
            if path == root or path.startswith(f"{root}/"):
                key = path[len(root) + 1 :]
                found.append((name, "part" if key.startswith("work/tmp/") else key))
        return found


def test_what_is_put_is_flushed_file_first_then_every_new_folder(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    objects.put("a/b/c", b"1")
    flushed = [("fsync", "part"), ("rename", "a/b/c"), ("fsync", "a/b")]
    assert calls.below(objects.root) == [*flushed, ("fsync", "a"), ("fsync", "")]
    assert ("fsync", os.path.dirname(objects.root)) in calls.made
    calls.made.clear()
    objects.put("a/b/d", b"1")
    assert len(calls.made) == 3  # the folders above are known to be flushed
    calls.made.clear()
    objects.delete("a/b/d")
    objects.delete("a/b/d")
    assert calls.below(objects.root) == [("unlink", "a/b/d"), ("fsync", "a/b")]
    for key in ("a/b/1", "a/b/2", "a/3"):
        objects.put(key, b"1")
    calls.made.clear()
    objects.delete_many(["a/b/1", "a/b/2", "a/b/none", "a/3"])
    many = calls.below(objects.root)
    assert many[:3] == [("unlink", "a/b/1"), ("unlink", "a/b/2"), ("unlink", "a/3")]
    assert sorted(many[3:]) == [("fsync", "a"), ("fsync", "a/b")]  # each folder once
    calls.made.clear()
    objects.delete_tree("a")
    assert ("fsync", "") in calls.below(objects.root)


def test_a_later_run_flushes_folders_that_were_made_again(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("first", "second"):
        objects.by(Writer(fsync=False)).put(LOCK, f'{{"run": "{run}"}}'.encode())
        calls = Calls(monkeypatch)
        objects.by(Writer(run=run)).put("a/b/c", b"1")
        assert [c for c in calls.below(objects.root) if c[0] == "fsync"][1:] == [
            ("fsync", "a/b"),
            ("fsync", "a"),
            ("fsync", ""),
        ]
        objects.by(Writer(fsync=False)).delete_tree("a")


def test_nothing_is_flushed_where_nobody_wants_it(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    quick = objects.by(Writer(fsync=False))
    quick.put("a/b", b"1")
    quick.delete("a/b")
    quick.delete_many(["a/b"])
    quick.delete_tree("a")
    assert [name for name, _ in calls.made] == ["rename", "unlink"]
    assert quick.get("a/b") is None


def s3_error(code: str) -> OSError:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    error = {"Error": {"Code": code, "Message": "as it says"}}
    found: OSError = translate_boto_error(ClientError(error, "PutObject"))
    return found


@pytest.mark.parametrize(
    ("where", "error", "fatal", "said"),
    [
        ("/m", OSError(errno.ENOSPC, "No space"), True, "the store is full: No space; make room"),
        ("/m", OSError(errno.EDQUOT, "Quota"), True, "the store is full: Quota; make room"),
        ("/m", OSError(errno.EROFS, "Read-only"), True, "the store refuses this user: Read-only"),
        ("/m", PermissionError(errno.EACCES, "No"), True, "the store refuses this user: No; mend"),
        ("/m", OSError(errno.EIO, "Input/output"), False, "the store failed: Input/output; run"),
        ("/m", OSError(errno.ESTALE, "Stale"), False, "the store failed: Stale; run the same"),
        ("s3://m", "SlowDown", False, "the store did not answer: SlowDown: as it says; run"),
        ("s3://m", "ServiceUnavailable", False, "the store did not answer: ServiceUnavailable"),
        ("s3://m", "InternalError", False, "the store did not answer: InternalError"),
        ("s3://m", "RequestTimeout", False, "the store did not answer: RequestTimeout"),
        ("s3://m", TimeoutError(), False, "the store did not answer: TimeoutError; run"),
        ("s3://m", ConnectionResetError("reset"), False, "the store did not answer: reset; run"),
        ("s3://m", "AccessDenied", True, "the store refuses this user: AccessDenied: as it says"),
        ("s3://m", "SignatureDoesNotMatch", True, "the store refuses this user: SignatureDoes"),
        ("s3://m", "ExpiredToken", True, "the store refuses this user: ExpiredToken"),
        ("s3://m", "NoSuchBucket", True, "the store is not there: NoSuchBucket: as it says"),
        ("s3://m", "EntityTooLarge", False, "the store did not accept it: EntityTooLarge"),
    ],
)
def test_a_failure_is_told_apart_once_and_in_words_that_fit(
    where: str, error: Exception | str, fatal: bool, said: str
) -> None:
    found = access_error(where, s3_error(error) if isinstance(error, str) else error)
    assert found.fatal == fatal
    assert str(found).startswith(f"{where}: {said}")
    assert str(found).endswith("run the same command again")
    assert ("make room" in str(found)) == ("full" in said)
    assert "\n" not in str(found)
    assert str(copy.copy(found)) == str(found)  # as when it travels from a worker
