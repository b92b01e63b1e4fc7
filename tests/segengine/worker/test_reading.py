"""What is read ahead is what would have been read, and nothing else is used."""

from __future__ import annotations

from threading import current_thread
from typing import Any

import pytest

from segengine.planning.plan import Plan
from segengine.worker import reading

pytestmark = pytest.mark.usefixtures("plain_report")
SPEC = {"kind": "edges", "operator": "sobel", "threshold": 20}


def test_a_hinted_shard_is_read_by_another_thread_and_gives_the_same_bytes(
    new_bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = []
    for ahead in (False, True):
        bench = new_bench()
        bench.put("a.zarr", noise(3, (150, 170, 3)))
        readers: list[str] = []
        real = reading._read

        def read(*args: Any, real: Any = real, readers: list[str] = readers) -> Any:
            readers.append(current_thread().name)
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(reading, "_read", read)
            patch.setattr(Plan, "overlaps", lambda self, layout, on=ahead: on)
            bench.run(SPEC, store={"shard": 32})
        others = [name for name in readers if name.startswith("segengine-read-ahead")]
        assert len(readers) == 30
        assert len(others) == (29 if ahead else 0)  # all but the first
        trees.append(bench.tree())
    assert trees[0] == trees[1]
