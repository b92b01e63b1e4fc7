"""Commit records: single, packed, void, and what a kill between two steps leaves."""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segengine.store import packs
from segengine.store.keys import pack_key, single_key
from segengine.store.kinds import (
    Counts,
    DraftRecord,
    FrameFailure,
    FrameMeasures,
    LevelRecord,
    MaskRecord,
    PrecisionRecord,
    Record,
    ShardMeasures,
    StoredObject,
    VoidRecord,
    VolumeMeasures,
    given_up,
)
from segengine.store.local import LocalObjects
from segengine.store.packs import (
    SMALL,
    TOGETHER,
    Pack,
    from_pack,
    from_table,
    pack_records,
    to_table,
)
from segengine.store.records import RecordLog
from segengine.store.singles import COLUMNS, from_json, stored, to_json

small = st.integers(0, 5)
texts = st.text(max_size=8)
places = st.tuples(small, small, small)
_ANY: dict[str, Any] = {
    "scene": st.just("s"),
    "shard": places,
    "box": st.tuples(*[st.integers(0, 1 << 40)] * 6),
    "attempts": st.integers(1, 9),
    "seconds": st.floats(0, 1e6),
    "finished": st.floats(0, 2e9),
}
_OBJECTS = st.lists(st.builds(StoredObject, texts, texts, small), max_size=2).map(tuple)
_LABELLED: dict[str, Any] = {
    **_ANY,
    "inputs": texts,
    "job": texts,
    "weights": texts,
    "fit": texts,
    "failures": st.lists(st.builds(FrameFailure, small, texts, texts), max_size=2).map(tuple),
    "version": small,
    "provenance": texts,
}
_MEASURED: dict[str, Any] = {
    **_ANY,
    **dict.fromkeys(("truth", "metrics", "masks", "states"), texts),
}
records = st.one_of(
    st.builds(
        MaskRecord,
        **_LABELLED,
        status=st.sampled_from(["done", "error", "crash", "hang"]),
        objects=_OBJECTS,
        reason=texts,
        areas=st.lists(st.tuples(small, small), max_size=2).map(tuple),
        colors=st.lists(st.tuples(st.tuples(small, small, small)), max_size=2).map(tuple),
        inertia=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=2).map(tuple),
        ground=st.lists(small, max_size=2).map(tuple),
        pixels=st.integers(0, 1 << 50),
    ),
    st.builds(DraftRecord, **_LABELLED, summary=texts),
    st.builds(LevelRecord, **_ANY, level=st.integers(1, 12), below=texts, objects=_OBJECTS),
    st.builds(ShardMeasures, **_MEASURED),
    st.builds(FrameMeasures, **_MEASURED),
    st.builds(VolumeMeasures, **_MEASURED),
    st.builds(
        PrecisionRecord,
        **_ANY,
        **dict.fromkeys(("inputs", "job", "weights", "mask"), texts),
        counts=st.builds(Counts, small, small),
    ),
)


def record(place: tuple[int, int, int] = (0, 0, 0), **changes: Any) -> MaskRecord:
    base = MaskRecord(scene="s", shard=place, box=(0, 0, 0, 1, 2, 3), inputs="in", job="job")
    return replace(base, **changes)


