"""Code that a job or a store names: what may run it, and what is done without it.

Modules of a stranger write a line into a file when they are imported; every command runs in a process
of its own kind, in which nothing of them was imported before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from segengine.reader import open_store
from segengine.store.layouts import LAYOUTS, load_layouts
from segengine.store.local import LocalObjects
from segengine.store.seals import SealedObjects
from segengine.store.values import encode

CANARY = """
import os
with open(os.environ["CANARY"], "a") as file:
    file.write(__name__ + "\\n")
"""
MODULES = {
    "look": """
        from dataclasses import dataclass
        import numpy as np
        from segengine.types import Prediction

        @dataclass(frozen=True)
        class Bright:
            level: int = 100
            classes = ("background", "bright")
            halo = 0
            stride = 1
            outputs = ("labels",)

            def segment(self, pixels):
                return Prediction((pixels[..., 0] > self.level).astype(np.uint8))

        @dataclass(frozen=True)
        class Fit:
            name: str = ""
    """,
    "read": """
        from dataclasses import replace
        from segengine.sources.images import ImageSource

        class Reader(ImageSource):
            def probe(self, entry):
                return replace(super().probe(entry), kind="stranger.read:Reader")
    """,
    "measure": """
        class Share:
            def __init__(self, classes, truth_classes):
                self.classes = classes

            def empty(self):
                return (0, 0)

            def update(self, state, prediction, truth):
                return self.merge(state, (int((prediction.labels == 1).sum()), truth.labels.size
                                          if hasattr(truth, "labels") else truth.size))

            def merge(self, a, b):
                return (a[0] + b[0], a[1] + b[1])

            def compute(self, state):
                return {"share": state[0] / max(1, state[1])}

        class Half:
            def statistic(self, classes):
                return Halved(classes, classes)

        class Halved(Share):
            def compute(self, state):
                share = state[0] / max(1, state[1]) / 2
                return {"loss": share, "pooled": share}
    """,
}
DRIVER = """
import contextlib, io, json, os, sys
from segengine_flows import cli
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(arguments)
        except SystemExit as left:
            code = left.code
    canary = os.environ["CANARY"]
    ran = sorted(set(open(canary).read().split())) if os.path.exists(canary) else []
    for name in [n for n in sys.modules if n.partition(".")[0] == "stranger"]:
        del sys.modules[name]
    if ran:
        os.remove(canary)
    print(json.dumps([arguments, code, ran, out.getvalue(), err.getvalue()]))
"""
FORMATS = (
    "png",
    "cog",
    "coco",
    "panoptic",
    "geojson",
    "geoparquet",
    "flatgeobuf",
    "geopackage",
    "stac",
)


@dataclass(frozen=True)
class Done:
    """One command, ended."""

    arguments: list[str]
    code: int
    ran: list[str]
    """Modules of the stranger that were imported."""
    out: str
    err: str


Commands = Callable[..., list[Done]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's modules, pictures and their truth."""
    root = tmp_path_factory.mktemp("foreign")
    for name, text in {"__init__": "", **MODULES}.items():
        path = root / "code" / "stranger" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CANARY + textwrap.dedent(text))
    rng = np.random.default_rng(3)
    for i in range(2):
        image = rng.integers(0, 256, (40, 48), np.uint8)
        for place, pixels in (("in", image), ("truth", (image > 120).astype(np.uint8))):
            (root / place).mkdir(exist_ok=True)
            assert cv2.imwrite(str(root / place / f"{i}.png"), pixels)
    return root


