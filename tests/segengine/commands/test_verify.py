"""A changed byte is found, and healed to the bytes that were there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.commands.verify import _lasting, verify
from segengine.errors import TransientInputError
from segengine.planning.damage import differences, object_key
from segengine.runs import Run, parse_job
from segengine.store.kinds import MaskRecord, StoredObject
from segengine.store.local import LocalObjects
from segengine.store.records import RecordLog
from segengine.store.sealbook import CHANGED, digest
from segengine.store.seals import SealedObjects

pytestmark = pytest.mark.usefixtures("plain_report")
SPECS: dict[str, dict[str, Any]] = {
    "frame-fit": {"kind": "kmeans", "clusters": 3, "attempts": 1},
    "run-fit": {"kind": "threshold", "scope": "run"},
    "linked": {"kind": "edges", "operator": "canny"},
    "instances": {"kind": "edges", "output": "regions"},
}


def fill(bench: Any, noise: Any) -> None:
    for i in range(3):
        bench.put(f"{i}.png", noise(i, (60, 50, 3)))
    bench.put("big.zarr", noise(9, (70, 75, 3)))


def job(bench: Any, spec: dict[str, Any]) -> dict[str, Any]:
    source = {"paths": [str(bench.inputs / "*.png"), str(bench.inputs / "*.zarr")]}
    made: dict[str, Any] = bench.job(spec, source=source, store={"shard": 64})
    return made


def repair(given: dict[str, Any]) -> Any:
    with Run(parse_job(given), repair=True, in_process=True) as run:
        for name in Run.STAGES:
            for _ in run.stage(name):
                pass
    return run.summary()


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "bit":
        data[len(data) // 2] ^= 1
    elif how == "truncated":
        del data[-3:]
    elif how == "missing":
        path.unlink()
        return
    path.write_bytes(data)


def is_compared(path: Path) -> bool:
    """Everything in a finished store but the checksums themselves and the second copies."""
    return path.is_file() and path.name != "+seals" and path.parent.name != "+copies"


@pytest.mark.parametrize("name", SPECS)
def test_a_sound_store_verifies(name: str, bench: Any, noise: Any) -> None:
    import segengine

    fill(bench, noise)
    summary = segengine.run(job(bench, SPECS[name]))
    before = bench.tree()
    report = verify(str(bench.store), sample=100)
    assert (report.exit_code, report.problems, report.skipped) == (0, (), ())
    assert report.sampled == summary.shards
    assert report.objects == sum(is_compared(p) for p in bench.store.rglob("*"))
    assert report.lines()[-1] == "no difference"
    assert bench.tree() == before
    assert not (bench.store / "work").exists()


@pytest.mark.parametrize("how", ["bit", "truncated", "missing"])
@pytest.mark.parametrize("name", SPECS)
def test_a_changed_byte_is_found_and_healed(name: str, how: str, bench: Any, noise: Any) -> None:
    import segengine

    fill(bench, noise)
    given = job(bench, SPECS[name])
    segengine.run(given)
    before = bench.tree()
    victims = [
        p for p in sorted((bench.store / "scenes").rglob("c/**/*"))
        if p.is_file() and "colors" not in p.parts
    ]  # fmt: skip
    arrays = {p.parts[-6:-4] for p in victims}
    chosen = [next(p for p in victims if p.parts[-6:-4] == a) for a in sorted(arrays)]
    for path in chosen:
        spoil(path, how)
    report = verify(str(bench.store), sample=0)
    assert report.exit_code == 4
    assert len(report.problems) == len(chosen)
    for path in chosen:
        assert any(str(path.relative_to(bench.store)) in p for p in report.problems)
    assert "--repair" in report.lines()[-1]
    # A run that is not told to repair does not look at bytes.
    assert segengine.run(given).computed == 0
    healed = repair(given)
    assert healed.exit_code == 0
    assert healed.computed >= 1
    assert bench.tree() == before
    assert verify(str(bench.store)).exit_code == 0
    assert repair(given).computed == 0


def test_other_labels_under_a_right_checksum_are_found(bench: Any, noise: Any) -> None:
    """A store whose records were forged along with the bytes: the sample finds it."""
    import segengine
    from segengine.planning.plan import stored_plan
    from segengine.store.blobs import open_objects
    from segengine.store.shards import write_block

    bench.put("0.png", noise(0, (60, 50, 3)))
    segengine.run(bench.job(SPECS["run-fit"]))
    objects = open_objects(str(bench.store))
    log = RecordLog(objects)
    (record,) = log.read("256x256-uint8-3", MaskRecord)
    plan = stored_plan(parse_job(bench.open().job), objects)
    spec = plan.arrays[record.scene]["mask/0"]
    stored = write_block(objects, spec, record.scene, (0, 0, 0), np.zeros((1, 256, 256), np.uint8))
    log.write(replace(record, objects=(stored,)))
    report = verify(str(bench.store))
    assert report.exit_code == 4
    assert "segmenting again gives other labels" in report.problems[0]


def test_why_an_input_cannot_be_read_is_said(
    bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import segengine

    def refused(*_: Any) -> str:
        raise TransientInputError("0.png: the server answered 503")

    bench.put("0.png", noise(0, (60, 50, 3)))
    segengine.run(bench.job(SPECS["run-fit"]))
    monkeypatch.setattr("segengine.asked.mark", refused)
    (said,) = verify(str(bench.store)).skipped
    assert said.endswith(" 0.png: the input cannot be read: the server answered 503")


def test_inputs_that_are_gone_or_changed_are_no_difference(bench: Any, noise: Any) -> None:
    import segengine

    for i in range(2):
        bench.put(f"{i}.png", noise(i, (60, 50, 3)))
    given = bench.job(SPECS["run-fit"])
    segengine.run(given)
    bench.put("0.png", noise(5, (60, 50, 3)))
    report = verify(str(bench.store))
    assert (report.exit_code, report.sampled) == (0, 1)
    assert report.skipped == ("256x256-uint8-3 (0, 0, 0): 0.png: the input has changed",)
    (bench.inputs / "1.png").unlink()
    report = verify(str(bench.store))
    assert (report.exit_code, report.sampled) == (0, 0)
    (said,) = (line for line in report.skipped if "1.png" in line)
    assert said.endswith("1.png: the input is gone")
    segengine.run(given)
    report = verify(str(bench.store))
    assert (report.exit_code, report.sampled) == (0, 1)
    assert any("1.png: the input is gone" in line for line in report.lines())
    with pytest.raises(Exception, match="no segengine store"):
        verify(str(bench.root / "nowhere"))


@pytest.mark.parametrize("name", ["linked", "instances"])
def test_what_another_version_of_the_segmenter_made_is_no_difference(
    name: str, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stale, as a run says; it is not compared with what this version makes."""
    import segengine
    from segengine.segmenters import _canny, edges

    fill(bench, noise)
    given = job(bench, SPECS[name])
    with monkeypatch.context() as former:  # a release whose masks were others
        for kind in (edges.Canny, edges.Regions):
            former.setattr(kind, "version", 0)
        former.setattr(edges, "regions", lambda relief, *_: (relief > 0).astype(np.uint32))
        former.setattr(_canny, "keep", lambda drafted: np.minimum(drafted, 1))
        shards = segengine.run(given).shards
    now = edges.Canny.version if name == "linked" else edges.Regions.version
    report = verify(str(bench.store), sample=100)
    assert (report.exit_code, report.problems, report.sampled) == (0, (), 0)
    assert len(report.skipped) == shards
    for line in report.skipped:
        assert line.endswith(
            f": made by version 0 of the segmenter, this release has version {now}; not compared"
        )
    summary = segengine.run(given)
    assert summary.computed == shards
    assert any(f"segmenter version: 0 -> {now}" in line for line in summary.messages)
    report = verify(str(bench.store), sample=100)
    assert (report.exit_code, report.sampled, report.skipped) == (0, shards, ())


