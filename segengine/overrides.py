"""`--set KEY=VALUE`: keys of a job file that the command line changes."""

from __future__ import annotations

from typing import Any

from segengine.errors import JobError
from segengine.guards import yamlfile

Lines = dict[tuple[str, ...], int | str]
"""Where each key of a job was said: the line of its file, or the words of the command line."""


def override(data: dict[str, Any], lines: Lines, given: str) -> None:
    """Change a job's keys as `--set` with `given` says, and say so in `lines`. Raises JobError."""
    name, equals, text = given.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise JobError(f"--set {given}: write KEY=VALUE, for example --set segmenter.clusters=4")
    try:
        value, _ = yamlfile.parse(text)
    except yamlfile.YamlError as error:
        raise JobError(f"--set {name.strip()}: the value is not valid YAML: {error}") from None
    block = data
    for part in key[:-1]:
        if block.get(part) is None:
            block[part] = {}
        block = block[part]
        if not isinstance(block, dict):
            raise JobError(f"--set {given}: {part} is not a block of keys")
    block[key[-1]] = value
    for place in [place for place in lines if place[: len(key)] == key]:
        del lines[place]  # what the file says below it counts no more
    lines[key] = f"--set {' '.join(given.split())}"