@pytest.fixture(scope="module")
def commands(folder: Path) -> Commands:
    """Run commands one after the other in a fresh process."""

    def run(many: Sequence[Sequence[str]], **environment: str) -> list[Done]:
        (folder / "canary").unlink(missing_ok=True)
        found = subprocess.run(
            [sys.executable, "-c", DRIVER],
            input=json.dumps(many),
            env={
                **os.environ,
                "PYTHONPATH": str(folder / "code"),
                "CANARY": str(folder / "canary"),
                **environment,
            },
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        done = [Done(*json.loads(line)) for line in found.stdout.splitlines()]
        assert len(done) == len(many), found.stderr
        assert not any("Traceback" in d.err for d in done)
        return done

    return run


def job(folder: Path, store: str, **blocks: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "source": {"kind": "stranger.read:Reader", "paths": [str(folder / "in")]},
        "truth": {"paths": [f"{folder}/truth/{{stem}}.png"], "classes": ["background", "bright"]},
        "segmenter": {"kind": "stranger.look:Bright", "instances": "components"},
        "store": {"path": str(folder / store), "chunk": 16, "shard": 256},
        "evaluate": {
            "metrics": ["confusion", "stranger.measure:Share"],
            "losses": ["stranger.measure:Half"],
        },
        "cluster": {"kind": "local", "workers": 1},
    }
    return {**base, **blocks}


RUN = """
import json, sys
import segengine
segengine.run(json.load(sys.stdin))
"""


def make(folder: Path, blocks: dict[str, Any]) -> Path:
    """A store, made in another process, as a stranger would."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "code"),
        "CANARY": str(folder / "elsewhere"),
    }
    subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(blocks),
        env=environment,
        check=True,
        text=True,
        timeout=300,
    )
    return Path(blocks["store"]["path"])


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Path:
    """A store whose segmenter, source, metric and loss are the stranger's."""
    return make(folder, job(folder, "foreign.zarr"))


def looking(store: Path, folder: Path, *more: str) -> list[list[str]]:
    """Every command that reads a store; `more` goes with each that can take it."""
    frame = next(iter(open_store(store).scenes))
    place, to = str(store), str(folder / "exported")
    return [
        ["status", place],
        ["verify", place, *more],
        ["evaluate", place, *more],
        ["report", place, *more],
        ["show", place, "--scene", frame, "--out", str(folder / "s.png"), *more],
        ["show", place, "--scene", frame, "--what", "errors", "--out", f"{folder}/e.png", *more],
        *(["export", place, "--to", f, "--out", f"{to}-{f}", *more] for f in FORMATS),
    ]


def copied(store: Path, folder: Path) -> Path:
    target = folder / store.name
    shutil.copytree(store, target)
    return target


def test_without_trust_nothing_of_a_stranger_runs_and_the_rest_is_done(
    foreign: Path, folder: Path, tmp_path: Path, commands: Commands
) -> None:
    store = copied(foreign, tmp_path)
    before = open_store(store).metrics
    assert before["overall"]["stranger.measure:Share"]["share"] > 0
    done = commands(looking(store, tmp_path))
    assert [d.ran for d in done] == [[]] * len(done)
    assert [d.code for d in done] == [0] * len(done), [d.err for d in done if d.code]
    status, verify, evaluate, *others = done
    assert "stranger" not in status.err
    for each in (verify, evaluate, *others):
        (line,) = each.err.splitlines()
        assert line.startswith(
            f"segengine: {store}: names code of its own (source.kind stranger.read"
        )
        assert "--trust" in line
    assert "0 shards segmented again" in verify.out
    assert "not segmented again: the sample: source.kind stranger.read:Reader" in verify.out
    after = open_store(store).metrics
    for name in ("stranger.measure:Share", "stranger.measure:Half"):
        assert "--trust" in after["not_measured"][name]
        assert name in evaluate.out
    assert "stranger.measure:Share" not in after["overall"]
    assert after["overall"]["mean_iou"] == before["overall"]["mean_iou"]
    assert after["areas"] == before["areas"]
    page = (store / "report" / "index.html").read_text()
    assert "stranger.read:Reader: is code that the store names" in page


def test_with_trust_all_of_it_is_used(
    foreign: Path, folder: Path, tmp_path: Path, commands: Commands
) -> None:
    store = copied(foreign, tmp_path)
    before = open_store(store).metrics
    done = commands(looking(store, tmp_path, "--trust"))
    assert [d.code for d in done] == [0] * len(done), [d.err for d in done if d.code]
    _, verify, evaluate, report, show, errors, *exports = done
    assert all("--trust" not in d.err for d in done)
    assert "2 shards segmented again" in verify.out
    assert {"stranger.look", "stranger.read"} <= set(verify.ran)
    assert "stranger.measure" in evaluate.ran
    assert "stranger.read" in report.ran
    assert "stranger.read" in show.ran
    assert "stranger.read" in errors.ran
    assert open_store(store).metrics["overall"] == before["overall"]
    assert "is code that the store names" not in (store / "report/index.html").read_text()
    assert [d.ran for d in exports] == [[]] * len(exports), "none of them needs it"


@pytest.mark.parametrize("more", [(), ("--trust",)])
def test_a_deployment_forbids_it_whatever_trust_says(
    foreign: Path, folder: Path, tmp_path: Path, commands: Commands, more: tuple[str, ...]
) -> None:
    store = copied(foreign, tmp_path)
    done = commands(looking(store, tmp_path, *more), SEGENGINE_ALLOW_CODE="0")
    assert [d.ran for d in done] == [[]] * len(done)
    assert [d.code for d in done] == [2] * len(done)
    for each in done:
        (line,) = each.err.splitlines()
        assert "source.kind: stranger.read:Reader" in line
        assert "SEGENGINE_ALLOW_CODE=0" in line


@pytest.fixture
def write(folder: Path, tmp_path: Path) -> Callable[..., str]:
    def save(name: str, **blocks: Any) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job(folder, f"{tmp_path}/{name}.zarr", **blocks)))
        return str(path)

    return save


