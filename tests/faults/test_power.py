"""What a record vouches for is on disk before the record: shown by the order of system calls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Job, job_of, write_photos

from segengine.store.keys import INSTANCE_ROWS as ROWS

pytestmark = pytest.mark.system

CALLS = "fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat"
LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (\d+|-1 \w+)")
HALF = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
REST = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
PLACE = re.compile(r'(?:\d+|AT_FDCWD)<([^>]*)>(?:, "([^"]*)")?|"([^"]*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded, or its begin."""

    name: str
    paths: tuple[str, ...]
    begins: bool


def calls(trace: Path) -> Iterator[Call]:
    """In the order in which they began and ended, of all processes."""
    halves: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        half = HALF.match(line)
        if half:
            halves[half[1]] = half[3]
            yield Call(kind(half[2]), paths(half[3]), True)
            continue
        rest = REST.match(line)
        begun = rest is None
        if rest:
            line = f"{rest[1]} {rest[2]}({halves.pop(rest[1])}{rest[3]}"
        whole = LINE.match(line)
        if whole and not whole[4].startswith("-1"):
            found = Call(kind(whole[2]), paths(whole[3]), False)
            if begun:
                yield Call(found.name, found.paths, True)
            yield found


def kind(name: str) -> str:
    known = ("rename", "unlink", "mkdir", "link", "syncfs")
    return next((k for k in known if name.startswith(k)), "fsync")


def paths(arguments: str) -> tuple[str, ...]:
    found = []
    for at, name, plain in PLACE.findall(arguments):
        found.append(plain or (name if name.startswith("/") else f"{at}/{name}".rstrip("/")))
    return tuple(found)


@dataclass(slots=True)
class Disk:
    """What would be on a disk that keeps only what was flushed."""

    root: str
    files: dict[str, bool] = field(default_factory=dict)
    """Files written by the run, and whether their bytes are there."""
    names: dict[str, bool] = field(default_factory=dict)
    """Names made, changed or deleted by the run, and whether that is there."""
    flushes: int = 0

    def key(self, path: str) -> str:
        return path.removeprefix(f"{self.root}/")

    def apply(self, call: Call) -> None:
        if call.name == "syncfs":
            self.flushes += 1
            self.files, self.names = (
                dict.fromkeys(self.files, True),
                dict.fromkeys(self.names, True),
            )
        elif call.name == "fsync":
            (path,) = call.paths
            self.flushes += path.startswith(self.root)
            self.files[path] = True
            for name in self.names:
                if str(Path(name).parent) == path:
                    self.names[name] = True
        elif call.name in ("rename", "link"):
            source, target = call.paths
            self.files[target] = self.files.get(source, False)
            self.names[target] = False
        else:
            self.names[call.paths[-1]] = False

    def lost(self, key: str) -> str:
        """What of an object a loss of power now would take; empty: nothing."""
        path = f"{self.root}/{key}"
        if not self.files.get(path, True):
            return f"the bytes of {key}"
        while path.startswith(self.root):
            if not self.names.get(path, True):
                return f"the name {self.key(path) or 'of the store'}"
            path = str(Path(path).parent)
        return ""


def vouched(record: str, keys: list[str]) -> list[str]:
    """The objects that a record, or another object that says what is done, vouches for."""
    scene, _, rest = record.removeprefix("records/").partition("/")
    own = (f"scenes/{scene.removesuffix('.parquet')}/", "zarr.json", "scenes/zarr.json")
    meta = [k for k in keys if k.endswith("zarr.json") and k.startswith(own)]
    meta += [k for k in keys if k == f"records/+layouts/{scene.removesuffix('.parquet')}"]
    if rest.startswith("draft/"):
        place = rest.removeprefix("draft/").removesuffix(".json")
        return [f"work/{scene}/draft/{place}", *meta]
    if rest.startswith("mask/"):
        place = rest.removeprefix("mask/").removesuffix(".json")
        shards = [k for k in keys if k.startswith(f"scenes/{scene}/")]
        stored = [k for k in shards if k.endswith(f"/0/c/{place.replace('.', '/')}")]
        assert stored
        rows = [k for k in keys if k == f"{ROWS}/{scene}/{place}"]
        return [*stored, *rows, *meta, *(k for k in keys if k.startswith("records/+fits/"))]
    if record == "records/+seals":
        return [k for k in keys if not k.startswith(("work/", "records/+seals", "run.lock"))]
    if record.endswith(".parquet"):
        scene = record.removeprefix("records/").removesuffix(".parquet")
        return [*meta, *(k for k in keys if k.startswith((f"scenes/{scene}/", f"work/{scene}/")))]
    return []


