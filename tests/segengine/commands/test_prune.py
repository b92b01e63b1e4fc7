"""Prune: what goes is in no byte of the store, what stays has the bytes that it had."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.commands._named import resolved
from segengine.commands.evaluate import evaluate
from segengine.commands.prune import Wanted, prune
from segengine.commands.status import status
from segengine.commands.verify import verify
from segengine.errors import DamagedStoreError, JobError
from segengine.planning.damage import differences
from segengine.report import build
from segengine.store.blobs import open_objects
from segengine.store.tombstones import Tombstones
from segengine_flows.cli import main
from tests.searching import holding

pytestmark = pytest.mark.usefixtures("plain_report")
MEAN = {"kind": "threshold", "method": "mean"}
NAMES = [f"person-{c}.png" for c in "abcdef"]
GONE = "person-b.png"
JOBS: dict[str, dict[str, Any]] = {
    "shared": {"segmenter": MEAN, "store": {"shard": 512}},
    "objects": {"segmenter": {**MEAN, "instances": "components"}, "store": {"shard": 512}},
    "colours": {
        "segmenter": {"kind": "kmeans", "clusters": 3, "attempts": 1},
        "store": {"shard": 512},
    },
    "cut": {
        "segmenter": {"kind": "kmeans", "clusters": 3, "attempts": 1, "scope": "run"},
        "store": {"shard": 32},
    },
    "linked": {"segmenter": {"kind": "edges", "operator": "canny"}, "store": {"shard": 32}},
    "cut objects": {"segmenter": {**MEAN, "instances": "components"}, "store": {"shard": 32}},
    "scenes' fits": {"segmenter": {**MEAN, "scope": "scene"}, "store": {"shard": 512}},
}


def make(bench: Any, noise: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Photos that share shards, with truth."""
    for i, name in enumerate(NAMES):
        image = noise(i, (50 + i, 60, 3))
        bench.put(name, image)
        folder = bench.root / "labels"
        folder.mkdir(exist_ok=True)
        labels = (image[..., 0] > 100).astype(np.uint8)
        bench.put(f"../labels/{name}", labels)
    labels = str(bench.root / "labels" / "{stem}.png")
    truth = {"paths": [labels], "classes": ["dark", "bright"], "values": [0, 1]}
    blocks = {"truth": truth, "evaluate": {"metrics": ["confusion"]}, "faults": {"fsync": False}}
    kept: dict[str, Any] = bench.job(**job, **blocks)
    return kept


def needles(bench: Any, name: str = GONE) -> tuple[bytes, ...]:
    """What tells of a frame: its name, its input's mark, and the middle of its mask."""
    found = [name.removesuffix(".png").encode()]
    store = bench.open()
    for scene in store.scenes.values():
        for i, each in enumerate(scene.layout.names):
            if each == name:
                found.append(scene.layout.fingerprints[i].encode())
                part = np.asarray(scene.mask[i, 16:32, 16:32])
                if len(np.unique(part)) > 1:
                    found.append(part.tobytes())
    return tuple(found)


def masks(bench: Any) -> dict[str, list[np.ndarray]]:
    """Maps of each frame that has a name."""
    found = {}
    for scene in bench.open().scenes.values():
        for ref in scene.frames:
            arrays = (*scene.levels, scene.instances, scene.probabilities, scene.confidence)
            if not ref.pruned:
                found[ref.name] = [np.asarray(a[ref.index]) for a in arrays if a is not None]
    return found


def assert_same(a: dict[str, list[np.ndarray]], b: dict[str, list[np.ndarray]]) -> None:
    assert a.keys() == b.keys()
    for name, maps in a.items():
        for one, other in zip(maps, b[name], strict=True):
            np.testing.assert_array_equal(one, other)


def gone_by_name(bench: Any, *names: str, yes: bool = True) -> Any:
    return prune(str(bench.store), Wanted(names=names), yes=yes)


