"""Status and the dry run: what they say, and that they leave no trace."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

import segengine
from segengine.commands.plan import plan
from segengine.commands.status import _all_done, status
from segengine.errors import JobError
from segengine.job import parse_job
from segengine.reader import open_store
from segengine.store.keys import pack_key
from segengine.store.local import LocalObjects

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}
SEGMENTERS: list[dict[str, Any]] = [
    MEAN,
    {"kind": "threshold", "scope": "run"},
    {"kind": "kmeans", "clusters": 3, "scope": "scene", "attempts": 1},
    {"kind": "edges", "operator": "canny"},
    {"kind": "edges", "operator": "canny", "scope": "frame"},
    {"kind": "edges", "output": "regions"},
]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("spec", SEGMENTERS, ids=str)
def test_a_dry_run_estimates_and_leaves_no_trace(
    spec: dict[str, Any], bench: Any, noise: Any, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = bench.root / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (60 + i, 150, 3)))
    job = parse_job(bench.job(spec, store={"shard": 128}, cluster={"workers": 1}))
    before = files(bench.root)
    report = plan(job)
    assert files(bench.root) == before
    assert report.exit_code == 0
    assert report.shards == report.pending > 0
    assert report.seconds is not None, report.trial
    assert report.seconds > 0
    assert report.bytes
    assert report.pixels == sum((60 + i) * 150 for i in range(3))
    text = "\n".join(report.lines())
    assert "256x256-uint8-3: 3 frames of 256 x 256, 3 bands uint8" in text
    assert "estimate for what is left" in text

    segengine.run(job)
    stored = tree(bench.store)
    done = plan(job)
    assert (done.pending, done.trial) == (0, "nothing is left to do")
    assert tree(bench.store) == stored
    bench.put("9.png", noise(9, (40, 40, 3)))
    other = plan(job)
    added = 1 if spec.get("output") else 4  # regions need whole frames
    assert (other.shards, other.pending) == (report.shards + added, added)
    assert tree(bench.store) == stored
    assert files(scratch) == []


def test_a_dry_run_says_what_is_stale_and_what_cannot_be_read(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(MEAN)
    (bench.inputs / "b.png").write_bytes(b"")
    report = plan(parse_job(bench.job({**MEAN, "offset": 3})))
    text = "\n".join(report.lines())
    assert report.exit_code == 3
    assert "1 of 1 shards are stale and will be done again: segmenter.offset: default -> 3" in text
    assert "cannot be read: b.png: " in text


def test_a_trial_that_fails_is_no_estimate(toys: str, bench: Any, noise: Any) -> None:
    image = noise(1, (40, 40, 3))
    image[0, 0, 0] = 7
    bench.put("a.png", image)
    report = plan(parse_job(bench.job({"kind": f"{toys}:Fussy"})))
    assert report.seconds is None
    assert "no estimate: the trial shard" in "\n".join(report.lines())


def test_status_while_a_run_is_under_way(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (40, 40, 3)))
    (bench.inputs / "bad.png").write_bytes(b"text")
    real, seen = LocalObjects.put, []

    def put(self: LocalObjects, key: str, data: bytes) -> None:
        real(self, key, data)
        if "/mask/" in key and key.endswith(".json") and key.startswith("records/"):
            (scene,) = status(str(bench.store)).scenes
            seen.append((scene.done, scene.failed, scene.left))

    monkeypatch.setattr(LocalObjects, "put", put)
    bench.run(MEAN)
    assert seen == [(1, 0, 2), (2, 0, 1), (3, 0, 0)]
    report = status(str(bench.store))
    (scene,) = report.scenes
    assert (scene.frames, scene.shards, scene.done, scene.left) == (3, 3, 3, 0)
    assert report.exit_code == 3
    assert [f.name for f in report.failed] == ["bad.png"]
    (bench.inputs / "2.png").unlink()
    bench.run(MEAN)
    assert status(str(bench.store)).scenes[0].gone == 1
    assert "1 gone" in "\n".join(status(str(bench.store)).lines())


def test_scenes_that_are_all_done_are_told_by_the_published_tables_as_by_the_records(
    bench: Any, noise: Any
) -> None:
    for i in range(4):
        bench.put(f"{i}.zarr", noise(i, (96 + 40 * i, 96, 3)))
    broken = bench.put("4.zarr", noise(4, (96, 96, 3)))
    chunk = next(path for path in sorted(broken.rglob("c/0/0/*")) if path.is_file())
    chunk.write_bytes(b"\0" * 40)
    bench.run({**MEAN, "scope": "frame"}, store={"shard": 64, "chunk": 32})
    store = str(bench.store)
    quick = status(store)
    done = _all_done(open_store(store))
    assert sorted(done) == ["0", "1", "2", "3"]
    assert [f.name for f in quick.failed] == ["4.zarr"]
    table = bench.store / "tables/shards.parquet"
    data = table.read_bytes()
    table.write_bytes(b"PAR1")
    slow = status(store)
    assert _all_done(open_store(store)) == {}
    assert (slow.scenes, slow.failed) == (quick.scenes, quick.failed)
    table.write_bytes(data)

    pack = bench.store / pack_key("1")
    pack.unlink()
    report = status(store)
    assert [(s.done, s.left) for s in report.scenes if s.scene != "1"] == [
        (s.done, s.left) for s in quick.scenes if s.scene != "1"
    ]
    assert pack_key("1") in "\n".join(report.notices)


def test_status_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no segengine store is there"):
        status(str(tmp_path))
