"""The manual: what it shows exists, what it says to type is taken, what is made from the code is new."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

import segengine
from segengine import asked, create_segmenter, registry
from segengine.errors import JobError
from segengine.job import Job, parse_job
from segengine.training.job import TrainJob, parse_train_job
from segengine_flows import cli

from . import manual
from .benchmarks import __main__ as benchmarks

ROOT = manual.ROOT
README = ROOT / "README.md"
CHAPTERS = manual.chapters()
SUITES = ROOT / "segengine/testing/README.md"
OUTSIDE = {".", "pre-commit", "python3.11", "napari", "sbatch", "squeue", "docker", "kubectl"}
"""Commands that are not ours, nor of what we bring."""
SCRIPTS = {point.name for point in entry_points(group="console_scripts")}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
STAND_IN = {
    "source": {"paths": ["photos/"]},
    "segmenter": {"kind": "threshold"},
    "store": {"path": "masks.zarr"},
}
"""Blocks of a job that an example leaves out."""
ENDS = ("&&", "||", ";", "|", "(", ")")


class Block(NamedTuple):
    """A fenced block of a chapter."""

    chapter: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.chapter.relative_to(ROOT)}:{self.line}"


def fenced(chapter: Path) -> Iterator[Block]:
    text = chapter.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(chapter, text[: match.start()].count("\n") + 1, match[1], match[2])


BLOCKS = [block for chapter in CHAPTERS for block in fenced(chapter)]


def of(*languages: str) -> Any:
    """Test each block of a language."""
    found = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.name)


# ----------------------------------------------------------------------------------- the first screen


def test_the_readme_is_short_and_begins_with_what_to_do() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    screen = "\n".join(lines[:20])
    picture = re.search(r"!\[.+\]\((.+)\)", screen)
    assert picture is not None
    assert (ROOT / picture[1]).is_file()
    assert "python -m pip install . && segengine demo" in screen
    assert "python -m pip install '.[test]' && pytest" in screen


def test_the_readme_leads_to_every_chapter() -> None:
    text = README.read_text(encoding="utf-8")
    assert {"segengine", "store", "sources", "segmenters", "networks", "metrics", "jobs"} <= {
        chapter.parent.name for chapter in CHAPTERS
    }
    for chapter in CHAPTERS[1:]:
        assert f"({chapter.relative_to(ROOT)})" in text


# ------------------------------------------------------------------------------ links, paths and names


def anchors(chapter: Path) -> set[str]:
    """What a heading is reached by, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", chapter.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(chapter: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", chapter.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (chapter.parent / place).resolve() if place else chapter
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    ours = r"`((?:segengine|flows|tasks|tests|deployments)/[\w./-]+)`"
    for path in re.findall(ours, text) if chapter.name != "CHANGELOG.md" else ():
        assert "NAME" in path or (ROOT / path).exists(), path


def test_the_rooms_are_those_that_the_checks_hold() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if "inside" in c["name"])
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    told = {int(number): set(re.findall(r"`(\w+)`", rooms)) for number, rooms in rows}
    height = len(layers)
    assert told == {height - i: set(layer.split(" | ")) for i, layer in enumerate(layers)}


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_kind_of_plug_in_is_told(group: str) -> None:
    assert f"`segengine.{group}`" in (ROOT / "segengine/README.md").read_text(encoding="utf-8")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f'segengine.{group}"' in text


def test_every_public_name_is_told() -> None:
    text = (ROOT / "segengine/README.md").read_text(encoding="utf-8")
    for name in segengine.__all__:
        assert f"segengine.{name}" in text or f"import {name}" in text, name


def test_every_part_of_a_store_is_told() -> None:
    text = (ROOT / "segengine/store/README.md").read_text(encoding="utf-8")
    from segengine.store.root import VERSION

    assert f"version: **{VERSION}**" in text


# ------------------------------------------------------------------------- what is made from the code


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_made_from_the_code_is_new(chapter: Path) -> None:
    text = chapter.read_text(encoding="utf-8")
    assert text == manual.made(text), "run `python -m tests.manual`"


