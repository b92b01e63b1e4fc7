"""JSON of a stranger: no larger, no deeper and no more ambiguous than a model's configuration is."""

from __future__ import annotations

import json
from typing import Any

MOST = 64 << 20
"""Bytes of a configuration; that of the largest networks has a few million."""
DEEPEST = 200
"""Objects within objects."""


def parse(text: bytes | str, name: str) -> Any:
    """The value of a JSON text. Raises ValueError naming the text."""
    if len(text) > MOST:
        raise ValueError(f"{name} is larger than {MOST >> 20} MiB and is refused")
    try:
        found = json.loads(text, object_pairs_hook=_once)
        check_depth(found, name)
    except RecursionError:
        raise ValueError(f"{name} is nested deeper than {DEEPEST} and is refused") from None
    return found


def check_depth(value: Any, name: str) -> None:
    """Raise ValueError where lists and objects lie in one another too deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise ValueError(f"{name} is nested deeper than {DEEPEST} and is refused")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Which of the two counts depends on who reads.
        raise ValueError("a key stands twice in one object, which is refused")
    return found
