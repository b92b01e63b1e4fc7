"""Every object of a finished store, a bit flipped, cut to half, or deleted: found, survived, healed.

`verify` names it; no command ends in a traceback; a run that has something new goes on and says
`--repair`; `run --repair` brings back the bytes of a clean run. So it is with two at once, whatever
vouches for the one being the other, and with a folder where a file belongs.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from segengine.commands.verify import verify
from segengine.errors import StoreAccessError
from segengine.runs import Run, parse_job
from segengine.store.blobs import open_objects
from segengine.store.kinds import FrameFailure, MaskRecord
from segengine.store.records import RecordLog
from segengine.store.seals import COPIES, SEALS
from segengine.store.singles import from_json, stored, to_json
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
    """A frame that is cut: drafts are linked over its border."""
    return raster(folder, noise, 1) | {"segmenter": {"kind": "edges", "operator": "canny"}}


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
        self.restore()
        self.damage(key, damage)

    def restore(self) -> None:
        """The clean store again."""
        shutil.rmtree(self.store)
        shutil.copytree(self.clean, self.store)

    def damage(self, key: str, damage: str) -> None:
        """One object more, or a whole folder of them."""
        path = self.store / key
        if path.is_dir():
            shutil.rmtree(path)
            return
        if not path.exists():
            return
        data = bytearray(path.read_bytes())
        if damage == "deleted":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        else:
            data[len(data) // 2] ^= 1 << (len(key) % 8)
            path.write_bytes(data)

    def named(self) -> dict[str, str]:
        """What `verify` says, by object."""
        report = verify(str(self.store), sample=0)
        assert report.exit_code == (4 if report.problems else 0)
        return {p.object: p.what for p in report.problems}


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
    said = ("kind", "shard", "status", "inputs", "job", "fit", "objects", "failures", "areas")
    found: dict[str, Any] = {}
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        key = path.relative_to(store).as_posix()
        if key.startswith(COPIES) or key in (SEALS, "report/index.html"):
            continue
        if key.startswith("records/") and key.endswith(".parquet"):
            scene = key.removeprefix("records/").removesuffix(".parquet")
            found[key] = sorted([stored(r)[name] for name in said] for r in log.read(scene))
        elif key == "tables/shards.parquet":
            table = pq.read_table(path).drop_columns(["seconds", "finished"])
            found[key] = table.to_pylist()
        elif key == "tables/runs.parquet":  # the run that repairs adds a row
            last = runs(store)[-1]
            said_of = ("area.", "frames.", "left", "shards", "alerts")
            found[key] = {name: v for name, v in last.items() if name.startswith(said_of)}
        elif key == "metrics.json":
            found[key] = json.loads(path.read_text()) | {"throughput": None}
        else:
            found[key] = path.read_bytes()
    return found


def runs(store: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(store / "tables/runs.parquet").to_pylist()
    return rows


def test_every_damage_is_named_and_healed(site: Site) -> None:
    clean = meaning(site.clean)
    keys, history = site.objects(), [row["run"] for row in runs(site.clean)]
    assert {SEALS, "zarr.json", "metrics.json", "tables/runs.parquet"} <= set(keys)
    assert verify(str(site.clean), sample=0).problems == ()
    for key in keys:
        for damage in DAMAGES:
            site.spoil(key, damage)
            named = {p.object for p in verify(str(site.store), sample=0).problems}
            assert named == {key}, (key, damage)
            site.run(repair=True)
            assert meaning(site.store) == clean, (key, damage)
            assert [row["run"] for row in runs(site.store)][:-1] == history, (key, damage)
            assert verify(str(site.store), sample=0).problems == (), (key, damage)


PAIRS = 20
"""Pairs tried for each store; all of some 2,000 with `records/+seals`, `records/+copies` or both pass."""
LOST = (SEALS, COPIES)


def test_two_damages_at_once_are_named_and_healed(site: Site) -> None:
    """Also of an object and what vouches for it, or its second copy, or both."""
    clean, keys = meaning(site.clean), site.objects()
    chance = random.Random(len(keys))
    beside: tuple[tuple[str, ...], ...] = (LOST[:1], LOST[1:], LOST, ())
    for number in range(PAIRS):
        kind = DAMAGES[1 + number // 4 % 2]
        more = beside[number % 4]
        pair = [(key, kind) for key in (chance.choice(keys), *more)]
        if not more:
            pair = [(key, chance.choice(DAMAGES)) for key in chance.sample(keys, 2)]
        site.restore()
        for key, damage in pair:
            site.damage(key, damage)
        assert site.named(), pair
        site.run(repair=True)
        assert meaning(site.store) == clean, pair
        assert site.named() == {}, pair


def lost_together(site: Site) -> dict[str, tuple[str, ...]]:
    """What nothing can be read back of: with the seals and all copies."""
    keys = site.objects()
    pack = next(k for k in keys if k.startswith("records/") and k.endswith(".parquet"))
    layout = next(k for k in keys if k.startswith("records/+layouts/"))
    return {
        "vouchers": LOST,
        "root": ("zarr.json", *LOST),
        "pack": (pack, *LOST),
        "layout": (layout, *LOST),
        "records": ("records",),
    }


def test_what_is_lost_with_all_that_vouches_for_it_is_made_again(site: Site) -> None:
    clean = meaning(site.clean)
    (sound,) = {verify(str(site.clean), sample=0).objects}
    for what, keys in lost_together(site).items():
        for repair in (True, False):  # a plain run heals what it needs, and that is all of these
            site.restore()
            for key in keys:
                site.damage(key, "deleted")
            assert main(["verify", str(site.store)]) == 4, what
            named = site.named()
            assert "less could be checked" in named[SEALS], what
            assert what != "root" or "zarr.json" in named
            lines = site.run(repair=repair).messages
            assert any(SEALS in line for line in lines), (what, lines)
            again = any("the records of" in line and "again" in line for line in lines)
            assert again == (what in ("pack", "records")), (what, lines)
            assert meaning(site.store) == clean, (what, repair)
            assert site.named() == {}, (what, repair)
            assert verify(str(site.store), sample=0).objects == sound  # all is sealed again


def test_a_run_makes_what_is_missing_of_its_tables_again(site: Site) -> None:
    """Though nothing else has changed: and says so."""
    clean = meaning(site.clean)
    site.restore()
    tables = [key for key in site.objects() if key.startswith("tables/")]
    for key in tables:
        site.damage(key, "deleted")
    summary = site.run()
    assert summary.computed == 0
    (line,) = (line for line in summary.messages if "made again" in line)
    assert tables[0] in line
    assert meaning(site.store) == clean
    assert site.named() == {}
    assert not any("made again" in line for line in site.run().messages)


def test_masks_without_records_are_named(site: Site) -> None:
    site.restore()
    site.damage("records", "deleted")
    scenes = [p.name for p in (site.store / "scenes").iterdir() if p.is_dir()]
    assert {SEALS, *(f"scenes/{s}/mask/0" for s in scenes)} == set(site.named())


def swaps(site: Site) -> list[tuple[str, bool]]:
    """Files that become a folder (True), and folders that become a file."""
    keys = site.objects()
    files = (
        SEALS,
        next(k for k in keys if k.startswith(COPIES)),
        "zarr.json",
        "run.lock",
        next(k for k in keys if "/mask/0/c/" in k),
        next(k for k in keys if k.startswith("records/+layouts/")),
    )
    return [(k, True) for k in files] + [(k, False) for k in ("records", "scenes", "tables")]


def test_a_folder_in_the_place_of_a_file_is_named_and_moved_aside(site: Site) -> None:
    """And the other way round; what lay there is nobody's to delete."""
    clean = meaning(site.clean)
    for key, is_file in swaps(site):
        site.restore()
        site.damage(key, "deleted")
        path = site.store / key
        path.mkdir() if is_file else path.write_bytes(b"mine")
        if is_file:
            (path / "mine").write_bytes(b"mine")
        assert any("place" in w or "is no folder" in w for w in site.named().values()), key
        with suppress(StoreAccessError):
            site.run()  # at most it says so
        lines = site.run(repair=True).messages
        found = meaning(site.store)
        aside = {k: found.pop(k) for k in list(found) if k.startswith("misplaced/")}
        assert list(aside.values()) == [b"mine"], key
        assert any("moved aside" in line and next(iter(aside)) in line for line in lines), key
        assert found == clean, key
        assert site.named() == {}, key


