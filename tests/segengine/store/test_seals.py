"""Seals and second copies: what is damaged is seen, and never contradicted by a kill."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segengine.job import parse_job
from segengine.runs import Run
from segengine.store import seals
from segengine.store.blobs import NOBODY, Writer
from segengine.store.layouts import LAYOUTS
from segengine.store.local import LocalObjects
from segengine.store.root import write_documents
from segengine.store.sealbook import (
    CHANGED,
    MISSING,
    Book,
    is_kept_twice,
    is_sealed,
    is_whole_report,
    sealed_report,
)
from segengine.store.seals import (
    COPIES,
    LESS,
    REPORT,
    SEALED,
    SEALS,
    SEALS_COPY,
    SealedObjects,
    damage_notices,
)

ROOT, TABLE, PACK = "zarr.json", "tables/frames.parquet", "records/a.parquet"


@pytest.fixture
def base(tmp_path: Path) -> LocalObjects:
    return LocalObjects(str(tmp_path))


def written(base: LocalObjects, **extra: bytes) -> SealedObjects:
    objects = SealedObjects(base)
    objects.begin()
    for key, data in {ROOT: b"root", TABLE: b"table", PACK: b"pack", **extra}.items():
        objects.put(key, data)
    objects.commit("published")
    return objects


@pytest.mark.parametrize(
    ("key", "sealed", "twice"),
    [
        ("zarr.json", True, True),
        ("scenes/zarr.json", True, False),
        ("scenes/a/zarr.json", True, False),
        ("scenes/a/mask/0/zarr.json", True, False),
        ("scenes/a/colors/c/0/0/0", True, False),
        ("scenes/a/mask/0/c/0/0/0", False, False),
        ("scenes/a/instances/0/c/0/0/0", False, False),
        ("records/a.parquet", True, True),
        ("records/a/mask/0.0.0.json", False, False),
        ("records/+layouts/a", True, True),
        ("records/+fits/run-uint8-3", True, True),
        ("records/+unplaced", True, True),
        ("records/+cut", True, False),
        ("records/+survey/run/x", False, False),
        ("records/+instances/a/0.0.0", False, False),
        (SEALS, False, False),
        (f"{COPIES}/000001", False, False),
        (SEALS_COPY, False, False),
        ("tables/frames.parquet", True, False),
        ("metrics.json", True, False),
        (REPORT, True, False),
        ("work/a/draft", False, False),
        ("run.lock", False, False),
    ],
)
def test_what_is_sealed(key: str, sealed: bool, twice: bool) -> None:
    assert (is_sealed(key), is_kept_twice(key)) == (sealed, twice)


@pytest.mark.parametrize("damage", [b"other", None])
def test_what_is_kept_twice_is_read_from_its_copy(base: LocalObjects, damage: Any) -> None:
    written(base)
    for key in (ROOT, PACK):
        spoil(base, key, damage)
    reader = SealedObjects(base)
    assert (reader.get(ROOT), reader.get(PACK)) == (b"root", b"pack")
    assert set(reader.damaged) == {ROOT, PACK}
    assert base.get(ROOT) == damage  # a reader heals nothing
    assert "a.parquet" in reader.children("records")[1]
    assert PACK in set(reader.keys("records"))
    healer = SealedObjects(base, heals=True)
    assert healer.get(ROOT) == b"root" == base.get(ROOT)
    (notice,) = damage_notices(healer)
    assert ROOT in notice
    assert "copies" in notice


def spoil(base: LocalObjects, key: str, damage: bytes | None) -> None:
    if damage is None:
        base.delete(key)
    else:
        base.put(key, damage)


@pytest.mark.parametrize("damage", [b"other", None])
def test_what_can_be_made_again_reads_as_absent(base: LocalObjects, damage: Any) -> None:
    written(base)
    spoil(base, TABLE, damage)
    reader = SealedObjects(base)
    assert reader.get(TABLE) is None
    (notice,) = damage_notices(reader)
    assert TABLE in notice
    assert "--repair" in notice


def test_check_names_every_kind_of_damage(base: LocalObjects) -> None:
    written(base)
    assert list(SealedObjects(base).check()) == []
    (copies,) = base.children(COPIES)[1]
    for key in (ROOT, TABLE, PACK, SEALS, f"{COPIES}/{copies}"):
        data = base.get(key)
        assert data is not None
        changed = bytearray(data)
        changed[-1] ^= 1
        for damage in (bytes(changed), data[: len(data) // 2], None):
            spoil(base, key, damage)
            assert [name for name, _ in SealedObjects(base).check()] == [key]
            base.put(key, data)


def test_mend_brings_back_what_has_a_copy_and_copies_from_what_is_whole(base: LocalObjects) -> None:
    written(base)
    (name,) = base.children(COPIES)[1]
    spoil(base, ROOT, b"other")
    spoil(base, TABLE, None)
    objects = SealedObjects(base, heals=True)
    assert set(objects.mend()) == {ROOT, TABLE}
    objects.commit()
    assert base.get(ROOT) == b"root"
    assert [key for key, _ in SealedObjects(base).check()] == []
    assert TABLE not in SealedObjects(base).book.seals
    spoil(base, f"{COPIES}/{name}", b"other")
    objects = SealedObjects(base, heals=True)
    assert set(objects.mend()) == {f"{COPIES}/{name}"}
    objects.commit()
    assert list(SealedObjects(base).check()) == []
    spoil(base, PACK, b"other")
    assert SealedObjects(base).get(PACK) == b"pack"


def test_lost_seals_are_made_again_of_what_is_there(base: LocalObjects) -> None:
    written(base)
    base.delete(SEALS)
    objects = SealedObjects(base, heals=True)
    assert [key for key, _ in objects.check()] == [SEALS]
    assert objects.published == ""
    objects.mend()
    objects.adopt_all()
    objects.commit("published")
    again = SealedObjects(base)
    assert list(again.check()) == []
    assert set(again.book.seals) == {ROOT, TABLE, PACK}
    spoil(base, PACK, None)
    assert SealedObjects(base).get(PACK) == b"pack"


@pytest.mark.parametrize("damage", [b"other", None])
def test_lost_seals_are_read_from_their_second_copy(base: LocalObjects, damage: Any) -> None:
    """So that what is damaged with them is seen and brought back as ever."""
    written(base)
    for key in (SEALS, ROOT, TABLE):
        spoil(base, key, damage)
    assert {key for key, _ in SealedObjects(base).check()} == {SEALS, ROOT, TABLE}
    objects = SealedObjects(base, heals=True)
    assert not objects.unsealed
    assert objects.published == ""
    objects.mend()
    assert base.get(ROOT) == b"root"
    assert base.get(SEALS) == base.get(SEALS_COPY)
    assert {SEALS, ROOT} <= objects.healed.keys()


def test_seals_that_are_lost_with_their_copy_are_missed(base: LocalObjects) -> None:
    root = json.dumps({"attributes": {"segengine": {SEALED: True}}}).encode()
    written(base, **{ROOT: root, f"{LAYOUTS}/a": b"layout"})
    assert not SealedObjects(base).unsealed
    base.delete_tree(COPIES)
    base.delete(SEALS)
    objects = SealedObjects(base)
    assert list(objects.check()) == [(SEALS, f"{MISSING}; {LESS}")]
    assert objects.unsealed
    spoil(base, ROOT, None)  # of a root that is lost too, layouts tell
    assert [key for key, _ in SealedObjects(base).check()] == [SEALS]
    base.delete_tree(LAYOUTS)
    assert list(SealedObjects(base).check()) == []


def test_the_second_copy_of_the_seals_is_compared(base: LocalObjects) -> None:
    """But for one that a kill has left a time behind."""
    objects = written(base)
    behind = base.get(SEALS_COPY)
    objects.open([TABLE])
    base.put(SEALS_COPY, behind or b"")
    assert list(SealedObjects(base).check()) == []
    objects.open([ROOT])
    for damage, what in ((behind, CHANGED), (b"other", CHANGED), (None, MISSING)):
        spoil(base, SEALS_COPY, damage)
        assert list(SealedObjects(base).check()) == [(SEALS_COPY, what)]
        healer = SealedObjects(base, heals=True)
        healer.mend()
        assert base.get(SEALS_COPY) == base.get(SEALS)
        assert list(SealedObjects(base).check()) == []
    same_time = Book.read(base.get(SEALS))
    assert same_time is not None
    same_time.complete = not same_time.complete
    base.put(SEALS_COPY, same_time.stored())
    assert list(SealedObjects(base).check()) == [(SEALS_COPY, CHANGED)]


def test_there_are_seals_before_anything_says_so(base: LocalObjects) -> None:
    """A kill of a first run is no loss: the root is written after seals of nothing."""
    objects = SealedObjects(base)
    objects.begin()
    objects.open([ROOT])
    root = json.dumps({"attributes": {"segengine": {SEALED: True}}}).encode()
    objects.put(ROOT, root)
    assert list(SealedObjects(base).check()) == []
    assert SealedObjects(base).book.complete


def test_a_store_of_before_has_no_seals_and_gets_them(base: LocalObjects) -> None:
    for key in (ROOT, TABLE, PACK, "records/a/mask/0.0.0.json", "scenes/a/mask/0/c/0/0/0"):
        base.put(key, key.encode())
    objects = SealedObjects(base)
    assert list(objects.check()) == []
    assert objects.get(PACK) == PACK.encode()
    objects.adopt_all()
    objects.commit("published")
    assert set(SealedObjects(base).book.seals) == {ROOT, TABLE, PACK}


class Killed(BaseException):
    """The process ends here."""


class Dying:
    """Objects that end their process before the n-th write."""

    def __init__(self, base: LocalObjects, left: int) -> None:
        self.base, self.left = base, left

    def __getattr__(self, name: str) -> Any:
        if name in ("put", "delete", "delete_many", "delete_tree", "create"):
            if self.left == 0:
                raise Killed
            self.left -= 1
        return getattr(self.base, name)


LAYOUT = "records/+layouts/a"
changes = st.tuples(
    st.sampled_from([ROOT, TABLE, PACK, LAYOUT]),
    st.binary(max_size=4) | st.sampled_from(["delete", "delete_many", "delete_tree"]),
)


@settings(max_examples=20)
@given(st.booleans(), st.lists(changes, max_size=5))
def test_a_kill_at_any_write_is_no_damage(
    tmp_path_factory: pytest.TempPathFactory, opened: bool, steps: list[tuple[str, Any]]
) -> None:
    """Whatever was written last is what is read, and nothing counts as damaged."""
    for left in range(16):
        base = LocalObjects(str(tmp_path_factory.mktemp("store")), Writer(fsync=False))
        written(base, **{LAYOUT: b"layout"})
        last: dict[str, Any] = {ROOT: b"root", TABLE: b"table", PACK: b"pack", LAYOUT: b"layout"}
        objects: Any = SealedObjects(Dying(base, left))  # type: ignore[arg-type]
        try:
            if opened:
                objects.open([key for key, _ in steps])
            for key, data in steps:
                if data == "delete_tree":
                    key = LAYOUT
                    objects.delete_tree("records/+layouts")
                elif data == "delete":
                    objects.delete(key)
                elif data == "delete_many":
                    objects.delete_many([key])
                else:
                    objects.put(key, data)
                last[key] = data if isinstance(data, bytes) else None
            objects.commit("published")
        except Killed:
            pass
        again = SealedObjects(base)
        assert list(again.check()) == []
        assert {key: again.get(key) for key in last} == last
        assert again.damaged == {}


def test_what_is_to_be_written_is_to_be_published_again(base: LocalObjects) -> None:
    written(base).open([TABLE])
    assert SealedObjects(base).published == ""
    objects = SealedObjects(base)
    objects.commit("published")
    objects.open([ROOT], publish=False)
    assert SealedObjects(base).published == "published"
    objects.open([])
    assert SealedObjects(base).published == ""


@pytest.mark.parametrize("of_another_day", ["other bytes", "none of it"])
def test_copies_of_another_day_are_found_and_made_again(
    of_another_day: str, base: LocalObjects
) -> None:
    """As they lie there where some objects of a store were brought back from elsewhere."""
    written(base)
    (name,) = base.children(COPIES)[1]
    before = base.get(f"{COPIES}/{name}")
    assert before is not None
    key = PACK if of_another_day == "other bytes" else "records/b.parquet"
    objects = SealedObjects(base)
    objects.put(key, b"new")
    objects.commit("published")
    copies = f"{COPIES}/{objects.book.seals[key].copies}"
    base.put(copies, before)
    assert list(SealedObjects(base).check()) == [(copies, CHANGED)]
    spoil(base, key, b"torn")
    assert SealedObjects(base).get(key) is None  # not what it was on that day
    spoil(base, key, b"new")
    objects = SealedObjects(base, heals=True)
    assert set(objects.mend()) == {copies}
    objects.commit()
    assert list(SealedObjects(base).check()) == []
    spoil(base, key, b"torn")
    assert SealedObjects(base).get(key) == b"new"


def test_what_is_lost_with_its_copy_goes_and_what_can_be_made_again_stays(
    base: LocalObjects,
) -> None:
    written(base)
    (name,) = base.children(COPIES)[1]
    for key in (TABLE, PACK, f"{COPIES}/{name}"):
        spoil(base, key, b"other")
    objects = SealedObjects(base, heals=True)
    assert set(objects.mend()) == {TABLE, PACK, f"{COPIES}/{name}"}
    objects.commit()
    assert (base.get(ROOT), base.get(TABLE), base.get(PACK)) == (b"root", b"other", None)
    assert set(SealedObjects(base).book.seals) == {ROOT}
    assert list(SealedObjects(base).check()) == []


def test_copies_do_not_pile_up(base: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "MOST_COPIES", 4)
    written(base)
    for night in range(20):
        objects = SealedObjects(base, heals=True)
        objects.put(f"records/s{night}.parquet", b"%d" % night)
        objects.commit("published")
        assert len(base.children(COPIES)[1]) <= 5
    base.delete_tree("tables")
    for night in range(20):
        base.put(f"records/s{night}.parquet", b"lost")
        assert SealedObjects(base).get(f"records/s{night}.parquet") == b"%d" % night


def test_a_kill_while_many_copies_become_few_loses_none(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {ROOT: b"root", PACK: b"pack", "records/b.parquet": b"b"}
    counts = []
    for left in range(10):
        base = LocalObjects(str(tmp_path_factory.mktemp("store")))
        written(base)
        objects: Any = SealedObjects(base)
        objects.put("records/b.parquet", b"b")
        objects.commit("published")
        with monkeypatch.context() as patch:
            patch.setattr(seals, "MOST_COPIES", 1)
            objects = SealedObjects(Dying(base, left))  # type: ignore[arg-type]
            with suppress(Killed):
                objects.put(TABLE, b"new")
                objects.commit("published")
        assert list(SealedObjects(base).check()) == []
        counts.append(len(base.children(COPIES)[1]))
        for key in wanted:
            spoil(base, key, b"torn")
        assert {key: SealedObjects(base).get(key) for key in wanted} == wanted
    assert (counts[0], max(counts), counts[-1]) == (2, 3, 1)


def test_one_small_object_of_copies_is_not_made_one_again_and_again(
    base: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "MOST_COPIES", 1)
    monkeypatch.setattr(seals, "SMALL", 400)
    written(base)
    objects = SealedObjects(base)
    objects.put("records/b.parquet", random.Random(1).randbytes(600))
    objects.commit("published")
    before = base.children(COPIES)[1]
    assert len(before) == 2
    for night in range(2):
        objects = SealedObjects(base)
        objects.put(TABLE, b"%d" % night)
        objects.commit("published")
        assert base.children(COPIES)[1] == before


def test_what_is_rewritten_leaves_no_copy_behind(base: LocalObjects) -> None:
    for turn in range(3):
        objects = written(base) if turn == 0 else SealedObjects(base)
        for key in (ROOT, PACK):
            objects.put(key, b"turn %d" % turn)
        objects.commit("published")
    assert len(base.children(COPIES)[1]) == 1


def test_has_asks_the_seal(base: LocalObjects) -> None:
    objects = written(base)
    assert objects.has(TABLE, b"table")
    assert not objects.has(TABLE, b"other")
    assert not objects.has("scenes/a/zarr.json", b"new")
    objects.put("scenes/a/zarr.json", b"new")
    assert objects.has("scenes/a/zarr.json", b"new")
    spoil(base, TABLE, b"torn")
    assert objects.has(TABLE, b"table")  # not looked at
    assert objects.get(TABLE) is None
    assert not objects.has(TABLE, b"table")  # so that it is written again


def test_a_report_is_whole_by_itself() -> None:
    page = sealed_report("<p>caf\u00e9 \udcff</p>")
    assert is_whole_report(page)
    for i in range(len(page)):
        changed = bytearray(page)
        changed[i] ^= 1
        assert not is_whole_report(bytes(changed))
    assert not is_whole_report(page[:-1])
    assert not is_whole_report(b"")


def test_a_reader_that_writes_the_report_breaks_no_seal(base: LocalObjects) -> None:
    objects = SealedObjects(base)
    objects.begin()
    objects.put(REPORT, sealed_report("one"))
    objects.put(ROOT, b"root")
    objects.commit("published")
    before = base.get(SEALS)
    SealedObjects(base).put(REPORT, sealed_report("two"))
    assert base.get(SEALS) == before
    assert list(SealedObjects(base).check()) == []
    base.put(REPORT, b"torn")
    assert [key for key, _ in SealedObjects(base).check()] == [REPORT]


def test_a_reader_beside_a_run_takes_what_is_written_for_no_damage(base: LocalObjects) -> None:
    written(base)
    reader, verifier = SealedObjects(base), SealedObjects(base)
    assert (reader.get(PACK), verifier.get(ROOT)) == (b"pack", b"root")
    run = SealedObjects(base, heals=True)
    run.open([PACK, ROOT])
    run.put(PACK, b"new")
    assert reader.get(PACK) == b"new"
    run.put(ROOT, b"new root")
    run.commit("published")
    assert list(verifier.check()) == []
    assert (reader.get(ROOT), reader.damaged) == (b"new root", {})
    base.put(PACK, b"torn")
    assert [key for key, _ in verifier.check()] == [PACK]


def test_who_gave_the_lock_back_heals_nothing(base: LocalObjects) -> None:
    written(base)
    run = SealedObjects(base.by(Writer(run="mine")), heals=True)
    assert run.published == "published"
    base.put(ROOT, b"of another run")
    assert run.by(NOBODY).get(ROOT) == b"root"
    assert base.get(ROOT) == b"of another run"


def test_what_is_opened_ahead_is_written_without_a_save_each_and_else_sealed_as_it_was(
    base: LocalObjects,
) -> None:
    objects = written(base, **{f"scenes/{name}/zarr.json": name.encode() for name in "abc"})
    before = objects.book.saves
    keys = objects.sealed_in({"scenes/a", "scenes/b"})
    assert keys == ["scenes/a/zarr.json", "scenes/b/zarr.json"]
    objects.open([], ahead=keys)
    objects.put(keys[0], b"new")
    assert SealedObjects(base).book.seals.keys().isdisjoint(keys)  # a kill contradicts nothing
    objects.commit()
    assert objects.book.saves == before + 2
    again = SealedObjects(base)
    assert not list(again.check())
    assert {*keys, "scenes/c/zarr.json"} <= again.book.seals.keys()


def test_metadata_that_a_kill_left_without_a_seal_get_one(base: LocalObjects) -> None:
    objects = written(base, **{"scenes/a/zarr.json": b"{}"})
    objects.open([], ahead=["scenes/a/zarr.json"])
    again = SealedObjects(base, heals=True)  # after the kill
    assert again.is_unsealed("scenes/a/zarr.json")
    write_documents(again, {"scenes/a/zarr.json": b"{}"})
    again.commit()
    assert SealedObjects(base).vouches("scenes/a/zarr.json", b"{}")


@pytest.mark.parametrize(
    "changed", [{"segmenter": {"kind": "edges"}}, {"source": {"color": "gray"}}], ids=str
)
def test_seals_are_not_written_scene_by_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    """Where all scenes have other classes, or are laid out anew."""
    saves: list[str] = []
    put = LocalObjects.put

    def counted(self: LocalObjects, key: str, data: bytes) -> None:
        saves.extend([key] * (key == SEALS))
        put(self, key, data)

    monkeypatch.setattr(LocalObjects, "put", counted)
    found = []
    for scenes in (1, 5):
        photos = tmp_path / str(scenes)
        photos.mkdir()
        for i in range(scenes):  # each of a size of its own
            image = np.full((20, 300 * (i + 1), 3), 9, np.uint8)
            assert cv2.imwrite(str(photos / f"{i}.png"), image)
        job = {
            "source": {"paths": [str(photos)]},
            "segmenter": {"kind": "threshold"},
            "store": {"path": f"{photos}.zarr"},
        }
        for options in ({}, changed):
            saves.clear()
            both = {key: {**job[key], **options.get(key, {})} for key in job}
            with Run(parse_job(both), in_process=True) as run:
                for _ in run.stage("plan"):
                    pass
        found.append(len(saves))
    assert found[1] == found[0]


def test_one_listing_tells_what_is_missing(base: LocalObjects, monkeypatch: Any) -> None:
    table, runs = "tables/frames.parquet", "tables/runs.parquet"
    objects = SealedObjects(base, heals=True)
    for key in (table, runs, "tables/shards.parquet", "metrics.json"):
        objects.put(key, key.encode())
    objects.commit("all")
    assert objects.missing_in("tables") == []
    for key in (table, runs, "metrics.json"):
        base.delete(key)
    fresh = SealedObjects(base, heals=True)
    assert fresh.published == "all"
    asked: list[str] = []
    there = base.children
    monkeypatch.setattr(LocalObjects, "children", lambda _, at: asked.append(at) or there(at))
    assert fresh.missing_in("tables") == [table]  # the runs have their copy
    assert asked == ["tables"]
    assert fresh.damaged == {table: "it is missing"}
