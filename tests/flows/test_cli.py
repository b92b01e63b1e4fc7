"""The command: usage, exit codes, errors on one line, and what it does not load."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

import segengine
from segengine import registry
from segengine.commands.demo import write_inputs
from segengine.errors import SegengineError
from segengine_flows import cli

COMMANDS = (
    "demo",
    "init",
    "run",
    "plan",
    "status",
    "verify",
    "evaluate",
    "report",
    "export",
    "show",
    "zones",
    "sample",
    "area",
    "train",
    "segmenters",
    "sources",
    "metrics",
    "losses",
    "schema",
)


pytestmark = pytest.mark.usefixtures("handlers_as_before")


def usage(arguments: Sequence[str]) -> int:
    try:
        return cli.main(arguments)
    except SystemExit as left:
        return int(left.code or 0)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    err = capsys.readouterr().err
    (line,) = err.splitlines()
    assert line.startswith("segengine: ")
    return line


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(["--help"]) == 0
    text = capsys.readouterr().out
    assert set(COMMANDS) <= set(re.findall(r"^    (\w+)", text, re.MULTILINE))
    codes = re.findall(r"^  (\d+)  +\S", text, re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "5", "130"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: segengine {command}")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["segment"],
        ["run"],
        ["run", "a.yaml", "b.yaml"],
        ["run", "a.yaml", "--rep"],
        ["plan"],
        ["show", "store"],
        ["show", "store", "--scene", "s", "--frame", "first"],
        ["export", "store"],
        ["evaluate"],
        ["zones", "store", "polygons.gpkg"],
        ["sample", "store", "--out", "p.geojson"],
        ["sample", "store", "--size", "many", "--out", "p.geojson"],
        ["sample", "store", "--size", "9", "--out", "p.geojson", "--accuracy", "water"],
        ["area", "store"],
        ["prune", "store"],
        ["prune", "store", "--keep-last", "3", "--older", "90d"],
        ["segmenters", "extra"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage(arguments) == 2
    assert "--help" in error_line(capsys)


MISTAKES = {
    "unknown key": ("faults:", "fault:", "fault: unknown key; did you mean faults?"),
    "unknown nested key": ("chunk:", "chunck:", "store.chunck: unknown key; did you mean chunk?"),
    "wrong type": ("chunk: 512", "chunk: many", "store.chunk: "),
    "no clusters": ("clusters: 3", "clusters: 0", "segmenter.clusters: "),
    "unknown option": ("clusters: 3", "cluster: 3", "segmenter.cluster: "),
    "unknown segmenter": ("kmeans", "kmean", "segmenter.kind: "),
    "shard no multiple": ("chunk: 512", "chunk: 300", "store.shard: "),
    "not YAML": ("{kind", "{{kind", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_job_names_file_line_and_key(
    mistake: str, job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file.write_text(
        "name: photos\n"
        "source: {paths: [photos]}\n"
        "segmenter: {kind: kmeans, clusters: 3}\n"
        "store: {path: masks.zarr, chunk: 512}\n"
        "faults: {retries: 1}\n"
    )
    right, wrong, message = MISTAKES[mistake]
    text = job_file.read_text()
    assert right in text
    job_file.write_text(text.replace(right, wrong))
    assert usage(["plan", str(job_file)]) == 2
    line = error_line(capsys)
    assert re.match(rf"segengine: {re.escape(str(job_file))}:[345]: ", line), line
    assert message in line
    assert not (job_file.parent / "masks.zarr").exists()


def test_a_path_that_names_no_input_is_located(
    job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job_file.write_text(
        "source:\n  paths: [nowhere/*.png]\n"
        "segmenter: {kind: threshold}\nstore: {path: masks.zarr}\n"
    )
    assert usage(["plan", str(job_file)]) == 2
    line = error_line(capsys)
    assert line.startswith(f"segengine: {job_file}:2: source.paths: "), line


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("plan", "segmenter.clusters=0", "clusters"),
        ("plan", "segmenter.clusters", "KEY=VALUE"),
        ("plan", "source.paths=[nowhere/*.png]", "nowhere"),
        ("run", "segmenter.clusters=0", "clusters"),
        ("run", "source.paths=[nowhere/*.png]", "nowhere"),
        ("run", "store.path=job.yaml", "is a file"),
    ],
)
def test_a_mistake_in_an_override_is_exit_code_2(
    command: str,
    override: str,
    message: str,
    job_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _without_prefect(monkeypatch)
    assert usage([command, str(job_file), "--set", override]) == 2
    assert message in error_line(capsys)


def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no API is configured."""
    from segengine_flows import run

    monkeypatch.setattr(run, "configured_url", lambda: None)


