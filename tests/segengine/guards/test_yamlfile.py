"""YAML of job files: plain blocks are as PyYAML has them; all that grows or runs is one line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from segengine.errors import JobError
from segengine.guards.yamlfile import YamlError, parse, require_shallow
from segengine.job import is_train_job, load_job, parse_job
from segengine.training.job import load_train_job
from segengine_flows.cli import main

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
REFUSED = {
    LAUGHS: (1, "aliases"),
    "a: 1\nb: &x 2": (2, "aliases"),
    "a: &x\n  b: *x\n": (1, "aliases"),
    "a: 1\nb: *x": (2, "aliases"),
    "a: 1\n<<: {b: 2}": (2, "merges"),
    "a: !!python/object/apply:os.system [id]": (1, "tags"),
    "a: 1\nb: !!python/name:os.system": (2, "tags"),
    "a: !!binary aGk=": (1, "tags"),
    "a: !mine 1": (1, "tags"),
    "a: 1\nb: 2\na: 3": (3, "written twice (first on line 1)"),
    "a:\n  b: 1\n  'b': 2": (3, "a.b: written twice"),
    "a: 1\n---\nb: 2": (2, "second document"),
    "? [a, b]\n: 1": (1, "a key is a word"),
    "a: " + "[" * 1_000_000: (1, "nested more than 32 deep"),
    "a: " + "{b: " * 1_000_000: (1, "nested more than 32 deep"),
    "\n".join(f"{' ' * i}a:" for i in range(500)): (33, "nested more than 32 deep"),
    "a: [" + "1," * 1_000_000: (1, "more than 50,000 values"),
    "a: '" + "x" * 1_000_000 + "'": (1, "1,000,000 letters"),
    "a: " + "9" * 5_000: (1, "5,000 letters without quotes"),
    "a: 0b" + "1" * 200: (1, "beyond 128 bits"),
    "a: 0x" + "f" * 500: (1, "beyond 128 bits"),
    "a: " + "1:" * 1_000 + "1": (1, "beyond 128 bits"),
    "a: 2026-99-99": (1, "is no timestamp"),
    "a:\n  on: 2": (2, "a.on: YAML reads this key as True; write it in quotes"),
    "~: 2": (1, "~: YAML reads this key as None"),
    "a: [1": (1, "the [ on this line is not closed"),
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_grows_or_runs_is_refused_by_its_line(text: str, tmp_path: Path) -> None:
    line, words = REFUSED[text]
    tracemalloc.start()
    try:
        with pytest.raises(YamlError) as error:
            parse(text)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    if "did not find" not in words:
        assert error.value.line == line
    for name, load in (("job", load_job), ("train", load_train_job)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        with pytest.raises(JobError, match=rf"{name}\.yaml:\d+: ") as refused:
            load(file)
        assert words in str(refused.value)
        assert not is_train_job(file)


@pytest.mark.parametrize(
    "text",
    [
        "", "a: 1", "a: [1, 2.5, 'x', \"y\", yes, null, ~, 0x1f, 1e3, 12:30, 2026-05-01]",
        "a:\n- b: 1\n  c:\n  - d\n  - {e: f, g: [h]}\n", "1: a\n'yes': b\n\"null\": c", "- a\n- b", "plain",
        "a: |\n  text\n  more\nb: >\n  folded\n  text\n", "--- \na: 1\n...\n", "# only\n", "a:",
        "a: '<<'\n'<<': 1", "a: .inf", "a: -9223372036854775808",
    ],
)  # fmt: skip
def test_plain_blocks_are_as_pyyaml_has_them(text: str) -> None:
    assert parse(text)[0] == yaml.safe_load(text)


def test_each_key_and_item_has_its_line() -> None:
    _, lines = parse("a:\n  b: 1\n  c:\n  - d\n  - {e: f}\n")
    assert lines == {
        ("a",): 1, ("a", "b"): 2, ("a", "c"): 3, ("a", "c", "0"): 4, ("a", "c", "1"): 5,
        ("a", "c", "1", "e"): 5,
    }  # fmt: skip


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    with file.open("wb") as out:
        out.truncate(1 << 40)
    with pytest.raises(JobError, match=r"job\.yaml: is larger than 4 MB"):
        load_job(file)
    assert not is_train_job(file)


def test_values_of_set_are_read_the_same_way(tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("source: {paths: a}\nsegmenter: {kind: threshold}\nstore: {path: b}\n")
    for value in ("[&a 1, *a]", "!!python/name:os.system", "[" * 100_000, "9" * 5_000):
        assert main(["plan", str(file), "--set", f"segmenter.levels={value}"]) == 2
        (said,) = capfd.readouterr().err.splitlines()
        assert "--set segmenter.levels: the value is not valid YAML: " in said
        assert len(said) < 300


def test_parameters_of_a_flow_are_bounded_too() -> None:
    blocks: dict[str, Any] = {
        "source": {"paths": ["/a"]}, "segmenter": {"kind": "threshold"}, "store": {"path": "/b"},
    }  # fmt: skip
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    ring: dict[str, Any] = {}
    ring["a"] = ring
    for value, words in ((deep, "nested"), (ring, "holds itself"), ([0] * 200_000, "values")):
        with pytest.raises(JobError, match=rf"^job: .*{words}"):
            parse_job({**blocks, "segmenter": {"kind": "threshold", "levels": value}})


def test_a_shallow_value_passes() -> None:
    require_shallow({"a": [1, {"b": [2, (3,)]}], "c": "x" * 10})
