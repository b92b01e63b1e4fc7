"""What a class has, told without calling it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from segengine.guards.parts import lacking


class _Methods:
    def segment(self, pixels: Any) -> None: ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()


class Attributes(_Methods):
    classes, halo, stride = ("a",), 0, 1


class Assigned(_Methods):
    def __init__(self) -> None:
        raise AssertionError("called")
        self.classes, self.halo, self.stride = ("a",), 0, 1


class ByName(_Methods):
    def __init__(self) -> None:
        for name in ("classes", "halo", "stride"):
            object.__setattr__(self, name, 1)


class Elsewhere(_Methods):
    def __init__(self) -> None:
        self._prepare()

    def _prepare(self) -> None:
        self.classes, self.halo, self.stride = ("a",), 0, 1


@dataclass(frozen=True, slots=True)
class Fields:
    classes: tuple[str, ...]
    halo: int | None
    stride: int = field(default=1)

    def segment(self, pixels: Any) -> None: ...


class Properties(_Methods):
    classes = ("a",)

    @property
    def halo(self) -> int:
        raise AssertionError("called")

    @functools.cached_property
    def stride(self) -> int:
        raise AssertionError("called")


class Tuple(NamedTuple):
    classes: tuple[str, ...]
    halo: int
    stride: int

    def segment(self, pixels: Any) -> None: ...


class Inherited(Assigned):
    pass


class Wrapped(_Methods):
    classes = ("a",)

    def _own(self) -> None:
        self.halo, self.stride = 0, 1

    @functools.wraps(_own)
    def __init__(self, *args: Any) -> None: ...


class Surveys:
    classes, scope = ("a",), "run"

    def survey(self, pixels: Any, valid: Any) -> None: ...
    def merge(self, a: Any, b: Any) -> None: ...
    def fit(self, state: Any) -> None: ...


@pytest.mark.parametrize(
    "kind",
    [
        Attributes, Assigned, ByName, Elsewhere, Fields, Properties, Tuple, Inherited, Wrapped, Surveys
    ],
)  # fmt: skip
def test_what_the_protocol_asks_is_found_however_it_is_written(kind: type) -> None:
    assert lacking("segmenters", kind) == ""


class NoValues(_Methods):
    pass


class NoMethod:
    classes, halo, stride = ("a",), 0, 1
    segment = None


class HalfASurveyor:
    classes, scope = ("a",), "run"

    def survey(self, pixels: Any, valid: Any) -> None: ...


@pytest.mark.parametrize(
    ("group", "found", "words"),
    [
        ("segmenters", NoValues, "NoValues is no segmenter: it has no classes, halo, stride"),
        ("segmenters", NoMethod, "NoMethod is no segmenter: it has no segment"),
        ("segmenters", HalfASurveyor, "HalfASurveyor is no segmenter: it has no merge, fit"),
        ("segmenters", Attributes(), "is a Attributes, not a class"),
        ("segmenters", lambda: None, "is a function, not a class"),
        ("sources", Attributes, "Attributes is no source: it has no probe, read"),
        ("metrics", Surveys, "Surveys is no metric: it has no empty, update, compute"),
        ("losses", Attributes, "Attributes is no loss: it has no statistic"),
        ("models", print, "is a builtin_function_or_method, not a function that builds a network"),
        ("models", lacking, "lacking builds no network: it takes no bands, classes, size"),
    ],
)
def test_what_lacks_is_named(group: str, found: Any, words: str) -> None:
    assert lacking(group, found) == words


def test_installed_ones_have_their_parts() -> None:
    from segengine import registry

    for group in ("sources", "metrics", "losses"):
        for name in registry.names(group):
            assert lacking(group, registry.load(group, name)) == "", name