@pytest.mark.parametrize("kind", JOBS)
def test_a_frame_is_gone_from_every_byte_and_no_other_is_touched(
    kind: str, bench: Any, noise: Any
) -> None:
    job = make(bench, noise, JOBS[kind])
    segengine.run(job)
    told, before, tree = needles(bench), masks(bench), bench.tree()
    objects = open_objects(str(bench.store))
    assert len(told) == 3
    for needle in told:  # the search can find each of them
        assert holding(objects, (needle,))
    report = gone_by_name(bench, GONE)
    assert [(f.name, f.frame) for f in report.frames] == [(GONE, 1)]
    assert report.bytes > 0
    assert report.notices == ()
    assert holding(objects, told) == []
    after = masks(bench)
    del before[GONE]
    assert_same(after, before)
    (scene,) = bench.open().scenes.values()
    for array in (*scene.levels, scene.instances):
        if array is not None:
            assert (np.asarray(array[1]) == array.fill_value).all()
    if kind == "colours":
        colors = np.asarray(scene.array("colors"))
        assert colors[0].any()
        assert not colors[1].any()
    other = [key for key, data in bench.tree().items() if tree.get(key) != data]
    assert bench.tree().keys() == tree.keys()
    assert all("/c/" in key for key in other)
    assert not any("/c/1/" in key for key in other if JOBS[kind]["store"]["shard"] == 512)
    rows = bench.open().frames.to_pylist()
    assert [row["name"] for row in rows] == [name for name in NAMES if name != GONE]
    assert verify(str(bench.store)).problems == ()


@pytest.mark.parametrize("kind", ["objects", "cut", "linked", "scenes' fits"])
def test_no_later_run_brings_it_back(kind: str, bench: Any, noise: Any) -> None:
    job = make(bench, noise, JOBS[kind])
    segengine.run(job)
    told = needles(bench)
    gone_by_name(bench, GONE)
    tree = bench.tree()
    assert evaluate(str(bench.store)).measured == 0  # what was measured of the others is exact
    for _ in range(2):
        again = segengine.run(job)
        assert (again.computed, again.exit_code) == (0, 0)
        assert any("1 input was pruned" in message for message in again.messages)
        assert bench.tree() == tree
    bench.put(GONE, noise(77, (51, 60, 3)))  # uploaded again
    bench.put("person-c.png", noise(78, (52, 60, 3)))  # its neighbour in the shard
    again = segengine.run(job)
    assert again.computed >= 1
    assert again.exit_code == 0
    assert holding(open_objects(str(bench.store)), told) == []
    names = [row["name"] for row in bench.open().frames.to_pylist()]
    assert names == [name for name in NAMES if name != GONE]
    (scene,) = bench.open().scenes.values()
    assert (np.asarray(scene.mask[1]) == scene.void).all()
    assert verify(str(bench.store)).problems == ()
    frames = status(str(bench.store)).as_json()["frames"]
    assert frames == {"done": 5, "failed": 0, "left": 0, "gone": 0}


def test_figures_are_those_of_the_frames_that_are_left(
    bench: Any, new_bench: Callable[[], Any], noise: Any
) -> None:
    segengine.run(make(bench, noise, JOBS["objects"]))
    page = Path(build(str(bench.store)))
    assert page.read_bytes().count(b"person-b") >= 1
    pictures = page.read_bytes().count(b"data:image")
    gone_by_name(bench, GONE)
    assert page.read_bytes().count(b"person-b") == 0
    assert page.read_bytes().count(b"data:image") < pictures
    alone = new_bench()
    job = make(alone, noise, JOBS["objects"])
    (alone.inputs / GONE).unlink()
    segengine.run(job)
    mine, theirs = bench.open().metrics, alone.open().metrics
    for key in ("overall", "confusion", "areas"):
        assert mine[key] == theirs[key], key
    assert [row["iou"] for row in mine["frames"]] == [row["iou"] for row in theirs["frames"]]
    first, second = (
        [
            {k: v for k, v in row.items() if k != "frame"}
            for row in one.table("instances").to_pylist()
        ]
        for one in (bench.open(), alone.open())
    )
    assert first == second