def too_early(trace: Path, store: str, before: set[str]) -> tuple[list[str], int, Disk]:
    """(what was put or deleted too early, objects checked, the disk at the end)."""
    disk, keys, wrong, checked = Disk(store), dict.fromkeys(before), [], 0
    held = {k for k in before if re.search(r"^records/[^+].*(/mask/.*json|\.parquet)$", k)}
    for call in calls(trace):
        inside = [p for p in call.paths if p.startswith(f"{store}/")] or (
            [p for p in call.paths if p == store]
        )
        if not inside and call.name not in ("fsync", "syncfs"):
            continue
        key = disk.key(call.paths[-1])
        if call.begins and call.name == "rename":
            for other in vouched(key, list(keys)):
                checked += 1
                lost = disk.lost(other)
                if lost:
                    wrong.append(f"{key} would outlive {lost}")
            shard = re.match(r"scenes/([^/]+)/mask/0/c/(\d+)/(\d+)/(\d+)$", key)
            if shard and held:
                record = f"records/{shard[1]}/mask/{'.'.join(shard.groups()[1:])}.json"
                dropped = f"{store}/{record}" in disk.names
                if record in held or f"records/{shard[1]}.parquet" in held:
                    checked += 1
                    if not dropped or disk.lost(record):
                        wrong.append(f"{key} is written while {record} may come back")
        if not call.begins:
            disk.apply(call)
            if call.name in ("rename", "link"):
                keys[key] = None
            elif call.name == "unlink":
                keys.pop(key, None)
    return wrong, checked, disk


def objects_of(store: str) -> set[str]:
    root = Path(store)
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


class Traced:
    """A job whose runs are traced."""

    def __init__(self, job: Job, trace: Path) -> None:
        self.job, self.trace = job, trace

    def run(self) -> tuple[list[str], int, Disk]:
        before = objects_of(self.job.store)
        options = (
            "-f",
            "--seccomp-bpf",
            "-y",
            "-qq",
            "-s",
            "4096",
            "-e",
            "signal=none",
            "-e",
            f"trace={CALLS}",
        )
        self.job.prefix = ("strace", *options, "-o", str(self.trace))
        self.job.run()
        return too_early(self.trace, self.job.store, before)


@pytest.fixture
def traced(make_job: Callable[..., Job], tmp_path: Path) -> Callable[..., Traced]:
    def make(segmenter: dict[str, Any], **blocks: Any) -> Traced:
        photos = write_photos(tmp_path / "photos", 2)
        job = make_job(job_of(photos, tmp_path / "above" / "m.zarr", segmenter, **blocks))
        return Traced(job, tmp_path / "trace")

    return make


@pytest.mark.parametrize("kind", ["Surveyed", "Found"])
def test_nothing_that_is_vouched_for_can_be_lost(kind: str, traced: Callable[..., Traced]) -> None:
    wrong, checked, disk = traced({"kind": f"faulty:{kind}"}).run()
    assert wrong == []
    assert checked > 100
    assert disk.flushes > 60
    made = {disk.key(name) for name in disk.names}
    # Drafts and their records, or instances and their rows; and what is written at the end.
    assert {"zarr.json", "metrics.json", "records/+seals", "tables/shards.parquet"} <= made
    assert sum(bool(re.search(r"/mask/0/c/", key)) for key in made) >= 8
    assert ("records/+fits" in made) == (kind == "Surveyed")
    assert any("instances/0/c" in key for key in made) == (kind == "Found")
    assert any(key.startswith(f"{ROWS}/") for key in made) == (kind == "Found")


def test_many_small_scenes_are_flushed_at_once_and_as_soon(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    import rasterio

    (tmp_path / "in").mkdir()
    shape: dict[str, Any] = {"width": 16, "height": 16, "count": 1, "dtype": "uint8"}
    for i in range(140):
        place = rasterio.Affine(2, 0, 100 * i, 0, -2, 0)
        with rasterio.open(
            tmp_path / f"in/{i}.tif", "w", "GTiff", transform=place, **shape
        ) as file:
            file.write(np.full((1, 16, 16), i, np.uint8))
    job = job_of(tmp_path / "in/*.tif", tmp_path / "m.zarr", {"kind": "threshold"})
    job["source"]["kind"] = "raster"
    many = Traced(make_job(job), tmp_path / "trace")
    wrong, checked, disk = many.run()
    assert wrong == []
    assert checked > 1000
    assert "syncfs(" in many.trace.read_text()
    # For each scene its shard and its record, each with its folders: not its metadata and pack too.
    assert disk.flushes < 140 * 14


@pytest.mark.parametrize("killed", [True, False])
def test_a_dropped_record_cannot_come_back_to_new_bytes(
    killed: bool, traced: Callable[..., Traced]
) -> None:
    """Single records are deleted, packed ones are declared void."""
    first = traced({"kind": "faulty:Trapped", "pause": 0.05})
    if killed:
        assert first.job.start("segment:progress:5:0").wait() == -9
    else:
        first.job.run()
    held = len([key for key in first.job.records() if key[0] == "mask"])
    assert held >= 5
    first.job.job["segmenter"]["level"] = 120
    first.job.file.write_text(json.dumps(first.job.job))
    wrong, checked, _ = first.run()
    assert wrong == []
    assert checked >= held
    assert first.job.summary()["computed"] == 8


def test_without_fsync_nothing_is_flushed_and_the_masks_are_the_same(
    traced: Callable[..., Traced], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    quick = traced({"kind": "faulty:Trapped"}, faults={"fsync": False})
    wrong, checked, disk = quick.run()
    assert disk.flushes == 0
    assert len(wrong) > checked / 2  # the trace tells
    safe = make_job({**quick.job.job, "faults": {}})
    safe.run()
    assert safe.summary()["computed"] == 0  # no part of the mask's fingerprint
