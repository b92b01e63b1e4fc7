"""`--json`: one object on stdout and nothing else there, with the keys that programs read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import rasterio
import yaml

import segengine
from segengine.errors import JobError
from segengine.job import load_job, parse_job
from segengine.runs import Run
from segengine_flows import cli, run

ROOT = Path(__file__).parents[2]
CHAPTER, JOBS = ROOT / "segengine/commands/README.md", ROOT / "deployments/jobs"
Ask = Callable[..., Any]


pytestmark = pytest.mark.usefixtures("handlers_as_before")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Prefect."""
    monkeypatch.setattr(run, "configured_url", lambda: None)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """What a command prints with `--json`; its exit code must be this one."""

    def call(code: int, *arguments: str) -> Any:
        assert cli.main([*arguments, "--json"]) == code
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        found = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        if arguments[0] != "evaluate":
            assert set(found) == documented(arguments[0])
        return found

    return call


def documented(command: str) -> set[str]:
    """Keys that the chapter tells of a command."""
    found: dict[str, set[str]] = {}
    name = ""
    for first, second in re.findall(r"^\|(.*?)\|(.*?)\|", CHAPTER.read_text(), re.MULTILINE):
        name = first.strip() or name
        found.setdefault(name, set()).update(re.findall(r"`(\w+)`", second))
    found["status"] = found["`status`, `run`"]
    found["run"] = found["status"] | found["`run` besides"]
    return found.get(command) or found[f"`{command}`"]


def test_the_life_of_a_store(job_file: Path, photos: Path, ask: Ask) -> None:
    store = str(job_file.parent / "masks.zarr")
    (photos / "bad.png").write_bytes(b"")
    (photos / "notes.txt").write_text("none of them")
    plan = ask(3, "plan", str(job_file))
    assert [plan[key] for key in ("scenes", "frames", "shards", "pending")] == [2, 4, 2, 2]
    assert plan["pixels"] == 3 * 40 * 50 + 300 * 20
    assert plan["skipped"] == {".txt": 1}
    assert [one["name"] for one in plan["quarantined"]] == ["bad.png"]
    assert plan["quarantined"][0]["reason"]
    assert plan["estimate"]["seconds"] > 0
    assert plan["estimate"]["bytes"] > 0

    found = ask(3, "run", str(job_file))
    assert found["frames"] == {"done": 4, "failed": 1, "left": 0, "gone": 0}
    assert (found["computed"], found["exit_code"], found["store"]) == (2, 3, store)
    assert found["seconds"] > 0
    assert {(one["name"], one["status"], one["scene"]) for one in found["quarantine"]} == {
        ("bad.png", "corrupt", None)
    }
    assert sorted((one["frames"], one["done"]) for one in found["scenes"]) == [(1, 1), (3, 3)]

    (photos / "0.png").unlink()
    (photos / "bad.png").unlink()
    found = ask(0, "run", str(job_file))
    assert found["frames"] == {"done": 3, "failed": 0, "left": 0, "gone": 1}
    assert found["quarantine"] == []
    assert found["computed"] == 0
    assert ask(0, "status", store) == {key: found[key] for key in documented("status")}
    done = ask(0, "plan", str(job_file))
    assert (done["pending"], done["estimate"]) == (0, {"seconds": 0.0, "bytes": 0})

    good = ask(0, "verify", store)
    assert good["checked"] > 8
    assert good["different"] == []
    (mask,) = sorted(Path(store).glob("scenes/*/mask/0/c/0/0/0"))[-1:]
    mask.write_bytes(mask.read_bytes()[:-1] + b"\x00\x01")
    bad = ask(4, "verify", store)
    assert bad["checked"] == good["checked"]
    assert [one["object"] for one in bad["different"]] == [str(mask.relative_to(store))]
    assert bad["different"][0]["what"]


def test_a_plan_without_an_estimate(job_file: Path, photos: Path, ask: Ask) -> None:
    for photo in photos.iterdir():
        photo.write_bytes(photo.read_bytes()[:-40])
    assert ask(0, "plan", str(job_file))["estimate"] == {"seconds": None, "bytes": None}


def test_frames_of_shards_that_are_still_to_come(job_file: Path, ask: Ask) -> None:
    with Run(load_job(str(job_file)), in_process=True) as planned:
        for _ in planned.stage("plan"):
            pass
    found = ask(0, "status", str(job_file.parent / "masks.zarr"))
    assert found["frames"] == {"done": 0, "failed": 0, "left": 4, "gone": 0}
    assert sorted(one["left"] for one in found["scenes"]) == [1, 3]
    assert [one["shards"]["left"] for one in found["scenes"]] == [1, 1]


def test_figures_are_those_that_are_stored(job_file: Path, photos: Path, ask: Ask) -> None:
    store = job_file.parent / "masks.zarr"
    ask(0, "run", str(job_file))
    found = ask(
        0, "evaluate", str(store), "--truth", str(photos / "{stem}.png"), "--metrics", "confusion"
    )
    assert found == json.loads((store / "metrics.json").read_text())
    assert {"unknown_labels", "missing_truth"} <= found.keys()


