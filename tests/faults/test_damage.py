"""Every object of a finished store, a bit flipped, cut to half, or deleted: found, survived, healed.

`verify` names it; no command ends in a traceback; a run that has something new goes on and says
`--repair`; `run --repair` brings back the bytes of a clean run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from segengine.objects import open_objects
from segengine.records import RecordLog, from_json
from segengine.seals import COPIES, SEALS
from segengine.stages import Run, parse_job
from segengine.verify import verify
from segengine_flows.cli import main

pytestmark = pytest.mark.system

DAMAGES = ("flipped", "cut", "deleted")


def photos(folder: Path, noise: Callable[..., Any]) -> dict[str, Any]:
    """Photos with truth, one of them corrupt, one none at all; a fit over the run; components."""
    (folder / "in").mkdir()
    (folder / "labels").mkdir()
    for i in range(3):
        pixels = noise(i, (60, 50, 3))
        cv2.imwrite(str(folder / f"in/{i}.png"), pixels)
        cv2.imwrite(str(folder / f"labels/{i}.png"), (pixels[..., 0] > 100).astype(np.uint8))
    (folder / "in/bad.png").write_bytes((folder / "in/0.png").read_bytes()[:200])
    (folder / "in/none.png").write_bytes(b"no image")
    return {
        "segmenter": {"kind": "kmeans", "clusters": 2, "scope": "run", "instances": "components"},
        "store": {"shard": 256},
        "truth": {"paths": [str(folder / "labels/{stem}.png")], "classes": ["dark", "bright"]},
        "evaluate": {"metrics": ["confusion", "object_counts"]},
    }


def raster(folder: Path, noise: Callable[..., Any], scenes: int = 2) -> dict[str, Any]:
    """Scenes on the ground, cut into shards, with a pyramid; a fit a scene."""
    import rasterio

    (folder / "in").mkdir()
    for i in range(scenes):
        place = rasterio.Affine(10, 0, 300_000 + i * 5000, 0, -10, 5_000_000)
        shape: dict[str, Any] = {"height": 90, "width": 60, "count": 3, "dtype": "uint8"}
        with rasterio.open(
            folder / f"in/{i}.tif", "w", "GTiff", crs="EPSG:32633", transform=place, **shape
        ) as file:
            file.write(np.moveaxis(noise(i, (90, 60, 3)), -1, 0))
    return {"segmenter": {"kind": "threshold", "scope": "scene"}}


def linked(folder: Path, noise: Callable[..., Any]) -> dict[str, Any]:
    """A frame that is cut: drafts are linked over its border, and it has a fit of its own."""
    return raster(folder, noise, 1) | {"segmenter": {"kind": "edges", "output": "regions"}}


STORES: dict[str, Callable[[Path, Callable[..., Any]], dict[str, Any]]] = {
    "photos": photos,
    "raster": raster,
    "linked": linked,
}


class Site:
    """A finished store, and a copy to damage."""

    def __init__(self, folder: Path, noise: Callable[..., Any], kind: str) -> None:
        self.folder, self.store, self.clean = folder, folder / "m.zarr", folder / "clean.zarr"
        blocks = STORES[kind](folder, noise)
        self.job = {
            "source": {"paths": [str(folder / "in/*")]},
            "faults": {"max_quarantined": 1.0},
            "cluster": {"workers": 1},
            **blocks,
        }
        self.job["store"] = {"path": str(self.store), "chunk": 32, "shard": 64} | blocks.get(
            "store", {}
        )
        self.file = folder / "job.yaml"
        self.file.write_text(json.dumps(self.job))
        self.run()
        shutil.copytree(self.store, self.clean)

    def run(self, **flags: bool) -> Any:
        with Run(parse_job(self.job), in_process=True, **flags) as run:
            for name in Run.STAGES:
                for _ in run.stage(name):
                    pass
        return run.summary()

    def objects(self) -> list[str]:
        files = (p for p in sorted(self.clean.rglob("*")) if p.is_file())
        return [p.relative_to(self.clean).as_posix() for p in files]

    def spoil(self, key: str, damage: str) -> None:
        """The clean store again, but for one object."""
        shutil.rmtree(self.store)
        shutil.copytree(self.clean, self.store)
        path = self.store / key
        data = bytearray(path.read_bytes())
        if damage == "deleted":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        else:
            data[len(data) // 2] ^= 1 << (len(key) % 8)
            path.write_bytes(data)


@pytest.fixture(scope="module", params=STORES)
def site(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    noise: Callable[..., Any],
) -> Site:
    return Site(tmp_path_factory.mktemp(request.param), noise, request.param)


def meaning(store: Path) -> dict[str, Any]:
    """A store's objects: their bytes, or of those that tell the time, what else they say."""
    log = RecordLog(open_objects(str(store)))
    found: dict[str, Any] = {}
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        key = path.relative_to(store).as_posix()
        if key.startswith(COPIES) or key in (SEALS, "report/index.html"):
            continue
        if key.startswith("records/") and key.endswith(".parquet"):
            scene = key.removeprefix("records/").removesuffix(".parquet")
            found[key] = sorted(
                (r.kind, r.shard, r.status, r.inputs, r.job, r.fit, r.objects, r.failures, r.areas)
                for r in log.read(scene)
            )
        elif key == "tables/shards.parquet":
            table = pq.read_table(path).drop_columns(["seconds", "finished"])
            found[key] = table.to_pylist()
        elif key == "metrics.json":
            found[key] = json.loads(path.read_text()) | {"throughput": None}
        else:
            found[key] = path.read_bytes()
    return found