AT: dict[str, Any] = {"scene": "s", "shard": (0, 1, 2), "box": (0, 0, 0, 1, 2, 3)}
SPENT: dict[str, Any] = {"attempts": 2, "seconds": 0.25, "finished": 1.5}
MADE: dict[str, Any] = {"inputs": "in", "job": "job", "weights": "w", "fit": "fit", "version": 3}
EACH: dict[str, tuple[Record, dict[str, Any]]] = {
    "mask": (
        MaskRecord(
            **AT,
            **SPENT,
            **MADE,
            objects=(StoredObject("mask/0", "c", 3),),
            failures=(FrameFailure(0, "corrupt", "why"),),
            areas=((1, 2),),
            colors=(((1, 2, 3),),),
            inertia=(0.5,),
            ground=(7, 8),
            pixels=1,
            provenance="{}",
        ),
        {
            **MADE,
            "objects": [{"array": "mask/0", "checksum": "c", "bytes": 3}],
            "failures": [{"frame": 0, "kind": "corrupt", "reason": "why"}],
            "areas": [[1, 2]],
            "colors": [[[1, 2, 3]]],
            "inertia": [0.5],
            "ground": [7, 8],
            "pixels": 1,
            "provenance": "{}",
        },
    ),
    "draft": (DraftRecord(**AT, **SPENT, **MADE, summary="U0VH"), {**MADE, "payload": "U0VH"}),
    "level2": (LevelRecord(**AT, **SPENT, level=2, below="digest"), {"inputs": "digest"}),
    "measure": (
        ShardMeasures(**AT, **SPENT, truth="truth", metrics="key", masks="sum", states="U0VH"),
        {"inputs": "truth", "job": "key", "fit": "sum", "payload": "U0VH"},
    ),
    "frame": (
        FrameMeasures(**AT, **SPENT, truth="truth", metrics="key", masks="sum", states="U0VH"),
        {"inputs": "truth", "job": "key", "fit": "sum", "payload": "U0VH"},
    ),
    "volume": (
        VolumeMeasures(**AT, **SPENT, truth="truth", metrics="key", masks="sum", states="U0VH"),
        {"inputs": "truth", "job": "key", "fit": "sum", "payload": "U0VH"},
    ),
    "precision": (
        PrecisionRecord(
            **AT, **SPENT, inputs="in", job="job", weights="w", mask="sum", counts=Counts(1, 2)
        ),
        {
            **{"inputs": "in", "job": "job", "weights": "w", "fit": "sum"},
            "payload": '{"same": 1, "pixels": 2}',
        },
    ),
}
"""A record of each kind, and what of it is stored in the columns that all share."""


@pytest.mark.parametrize("kind", EACH)
def test_each_kind_is_stored_as_every_release_has(kind: str) -> None:
    """Key for key and in this order: the columns are older than the types."""
    value, own = EACH[kind]
    told: dict[str, Any] = {
        **{"kind": kind, "scene": "s", "shard": [0, 1, 2], "box": [0, 0, 0, 1, 2, 3]},
        **{"status": "done", "inputs": "", "job": "", "weights": "", "fit": "", "objects": []},
        **{"reason": "", "failures": [], "areas": [], "colors": [], "inertia": [], "ground": []},
        **{"attempts": 2, "seconds": 0.25, "finished": 1.5, "pixels": 0, "version": 1},
        **{"provenance": "", "payload": ""},
    }
    body, _, _ = to_json(value).rpartition(b',"sum":"')
    assert body.decode() == json.dumps({**told, **own}, separators=(",", ":"))[:-1]
    assert from_json(to_json(value)) == value
    (row,) = to_table([value]).to_pylist()
    assert row["kind"] == kind
    assert {k: row[k] for k in own if isinstance(own[k], str | int)} == {
        k: v for k, v in own.items() if isinstance(v, str | int)
    }
    assert value.kind == kind


def test_what_takes_a_record_back_is_stored_as_every_release_has() -> None:
    void = VoidRecord(of="mask", scene="s", shard=(0, 0, 1))
    assert to_json(void) == (
        b'{"kind":"mask","scene":"s","shard":[0,0,1],"box":[0,0,0,0,0,0],"status":"void",'
        b'"inputs":"","job":"","weights":"","fit":"","objects":[],"reason":"","failures":[],'
        b'"areas":[],"colors":[],"inertia":[],"ground":[],"attempts":1,"seconds":0.0,'
        b'"finished":0.0,"pixels":0,"version":1,"provenance":"","payload":"",'
        b'"sum":"09d7a8f9290465be0ca6cab5e4df2da4"}'
    )
    assert from_json(to_json(void)) == void
    assert list(stored(void)) == list(COLUMNS)