@pytest.fixture
def map_store(tmp_path: Path) -> str:
    """A map of two classes, in UTM."""
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        height=60,
        width=80,
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 400000, 0, -10, 5200000),
    ) as file:
        file.write(np.random.default_rng(0).choice([20, 200], (60, 80)).astype(np.uint8), 1)
    store = str(tmp_path / "map.zarr")
    job = {"source": {"paths": [str(tmp_path / "a.tif")]}, "segmenter": {"kind": "threshold"}}
    segengine.run({**job, "store": {"path": store, "chunk": 64, "shard": 64}})
    return store


def test_what_a_map_says(map_store: str, tmp_path: Path, ask: Ask) -> None:
    box = [[400100, 5199500], [400500, 5199500], [400500, 5199900], [400100, 5199500]]
    polygons = tmp_path / "fields.geojson"
    polygons.write_text(
        json.dumps(
            {
                "type": "Feature",
                "properties": {"name": "mine"},
                "geometry": {"type": "Polygon", "coordinates": [box]},
                "crs": {"type": "name", "properties": {"name": "EPSG:32633"}},
            }
        )
    )
    table = tmp_path / "zones.csv"
    found = ask(0, "zones", map_store, str(polygons), "--out", str(table))
    assert (found["store"], found["table"], found["polygons"]) == (map_store, str(table), 1)
    assert (found["outside"], found["scenes"], found["notices"]) == (0, ["a"], [])
    assert sum(found["areas"].values()) == pytest.approx(80_000, rel=1e-3)
    assert table.read_text().startswith('"name","background_area","background_share","object_area"')

    points = tmp_path / "points.geojson"
    found = ask(0, "sample", map_store, "--size", "20", "--seed", "4", "--out", str(points))
    assert sum(one["points"] for one in found["strata"].values()) == 20
    assert Path(found["pictures"]).is_dir()
    document = json.loads(points.read_text())
    for feature in document["features"]:
        feature["properties"]["label"] = feature["properties"]["stratum"]
    points.write_text(json.dumps(document))
    found = ask(0, "area", map_store, str(points))
    assert found["overall"] == {"accuracy": pytest.approx(1), "se": 0}
    assert set(found["classes"]) == {"background", "object"}
    keys = ["share", "area", "se", "low", "high", "users", "producers", "users_se", "producers_se"]
    assert all(set(one) == set(keys) for one in found["classes"].values())
    assert Path(found["page"]).read_text().startswith("<!doctype html>")


def test_what_pictures_cost_is_said_before_they_are_drawn(
    map_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cli, "MANY_PICTURES", 8)
    given = ["sample", map_store, "--size", "9", "--out", str(tmp_path / "p.geojson")]
    assert cli.main([*given, "--pictures", "9"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(given) == 0
    assert "a picture of each of 9 points takes about 0 minutes" in capsys.readouterr().err


def test_what_a_map_cannot_say_is_one_line(
    map_store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "notes\n.txt"
    text.write_text("no polygons")
    for arguments in (
        ["zones", map_store, str(text), "--out", str(tmp_path / "t.csv")],
        ["sample", map_store, "--size", "3", "--out", str(tmp_path / "p.geojson")],
        ["area", map_store, str(text), "--json"],
    ):
        assert cli.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("segengine: ")


def test_where_a_command_fails_stdout_is_empty(
    job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file.write_text(job_file.read_text().replace("clusters: 3", "clusters: none"))
    assert cli.main(["run", str(job_file), "--json"]) == 2
    assert cli.main(["status", str(job_file.parent / "none.zarr"), "--json"]) == 2
    train = job_file.with_name("train.yaml")
    train.write_text("model: {kind: unet}\ndata: {}\n")
    capsys.readouterr()
    assert cli.main(["plan", str(train), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


def test_the_schema_takes_what_a_run_takes_and_refuses_what_it_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert schema["$schema"] == validator.META_SCHEMA["$id"]
    jobs = {file.name: yaml.safe_load(file.read_text()) for file in JOBS.glob("*.yaml")}
    jobs = {name: job for name, job in jobs.items() if "store" in job}
    assert len(jobs) >= 12
    for name, job in jobs.items():
        assert [error.message for error in validator.iter_errors(job)] == [], name
    for path, value in (
        (("stor",), {}),
        (("segmenter", "clusterz"), 3),
        (("segmenter", "clusters"), "many"),
        (("store", "chunk"), 0),
        (("source", "paths"), []),
        (("budget",), {"duration": "-4h"}),
        (("budget",), {"until": "25:00"}),
    ):
        wrong = json.loads(json.dumps(jobs["photos.yaml"]))
        block = wrong[path[0]] if len(path) > 1 else wrong
        block[path[-1]] = value
        assert not validator.is_valid(wrong), path
        with pytest.raises(JobError):
            parse_job(wrong)