def test_a_missing_job_file_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert usage(["plan", str(tmp_path / "none.yaml")]) == 2
    assert error_line(capsys).endswith("none.yaml: no such job file")


def test_a_training_job_that_is_wrong_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.yaml"
    assert usage(["train", str(file)]) == 2
    assert error_line(capsys).endswith("train.yaml: no such job file")
    file.write_text("source: {paths: [a.png]}\narchitecture: {name: unnet}\nout: o\n")
    for command in ("train", "plan"):
        assert usage([command, str(file)]) == 2
        assert "train.yaml:2: architecture" in error_line(capsys)


@pytest.mark.parametrize("group", cli.LISTS)
def test_lists_name_what_is_installed(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert usage([group]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = registry.names(group)
    listed = [line.split() for line in lines if not line.endswith(":")]
    entries = [words for words in listed if words[0] not in ("home:", "licence:")]
    assert sorted(words[0] for words in entries) == list(names)
    assert all(len(words) > 1 for words in entries)


def test_losses_are_listed_by_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(["losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    families = [line.removesuffix(":") for line in lines if not line.startswith(" ")]
    assert families == ["distribution", "region", "boundary", "compound"]


def test_data_sets_are_listed_with_home_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(["sources"]) == 0
    text = capsys.readouterr().out
    for word in ("home: http", "licence: "):
        assert text.count(word) == 6


def test_truth_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(tmp_path), "--truth", "labels/*.png", "--values", "0", "255"]
    assert usage(arguments) == 2
    assert "values" in error_line(capsys)


def _refuses_to_overwrite(
    store: str, photos: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An input always, another's file without the flag."""
    export = ["export", store, "--to", "png", "--out"]
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    for more in ([], ["--overwrite"]):
        assert usage([*export, str(photos), *more]) == 2
        assert re.search(r"\.png: is an input of the store", error_line(capsys))
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    assert before
    folder = next(p for p in exported.parents if p.name == "png")
    exported.write_bytes(b"drawn by hand")
    assert usage([*export, str(folder)]) == 2
    assert f"{exported}: is there" in error_line(capsys)
    assert usage([*export, str(folder), "--overwrite"]) == 0
    assert usage([*export, str(folder)]) == 0
    capsys.readouterr()


def test_an_export_among_inputs_says_which_path_would_take_it_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(folder / name), np.full((20, 30, 3), 90, np.uint8))
    job = {"source": {"paths": [str(folder)]}, "segmenter": {"kind": "threshold"}}
    segengine.run(job | {"store": {"path": str(tmp_path / "m.zarr")}})
    export = ["export", str(tmp_path / "m.zarr"), "--to", "png", "--out"]
    assert usage([*export, str(tmp_path / "elsewhere")]) == 0
    assert capsys.readouterr().err == ""
    assert usage([*export, str(folder)]) == 0
    assert error_line(capsys) == (
        "segengine: 2 of these files lie where the next run looks for inputs (source.paths: "
        f"{folder}) and would be segmented; move them, or narrow that path"
    )
    narrow = job | {"source": {"paths": [f"{folder}/*.jpg"]}}
    segengine.run(narrow | {"store": {"path": str(tmp_path / "n.zarr")}})
    export[1] = str(tmp_path / "n.zarr")
    assert usage([*export, str(folder)]) == 0
    assert capsys.readouterr().err == ""


def test_the_demo_replaces_no_file_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path, overwrite=False)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert len(made) >= 8 + 8 + 6 + 1
    write_inputs(tmp_path, overwrite=False)  # its own, and the same: they stay
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert again == made
    mine = tmp_path / "roads/annotations/instances_vehicles.json"
    mine.write_text("mine")
    assert usage(["demo", "--out", str(tmp_path)]) == 2
    line = error_line(capsys)
    assert line.startswith(f"segengine: {mine}: is there, and not as this command wrote it; add")
    assert mine.read_text() == "mine"
    assert not list(tmp_path.glob("*.zarr"))
    write_inputs(tmp_path, overwrite=True)
    assert mine.read_text() != "mine"


def test_a_run_that_ends_well_and_what_looks_at_its_store(
    job_file: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole life of a store in one process: only `run` starts a worker."""
    _without_prefect(monkeypatch)
    store = str(job_file.parent / "masks.zarr")
    assert usage(["plan", str(job_file)]) == 0
    assert "2 shards, 0 done, 2 left" in capsys.readouterr().out
    assert not Path(store).exists()
    assert usage(["run", str(job_file)]) == 0
    out, err = capsys.readouterr()
    assert "4 frames in 2 scenes; 2 shards computed, 0 done before" in out
    assert f"masks:  {store}" in out
    assert "segment: 2 of 2" in err
    assert usage(["status", store]) == 0
    assert usage(["verify", store]) == 0
    assert usage(["report", store]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("report/index.html")
    assert usage(["export", store, "--to", "png", "--out", str(job_file.parent / "png")]) == 0
    written = capsys.readouterr().out.splitlines()
    assert len(written) == 4
    assert all(Path(path).exists() for path in written)
    assert usage(["export", store, "--to", "gif"]) == 2
    assert "gif" in error_line(capsys)
    _refuses_to_overwrite(store, photos, Path(written[0]), capsys)
    picture = job_file.parent / "picture.png"
    scene = next(p.name for p in (Path(store) / "scenes").iterdir() if p.is_dir())
    assert usage(["show", store, "--scene", scene, "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    (mask,) = sorted((Path(store) / "scenes" / scene / "mask/0/c").rglob("*"))[-1:]
    mask.write_bytes(mask.read_bytes()[:-1] + b"\x00\x01")
    assert usage(["verify", store]) == 4
    capsys.readouterr()
    assert usage(["run", str(job_file), "--repair"]) == 0
    assert "1 shard computed, 1 done before" in capsys.readouterr().out
    (photos / "bad.png").write_bytes(b"")
    assert usage(["run", str(job_file)]) == 3
    assert "1 frame quarantined:\n  corrupt: bad.png: " in capsys.readouterr().out
    assert usage(["status", store]) == 3


def test_an_error_of_the_engine_is_one_line_with_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise SegengineError("disk full:\x1b[0m make room")

    monkeypatch.setattr(registry, "names", fail)
    assert usage(["sources"]) == 1
    assert error_line(capsys) == r"segengine: disk full:\x1b[0m make room"


def test_an_unexpected_error_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("the\nbug")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(registry, "names", fail)
    assert usage(["sources"]) == 1
    line = error_line(capsys)
    assert "unexpected error: KeyError" in line
    file = Path(line.rpartition(" ")[2])
    assert file.parent == tmp_path
    assert "Traceback" in file.read_text()
    assert "def fail" not in line


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGENGINE_DEBUG", "1")
    assert usage(["train", "x.yaml"]) == 2
    assert "Traceback" in capsys.readouterr().err


LOADED = """
import sys
from segengine_flows.cli import main
try:
    main(sys.argv[2:])
except SystemExit:
    pass
loaded = {name.partition(".")[0] for name in sys.modules}
sys.stderr.write("LOADED " + " ".join(sorted(loaded & set(sys.argv[1].split(",")))))
"""


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], "prefect,dask,distributed,numpy,zarr,cv2,rich"),
        (["segmenters"], "prefect,dask,distributed,numpy,zarr,cv2,rasterio"),
        (["run", "key.yaml"], "prefect,dask,distributed,numpy,zarr,cv2,rich"),
        (["plan", "key.yaml"], "prefect,dask,distributed,numpy,zarr,cv2,rich"),
        (["run", "option.yaml"], "prefect,dask,distributed,zarr,numcodecs,pyarrow,cv2,rich"),
        (["plan", "option.yaml"], "prefect,dask,distributed,zarr,numcodecs,pyarrow,cv2,rich"),
        (["evaluate", "masks.zarr"], "prefect,dask,distributed,rasterio,av"),
        (["report", "masks.zarr"], "prefect,dask,distributed,rasterio,av"),
        (["train", "key.yaml"], "prefect,dask,distributed,numpy,zarr,cv2,rich,keras"),
        (["plan", "job.yaml"], "prefect,dask,distributed,rasterio,av"),
        (["status", "masks.zarr"], "prefect,dask,distributed,rasterio,av,cv2"),
        (["verify", "masks.zarr"], "prefect,dask,distributed,rasterio,av"),
        (["show", "masks.zarr", "--scene", "s"], "prefect,dask,distributed,rasterio,av"),
        (["export", "masks.zarr", "--to", "png"], "prefect,dask,distributed,rasterio,av"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_commands_that_look_load_neither_prefect_nor_dask(
    arguments: list[str], forbidden: str, job_file: Path
) -> None:
    import segengine

    text = job_file.read_text()
    (job_file.parent / "key.yaml").write_text(text.replace("source", "sorce"))
    (job_file.parent / "option.yaml").write_text(text.replace("clusters: 3", "clusters: 0"))
    if "masks.zarr" in arguments:
        segengine.run(segengine.load_job(job_file))
    if arguments[0] == "show":
        scenes = (job_file.parent / "masks.zarr/scenes").iterdir()
        arguments = [*arguments[:-1], next(p.name for p in scenes if p.is_dir())]
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, forbidden, *arguments],
        cwd=job_file.parent,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1].strip() == "LOADED", done.stderr


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "segengine_flows.cli", "segmenters"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.stderr == ""
