"""Whole objects in a folder: atomic, exclusive, and nothing else left behind."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segengine.objects import LocalObjects, open_objects


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
    with pytest.raises(OSError, match="No space left"):
        objects.put("x", b"new")
    assert objects.get("x") == b"old"
    assert os.listdir(Path(objects.root, "work/tmp")) == []


def test_urls_and_folders(tmp_path: Path) -> None:
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