PLAIN: dict[str, Any] = {"segmenter": {"kind": "threshold"}, "evaluate": {"metrics": ["iou"]}}


def test_a_job_names_code_of_its_user_unless_that_is_forbidden(
    folder: Path, write: Callable[..., str], commands: Commands
) -> None:
    source = {"paths": [str(folder / "in")]}
    jobs = {
        "segmenter": write("a", source=source, evaluate={"metrics": ["iou"]}),
        "source": write("b", **PLAIN),
        "metrics": write("c", source=source, segmenter=PLAIN["segmenter"]),
    }
    (allowed,) = commands([["plan", jobs["segmenter"]]])
    assert (allowed.code, allowed.ran) == (0, ["stranger", "stranger.look"])
    train = folder / "train.yaml"
    train.write_text("architecture: {name: 'stranger.net:build'}\nsource: {paths: [in]}\nout: o\n")
    named = [["plan", file] for file in jobs.values()] + [["train", str(train)]]
    for each in commands([*named, ["plan", str(train)]], SEGENGINE_ALLOW_CODE="0"):
        assert (each.code, each.ran) == (2, []), each
        (line,) = each.err.splitlines()
        assert "SEGENGINE_ALLOW_CODE=0" in line
        assert each.arguments[1] in line, "the file is named"


@pytest.mark.system
def test_a_run_that_is_forbidden_imports_nothing(
    write: Callable[..., str], commands: Commands
) -> None:
    file = write("a")
    for each in commands([["run", file], ["run", file, "--trust"]], SEGENGINE_ALLOW_CODE="0"):
        assert (each.code, each.ran) == (2, []), each.err


REFUSED = [
    ("subprocess:Popen", {"args": ["touch", "called"]}, "Popen is no {}: it has no "),
    ("os:system", {"command": "touch called"}, "is a builtin_function_or_method, not a class"),
    ("os:mkdir", {"path": "called"}, "not a class"),
    ("shutil:copyfile", {"src": "in/0.png", "dst": "called"}, "is a function, not a class"),
    ("pathlib:Path", {"args": "called"}, "Path is no {}: it has no "),
    ("json:decoder", {}, "is a module, not a class"),
]


def test_what_is_no_class_with_the_protocols_parts_is_refused_and_not_called(
    folder: Path, write: Callable[..., str], commands: Commands
) -> None:
    source = {"paths": [str(folder / "in")]}
    plain = {"source": source, **PLAIN}
    cases: list[tuple[str, str, str]] = []
    for i, (kind, options, words) in enumerate(REFUSED):
        blocks: dict[str, Any] = {
            "segmenter": {"segmenter": {"kind": kind, **options}},
            "source": {"source": {**source, "kind": kind, **options}},
            "metric": {"evaluate": {"metrics": [{"metric": kind, **options}]}},
            "loss": {"evaluate": {"losses": [{"loss": kind, **options}]}},
        }
        for noun, block in blocks.items():
            file = write(f"{i}{noun}", **{**plain, **block})
            cases.append((file, f"{kind}: ", words.format(noun)))
    found = commands([["plan", file] for file, *_ in cases])
    for (_, kind, words), done in zip(cases, found, strict=True):
        assert done.code == 2, done
        (line,) = done.err.splitlines()
        assert kind in line
        assert words in line
    assert not (folder / "called").exists()


def stored_objects(store: Path) -> SealedObjects:
    """Of a stranger, who seals what he forges."""
    return SealedObjects(LocalObjects(str(store)))


