"""Work that makes a record: done, recorded, or a reason why it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segengine.errors import DamagedStoreError, StoreAccessError
from segengine.store.blobs import Objects, Writer, open_objects
from segengine.store.kinds import LevelRecord, MaskRecord
from segengine.store.records import RecordLog
from segengine.worker.attempts import recorded, tried
from segengine.worker.tasks import Damaged, Retry

RECORD = LevelRecord(scene="s", shard=(0, 0, 0), box=(0,) * 6, level=1, below="digest")


def test_what_work_makes_is_committed_with_what_it_took(tmp_path: Path) -> None:
    def work(objects: Objects) -> LevelRecord:
        assert not list(RecordLog(objects).read("s"))  # the record comes last
        return RECORD

    made = recorded(str(tmp_path), Writer(), 3, work)
    assert isinstance(made, LevelRecord)
    assert (made.attempts, made.seconds >= 0, made.finished > 1e9) == (3, True, True)
    assert list(RecordLog(open_objects(str(tmp_path))).read("s")) == [made]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DamagedStoreError("scenes/s/mask/0/c/0/0/0", "why"), Damaged("scenes/s/mask/0/c/0/0/0", "why")),
        (ValueError("torn"), Retry("ValueError: torn")),
        (MemoryError(), Retry("out of memory")),
        (StoreAccessError("there", "full", True), Retry("there; full", fatal=True)),
    ],
)  # fmt: skip
def test_what_fails_leaves_no_record(tmp_path: Path, error: Exception, outcome: Any) -> None:
    def work(_: Objects) -> MaskRecord:
        raise error

    assert recorded(str(tmp_path), Writer(), 1, work) == outcome
    assert not list(tmp_path.rglob("*.json"))


def test_a_record_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    made = recorded(str(tmp_path / "store"), Writer(), 1, lambda _: RECORD)
    assert isinstance(made, Retry)


def test_what_gives_no_record_is_tried_alike() -> None:
    assert tried(lambda: 3) == 3
    assert tried(lambda: 1 // 0) == Retry("ZeroDivisionError: integer division or modulo by zero")
