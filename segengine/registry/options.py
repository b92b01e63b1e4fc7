"""The options of a plug-in, from its signature and its docstring: for the manual and for forms.

Nothing that runs a job comes here: a form needs every plug-in of a group, and a run one of them.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from segengine import registry
from segengine.errors import JobError

CODE = "package.module:Class"
"""What a job may name in place of an installed kind."""

_outlined: ContextVar[bool] = ContextVar("outlined", default=False)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a plug-in."""

    name: str
    annotation: Any
    """What it takes; `typing.Any` where that cannot be told."""
    default: Any
    """`inspect.Parameter.empty` where it is needed."""
    meaning: str
    """What the docstring says of it; empty where that is nothing."""

    @property
    def needed(self) -> bool:
        """True without a default."""
        return self.default is inspect.Parameter.empty


def options_of(group: str, name: str) -> list[Option]:
    """The options of an installed plug-in, in the order of its signature. Raises JobError."""
    factory = registry.load(group, name)
    said = meanings(group, name)
    return [
        Option(
            option,
            _annotation(factory, parameter.annotation),
            parameter.default,
            said.get(option, ""),
        )
        for option, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]


def meanings(group: str, name: str) -> dict[str, str]:
    """What the docstring says of each option: `name, name: text.`, or a list item of such."""
    factory = registry.load(group, name)
    options = tuple(inspect.signature(factory).parameters)
    text = " ".join((inspect.getdoc(_unwrapped(factory)) or "").split())
    one = "|".join(map(re.escape, options)) or "(?!)"
    begin = re.compile(rf"(?:^|(?<=[.:] )|(?<=\. - ))(?:- )?`?((?:{one})`?(?:, `?(?:{one})`?)*): ")
    found: dict[str, str] = {}
    marks = list(begin.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=False):
        what = text[mark.end() : end].strip(" -")
        for option in re.findall(r"[\w-]+", mark[1]):
            found[option] = re.sub(r" The (others|rest) as for `\w+`\.$", "", what)
    other = re.search(r"(?:as for|see) `([\w-]+)`", text)
    if other and other[1] in registry.names(group) and other[1] != name:
        found = {**meanings(group, other[1]), **found}
    return found


def _unwrapped(factory: Any) -> Any:
    return factory.func if isinstance(factory, functools.partial) else factory


def _annotation(factory: Any, annotation: Any) -> Any:
    """An annotation, resolved where its module, or that of a base class, knows its names."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    function = _unwrapped(factory)
    for place in inspect.getmro(function) if isinstance(function, type) else (function,):
        scope = getattr(place, "__globals__", None) or vars(sys.modules[place.__module__])
        try:
            return eval(annotation, dict(scope))  # as Python itself would have
        except (NameError, AttributeError, TypeError):
            continue
    return Any


# ------------------------------------------------------------------------------------------- schemas


@contextmanager
def outlined() -> Iterator[None]:
    """Meanwhile the job's schema leaves the options of its plug-ins out, and loads none of them."""
    before = _outlined.set(True)
    try:
        yield
    finally:
        _outlined.reset(before)


def are_outlined() -> bool:
    """Whether options are left out now."""
    return _outlined.get()


