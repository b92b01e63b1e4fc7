"""Completion of commands, options, names and files in a shell, from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What the shell is to read for `parser`: it names what is installed now."""
    import shtab

    from segengine import registry

    for action in _actions(parser):
        if getattr(action.type, "__name__", "") == "_path":
            action.complete = shtab.FILE  # type: ignore[attr-defined] # where shtab looks for it
        elif "--to" in action.option_strings:
            action.choices = registry.names("exports")
        elif action.dest in ("metrics", "losses"):
            action.choices = ("all", *registry.names(action.dest))
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _actions(command)