def test_records_of_one_type_are_read_alone(log: RecordLog) -> None:
    for value, _ in EACH.values():
        log.write(value)
    for packed in (False, True):
        if packed:
            pack(log)
        kinds = {r.kind for r in log.read("s")}
        assert kinds == EACH.keys() - ({"draft"} if packed else set())
        assert [r.masks for r in log.read("s", ShardMeasures)] == ["sum"]
        assert [r.level for r in log.read("s", LevelRecord)] == [2]


def pack(log: RecordLog, scene: str = "s") -> None:
    """As a scene is packed when it is finished."""
    log.write_pack(scene)
    log.clear(scene)


@given(records)
def test_json_round_trip(value: Record) -> None:
    assert from_json(to_json(value)) == value


@given(st.lists(records, max_size=6))
def test_packed_round_trip(values: list[Record]) -> None:
    assert sorted(from_table(to_table(values), Record), key=repr) == sorted(values, key=repr)


@given(st.lists(records, max_size=6, unique_by=lambda r: (r.kind, r.shard)))
def test_a_pack_reads_as_what_was_packed(values: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = RecordLog(LocalObjects(folder))
        log.objects.put(pack_key("s"), pack_records(values))
        assert sorted(log.read("s"), key=repr) == sorted(values, key=repr)
        table = log.table("s", ["kind", "failures", "weights"])
        assert table is not None
        assert table.column_names == ["kind", "failures", "weights"]
        assert table.num_rows == len(values)


@pytest.mark.parametrize("more", [0, 1, SMALL, 3 * SMALL])
@pytest.mark.parametrize("count", [2, SMALL, 2 * SMALL])
@pytest.mark.parametrize("group", [packs.GROUP, 50])
def test_what_is_added_to_a_pack_reads_as_what_was_packed_at_once(
    log: RecordLog, count: int, more: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "GROUP", group)
    old = [record((i, 0, 0), reason="old") for i in range(count)]
    # Every other one stands in the place of an old one; between them are some of another kind.
    new = [record((2 * i, 0, 0), reason="new") for i in range(more)]
    new += [
        LevelRecord(scene="s", shard=(i, 0, 0), level=2, box=(0,) * 6, below="")
        for i in range(more)
    ]
    for value in (*old, *new):
        log.write(value)
    log.objects.put(pack_key("s"), pack_records(old))
    log.move_to_pack("s", [*new, VoidRecord(of="mask", scene="s", shard=(count - 1, 0, 0))])
    log.clear("s")
    wanted = {(r.kind, r.shard): r for r in (*old, *new)}
    wanted.pop(("mask", (count - 1, 0, 0)))
    assert list(log.read("s")) == [wanted[key] for key in sorted(wanted)]
    found = Pack.of(log.objects.get(pack_key("s")) or b"")
    assert found is not None
    assert len(found.counts) == (1 if len(wanted) <= SMALL else -(-len(wanted) // group))


@given(st.data())
def test_groups_of_a_pack_hold_what_one_would(data: st.DataObject) -> None:
    places = st.lists(st.tuples(*[st.integers(0, 6)] * 3), unique=True, max_size=120)
    runs = data.draw(st.lists(places, min_size=1, max_size=4))
    wanted: dict[Any, Record] = {}
    packed: bytes | None = None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packs, "GROUP", data.draw(st.integers(1, 40)))
        patched.setattr(packs, "SMALL", 3)
        for number, run in enumerate(runs):
            new = [record(place, reason=str(number)) for place in run]
            gone = [VoidRecord(of="mask", scene="s", shard=run[0])] if number and run else []
            wanted |= {r.shard: r for r in new}
            packed = pack_records(new, Pack.of(packed) if packed else None)
            if gone:
                packed = pack_records(gone, Pack.of(packed))
                del wanted[run[0]]
        again = Pack.of(packed or b"")
        assert again is not None
        assert list(from_pack(again, Record)) == [wanted[key] for key in sorted(wanted)]


def test_a_pack_whose_second_group_is_damaged_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "GROUP", 100)
    data = pack_records([record((i, 0, 0), reason=f"{i**7}") for i in range(200)])
    whole = Pack.of(data)
    assert whole is not None
    assert [*whole.counts] == [100, 100]
    middle = len(data) * 3 // 5
    assert Pack.of(data[:middle] + bytes(400) + data[middle + 400 :]) is None


def test_a_pack_without_columns_of_today_is_added_to(log: RecordLog) -> None:
    old = to_table([record((i, 0, 0)) for i in range(2 * SMALL)])
    sink = io.BytesIO()
    pq.write_table(old.drop_columns(["payload", "weights", "ground"]), sink)
    log.objects.put(pack_key("s"), sink.getvalue())
    new = [record((i, 1, 0)) for i in range(2 * SMALL)]
    log.move_to_pack("s", new)
    found = list(log.read("s"))
    assert [r.shard for r in found] == sorted((i, y, 0) for i in range(2 * SMALL) for y in (0, 1))
    assert [r for r in found if r.shard[1]] == new


@pytest.mark.parametrize("count", [0, 1, SMALL, SMALL + 1])
def test_a_pack_of_an_earlier_release_reads_the_same(log: RecordLog, count: int) -> None:
    values = [record((i, 0, 0), reason="é" * i, areas=((i, 2),)) for i in range(count)]
    sink = io.BytesIO()
    pq.write_table(to_table(values), sink, compression="zstd")
    log.objects.put("records/s.parquet", sink.getvalue())
    before = list(log.read("s"))
    pack(log)
    assert list(log.read("s")) == before == values


def test_a_pack_of_one_record_is_small(log: RecordLog) -> None:
    log.write(record(objects=(StoredObject("mask/0", "0" * 32, 300),), areas=((4000, 96, 0),)))
    pack(log)
    data = log.objects.get("records/s.parquet")
    assert data is not None
    assert 500 < len(data) < 2500


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b'{"shard": 3}',
        to_json(record()).replace(b'"mask"', b'"other"').rpartition(b",")[0] + b"}",
        to_json(record()).replace(b'"areas"', b'"places"').rpartition(b",")[0] + b"}",
    ],
)
def test_what_is_no_record_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"record|Expecting|property name"):
        from_json(data)


