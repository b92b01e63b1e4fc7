"""What must hold of two stores' figures: `mean_iou >= +0.005 and agreement >= 0.97`.

    condition = part {"or" part}          part = fact {"and" fact}
    fact      = "(" condition ")" | NAME OPERATOR NUMBER
    NAME      = letters, digits, _ . -    or anything else in quotes: "classes.cluster 0.iou"
    OPERATOR  = >= | <= | > | < | == | !=

A signed number is compared with the difference, B less A, one without a sign with the value in B; the
agreement is as it is. It is read, never run.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from segengine.errors import JobError

AGREEMENT = "agreement"
MOST = 10_000
"""Characters of a condition."""
DEEPEST = 50
"""Brackets inside each other."""
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<bracket>[()])|(?P<operator>>=|<=|==|!=|>|<)
    |(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])
    |(?P<name>[^\W\d][\w.\-]*)|"(?P<quoted>[^"]+)"|'(?P<single>[^']+)')""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure of both stores."""

    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """b - a."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True)
class Fact:
    """A comparison."""

    name: str
    operator: str
    number: float
    signed: bool

    def holds(self, figures: Mapping[str, Pair]) -> bool:
        """Whether it does; False where a store has no such figure."""
        pair = figures[self.name]
        value = pair.difference if self.signed and self.name != AGREEMENT else pair.b
        return value is not None and _OPERATORS[self.operator](value, self.number)

    @property
    def names(self) -> tuple[str, ...]:
        """The figures that it is about."""
        return (self.name,)


@dataclass(frozen=True, slots=True)
class Several:
    """Conditions of which all, or any, must hold."""

    word: str
    parts: tuple[Condition, ...]

    def holds(self, figures: Mapping[str, Pair]) -> bool:
        """Whether they do."""
        found = [part.holds(figures) for part in self.parts]
        return all(found) if self.word == "and" else any(found)

    @property
    def names(self) -> tuple[str, ...]:
        """The figures that they are about."""
        return tuple(name for part in self.parts for name in part.names)


Condition = Fact | Several


def parsed(text: str) -> Condition:
    """Read a condition. Raises JobError, saying what was expected where.

    >>> parsed("mean_iou >= +0.005").names
    ('mean_iou',)
    """
    if len(text) > MOST:
        raise _wrong(text, f"longer than {MOST:,} characters")
    reader = _Reader(text)
    found = reader.condition(0)
    if reader.kind:
        raise _wrong(text, f"'and' or 'or' was expected before {reader.word[:40]!r}")
    return found


def require_known(condition: Condition, figures: Mapping[str, Pair]) -> None:
    """Raise JobError for a name that is no figure of the two stores."""
    for name in condition.names:
        if name not in figures:
            close = difflib.get_close_matches(name, figures, n=1)
            some = ", ".join(list(figures)[:20])
            hint = f"did you mean {close[0]}?" if close else f"known here: {some}"
            raise JobError(f"--promote-if: {name}: is no figure of these stores; {hint}")


def _wrong(text: str, what: str) -> JobError:
    return JobError(
        f"--promote-if {text[:80]!r}: {what}; write it as 'mean_iou >= +0.005 and agreement >= 0.97'"
    )


class _Reader:
    """Words of a condition, one after the other."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.kind = self.word = ""
        self.next()

    def next(self) -> str:
        """The word that is there; on to the one behind it."""
        word = self.word
        if not self.text[self.at :].strip():
            self.kind = self.word = ""
            return word
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.lastgroup is None:
            raise _wrong(self.text, f"{self.text[self.at :].strip()[:20]!r} is not understood")
        self.kind, self.word, self.at = match.lastgroup, match[match.lastgroup], match.end()
        if self.kind in ("quoted", "single"):
            self.kind = "name"
        elif self.kind == "name" and self.word in ("and", "or"):
            self.kind = self.word
        return word

    def condition(self, depth: int) -> Condition:
        return self._joined("or", lambda: self._joined("and", lambda: self._fact(depth)))

    def _joined(self, word: str, read: Callable[[], Condition]) -> Condition:
        parts = [read()]
        while self.kind == word:
            self.next()
            parts.append(read())
        return parts[0] if len(parts) == 1 else Several(word, tuple(parts))

    def _fact(self, depth: int) -> Condition:
        if (self.kind, self.word) == ("bracket", "("):
            if depth == DEEPEST:
                raise _wrong(self.text, f"brackets are more than {DEEPEST} deep")
            self.next()
            found = self.condition(depth + 1)
            if (self.kind, self.word) != ("bracket", ")"):
                raise _wrong(self.text, "a bracket is not closed")
            self.next()
            return found
        name = self._expect("name", "the name of a figure")
        compare = self._expect("operator", f"one of {' '.join(_OPERATORS)} after {name[:40]}")
        number = self._expect("number", f"a number after {name[:40]} {compare}")
        return Fact(name, compare, float(number), number[0] in "+-")

    def _expect(self, kind: str, what: str) -> str:
        if self.kind != kind:
            there = repr(self.word[:40]) if self.kind else "the end"
            raise _wrong(self.text, f"{what} was expected, and {there} is there")
        return self.next()
