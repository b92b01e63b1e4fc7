"""What shells complete, asked of the shells themselves."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from segengine_flows.cli import main
from segengine_flows.completion import SHELLS


@pytest.fixture
def script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> Path:
    assert main(["completion", request.param]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out)
    return path


def asked(shell: str, words: str) -> list[str]:
    program = shutil.which(shell)
    if program is None and not os.environ.get("REQUIRE_TOOLS"):
        pytest.skip(f"needs {shell}: apt-get install {shell}")
    assert program is not None, f"{shell} must be here"
    found = subprocess.run([program, "-c", words], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.split("\n")[:-1]


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("segengine ev", "evaluate"),
        ("segengine run --met", "--metrics-file"),
        ("segengine export --to pan", "panoptic"),
        ("segengine completion f", "fish"),
    ],
)
def test_bash_completes_commands_options_and_names(script: Path, typed: str, offered: str) -> None:
    words = typed.split()
    last = f"_shtab_segengine segengine {words[-1]} {words[-2]}"
    ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; {last}; echo ${{COMPREPLY[@]}}"
    assert asked("bash", f"source {script}; complete -p segengine >/dev/null; {ask}") == [offered]


@pytest.mark.parametrize("script", ["fish"], indirect=True)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("segengine ev", "evaluate"), ("segengine export --to pan", "panoptic")],
)
def test_fish_completes_commands_and_names(script: Path, typed: str, offered: str) -> None:
    found = asked("fish", f"source {script}; complete -C '{typed}'")
    assert [line.partition("\t")[0] for line in found] == [offered]


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_finds_its_function(script: Path, tmp_path: Path) -> None:
    script.rename(tmp_path / "_segengine")
    ask = (
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path}/dump; "
        "print ${_comps[segengine]}; autoload +X _segengine; print ${+functions[_segengine]}"
    )
    assert asked("zsh", ask) == ["_segengine", "1"]


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_files_are_completed_where_a_file_is_meant(script: Path) -> None:
    text = script.read_text()
    assert "_shtab_compgen_files" in text or "_files" in text or "__fish_complete_path" in text


def test_a_shell_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "cmd"])
    assert "invalid choice: 'cmd'" in capsys.readouterr().err
