"""Stores of older releases, whole and as kills left them: read, verified, gone on with, and measured.

Of `stores-paths` every class is stored by the path of its module, of `stores-tags` by a tag. How they
are made, and what is in them: fixtures/make_stores.py.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from numcodecs.zstd import decompress

import segengine
from segengine.engines import instruction_set
from segengine.store.kinds import MaskRecord
from segengine.store.lock import _place
from segengine.store.tags import FORMER

pytestmark = pytest.mark.system
HERE = Path(__file__).parent
ARCHIVES = ("paths", "tags")
CASES = {
    "canny": 4, "components": 5, "crossings": 1, "kmeans": 7, "regions": 1, "unet": 3, "vanished": 1,
    "video": 4,
}  # fmt: skip
"""Jobs, and how many of the stores are of killed runs."""
REDONE = {"regions": "segmenter version: 1 -> 2"}
"""Jobs whose segmenter's version was raised since: their masks are stale, and why."""
OF_A_RUN = ("seconds", "attempts", "bytes", "finished")
"""Columns of `shards.parquet` that tell of the run that made a shard."""


def test_the_archives_are_small() -> None:
    archives = [HERE / "fixtures" / f"stores-{name}.tar.xz" for name in ARCHIVES]
    assert 0 < sum(path.stat().st_size for path in archives) < 1_000_000


@dataclass(frozen=True)
class Old:
    """A job's stores, each in a folder of its own with its inputs, and what today's release did."""

    made: Path
    """What the archive holds."""
    folders: dict[str, Path]
    """By moment; `read` is another copy of `whole`."""
    done: dict[str, list[dict[str, Any]]]
    """What became of each store, in the order of WORKS."""
    exact: bool
    """The packages that make the bytes are those with which the archive was made, and so, where a
    network made them, are the processor's instructions."""

    @property
    def killed(self) -> list[str]:
        return sorted({*self.folders} - {"whole", "read"})

    @property
    def whole(self) -> Path:
        return self.made / "stores" / "whole"

    @property
    def undisturbed(self) -> Path:
        """A store as a run of this release leaves it that nothing has killed."""
        return self.after("whole") if self.redone else self.whole

    @property
    def redone(self) -> str:
        return REDONE.get(self.made.name, "")

    def before(self, moment: str) -> Path:
        return self.made / "stores" / moment

    def after(self, moment: str) -> Path:
        return self.folders[moment] / "masks.zarr"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name in ARCHIVES:
        found[name] = tmp_path_factory.mktemp(name)
        with tarfile.open(HERE / "fixtures" / f"stores-{name}.tar.xz") as archive:
            archive.extractall(found[name], filter="data")
    return found