@pytest.fixture
def log(tmp_path: Path) -> RecordLog:
    return RecordLog(LocalObjects(str(tmp_path)))


def test_a_single_stands_above_the_packed_one(log: RecordLog) -> None:
    log.write(record(reason="old"))
    log.write(record((0, 0, 1)))
    pack(log)
    assert log.scenes() == (set(), {"s"})
    log.write(record(reason="new"))
    assert {r.shard: r.reason for r in log.read("s")} == {(0, 0, 0): "new", (0, 0, 1): ""}
    pack(log)
    assert {r.shard: r.reason for r in log.read("s")} == {(0, 0, 0): "new", (0, 0, 1): ""}
    assert log.singles("s") == {}


def test_a_void_record_takes_a_packed_one_back(log: RecordLog) -> None:
    log.write(record())
    log.write(record((0, 0, 1)))
    pack(log)
    log.drop("mask", "s", (0, 0, 0), packed=True)
    assert [r.shard for r in log.read("s")] == [(0, 0, 1)]
    log.write(record(reason="again"))
    assert {r.shard: r.reason for r in log.read("s")} == {(0, 0, 0): "again", (0, 0, 1): ""}
    log.drop("mask", "s", (0, 0, 0), packed=True)
    pack(log)
    assert [r.shard for r in log.read("s")] == [(0, 0, 1)]


def test_a_dropped_single_is_gone(log: RecordLog) -> None:
    log.write(record())
    log.drop("mask", "s", (0, 0, 0), packed=False)
    assert list(log.read("s")) == []


