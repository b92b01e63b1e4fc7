"""Every command of the command line is documented in README.md, and what is shown exists."""

import re
from pathlib import Path

import pytest

from segengine_flows import cli

README = Path(__file__).parents[1] / "README.md"


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


def test_every_command_that_is_shown_exists() -> None:
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"^(?:\$ |    )?segengine ([a-z]+)", text, re.MULTILINE):
        assert name in commands(), f"README.md shows `segengine {name}`, which does not exist"