def test_every_damage_is_named_and_healed(site: Site) -> None:
    clean = meaning(site.clean)
    keys = site.objects()
    assert {SEALS, "zarr.json", "metrics.json", "tables/frames.parquet"} <= set(keys)
    assert verify(str(site.clean), sample=0).problems == ()
    for key in keys:
        for damage in DAMAGES:
            site.spoil(key, damage)
            named = {p.object for p in verify(str(site.store), sample=0).problems}
            assert named == {key}, (key, damage)
            site.run(repair=True)
            assert meaning(site.store) == clean, (key, damage)
            assert verify(str(site.store), sample=0).problems == (), (key, damage)


def test_no_command_ends_in_a_traceback(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """And what goes on says that the store is damaged, or is not touched by it."""
    scene = next(iter(sorted((site.clean / "scenes").glob("*/zarr.json")))).parent.name
    store, out = str(site.store), str(site.folder / "out")
    commands = (
        ["status", store],
        ["report", store],
        ["evaluate", store, "--metrics", "confusion", "seams"],
        ["export", store, "--to", "png", "--out", out],
        ["show", store, "--scene", scene, "--out", f"{out}.png"],
    )
    for number, key in enumerate(site.objects()):
        site.spoil(key, DAMAGES[number % 3])
        before = verify(str(site.store), sample=0).exit_code
        assert before == 4
        for command in commands:
            shutil.rmtree(out, ignore_errors=True)
            code = main(command)
            said = capsys.readouterr()
            assert "unexpected error" not in said.err, (key, command, said.err)
            assert code in (0, 1, 3), (key, command)
            if code == 1:
                assert "--repair" in said.err or "nothing to measure" in said.err, (key, said.err)


def test_a_run_with_something_new_goes_on(site: Site, noise: Callable[..., Any]) -> None:
    source = next(
        p for p in sorted((site.folder / "in").iterdir()) if p.stem == "0" or p.stem == "a"
    )
    fresh = source.with_stem("new")
    for number, key in enumerate(site.objects()):
        site.spoil(key, DAMAGES[number % 3])
        shutil.copy(source, fresh)
        try:
            summary = site.run()
        finally:
            fresh.unlink()
        assert summary.computed >= 1, key
        rows = pq.read_table(site.store / "tables/frames.parquet").to_pylist()
        frames = {row["name"]: row["status"] for row in rows}
        assert frames[fresh.name] == "done", key


def test_a_single_records_own_bytes_are_checked() -> None:
    """One bit anywhere, or a cut anywhere: no record, and never another one."""
    from segengine.records import FrameFailure, Record, to_json

    failure = FrameFailure(2, "corrupt", "why")
    record = Record(
        "mask", "s", (0, 1, 2), (0, 0, 0, 4, 64, 64), "done", "a", "b", failures=(failure,)
    )
    data = to_json(record)
    assert from_json(data) == record
    for i in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[i] ^= 1 << bit
            with pytest.raises(ValueError, match=r"."):
                from_json(bytes(changed))
        with pytest.raises(ValueError, match=r"."):
            from_json(data[:i])


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_and_refit_go_together(
    site: Site, damage: str, tree: Callable[[Path], dict[str, bytes]]
) -> None:
    """The inputs are the same: so are the fits and the masks."""
    for part in ("mask/0/c", "zarr.json", "+fits"):
        key = next((k for k in site.objects() if part in k), None)
        if key is not None:
            site.spoil(key, damage)
            assert site.run(repair=True, refit=True).exit_code in (0, 3)
            assert verify(str(site.store), sample=100).problems == ()
            assert tree(site.store / "scenes") == tree(site.clean / "scenes")