def test_what_the_job_was_before_is_no_difference(bench: Any, noise: Any) -> None:
    """A run of a changed job was killed before its first mask."""
    import segengine

    bench.put("0.png", noise(0, (60, 50, 3)))
    segengine.run(bench.job({"kind": "threshold"}))
    with Run(parse_job(bench.job({"kind": "threshold", "offset": 40})), in_process=True) as run:
        list(run.stage("plan"))
    report = verify(str(bench.store))
    assert (report.exit_code, report.sampled) == (0, 0)
    (said,) = report.skipped
    assert said.endswith(": made by the job as it was before; not compared")


def test_what_an_earlier_fit_made_is_no_difference(bench: Any, noise: Any) -> None:
    """A run was killed between a new fit and its first mask."""
    import segengine

    bench.put("0.png", noise(0, (60, 50, 3)))
    given = bench.job(SPECS["run-fit"])
    segengine.run(given)
    bench.put("1.png", noise(1, (66, 50, 3)) // 2)
    with Run(parse_job(given), refit=True, in_process=True) as run:
        for name in ("plan", "survey"):
            list(run.stage(name))
    report = verify(str(bench.store))
    assert (report.exit_code, report.sampled) == (0, 0)
    (said,) = report.skipped
    assert said.endswith(": made by an earlier fit; not compared")


def test_probabilities_are_compared_too(toys: str, bench: Any, noise: Any) -> None:
    import segengine

    fill(bench, noise)
    given = job(bench, {"kind": f"{toys}:Blocks"})
    segengine.run(given | {"store": given["store"] | {"probabilities": True}})
    report = verify(str(bench.store), trust=True)
    assert (report.exit_code, report.sampled, report.problems) == (0, 4, ())
    victim = bench.store / "scenes/big/probabilities/0/c/0/0/1/0"
    spoil(victim, "bit")
    report = verify(str(bench.store), sample=0)
    assert [p.object for p in report.problems] == [str(victim.relative_to(bench.store))]


def test_what_a_run_beside_it_has_written_meanwhile_is_no_difference(tmp_path: Path) -> None:
    objects = LocalObjects(str(tmp_path))
    log = RecordLog(objects)

    def stored(x: int, committed: bytes, lies_there: bytes) -> MaskRecord:
        data = StoredObject("mask/0", digest(committed), len(committed))
        found = MaskRecord(
            scene="s", shard=(0, 0, x), box=(0,) * 6, inputs="in", job="job", objects=(data,)
        )
        log.write(found)
        objects.put(object_key(found, "mask/0"), lies_there)
        return found

    damaged = stored(0, b"one", b"other")
    stored(1, b"two", b"three")  # a run is just about to write its record
    found = list(differences(objects))
    assert sorted(record.shard for record, _, _ in found) == [(0, 0, 0), (0, 0, 1)]
    stored(1, b"three", b"three")
    assert list(_lasting(objects, found)) == [(damaged, "mask/0", CHANGED)]


def test_what_is_planned_and_not_yet_done_is_no_difference(bench: Any, noise: Any) -> None:
    """A run was killed between the layout of a changed input and its mask."""
    import segengine

    bench.put("0.png", noise(0, (60, 50, 3)))
    given = bench.job(SPECS["run-fit"])
    segengine.run(given)
    bench.put("0.png", noise(5, (66, 50, 3)))
    with Run(parse_job(given), in_process=True) as run:
        list(run.stage("plan"))
    report = verify(str(bench.store))
    assert (report.exit_code, report.sampled) == (0, 0)
    assert report.skipped == ("256x256-uint8-3 (0, 0, 0): an input of it has changed",)


@pytest.mark.parametrize("key", ["records/+layouts/s", "records/s.parquet", "a single record"])
def test_what_no_seal_vouches_for_must_be_readable(key: str, bench: Any, noise: Any) -> None:
    import segengine

    path = bench.put("s.zarr", noise(0, (60, 50, 3)))
    segengine.run(bench.job(SPECS["run-fit"], source={"paths": [str(path)]}))
    if key == "a single record":
        key = "records/s/mask/0.0.0.json"
        (bench.store / key).parent.mkdir(parents=True)
    else:
        SealedObjects(LocalObjects(str(bench.store))).open([key])  # as a run that was killed
        assert verify(str(bench.store)).exit_code == 0
    (bench.store / key).write_bytes(b"torn")
    report = verify(str(bench.store))
    assert report.exit_code == 4
    assert report.problems == ((key, CHANGED),)


def test_what_only_trust_lets_be_read_is_no_difference(bench: Any, tmp_path: Path) -> None:
    import rasterio

    (tmp_path / "parts").mkdir()
    shape: dict[str, Any] = {"width": 40, "height": 30, "count": 1, "dtype": "uint8"}
    place = rasterio.Affine(2, 0, 100, 0, -2, 50)
    with rasterio.open(tmp_path / "parts/s.tif", "w", "GTiff", transform=place, **shape) as file:
        file.write(np.arange(1200, dtype=np.uint8).reshape(1, 30, 40))
    bench.inputs.mkdir()
    (bench.inputs / "s.vrt").write_text(
        '<VRTDataset rasterXSize="40" rasterYSize="30"><VRTRasterBand dataType="Byte" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">../parts/s.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    bench.run({"kind": "threshold"}, source={"kind": "raster"}, trust=True)
    report = verify(str(bench.store))
    assert (report.exit_code, report.problems, report.sampled) == (0, (), 0)
    assert "trust: true" in report.skipped[0]
    assert verify(str(bench.store), trust=True).sampled == 1


UNSURE = """
import os

import numpy as np

from segengine.types import Prediction


class Unsure:
    classes = ("dark", "bright")
    outputs = ("labels", "probabilities")
    halo, stride = 0, 1

    def segment(self, pixels):
        off = float(os.environ.get("OFF", "0"))
        bright = np.float32(0.25) + pixels[..., 0].astype(np.float32) / 1024 + np.float32(off)
        labels = (pixels[..., 0] > 127).astype(np.uint8)
        return Prediction(labels, np.stack([1 - bright, bright], axis=-1))
"""


@pytest.mark.parametrize(("off", "alike"), [("3e-7", True), ("5e-6", True), ("1e-3", False)])
def test_probabilities_are_compared_by_value(
    off: str, alike: bool, bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network's sums depend on how many threads make them, and stores are looked at elsewhere."""
    (bench.root / "unsure_of_verify.py").write_text(UNSURE)
    monkeypatch.syspath_prepend(bench.root)
    bench.put("a.png", noise(1, (60, 50, 3)))
    spec = {"kind": "unsure_of_verify:Unsure"}
    bench.run(spec, store={"probabilities": True})  # one shard
    assert verify(bench.store, trust=True).problems == ()
    monkeypatch.setenv("OFF", off)
    found = verify(bench.store, trust=True)
    assert found.sampled == 1
    assert found.skipped == ()
    assert bool(found.problems) is not alike