def test_what_only_the_stores_objects_name_is_not_used_either(
    folder: Path, tmp_path: Path, commands: Commands
) -> None:
    """A job of installed kinds; the layouts, the fit and `metrics.json` name the stranger's code."""
    source = {"paths": [str(folder / "in")]}
    blocks = job(
        folder, str(tmp_path / "m.zarr"), source=source, evaluate={"metrics": ["confusion"]}
    )
    blocks["segmenter"] = {"kind": "kmeans", "clusters": 2, "scope": "run"}
    store = make(folder, blocks)
    objects = stored_objects(store)
    for scene, layout in load_layouts(objects).items():
        named = replace(layout, kind="stranger.read:Reader")
        objects.put(f"{LAYOUTS}/{scene}", encode(named))
    metrics = open_store(store).metrics
    truth = {"source": {"kind": "stranger.read:Reader", "paths": ["/"]}}
    objects.put("metrics.json", json.dumps({**metrics, "truth": json.dumps(truth)}).encode())
    objects.commit("forged")
    many = looking(store, tmp_path)
    many = [m for m in many if m[:1] != ["export"] or m[3] in ("png", "cog")]
    done = commands(many)
    assert [d.ran for d in done] == [[]] * len(done)
    assert all(d.code in (0, 2) for d in done), [d.err for d in done]
    by_name = {" ".join(d.arguments[:1]): d for d in done}
    assert by_name["status"].code == by_name["evaluate"].code == by_name["report"].code == 0
    verify = by_name["verify"]
    assert verify.code in (0, 4)
    assert "the sample: source stranger.read:Reader is code that the store names" in verify.out
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(blocks))
    (plan,) = commands([["plan", str(file)]])
    assert (plan.code, plan.ran) == (2, [])
    assert "is read by stranger.read:Reader" in plan.err


def test_a_fit_names_no_code_beside_its_segmenters(
    folder: Path, tmp_path: Path, commands: Commands
) -> None:
    source = {"paths": [str(folder / "in")]}
    blocks = job(
        folder, str(tmp_path / "m.zarr"), source=source, evaluate={"metrics": ["confusion"]}
    )
    blocks["segmenter"] = {"kind": "kmeans", "clusters": 2, "scope": "run"}
    store = make(folder, blocks)
    objects = stored_objects(store)
    (name,) = objects.children("records/+fits")[1]

    @dataclass(frozen=True)
    class Fit:
        name: str = ""

    Fit.__module__, Fit.__qualname__ = "stranger.look", "Fit"
    key = f"records/+fits/{name}"
    from segengine.store.values import decode

    found = decode(objects.get(key) or b"")
    objects.put(key, encode({**found, "body": encode(Fit("x"))}))
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(blocks))
    place = str(store)
    for trust in ((), ("--trust",)):
        for each in commands([["verify", place, *trust], ["plan", str(file)]]):
            assert each.ran == [], each
            assert each.code in (0, 4), each


def test_the_scheduler_that_a_store_names_is_not_asked(
    folder: Path, tmp_path: Path, commands: Commands
) -> None:
    """Who answers there could send what is unpickled here."""
    import socket

    source = {"paths": [str(folder / "in")]}
    blocks = job(folder, str(tmp_path / "m.zarr"), source=source, **PLAIN)
    store = make(folder, blocks)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        root = json.loads((store / "zarr.json").read_text())
        stored = root["attributes"]["segengine"]["job"]
        stored["cluster"] = {"kind": "address", "address": address}
        stored["trust"] = True  # nobody believes that
        objects = stored_objects(store)
        objects.put("zarr.json", json.dumps(root).encode())
        objects.commit("forged")
        (done,) = commands([["evaluate", str(store), "--metrics", "iou", "kappa"]])
        assert done.code == 0, done.err
        assert "not used, without --trust: cluster.kind address" in done.out
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_where_all_that_is_asked_is_a_strangers_the_figures_stay(
    folder: Path, tmp_path: Path, commands: Commands
) -> None:
    measured = {"metrics": ["stranger.measure:Share"]}
    source = {"paths": [str(folder / "in")]}
    blocks = {**PLAIN, "source": source, "evaluate": measured}
    store = make(folder, job(folder, str(tmp_path / "m.zarr"), **blocks))
    before = (store / "metrics.json").read_bytes()
    assert json.loads(before)["overall"]["stranger.measure:Share"]["share"] > 0
    (done,) = commands([["evaluate", str(store)]])
    assert (done.code, done.ran) == (2, []), done.err
    assert "stranger.measure:Share is code that the store names; --trust uses it" in done.err
    assert (store / "metrics.json").read_bytes() == before


def test_what_the_user_names_beside_a_store_is_the_users(
    foreign: Path, tmp_path: Path, commands: Commands
) -> None:
    store = copied(foreign, tmp_path)
    named = ["evaluate", str(store), "--metrics", "stranger.measure:Share"]
    (done,) = commands([named])
    assert (done.code, done.ran) == (0, ["stranger", "stranger.measure"]), done.err
    assert open_store(store).metrics["overall"]["stranger.measure:Share"]["share"] > 0