def test_a_kill_between_pack_and_delete_changes_nothing(log: RecordLog) -> None:
    log.write(record())
    single = log.objects.get(single_key("mask", "s", (0, 0, 0)))
    pack(log)
    packed = log.objects.get("records/s.parquet")
    assert single is not None
    log.objects.put(single_key("mask", "s", (0, 0, 0)), single)  # it was not deleted yet
    assert [r.shard for r in log.read("s")] == [(0, 0, 0)]
    pack(log)
    assert log.objects.get("records/s.parquet") == packed
    assert log.scenes() == (set(), {"s"})


def test_a_folder_that_a_kill_left_empty_goes(log: RecordLog, tmp_path: Path) -> None:
    log.write(record())
    pack(log)
    (tmp_path / "records/s/mask").mkdir(parents=True)
    assert log.scenes() == ({"s"}, {"s"})
    pack(log)
    assert log.scenes() == (set(), {"s"})
    assert [r.shard for r in log.read("s")] == [(0, 0, 0)]


def test_a_torn_single_counts_as_absent(log: RecordLog) -> None:
    log.write(record())
    log.objects.put(single_key("mask", "s", (0, 0, 1)), to_json(record((0, 0, 1)))[:-9])
    assert [r.shard for r in log.read("s")] == [(0, 0, 0)]


def test_a_torn_single_takes_the_packed_one_back(log: RecordLog) -> None:
    """It may have been a void one: the packed record's bytes may be gone."""
    for x in range(2):
        log.write(record((0, 0, x)))
    pack(log)
    torn = single_key("mask", "s", (0, 0, 0))
    log.objects.put(torn, to_json(record())[:-9])
    log.write(record((0, 0, 2)))
    assert [r.shard for r in log.read("s")] == [(0, 0, 2), (0, 0, 1)]
    never_packed = single_key("mask", "t", (0, 0, 0))
    log.objects.put(never_packed, b"torn")
    assert list(log.damaged()) == [torn, never_packed]


def test_no_credential_is_written(log: RecordLog) -> None:
    """Wherever a worker's record, or an earlier release's, holds one."""
    text = "cannot read https://me:hidden@host/a.png?sig=hidden"
    void = FrameFailure(0, "error", text)
    failed = record((0, 0, 1), failures=(void,))
    values = [record(reason=text), failed, record((0, 0, 2), reason=text, failures=(void,))]
    for value in values:
        assert b"hidden" not in to_json(value)
    for row in to_table(values).to_pylist():
        assert "hidden" not in str(row)
        assert "https://host/a.png" in str(row)


def test_what_is_no_scene_has_no_records(log: RecordLog) -> None:
    for key in ("+layouts/s", "+fits/run-uint8-3", "+cut", "t/mask/0.0.0.json", "u.parquet"):
        log.objects.put(f"records/{key}", b"")
    assert log.scenes() == ({"t"}, {"u"})


def test_drafts_are_not_packed(log: RecordLog) -> None:
    log.write(record())
    log.write(DraftRecord(scene="s", shard=(0, 0, 0), box=(0,) * 6, inputs="in", job="job"))
    assert {r.kind for r in log.read("s")} == {"mask", "draft"}
    pack(log)
    assert [r.kind for r in log.read("s")] == ["mask"]


def test_forget_and_given_up(log: RecordLog) -> None:
    log.write(record())
    pack(log)
    log.write(record())
    log.forget("s")
    assert log.scenes() == (set(), set())
    done = record(objects=(StoredObject("mask/0", "c", 3),), areas=((1, 2),), pixels=3)
    lost = given_up(done, "crash", "why", 3)
    assert (lost.status, lost.reason, lost.attempts) == ("crash", "why", 3)
    assert (lost.objects, lost.areas, lost.pixels) == ((), (), 0)


def test_columns_of_many_packed_records(log: RecordLog) -> None:
    many = [record((0, i // 100, i % 100)) for i in range(10_000)]
    log.objects.put(pack_key("s"), pack_records(many))
    table = log.table("s", ["f", "y", "x", "status"])
    assert table is not None
    assert table.column_names == ["f", "y", "x", "status"]
    assert table.num_rows == 10_000 > TOGETHER
    assert list(log.read("s")) == many
    assert set(table.column("status").to_pylist()) == {"done"}
