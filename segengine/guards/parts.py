"""Whether a class has what the protocol of its kind asks, told without calling anything of it.

A method must be one of the class. A value (`classes`, `halo`) may be an attribute, a property, a
slot, an annotation, a dataclass's field, or something that a method of the class assigns, as
`__init__` does; whether it has the right kind is seen once the class was called.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

from segengine.types import Metric, ScoringLoss, Segmenter, Source, Surveyor, TrainingLoss


@dataclass(frozen=True, slots=True)
class Parts:
    """What a protocol asks of a class."""

    values: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    @classmethod
    def of(cls, protocol: type) -> Parts:
        """The parts of a protocol of `segengine.types`: its properties and its methods."""
        members = {k: v for k, v in vars(protocol).items() if not k.startswith("_")}
        values = tuple(k for k, v in members.items() if isinstance(v, property))
        return cls(values, tuple(k for k in members if k not in values))

    def missing(self, kind: type) -> list[str]:
        """Names that a class lacks."""
        lacking = [name for name in self.values if not _has_value(kind, name)]
        return lacking + [name for name in self.methods if not _has_method(kind, name)]


ASKED: dict[str, tuple[str, tuple[Parts, ...]]] = {
    "segmenters": ("segmenter", (Parts.of(Segmenter), Parts.of(Surveyor))),
    "sources": ("source", (Parts.of(Source),)),
    "metrics": ("metric", (Parts.of(Metric),)),
    "losses": ("loss", (Parts.of(ScoringLoss), Parts.of(TrainingLoss))),
}
"""By group: what one of it is called, and the protocols of which it has to have one."""
_BUILD = ("bands", "classes", "size")
"""What an architecture's function is called with."""


def lacking(group: str, found: Any) -> str:
    """Why what a job names is none of its group; empty: it is. Nothing of it is called."""
    if group == "models":
        return _no_architecture(found)
    if not isinstance(found, type):
        return f"is a {type(found).__name__}, not a class"
    noun, protocols = ASKED[group]
    missing = min((protocol.missing(found) for protocol in protocols), key=len)
    if "survey" in dir(found) and group == "segmenters":
        missing = protocols[1].missing(found)
    return f"{found.__name__} is no {noun}: it has no {', '.join(missing)}" if missing else ""


def _no_architecture(found: Any) -> str:
    """An architecture is a function, or class, of the channels and classes of a network."""
    if not (inspect.isfunction(found) or isinstance(found, type)):
        return f"is a {type(found).__name__}, not a function that builds a network"
    try:
        takes = inspect.signature(found).parameters
    except (ValueError, TypeError):
        takes = {}  # type: ignore[assignment] # an empty mapping: nothing is known of it
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        return ""
    missing = [name for name in _BUILD if name not in takes]
    return (
        f"{found.__name__} builds no network: it takes no {', '.join(missing)}" if missing else ""
    )


def _has_method(kind: type, name: str) -> bool:
    found = inspect.getattr_static(kind, name, None)
    return callable(found) or hasattr(type(found), "__get__")


def _has_value(kind: type, name: str) -> bool:
    own = kind.__mro__[:-1]
    return any(
        name in vars(each)
        or name in inspect.get_annotations(each)
        or "__getattr__" in vars(each)
        or any(name in words for words in _words(each))
        for each in own
    )


def _words(kind: type) -> Iterator[set[str]]:
    """The names that each function of a class uses."""
    for value in vars(kind).values():
        function = inspect.unwrap(value) if inspect.isfunction(value) else value
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield set(_used(code))


def _used(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, str):  # setattr(self, "classes", ...)
            yield constant
        elif isinstance(constant, tuple):
            yield from (word for word in constant if isinstance(word, str))
        elif isinstance(constant, CodeType):
            yield from _used(constant)
