"""What is meant where YAML does not parse: a key in the wrong column, a tab, a colon without its blank.

A parser says where it gave up, and in its own words; the mistake is there or in a line before.
"""

from __future__ import annotations

import re

_NO_BLANK = re.compile(r"(?:- +)?(?P<key>[A-Za-z_][\w.]*):(?P<value>[\[{].*|[^\s/\\:]\S*)")
"""A key, a colon, and at once a value that is not the rest of a URL."""
_KEY = re.compile(r"(?:- +)?[\"']?[\w.{}-]+[\"']?:(?:\s|$)")


_OPENED = re.compile(r"',' or '(?P<end>[]}])'")


def explained(text: str, problem: str, line: int, begun: int | None = None) -> tuple[str, int]:
    """The same problem as a writer of job files can mend it, and the line to look at (from 1).

    begun: the line on which the block begins that the parser was in.

    >>> explained("store:\\n  path: out\\n    shard: 512", "mapping values are not allowed", 3)
    ('shard: begins in column 5, path on line 2 in column 3; keys of one block begin in the same column', 3)
    """
    lines = text.split("\n")
    line = min(line, len(lines))
    at = lines[line - 1]
    if "\t" in at[: len(at) - len(at.lstrip())]:
        return "a tab indents this line; YAML takes blanks only", line
    opened = _OPENED.search(problem)
    if opened and begun is not None:
        bracket, end = {"}": "{", "]": "["}[opened["end"]], opened["end"]
        where = "at its end" if begun < line else "where its block ends"
        return f"the {bracket} on this line is not closed; write {end} {where}", begun
    if "'-'" in problem and _KEY.match(at.strip()):
        item = next((n for n in range(line - 1, 0, -1) if lines[n - 1].lstrip()[:2] == "- "), None)
        if item is not None:
            column = _column(lines[item - 1])
            return (
                f"{_name(at)}: begins in column {_column(at)}, among the list whose item is on line "
                f"{item}; if it belongs to that item, begin it in column {column + 2}",
                line,
            )
    if "':'" in problem or "expected key" in problem or "document start" in problem:
        # What lacks its colon began in a line before, or is the whole of it.
        for number in range(line, 0, -1):
            found = _NO_BLANK.fullmatch(lines[number - 1].strip())
            if found:
                key, value = found["key"], found["value"]
                return f"{key}:{value} has no blank after the colon; write {key}: {value}", number
            if lines[number - 1].strip() and number < line:
                break
    above = next((n for n in range(line - 1, 0, -1) if _holds(lines[n - 1])), None)
    if above is not None and _KEY.match(at.strip()) and _KEY.match(lines[above - 1].strip()):
        here, there = _column(at), _column(lines[above - 1])
        if here != there:
            return (
                f"{_name(at)}: begins in column {here}, {_name(lines[above - 1])} on line {above} in "
                f"column {there}; keys of one block begin in the same column",
                line,
            )
    return problem, line


def _holds(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _column(line: str) -> int:
    return len(line) - len(line.lstrip()) + 1


def _name(line: str) -> str:
    return line.strip().removeprefix("- ").partition(":")[0].strip("\"' ")
