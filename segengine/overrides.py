"""What of a job the command line says: keys that `--set` changes, and what `--metrics` names."""

from __future__ import annotations

from typing import Any

from segengine.errors import JobError
from segengine.guards import yamlfile
from segengine.guards.trust import is_code, may_be_code

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


def asked_by(flag: str, word: str) -> str | dict[str, Any]:
    """A word of `--metrics` or `--losses`: a name, or a block with options as a job's list has them.

    Raises JobError for a block that is none, and for a colon that names no code.

    >>> asked_by("--metrics", "iou"), asked_by("--metrics", "{metric: hd95, spacing: volume}")
    ('iou', {'metric': 'hd95', 'spacing': 'volume'})
    """
    told = " ".join(word.split())
    form = f"{{{'metric' if flag == '--metrics' else 'loss'}: NAME, OPTION: value}}"
    if not (told.startswith(("{", "[")) or ": " in f"{told} "):
        if is_code(word) and not may_be_code(word):
            raise JobError(f"{flag} {told}: is no name; write package.module:Class, or '{form}'")
        return word
    try:
        value, _ = yamlfile.parse(word)
    except yamlfile.YamlError as error:
        raise JobError(f"{flag} {told}: is not valid YAML: {error}; write '{form}'") from None
    if not isinstance(value, dict):
        raise JobError(f"{flag} {told}: is no block; write '{form}'")
    return value