def test_an_unreadable_layout_or_pack_of_no_scene_is_moved_aside(site: Site) -> None:
    """Garbage, or another scene's layout under a further name: `--repair` keeps what it promises."""
    clean = meaning(site.clean)
    layout = next(k for k in site.objects() if k.startswith("records/+layouts/"))
    strays = {
        "records/+layouts/other": (site.clean / layout).read_bytes(),
        "records/+layouts/none": b"garbage",
        "records/other.parquet": b"garbage",
    }
    site.restore()
    for key, data in strays.items():
        (site.store / key).write_bytes(data)
    assert site.named().keys() == strays.keys()
    lines = site.run(repair=True).messages
    assert any("moved aside" in line and "records/other.parquet" in line for line in lines)
    assert not any("mend it" in line for line in lines)
    assert {k: (site.store / "misplaced" / k).read_bytes() for k in strays} == strays
    (site.store / "records/other.parquet").write_bytes(b"more garbage")
    site.run(repair=True)
    assert (site.store / "misplaced/records/other.parquet").read_bytes() == b"garbage"
    assert (site.store / "misplaced/records/other.parquet.2").read_bytes() == b"more garbage"
    shutil.rmtree(site.store / "misplaced")
    assert meaning(site.store) == clean
    assert site.named() == {}