def test_every_part_has_its_place_and_one_only() -> None:
    found = [
        match["name"]
        for chapter in CHAPTERS
        for match in manual.MARKED.finditer(chapter.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted(manual.PARTS)


def test_a_part_that_is_old_is_found() -> None:
    text = "<!-- made from the code: tables -->\n| former |\n<!-- end -->\n"
    assert "former" not in manual.made(text)
    assert "frames.parquet" in manual.made(text)
    assert manual.made(manual.made(text)) == manual.made(text)


@pytest.mark.parametrize("model", [Job, TrainJob])
def test_every_key_says_what_it_means(model: type[Job | TrainJob]) -> None:
    skipped = manual.ELSEWHERE if model is TrainJob else ()
    rows = list(manual._keys(model, skip=skipped))
    assert len(rows) > 25
    for key, value, _, meaning in rows:
        assert meaning, key
        assert value or key.endswith("OPTION`"), key


@pytest.mark.parametrize("name", manual.ours("segmenters"))
def test_every_option_of_a_segmenter_says_what_it_means(name: str) -> None:
    options = manual.options_of("segmenters", name)
    assert options
    assert [o.name for o in options if not o.meaning or not o.values] == []


# ------------------------------------------------------------------------------------------- commands


def commands() -> list[str]:
    """Names of the command line's commands, from its own help."""
    text = cli._parser().format_help()
    return re.findall(r"^    (\w+)", text, re.MULTILINE)


def test_the_help_lists_commands() -> None:
    assert {"run", "plan", "demo", "losses"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    text = README.read_text(encoding="utf-8").replace("\\|", "|")  # as in a table
    shown = re.findall(r"segengine ([a-z |]+)", text)
    words = {word.strip() for found in shown for word in re.split(r"[ |]+", found)}
    assert command in words, f"README.md does not show `segengine {command}`"


def unknown_options(text: str) -> list[str]:
    """Options that a chapter names of a command, in a line or a table, and that it has not."""
    parsers = cli._parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    return [
        f"{command} {option}"
        for span in re.findall(r"`([^`\n]+)`", text)
        for command, rest in re.findall(r"\bsegengine (\w+)(.*)", span)
        for option in re.findall(r"--[a-z-]+", rest)
        if command in parsers and option not in parsers[command]._option_string_actions
    ]


def test_every_option_that_is_named_exists() -> None:
    rows = re.findall(r"^\| `segengine (\w+)", README.read_text("utf-8"), re.MULTILINE)
    assert len(rows) >= 10
    for chapter in CHAPTERS:
        assert unknown_options(chapter.read_text("utf-8")) == [], chapter
    assert unknown_options("| `time segengine run J --out D` |") == ["run --out"]


def lines_of(block: Block) -> str:
    """What is typed of a block: of a console what follows its prompts."""
    if block.language == "console":
        return "\n".join(re.findall(r"^\$ (.+)$", block.text, re.MULTILINE))
    return block.text


def typed(text: str) -> Iterator[list[str]]:
    """The commands of a shell text, one list of words each."""
    words: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "[]{}$@:%+,!^"
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words.append(word)
            elif words:
                yield words
                words = []


def check_command(words: list[str]) -> None:
    """Fail where a command would be refused before it does anything."""
    name, *rest = words
    rest = rest[: rest.index(">")] if ">" in rest else rest
    if name == "segengine":
        assert cli._parser().parse_args(rest).command is not None
    elif name == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]) is not None, rest[1]
        if rest[1] == "tests.benchmarks":
            assert set(rest[2:]) <= {*benchmarks.NAMES, *benchmarks.LEARNING}, rest[2:]
    elif name not in OUTSIDE and name not in SCRIPTS:
        assert (ROOT / name).is_file() or shutil.which(name, path=PATH) is not None, name
    for word in rest:
        if re.match(r"(segengine|tests|deployments)/", word):
            assert (ROOT / word).exists(), word


@of("sh", "console")
def test_every_shell_block_is_taken(block: Block) -> None:
    bash = subprocess.run(["bash", "-n"], input=lines_of(block), capture_output=True, text=True)
    assert bash.stderr == ""
    found = list(typed(lines_of(block)))
    assert found
    for words in found:
        check_command(words)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_shown_in_a_line_is_taken(chapter: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", chapter.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^    ((?:segengine|prefect|dask) .+)$", text, re.MULTILINE):
        for words in typed(line):
            check_command(words)
    for line in re.findall(r"`(python -m tests[^`]*)`", text):
        check_command([word for word in line.split() if word not in ("NAME", "...")])
    for name in re.findall(r"`segengine ([a-z]+)", text):
        assert name in commands(), f"`segengine {name}` does not exist"


def test_a_command_that_is_refused_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (
        "segengine runn job.yaml",
        "segengine run job.yaml --repiar",
        "python -m tests.no",
        "python -m tests.benchmarks no",
    ):
        with pytest.raises((SystemExit, AssertionError)):
            check_command(line.split())
    assert list(typed("a b && c 'd e'  # f\ng --set x=[1,2]")) == [
        ["a", "b"],
        ["c", "d e"],
        ["g", "--set", "x=[1,2]"],
    ]


# ----------------------------------------------------------------------------------- YAML and Python


def test_every_block_says_its_language() -> None:
    assert {block.language for block in BLOCKS} <= {"", "yaml", "sh", "console", "python", "toml"}
    for language, least in (("yaml", 6), ("sh", 6), ("python", 4)):
        assert sum(block.language == language for block in BLOCKS) >= least


def file_of(block: Block) -> str | None:
    """The file that a block's first line names."""
    named = re.match(r"# ([\w/]+\.(?:py|yaml))\n", block.text)
    return named[1] if named else None


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder: photos, the files that blocks name, models that they name, masks."""
    folder = tmp_path_factory.mktemp("user")
    for block in BLOCKS:
        if name := file_of(block):
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_text(block.text)
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    photo = cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_NEAREST)
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"photos/{name}.png"), photo)
    for bundle in ("out/bundle", "OUT/bundle"):
        shutil.copytree(str(files("segengine") / "data/fields-unet"), folder / bundle)
    (folder / "models").mkdir()
    write_network(folder / "models/roads.onnx")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def write_network(path: Path) -> None:
    """Probabilities of two classes of each pixel of three bands."""
    weights = helper.make_tensor(
        "w", TensorProto.FLOAT, (2, 3, 1, 1), [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    )
    shape = ("n", 3, "h", "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Softmax", ["c"], ["y"], axis=1),
        ],
        "roads",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 2, "h", "w"))],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))


def check_yaml(text: str, folder: Path) -> None:
    """Fail where a job with these keys would be refused."""
    data = yaml.safe_load(text)
    if "architecture" in data:
        parse_train_job(data, base=folder)
        return
    assert data.keys() <= Job.model_fields.keys()
    parse_job({**STAND_IN, **data}, base=folder)


@of("yaml")
def test_every_yaml_block_is_a_job_or_a_part_of_one(block: Block, user: Path) -> None:
    check_yaml(block.text, user)


@of("yaml")
def test_segmenters_take_the_bands_that_jobs_name(block: Block) -> None:
    job = yaml.safe_load(block.text)
    source = job.get("source") if isinstance(job, dict) else None
    named = [] if not isinstance(source, dict) else source.get("assets") or source.get("bands")
    if named and job.get("segmenter", {}).get("kind") == "kmeans":
        asked.check_pixels(create_segmenter(job["segmenter"]), len(named), "uint16")


def shown_in_lines() -> list[str]:
    """Parts of jobs that stand in a line: `cluster: {kind: local}`."""
    keys = "|".join(Job.model_fields)
    found = set()
    for chapter in CHAPTERS:
        text = " ".join(chapter.read_text(encoding="utf-8").split())
        found |= set(re.findall(rf"`((?:{keys}): \{{[^`]+\}}|trust: (?:true|false))`", text))
    return sorted(found)


@pytest.mark.parametrize("text", shown_in_lines())
def test_every_part_of_a_job_in_a_line_is_taken(text: str, user: Path) -> None:
    if "..." not in text:
        check_yaml(text, user)
    else:
        assert yaml.safe_load(text.replace("...", "x")).keys() <= Job.model_fields.keys()


def test_a_job_that_is_refused_is_found(user: Path) -> None:
    assert len(shown_in_lines()) >= 5
    with pytest.raises(JobError, match="unknown key"):
        check_yaml("store: {path: a, shrad: 3}", user)


@pytest.fixture
def at_home(user: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the user's folder, with the masks of the README's first job."""
    monkeypatch.chdir(user)
    if not (user / "masks.zarr").exists():
        assert segengine.run(segengine.load_job("job.yaml")).frames == 2
    return user


@of("python")
def test_every_python_block_runs(
    block: Block, at_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = file_of(block)
    if block.chapter == SUITES:
        return  # tests/segengine/testing/test_chapter.py runs these, by the suites that they show
    if name is None:
        exec(compile(block.text, block.name, "exec"), {"__name__": "manual"})
        return
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    (mine,) = (
        c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__
    )
    image = np.zeros((64, 64, 3), np.uint8)
    image[30:34, 30:34] = 200
    assert segengine.segment(image, mine()).sum() == 16


@pytest.mark.system
def test_the_first_commands_of_the_readme_do_what_they_say(user: Path, tmp_path: Path) -> None:
    (block,) = (b for b in BLOCKS if b.chapter == README and "segengine plan job.yaml" in b.text)
    shutil.copytree(user / "photos", tmp_path / "photos")
    shutil.copy(user / "job.yaml", tmp_path)
    done = subprocess.run(
        ["bash", "-euc", block.text],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        | {"PATH": PATH, "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "look.png").is_file()
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 2
    assert (tmp_path / "masks.zarr/report/index.html").is_file()
