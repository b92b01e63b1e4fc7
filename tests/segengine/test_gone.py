"""What is carried over of vanished inputs, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.shardcodec import encode_shard

pytestmark = pytest.mark.usefixtures("plain_report")
OBJECTS = {"kind": "threshold", "method": "mean", "instances": "components"}
BUCKET = "256x256-uint8-3"


def shard_of(bench: Any) -> Path:
    (path,) = (p for p in (bench.store / f"scenes/{BUCKET}/mask/0/c").rglob("*") if p.is_file())
    return path


def objects_of(bench: Any, frame: int) -> list[dict[str, Any]]:
    rows = bench.open().table("instances").to_pylist()
    return [row for row in rows if row["frame"] == frame]


@pytest.mark.parametrize("damage", ["none", "other labels", "lost"])
def test_only_bytes_that_the_record_vouches_for_are_carried(
    damage: str, bench: Any, noise: Any
) -> None:
    for i, name in enumerate("ab"):
        bench.put(f"{name}.png", noise(i, (40, 40, 3)))
    bench.run(OBJECTS, store={"shard": 512})
    before = np.asarray(bench.open()[BUCKET].mask[1])
    assert set(np.unique(before)) == {0, 1, 255}
    rows = objects_of(bench, 1)
    assert rows
    (bench.inputs / "b.png").unlink()
    path = shard_of(bench)
    if damage == "other labels":  # bytes that can be read, and are not those that were committed
        shape = (2, 256, 256)
        path.write_bytes(encode_shard(np.zeros(shape, np.uint8), shape, (1, 16, 16), 255))
    elif damage == "lost":
        path.unlink()
    bench.put("a.png", noise(5, (40, 40, 3)))
    assert bench.run(OBJECTS, store={"shard": 512}).computed == 1
    after = np.asarray(bench.open()[BUCKET].mask[1])
    assert objects_of(bench, 1) == (rows if damage == "none" else [])
    assert objects_of(bench, 0)
    np.testing.assert_array_equal(after, before if damage == "none" else np.full_like(before, 255))