def test_a_dry_run_says_what_would_go_and_changes_nothing(
    bench: Any, noise: Any, tree: Any, capsys: Any
) -> None:
    segengine.run(make(bench, noise, JOBS["shared"]))
    before = tree(bench.store)
    names = bench.root / "names.txt"
    names.write_bytes(b"\xef\xbb\xbfperson-b.png\r\n\nperson-z.png\n")
    assert main(["prune", str(bench.store), "--frames", str(names)]) == 0
    out, err = capsys.readouterr()
    assert "person-b.png: 256x256-uint8-3 1" in out
    assert err == "segengine: --frames: person-z.png: nothing is stored of it\n"
    assert "nothing is deleted without --yes" in out
    assert main(["prune", str(bench.store), "--frames", str(names), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["applied"] is False
    assert [frame["name"] for frame in found["frames"]] == [GONE]
    assert found["unknown"] == ["person-z.png"]
    assert found["bytes"] == sum(frame["bytes"] for frame in found["frames"]) > 0
    assert tree(bench.store) == before
    assert main(["prune", str(bench.store), "--frames", str(names), "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["applied"] is True
    segengine.run(make(bench, noise, JOBS["shared"]))
    assert "person-z.png" not in (r["name"] for r in bench.open().frames.to_pylist())


def test_a_name_goes_as_it_is_printed_and_in_another_normal_form(
    bench: Any, noise: Any, capsys: Any
) -> None:
    """And does not come back; the same command again is done already."""
    new, accented = "new\nline.png", unicodedata.normalize("NFC", "ünï.png")
    for i, name in enumerate((new, accented, "raw.png", "kept.png")):
        bench.put(name, noise(i, (40, 40, 3)))
    (path,) = bench.root.rglob("raw.png")
    path.rename(path.with_name(os.fsdecode(b"l\xe4ndlich.png")))
    bench.run(MEAN)
    names = bench.root / "names.txt"
    asked = ["new\\nline.png", unicodedata.normalize("NFD", accented), "l\\xe4ndlich.png"]
    names.write_text("\n".join(asked))
    for count in (3, 0):
        assert main(["prune", str(bench.store), "--frames", str(names), "--yes", "--json"]) == 0
        out, err = capsys.readouterr()
        assert (len(json.loads(out)["frames"]), err) == (count, "")
    bench.run(MEAN)
    assert masks(bench).keys() == {"kept.png"}


def test_names_of_nothing_alone_are_a_mistake(
    bench: Any, noise: Any, tree: Any, capsys: Any
) -> None:
    """However often they are asked for; what could be two names is not guessed."""
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(MEAN)
    before = tree(bench.store)
    names = bench.root / "names.txt"
    names.write_text("b.png\nc.png\n")
    for _ in range(2):
        assert main(["prune", str(bench.store), "--frames", str(names), "--yes"]) == 2
        out, err = capsys.readouterr()
        assert out == f"{bench.store}: holds nothing of these names; nothing is deleted\n"
        assert [line.rpartition(": ")[0] for line in err.splitlines()] == [
            "segengine: --frames: b.png",
            "segengine: --frames: c.png",
        ]
    names.write_bytes(b"a.png\n\0")
    assert main(["prune", str(bench.store), "--frames", str(names), "--yes"]) == 2
    assert "is no text: byte 6 is 0" in capsys.readouterr().err
    assert tree(bench.store) == before
    assert resolved(["e\u0301.png"], ["é.png", "e\u0301.png"]) == {"e\u0301.png": "e\u0301.png"}
    with pytest.raises(JobError, match="any of 2 names"):
        resolved(["\u1e69"], ["s\u0323\u0307", "s\u0307\u0323"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "missing.txt"], "--frames: missing.txt cannot be read"),
        (["--keep-last", "0"], "--keep-last: must be 1 or more runs"),
        (["--older", "soon"], "--older: 'soon' is no age"),
        ([], "one of the arguments"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], said: str, bench: Any, noise: Any, capsys: Any
) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    bench.run(MEAN)
    try:
        code = main(["prune", str(bench.store), *arguments])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_job_that_names_the_file_itself_is_refused(bench: Any, noise: Any) -> None:
    for i, name in enumerate(NAMES):
        bench.put(name, noise(i, (50, 60, 3)))
    paths = [str(bench.inputs / name) for name in NAMES]
    job = bench.job(MEAN, source={"paths": paths})
    segengine.run(job)
    told = needles(bench)
    gone_by_name(bench, GONE)
    assert holding(open_objects(str(bench.store)), told) == []  # the stored job too
    with pytest.raises(JobError, match=r"^source.paths: .*/person-b.png was pruned"):
        segengine.run(job)
    job["source"]["paths"].remove(paths[1])
    assert segengine.run(job).computed == 0


def test_scenes_of_their_own_go_with_their_names(bench: Any, noise: Any) -> None:
    for name in ("person.zarr", "place.zarr"):
        bench.put(name, noise(len(name), (3, 45, 40, 3)))
    source = {"paths": [str(bench.inputs / "*.zarr")]}
    job = bench.job({**MEAN, "instances": "components"}, source=source, store={"shard": 32})
    segengine.run(job)
    before = {k: v for k, v in bench.tree().items() if k.startswith("place/")}
    with pytest.raises(JobError, match=r"is a frame of person\.zarr, which is pruned as a whole"):
        gone_by_name(bench, "person.zarr#1")
    report = gone_by_name(bench, "person.zarr")
    assert report.scenes == ("person",)
    assert holding(open_objects(str(bench.store)), (b"person",)) == []
    assert {k: v for k, v in bench.tree().items() if k != "zarr.json"} == before
    assert segengine.run(job).computed == 0
    assert list(bench.open().scenes) == ["place"]


def test_exports_and_pictures_pass_over_what_was_pruned(
    bench: Any, noise: Any, tmp_path: Path
) -> None:
    from segengine.commands.show import show
    from segengine.registry import load

    segengine.run(make(bench, noise, JOBS["objects"]))
    gone_by_name(bench, GONE)
    path = str(bench.store)
    for to, suffix in (("png", ".png"), ("geojson", ".geojson"), ("coco", ".json")):
        files = load("exports", to)(path, to=str(tmp_path / to))
        assert files
        assert not any("person-b" in file for file in files)
        assert all(file.endswith(suffix) for file in files if to != "png")
    images = json.loads((tmp_path / "coco" / "instances.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [n for n in NAMES if n != GONE]
    with pytest.raises(JobError, match="--frame 1: was pruned from scene"):
        show(path, "256x256-uint8-3", 1, str(tmp_path / "picture.png"))
    (scene,) = bench.open().scenes.values()
    with pytest.raises(KeyError):
        scene.mask_of("")
    assert scene.to_xarray().shape[0] == 6
    assert "256" in scene._repr_html_()


def test_all_there_is_can_go(bench: Any, noise: Any) -> None:
    bench.put("person.zarr", noise(1, (45, 40, 3)))
    bench.put("other.png", noise(1, (45, 40, 3)))
    job = bench.job(MEAN)
    segengine.run(job)
    gone_by_name(bench, "person.zarr", "other.png")
    assert bench.open().frames.num_rows == 0
    assert holding(open_objects(str(bench.store)), (b"person", b"other.png")) == []
    bench.put("new.png", noise(2, (45, 40, 3)))
    assert segengine.run(job).computed == 1


def test_inputs_that_take_no_place_go_too(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    (bench.inputs / GONE).write_bytes(b"no image")
    job = bench.job(MEAN)
    assert segengine.run(job).exit_code == 3
    report = gone_by_name(bench, GONE)
    assert [(f.name, f.scene) for f in report.frames] == [(GONE, None)]
    assert holding(open_objects(str(bench.store)), (b"person-b",)) == []
    assert segengine.run(job).exit_code == 0


def test_a_frame_that_failed_is_not_told_of(toys: str, bench: Any, noise: Any) -> None:
    for i, name in enumerate(NAMES):
        bench.put(name, np.full((40, 40, 3), 7 if name == GONE else i + 20, np.uint8))
    job = bench.job({"kind": f"{toys}:Fussy"}, store={"shard": 512})
    assert segengine.run(job).exit_code == 3
    gone_by_name(bench, GONE)  # whose class is not used: the store does not say that it may be
    assert holding(open_objects(str(bench.store)), (b"person-b",)) == []
    assert segengine.run(job).exit_code == 0
    assert status(str(bench.store)).failed == ()


def test_probabilities_and_confidence_go_where_the_class_is_not_trusted(
    toys: str, bench: Any, noise: Any
) -> None:
    spec = {"kind": f"{toys}:Shares", "count": 3}
    kept = {"shard": 512, "probabilities": True, "confidence": True}
    job = make(bench, noise, {"segmenter": spec, "store": kept})
    del job["truth"]
    segengine.run(job)
    before = masks(bench)
    gone_by_name(bench, GONE)
    (scene,) = bench.open().scenes.values()
    assert np.isnan(np.asarray(scene.probabilities[1])).all()
    assert (np.asarray(scene.confidence[1]) == 255).all()
    del before[GONE]
    assert_same(masks(bench), before)
    assert segengine.run(job).computed == 0
    assert verify(str(bench.store)).problems == ()


def test_corrections_go_with_their_frame(bench: Any, noise: Any) -> None:
    segengine.run(make(bench, noise, JOBS["shared"]))
    folder = bench.store / "review" / "256x256-uint8-3"
    (folder / "instances").mkdir(parents=True)
    for number in (0, 1, 11):
        for name in (f"{number}.png", f"{number}.json", f"instances/{number}.png"):
            (folder / name).write_bytes(b"x")
    gone_by_name(bench, GONE)
    left = sorted(p.name for p in folder.rglob("*") if p.is_file())
    assert left == ["0.json", "0.png", "0.png", "11.json", "11.png", "11.png"]


def test_damage_is_not_laundered(bench: Any, noise: Any) -> None:
    segengine.run(make(bench, noise, JOBS["shared"]))
    path = bench.store / "scenes/256x256-uint8-3/mask/0/c/0/0/0"
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedStoreError, match="mask/0/c/0/0/0: its bytes are not those"):
        gone_by_name(bench, GONE)


def test_frames_that_are_gone_go_by_runs_and_by_age(bench: Any, noise: Any) -> None:
    job = make(bench, noise, JOBS["objects"])
    segengine.run(job)
    told, before = needles(bench), masks(bench)
    (bench.inputs / GONE).unlink()
    path = str(bench.store)
    for nights in range(3):
        due = [f.name for f in prune(path, Wanted(keep_last=2)).frames]
        assert due == ([] if nights < 2 else [GONE])
        segengine.run(job)
    assert prune(path, Wanted(older=3600)).frames == ()
    assert prune(path, Wanted(keep_last=9)).frames == ()
    assert [f.name for f in prune(path, Wanted(older=0)).frames] == [GONE]
    report = prune(path, Wanted(keep_last=2), yes=True)
    assert report.applied
    assert holding(open_objects(path), told) == []
    del before[GONE]
    assert_same(masks(bench), before)
    assert status(path).as_json()["frames"]["gone"] == 0
    assert segengine.run(job).computed == 0
    assert prune(path, Wanted(keep_last=1)).frames == ()
    # It was pruned for its age, not by its name: as a new input it may come again.
    bench.put(GONE, noise(9, (40, 60, 3)))
    assert segengine.run(job).computed == 1


def test_a_place_that_an_input_left_goes_and_its_new_one_stays(bench: Any, noise: Any) -> None:
    bench.put(GONE, noise(1, (40, 40, 3)))
    bench.put("a.png", noise(2, (40, 40, 3)))
    job = bench.job(MEAN, store={"shard": 512})
    segengine.run(job)
    bench.put(GONE, noise(3, (40, 300, 3)))
    segengine.run(job)
    report = prune(str(bench.store), Wanted(keep_last=1), yes=True)
    assert [(f.name, f.scene) for f in report.frames] == [(GONE, "256x256-uint8-3")]
    rows = bench.open().frames.to_pylist()
    assert [(r["scene"], r["name"]) for r in rows] == [
        ("256x256-uint8-3", "a.png"),
        ("256x512-uint8-3", GONE),
    ]
    assert segengine.run(job).computed == 0


def test_thirty_nights_of_replaced_inputs_need_no_more_room(
    bench: Any, noise: Any, monkeypatch: Any
) -> None:
    """New files each night, of equal size; what is gone is pruned. And new bytes in the old files."""
    monkeypatch.setattr("segengine.commands.prune.build", lambda *_, **__: "")
    sizes = []
    images = [noise(seed, (700, 700, 3)) for seed in range(4)]
    job = bench.job(MEAN, store={"shard": 1024}, faults={"fsync": False})
    for night in range(31):
        for path in bench.inputs.glob("new-*.png") if bench.inputs.exists() else ():
            path.unlink()
        for i in range(4):
            image = np.roll(images[i], 16 * night, axis=0)
            bench.put(f"new-{night:02}-{i}.png", image)
            bench.put(f"same-{i}.png", image[::-1])
        segengine.run(job)
        prune(str(bench.store), Wanted(keep_last=1), yes=True)
        files = [p for p in bench.store.rglob("*") if p.is_file()]
        sizes.append(sum(p.stat().st_size for p in files if p.name != "index.html"))
    first, *_, last = sizes[1:]  # before the second night there is only one scene
    assert last < 1.01 * first, sizes
    assert len(list(bench.store.rglob("*"))) < 200


def test_a_store_is_the_same_wherever_it_is_killed(
    bench: Any, noise: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from tests.segengine.test_resume import Killed, killed

    job = make(bench, noise, JOBS["objects"])
    (bench.inputs / "bad.png").write_bytes(b"no image")
    segengine.run(job)
    told = needles(bench)
    monkeypatch.setattr("segengine.commands.prune.build", lambda *_, **__: "")
    correction = bench.store / "review" / "256x256-uint8-3" / "1.png"
    correction.parent.mkdir(parents=True)
    correction.write_bytes(b"x")
    kept = tmp_path / "kept"
    shutil.copytree(bench.store, kept)
    with killed(1 << 30) as all_of_it:
        gone_by_name(bench, GONE, "bad.png")
    wanted = facts(bench)
    assert all_of_it.done > 30
    for after in range(0, all_of_it.done, 3):
        shutil.rmtree(bench.store)
        shutil.copytree(kept, bench.store)
        with pytest.raises(Killed), killed(after):
            gone_by_name(bench, GONE, "bad.png")
        gone_by_name(bench, GONE, "bad.png")
        assert facts(bench) == wanted, after
        assert not correction.exists()
        assert holding(open_objects(str(bench.store)), told) == [], after
    assert segengine.run(job).computed == 0


def test_a_run_after_a_killed_prune_loses_no_mask_of_another_vanished_frame(
    bench: Any, noise: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from tests.segengine.test_resume import Killed, killed

    job = make(bench, noise, JOBS["objects"])
    segengine.run(job)
    for name in (GONE, "person-c.png"):
        (bench.inputs / name).unlink()
    segengine.run(job)  # both are kept, in the shard of person-a.png
    kept = np.asarray(bench.open()["256x256-uint8-3"].mask[2])
    assert kept.max() > 0
    bench.put("person-a.png", noise(50, (50, 60, 3)))
    monkeypatch.setattr("segengine.commands.prune.build", lambda *_, **__: "")
    aside = tmp_path / "aside"
    shutil.copytree(bench.store, aside)
    seen = 0
    for after in range(60):
        shutil.rmtree(bench.store)
        shutil.copytree(aside, bench.store)
        try:
            with killed(after):
                gone_by_name(bench, GONE)
        except Killed:
            pass
        else:
            break
        if not any(differences(open_objects(str(bench.store)))):
            continue
        seen += 1
        segengine.run(job)
        scene = bench.open()["256x256-uint8-3"]
        np.testing.assert_array_equal(np.asarray(scene.mask[2]), kept, str(after))
    assert seen > 1  # a record was there, and not yet its bytes


def facts(bench: Any) -> Any:
    store = bench.open()
    records = sorted((r.kind, r.scene, r.shard, r.checksum) for r in store.records(kind=None))
    tables = [store.table(name).to_pylist() for name in ("frames", "shards", "instances")]
    assert Tombstones.read(store.objects).complete
    return records, tables, store.metrics["overall"], store.metrics["areas"], bench.tree()


def test_what_a_killed_run_kept_of_vanished_frames_is_kept_of_the_others_alone(
    bench: Any, noise: Any, tmp_path: Path
) -> None:
    from tests.segengine.test_resume import Killed, killed

    job = make(bench, noise, JOBS["objects"])
    segengine.run(job)
    told = needles(bench)
    kept = np.asarray(bench.open()["256x256-uint8-3"].mask[2])
    for name in (GONE, "person-c.png"):
        (bench.inputs / name).unlink()
    bench.put("person-a.png", noise(50, (50, 60, 3)))
    aside = tmp_path / "aside"
    shutil.copytree(bench.store, aside)
    seen = 0
    for after in range(0, 60, 2):
        shutil.rmtree(bench.store)
        shutil.copytree(aside, bench.store)
        try:
            with killed(after):
                segengine.run(job)
        except Killed:
            pass
        else:
            break
        if not any((bench.store / "work").glob("*/gone/*")):
            continue
        seen += 1
        gone_by_name(bench, GONE)
        assert holding(open_objects(str(bench.store)), told) == [], after
        assert segengine.run(job).exit_code == 0
        scene = bench.open()["256x256-uint8-3"]
        np.testing.assert_array_equal(np.asarray(scene.mask[2]), kept)
        assert (np.asarray(scene.mask[1]) == scene.void).all()
    assert seen > 1


def test_survey_states_of_a_killed_run_do_not_tell_of_it(bench: Any, noise: Any) -> None:
    from tests.segengine.test_resume import Killed, killed

    job = make(bench, noise, JOBS["cut"])
    (bench.inputs / "bad.png").write_bytes((bench.inputs / GONE).read_bytes()[:300])
    objects = open_objects(str(bench.store))
    for after in range(20, 60):
        if any(objects.children("records/+survey")):
            break
        shutil.rmtree(bench.store, ignore_errors=True)
        with pytest.raises(Killed), killed(after):
            segengine.run(job)
    assert any(objects.children("records/+survey"))
    gone_by_name(bench, GONE, "bad.png")
    assert holding(objects, (b"person-b", b"bad.png")) == []
    assert segengine.run(job).exit_code == 0
    assert len(bench.open().frames) == 5
    assert holding(objects, (b"person-b", b"bad.png")) == []
