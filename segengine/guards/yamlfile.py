"""YAML as job files use it: one document of plain blocks, bounded, and the line of each key.

Read event by event, so that what a file may not hold is refused where it begins: an alias that
stands for a billion values, a tag that names a class, blocks nested a million deep.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import yaml

from segengine.guards.indentation import explained

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_BYTES = 4 << 20
_MOST_VALUES = 50_000
_MOST_LETTERS, _LONGEST_WORD = 1 << 16, 1 << 12
"""Of one value, in quotes and without them, where it may be a number."""
_DEEPEST = 32
"""Blocks within blocks."""
_LARGEST = 1 << 128

Key = tuple[str, ...]


class YamlError(ValueError):
    """What is wrong, with the line where there is one."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def read_text(path: str | os.PathLike[str]) -> str:
    """A YAML file's text. Raises OSError, UnicodeDecodeError, and YamlError for one too large."""
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise YamlError(f"is larger than {_MOST_BYTES >> 20} MB, which is no job file")
    return data.decode("utf-8")


def parse(text: str) -> tuple[Any, dict[Key, int]]:
    """The value of a document, and the line of each key and item in it. Raises YamlError."""
    builder = _Builder(_LOADER(""))
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not valid YAML"
        if mark is not None and "cannot start any token" in problem:
            letter = text.split("\n")[mark.line][mark.column : mark.column + 1]
            problem = f"found character {letter!r} that cannot start any token"
        if mark is None:
            raise YamlError(problem) from None
        context = getattr(error, "context_mark", None)
        begun = None if context is None else context.line + 1
        raise YamlError(*explained(text, problem, mark.line + 1, begun)) from None
    return builder.root, builder.lines


def require_shallow(data: Any) -> None:
    """Raise YamlError for a value, as JSON has them, that is nested or filled beyond a job's."""
    level, count = [data], 0
    for depth in range(_DEEPEST + 2):
        if not level:
            return
        if depth > _DEEPEST:
            break
        inner: list[Any] = []
        for block in level:
            items = block.values() if isinstance(block, dict) else block
            inner += [item for item in items if isinstance(item, dict | list | tuple)]
            count += len(block)
            if count > _MOST_VALUES:
                raise YamlError(f"holds more than {_MOST_VALUES:,} values")
        level = inner
    raise YamlError(f"blocks are nested more than {_DEEPEST} deep, or one holds itself")


@dataclass(slots=True)
class _Open:
    """A block that has begun."""

    value: Any
    key: Key
    name: Any = None
    """Of a mapping: the key whose value is next."""
    named: bool = False


@dataclass(slots=True)
class _Builder:
    loader: Any
    root: Any = None
    lines: dict[Key, int] = field(default_factory=dict)
    documents: int = 0
    count: int = 0
    stack: list[_Open] = field(default_factory=list)
    words: dict[str, Any] = field(default_factory=dict)
    """Values without quotes by their text, for a list that repeats them."""

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise YamlError("a second document (---) begins; a job file holds one", line)
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YamlError("aliases (&, *) are not used in job files; write the value out", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            tag = getattr(event, "tag", None)
            if tag is not None:
                raise YamlError(f"tags ({str(tag)[:80]}) are not used in job files", line)
            self._node(event, line)

    def _node(self, event: Any, line: int) -> None:
        self.count += 1
        if self.count > _MOST_VALUES:
            raise YamlError(f"holds more than {_MOST_VALUES:,} values", line)
        parent = self.stack[-1] if self.stack else None
        if parent is not None and isinstance(parent.value, dict) and not parent.named:
            self._name(parent, event, line)
            return
        key = self._key(parent, line)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line)
        else:
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
            if len(self.stack) >= _DEEPEST:
                raise YamlError(f"blocks are nested more than {_DEEPEST} deep", line)
            self.stack.append(_Open(value, key))
        if parent is None:
            self.root = value
        elif isinstance(parent.value, dict):
            parent.value[parent.name], parent.named = value, False
        else:
            parent.value.append(value)

    def _name(self, parent: _Open, event: Any, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            raise YamlError("a key is a word, and no block", line)
        if event.value == "<<" and event.implicit[0]:
            raise YamlError("merges (<<) are not used in job files; write the keys out", line)
        key = (*parent.key, str(event.value))
        if key in self.lines:
            raise YamlError(
                f"{'.'.join(key)}: written twice (first on line {self.lines[key]})", line
            )
        self.lines[key] = line
        parent.name, parent.named = self._scalar(event, line), True
        if parent.name is None or isinstance(parent.name, bool):
            raise YamlError(
                f"{'.'.join(key)}: YAML reads this key as {parent.name}; write it in quotes, if it is "
                "meant",
                line,
            )

    def _key(self, parent: _Open | None, line: int) -> Key:
        if parent is None:
            return ()
        if isinstance(parent.value, dict):
            return (*parent.key, str(parent.name))
        key = (*parent.key, str(len(parent.value)))
        self.lines[key] = line
        return key

    def _scalar(self, event: Any, line: int) -> Any:
        if len(event.value) > _MOST_LETTERS:
            raise YamlError(f"a value of {len(event.value):,} letters", line)
        if not event.implicit[0]:
            return event.value  # in quotes
        if event.value not in self.words:
            self.words[event.value] = self._word(event, line)
        return self.words[event.value]

    def _word(self, event: Any, line: int) -> Any:
        """A value without quotes, which may be a number, a date, a truth value or nothing."""
        if len(event.value) > _LONGEST_WORD:
            raise YamlError(f"a value of {len(event.value):,} letters without quotes", line)
        tag = self.loader.resolve(yaml.ScalarNode, event.value, (True, False))
        try:
            value = self.loader.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, yaml.YAMLError):
            raise YamlError(f"{event.value[:40]!r} is no {tag.rpartition(':')[2]}", line) from None
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise YamlError(f"{event.value[:40]!r}: a number beyond 128 bits", line)
        self.loader.constructed_objects.clear()
        return value