def kinds(
    group: str,
    common: Mapping[str, Any],
    hidden: Sequence[str] = (),
    known: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """A JSON schema for each installed kind of a group, which takes its options and no others.

    `common`: schemas of the keys that every kind takes, `kind` among them; those without a default
    are needed. `hidden`: options that are not the block's to give. `known`: schemas that prevail over
    an option's own.
    """
    known = {**common, **(known or {})}
    found = []
    for name in registry.names(group):
        shape: dict[str, Any] = {"title": name, "type": "object"}
        kind = {"const": name, "default": name, "type": "string"}
        properties: dict[str, Any] = {"kind": {**common["kind"], **kind}}
        needed = ["kind", *(k for k, v in common.items() if k != "kind" and "default" not in v)]
        try:
            shape["description"] = registry.summary(group, name)
            taken = [o for o in options_of(group, name) if o.name not in hidden]
        except JobError as error:  # installed in part: a run says the same
            shape["description"] = str(error)
            found.append({**shape, "properties": properties, "required": needed})
            continue
        properties |= {o.name: known.get(o.name) or schema(o) for o in taken}
        properties |= {key: value for key, value in common.items() if key not in properties}
        needed += [o.name for o in taken if o.needed and o.name not in needed]
        if not _takes_any(group, name):
            shape["additionalProperties"] = False
        found.append({**shape, "properties": properties, "required": needed})
    return found


def one_of(
    title: str,
    block: Mapping[str, Any],
    choices: Sequence[Mapping[str, Any]],
    together: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """The JSON schema of a block that is one of several kinds, or of a class that its user names.

    Told twice: `anyOf` is what a form offers, and its last choice takes anything; what is checked is
    the chain of `if`, which tells the very key that is wrong, where `anyOf` tells none. `together`:
    choices that a form offers as one, by its title: of the block's own keys.
    """
    kind = {key: value for key, value in block["properties"]["kind"].items() if key != "default"}
    own = {
        "title": "class",
        "type": "object",
        "description": "A class of yours and its options; workers must be able to import it",
        "properties": {**block["properties"], "kind": {**kind, "description": CODE}},
    }
    offered: list[Mapping[str, Any]] = [
        choice
        for choice in choices
        if not any(choice in some for some in (together or {}).values())
    ]
    for name, some in (together or {}).items():
        several = {**block["properties"]["kind"], "enum": [_kind(choice) for choice in some]}
        keys = {**block["properties"], "kind": several}
        offered.insert(0, {**some[0], "title": name, "properties": keys})
    checked: dict[str, Any] = {
        **_if_kind({"pattern": "^[^:]+:[^:]+$"}),
        "then": {},
        "else": {"properties": {"kind": {"enum": [*map(_kind, choices)]}}, "required": ["kind"]},
    }
    for choice in reversed(choices):
        checked = {**_if_kind({"const": _kind(choice)}), "then": _bare(choice), "else": checked}
        if "kind" not in choice["required"]:
            del checked["if"]["required"]
    about = {"title": title, "description": block["description"]}
    return {**about, "anyOf": [*offered, own], **checked}


def _kind(choice: Mapping[str, Any]) -> str:
    name: str = choice["properties"]["kind"]["const"]
    return name


def _if_kind(test: Mapping[str, Any]) -> dict[str, Any]:
    return {"if": {"properties": {"kind": {"type": "string", **test}}, "required": ["kind"]}}


def _bare(schema: Any) -> Any:
    """What a schema checks, without what it says."""
    if not isinstance(schema, Mapping):
        return schema
    found = {k: v for k, v in schema.items() if k not in ("title", "description", "default")}
    for key, value in found.items():
        if key in ("properties", "patternProperties"):
            found[key] = {name: _bare(inner) for name, inner in value.items()}
        elif key in ("anyOf", "prefixItems"):
            found[key] = [_bare(inner) for inner in value]
        elif key in ("items", "additionalProperties"):
            found[key] = _bare(value)
    return found


def schema(option: Option) -> dict[str, Any]:
    """The JSON schema of an option: any value where its annotation tells of none.

    >>> schema(Option("clusters", int, 8, "how many."))
    {'type': 'integer', 'title': 'Clusters', 'description': 'how many', 'default': 8}
    """
    try:
        found: dict[str, Any] = TypeAdapter(option.annotation).json_schema()
    except PydanticUserError:
        found = {}
    if "$defs" in found:  # a place for those is not this function's to choose
        found = {}
    found["title"] = option.name.replace("_", " ").title()
    if option.meaning:
        found["description"] = option.meaning.rstrip(".")
    if not option.needed:
        with suppress(ValueError):  # what JSON cannot hold
            found["default"] = TypeAdapter(Any).dump_python(option.default, mode="json")
    return found


def _takes_any(group: str, name: str) -> bool:
    parameters = inspect.signature(registry.load(group, name)).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)