@pytest.fixture(scope="module")
def olds(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(archive, job) -> Old."""

    @cache
    def old(archive: str, case: str) -> Old:
        made, places = archives[archive] / case, tmp_path_factory.mktemp(case)
        versions = json.loads((archives[archive] / "versions.json").read_text())
        folders = {path.name: places / path.name for path in (made / "stores").iterdir()}
        for moment, folder in (*folders.items(), ("whole", places / "read")):
            shutil.copytree(made / "in", folder / "in")
            shutil.copy(made / "job.yaml", folder)
            shutil.copytree(made / "stores" / moment, folder / "masks.zarr")
            _hold_here(folder / "masks.zarr/run.lock")
        folders["read"] = places / "read"
        works = dict.fromkeys(folders, RESUME) | {"read": reading(made)}
        done = worked([[str(folders[m]), *work] for m in works for work in works[m]])
        results = {m: [done.pop(0) for _ in works[m]] for m in works}
        exact = all(version(p) == v for p, v in versions.items()) and _computes_alike(made)
        return Old(made, folders, results, exact)

    return old


def _computes_alike(made: Path) -> bool:
    """Whether networks run on instructions here that those of the archive ran on, as their bits do."""
    store = segengine.open_store(made / "stores" / "whole")
    engines = {
        json.loads(record.provenance or "{}").get("engine", "")
        for scene in store.scenes
        for record in store.records(scene)
        if isinstance(record, MaskRecord)
    }
    return all(not engine or f"({instruction_set()})" in engine for engine in engines)


def _hold_here(lock: Path) -> None:
    """As if the run that was killed had worked on this machine since it was booted, and its number
    were another process's now: of one elsewhere a run waits a minute, to see whether it lives."""
    if lock.exists():
        here = {"place": _place(), "pid": os.getpid(), "started": 0}
        lock.write_text(json.dumps(json.loads(lock.read_text()) | here))


RESUME = (("run",), ("verify", "masks.zarr"))


def reading(made: Path) -> list[tuple[str, ...]]:
    exports = sorted(path.name for path in (made / "exported").iterdir())
    measured = [("evaluate", "masks.zarr")] if (made / "evaluated.json").exists() else []
    return [
        ("verify", "masks.zarr"),
        ("status", "masks.zarr"),
        *(("export", "masks.zarr", "--to", name, "--out", f"exported/{name}") for name in exports),
        *measured,
        ("verify", "masks.zarr"),
    ]


def worked(works: list[list[str]]) -> list[dict[str, Any]]:
    """In one thread: a worker has one, and TensorFlow's last bits depend on how many there are."""
    command = [sys.executable, "-P", str(HERE / "_resumed.py"), json.dumps(works)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(params=ARCHIVES)
def archive(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CASES)
def old(request: pytest.FixtureRequest, archive: str, olds: Any) -> Old:
    found: Old = olds(archive, request.param)
    assert len(found.killed) == CASES[request.param]
    return found


def records(store: Path) -> dict[tuple[Any, ...], float]:
    """When each piece of a store was finished; nothing where its root is not written yet."""
    if not (store / "zarr.json").exists():
        return {}
    found = segengine.open_store(str(store)).records(kind=None)
    done = (r for r in found if r.status == "done" and r.kind != "draft")  # those of drafts go
    return {(r.kind, r.scene, r.shard): r.finished for r in done}


def test_a_whole_store_is_read_verified_and_taken_over(old: Old) -> None:
    code = 3 if old.made.name == "kmeans" else 0
    first, status, *_, last = old.done["read"]
    run, after = old.done["whole"]
    away = old.made.name == "vanished"  # the only shard has a frame whose input is gone
    former = "made by version 1 of the segmenter, this release has version 2; not compared"
    for verified in (first, last, after):
        assert verified["code"] == 0, verified["out"]
        sampled = re.search(r"(\d+) shards segmented again", verified["out"])
        assert sampled is not None
        stale = bool(old.redone) and verified is not after
        skips = "not segmented again" in verified["out"]
        assert (int(sampled[1]) == 0) == skips == (away or stale)
        assert (former in verified["out"]) == stale
    assert status["code"] == code
    assert (run["code"], run["computed"] + run["skipped"]) == (code, run["shards"])
    assert run["computed"] == (run["shards"] if old.redone else 0)
    assert run["shards"] > 0
    if old.redone:
        assert any(f": {old.redone} (" in line for line in run["messages"])
    else:
        # The run adds its row, and what seals it; of an earlier release there was no such table.
        added = (
                "tables/runs.parquet", "records/+seals", "records/+copies/", "records/+unseen",
            )  # fmt: skip
        here, there = (
            {key: data for key, data in files(folder).items() if not key.startswith(added)}
            for folder in (old.after("whole"), old.whole)
        )
        assert here == there
        assert (old.after("whole") / "tables/runs.parquet").exists()


def test_a_whole_store_is_exported_to_the_same_bytes(old: Old) -> None:
    wanted = files(old.made / "exported")
    got = files(old.folders["read"] / "exported")
    got = {name: data for name, data in got.items() if not name.endswith(".aux.xml")}  # later
    assert wanted.keys() == got.keys()
    assert wanted
    for name in wanted:
        if old.exact and not name.endswith(".geojson"):
            assert got[name] == wanted[name], name
        else:
            assert content(name, got[name]) == content(name, wanted[name]), name


def test_a_whole_store_is_measured_to_the_same_figures(old: Old) -> None:
    after = json.loads((old.after("read") / "metrics.json").read_text())
    assert after == json.loads((old.whole / "metrics.json").read_text())
    expected = old.made / "evaluated.json"
    if expected.exists():
        assert (
            old.done["read"][-2]["out"].splitlines()[0].endswith(": 0 shards and frames measured")
        )
        assert after == json.loads(expected.read_text())


def test_a_killed_run_goes_on_where_it_was(old: Old) -> None:
    for moment in old.killed:
        run, verified = old.done[moment]
        assert run["code"] == old.done["whole"][0]["code"], moment
        assert verified["code"] == 0, verified["out"]
        before, after = records(old.before(moment)), records(old.after(moment))
        assert {key: after[key] for key in before} == before, moment
        masks = sum(key[0] == "mask" for key in before)
        assert (run["computed"], run["skipped"]) == (run["shards"] - masks, masks), moment
        said = [m for m in old.done["whole"][0]["messages"] if not (old.redone and old.redone in m)]
        assert run["messages"] == said, moment


def test_the_command_goes_on_with_workers_of_its_own(
    archives: dict[str, Path], archive: str, tmp_path: Path
) -> None:
    made = archives[archive] / "components"
    for name, to in (("in", "in"), ("stores/stitched", "masks.zarr")):
        shutil.copytree(made / name, tmp_path / to)
    _hold_here(tmp_path / "masks.zarr/run.lock")
    shutil.copy(made / "job.yaml", tmp_path)
    (run,) = worked([[str(tmp_path), "run", "job.yaml"]])
    assert run["code"] == 0
    assert "5 shards computed, 3 done before" in run["out"]


def test_what_was_surveyed_and_drafted_is_not_done_again(old: Old) -> None:
    fits = len(files(old.whole / "records" / "+fits"))
    for moment in (*old.killed, "whole"):
        run, before = old.done[moment][0], old.before(moment)
        states = len(files(before / "records" / "+survey"))
        is_fitted = len(files(before / "records" / "+fits")) == fits
        held = is_fitted and not old.redone
        surveyed = 0 if held else run["shards"] + fits - (0 if old.redone else states)
        assert run["steps"]["survey"] == surveyed, moment
        drafts = len([*before.glob("records/*/draft/*.json")])
        drawn = drafts or sum(key[0] == "mask" for key in records(before))
        drawn = 0 if old.redone else drawn
        assert run["steps"]["segment"] == run["shards"] - drawn, moment


def test_a_killed_run_ends_as_an_undisturbed_one(old: Old) -> None:
    for moment in old.killed:
        store = old.after(moment)
        wanted, got = files(old.undisturbed / "scenes"), files(store / "scenes")
        assert wanted.keys() == got.keys(), moment
        if old.exact:
            differ = [key for key in wanted if said(key, wanted[key]) != said(key, got[key])]
            assert differ == [], moment
        assert_same_arrays(old.undisturbed / "scenes", store / "scenes")
        whole = old.undisturbed
        digits = 17 if old.exact else 4
        ours, theirs = (figures((s / "metrics.json").read_bytes(), digits) for s in (store, whole))
        assert ours == theirs, moment
        for path in {*(whole / "tables").glob("*.parquet")} - {whole / "tables/runs.parquet"}:
            tables = [pq.read_table(s / "tables" / path.name) for s in (whole, store)]
            a, b = (t.drop_columns([c for c in OF_A_RUN if c in t.column_names]) for t in tables)
            assert a.equals(b), (moment, path.name)


def said(key: str, data: bytes) -> Any:
    """An object below `scenes/`; metadata without what only later releases say."""
    return _before(json.loads(data)) if key.endswith("zarr.json") else data


def _before(node: Any) -> Any:
    found = dict(node)
    later = ("zarr_conventions", "multiscales", "spatial:", "proj:")
    found["attributes"] = {
        key: {k: v for k, v in value.items() if k != "image-label"} if key == "ome" else value
        for key, value in node["attributes"].items()
        if not key.startswith(later)
    }
    if "consolidated_metadata" in node:
        inner = node["consolidated_metadata"]
        nodes = {path: _before(one) for path, one in inner["metadata"].items()}
        found["consolidated_metadata"] = {**inner, "metadata": nodes}
    return found


def assert_same_arrays(a: Path, b: Path) -> None:
    for path in a.rglob("zarr.json"):
        if json.loads(path.read_text())["node_type"] == "array":
            folder = path.parent.relative_to(a)
            x, y = (np.asarray(zarr.open_array(s / folder, mode="r")[:]) for s in (a, b))
            if (
                x.dtype.kind == "f"
            ):  # on other instructions sums of a network differ in their last bits
                np.testing.assert_allclose(x, y, atol=1e-5, err_msg=str(folder))
            else:
                np.testing.assert_array_equal(x, y, str(folder))


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def figures(data: bytes, digits: int = 17) -> Any:
    """What a JSON file says, but for how fast the run was.

    Areas on the ground are looked at in some places of a block, which later releases choose otherwise: they
    agree to 1e-9. A fit's digest is that of its bytes, where its class is named by a path or by a tag.
    """

    def rounded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        for name in ("throughput", "digest"):
            found.pop(name, None)
        area = found.get("square_metres")
        return found if area is None else found | {"square_metres": float(f"{area:.6g}")}

    return json.loads(
        data, object_pairs_hook=rounded, parse_float=lambda text: float(f"{float(text):.{digits}g}")
    )


def content(name: str, data: bytes) -> Any:
    """What an exported file holds, whichever encoder wrote it."""
    if name.endswith("json"):
        found = figures(data)
        for feature in found["features"] if name.endswith(".geojson") else ():
            for later in ("probability", "perimeter"):
                feature["properties"].pop(later, None)
        return found
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None, name
    return image.shape, image.tobytes()


ZSTD = b"\x28\xb5\x2f\xfd"
INNER = re.compile(rb"KLUv/[A-Za-z0-9+/]+=*")
"""The same in base64: a value in a record, or in another value."""
STORED = re.compile(rb'\{"c":"([^"]+)"')
NEVER = {
    "segengine.types:Window",
    "segengine.types:FrameRef",
    "segengine.records:FrameFailure",
    "segengine.segmenters.edges:Contrast",
    "segengine.losses._statistic:RegionState",
}
"""Of these the stores hold none: a survey's failures, and losses of regions of frames that are not cut,
are rare; the others are not stored by themselves."""


def stored_names(data: bytes) -> set[str]:
    """What the classes of all values in an object are stored as."""
    if data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        payloads = table.column("payload").to_pylist() if "payload" in table.column_names else []
        data = " ".join(payloads).encode()
    if data.startswith(ZSTD):
        data = bytes(decompress(data))
    found = {name.decode() for name in STORED.findall(data)}
    for inner in INNER.findall(data):
        found |= stored_names(base64.b64decode(inner))
    return found


def test_each_former_name_is_one_that_a_store_holds(archives: dict[str, Path]) -> None:
    found = {
        archive: set().union(
            *(stored_names(data) for key, data in files(folder).items() if "/scenes/" not in key)
        )
        for archive, folder in archives.items()
    }
    assert found["paths"] == {*FORMER} - NEVER
    assert found["tags"] == {FORMER[name] for name in found["paths"]}