def test_an_empty_folder_in_the_place_of_a_file_goes(site: Site) -> None:
    site.restore()
    site.damage("zarr.json", "deleted")
    (site.store / "zarr.json").mkdir()
    site.run(repair=True)
    assert meaning(site.store) == meaning(site.clean)


def test_a_mask_that_cannot_be_made_again_is_said(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its input has vanished: the frame is quarantined until that is back."""
    source = next(p for p in sorted((site.folder / "in").iterdir()) if p.stem == "0")
    other = source.with_stem("another")
    key = next(k for k in site.objects() if "/mask/0/c/0/" in k)
    site.spoil(key, "flipped")
    shutil.copy(source, other)  # a job needs an input
    aside = tmp_path / source.name
    shutil.move(source, aside)
    try:
        assert source.name in site.named()[key]
        assert "put it back" in site.named()[key]
        for flags in ({"repair": True}, {}, {"repair": True}):
            summary = site.run(**flags)
            assert summary.exit_code == 3
            lost = [f for f in summary.failed if f.kind == "lost"]
            assert [f.name for f in lost] == [source.name]
            assert "input" in lost[0].reason
            assert "put the input back" in lost[0].reason
            assert summary.computed == 0 or flags
        assert site.named() == {}
        assert main(["status", str(site.store)]) == 3
        assert f"{source.name}: lost: " in capsys.readouterr().out
    finally:
        shutil.move(aside, source)
        other.unlink()
    assert [f for f in site.run().failed if f.kind == "lost"] == []
    assert (site.store / key).read_bytes() == (site.clean / key).read_bytes()


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
    cases = [((key,), DAMAGES[i % 3]) for i, key in enumerate(site.objects())]
    cases += [(keys, "deleted") for keys in lost_together(site).values()]
    for keys, damage in cases:
        site.restore()
        for key in keys:
            site.damage(key, damage)
        assert site.named()
        for command in commands:
            shutil.rmtree(out, ignore_errors=True)
            code = main(command)
            said = capsys.readouterr()
            assert "unexpected error" not in said.err, (keys, command, said.err)
            assert code in (0, 1, 3), (keys, command, said.err)
            if code == 1:
                assert "--repair" in said.err or "nothing to measure" in said.err, (keys, said.err)


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
    record = MaskRecord(
        scene="s",
        shard=(0, 1, 2),
        box=(0, 0, 0, 4, 64, 64),
        inputs="a",
        job="b",
        failures=(FrameFailure(2, "corrupt", "why"),),
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
