"""Plug-ins by entry-point name; listing them loads none of them."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segengine.errors import JobError
from segengine.guards.trust import is_code, require

if TYPE_CHECKING:
    from segengine.types import Source

GROUPS = (
    "sources",
    "segmenters",
    "models",
    "metrics",
    "losses",
    "exports",
    "clusters",
    "terms",
    "signers",
)
NAMED = ("sources", "segmenters", "models", "metrics", "losses")
"""Groups of which a job may name one that is not installed."""


@cache
def _registered(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """What each name stands for; one, unless two packages want the same."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=f"segengine.{group}"):
        found.setdefault(point.name, {})[point.value] = point
    return {name: tuple(points.values()) for name, points in found.items()}


def _installed(group: str) -> dict[str, EntryPoint]:
    return {name: points[0] for name, points in _registered(group).items()}


def names(group: str) -> tuple[str, ...]:
    """Names installed in a group, sorted."""
    return tuple(sorted(_installed(group)))


def module(group: str, name: str) -> str:
    """Name of the module a plug-in lies in."""
    return _installed(group)[name].value.partition(":")[0]


def summary(group: str, name: str) -> str:
    """First line of what a plug-in says of itself, read without importing its module.

    Its module's docstring; its own where several plug-ins of the group share the module.
    """
    return _docstring(group, name).partition("\n")[0]


def facts(group: str, name: str) -> dict[str, str]:
    """Lines `Home: ...` and `Licence: ...` of a plug-in's docstring, by their first word."""
    found = re.findall(r"^(Home|Licence): (.+)$", _docstring(group, name), re.MULTILINE)
    return {word.lower(): text.strip() for word, text in found}


def _docstring(group: str, name: str) -> str:
    where = module(group, name)
    spec = importlib.util.find_spec(where)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node: Any = tree
    if sum(module(group, other) == where for other in names(group)) > 1:
        attribute = _installed(group)[name].value.partition(":")[2]
        kinds = (ast.ClassDef, ast.FunctionDef)
        own = (n for n in tree.body if isinstance(n, kinds) and n.name == attribute)
        node = next(own, tree)
    return (ast.get_docstring(node) or "").strip()


def load(group: str, name: str) -> Callable[..., Any]:
    """The factory behind a name, or behind `package.module:Class`.

    Raises JobError for a name that is not installed or cannot be imported, and for what is no class
    with the parts that its group asks for; UntrustedError, before anything is imported, where a
    store names code of its own.
    """
    if is_code(name) and group in NAMED:
        require(name)
        module, _, attribute = name.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise JobError(
                f"{name}: cannot be imported here: {error}; install its package, or set PYTHONPATH "
                "to the folder it lies in"
            ) from error
        if isinstance(found, type):
            _parameters(found, name)
        from segengine.guards.parts import lacking  # with NumPy: nothing that only lists needs it

        reason = lacking(group, found)
        if reason:
            raise JobError(f"{name}: {reason}")
        factory: Callable[..., Any] = found
        return factory
    try:
        point, *others = _registered(group)[name]
    except KeyError:
        close = difflib.get_close_matches(name, names(group), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        installed = ", ".join(names(group)) or "none"
        raise JobError(
            f"{name!r} is not one of the {group} installed ({installed}){hint}"
        ) from None
    if others:
        values = ", ".join(sorted(p.value for p in (point, *others)))
        raise JobError(
            f"{name}: several packages register this name ({values}); uninstall all but one"
        )
    try:
        return point.load()  # type: ignore[no-any-return]
    except ImportError as error:
        raise JobError(f"{name}: needs a package that is not installed: {error}") from error


def create(group: str, kind: str, options: Mapping[str, Any]) -> Any:
    """Build a plug-in from its name and options.

    Raises JobError with a message that starts with the option's name where one is unknown or wrong.
    """
    return build(load(group, kind), kind, options)


def build(factory: Callable[..., Any], kind: str, options: Mapping[str, Any]) -> Any:
    """Call a plug-in's factory, as `create` does, once its options are known to be such."""
    parameters = _parameters(factory, kind)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in parameters and not takes_any:
            close = difflib.get_close_matches(option, parameters, n=1)
            hint = f"did you mean {close[0]}?" if close else f"{kind} takes {', '.join(parameters)}"
            raise JobError(f"{option}: {kind} has no such option; {hint}")
    for option, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and option not in options:
            raise JobError(f"{option}: {kind} needs this option")
    try:
        return factory(**options)
    except (ValueError, TypeError) as error:
        raise JobError(str(error)) from error


def non_default(group: str, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from the plug-in's defaults: writing a default out changes nothing."""
    parameters = _parameters(load(group, kind), kind)
    return {
        name: value
        for name, value in sorted(options.items())
        if name not in parameters or parameters[name].default != value
    }


def parameters(group: str, kind: str) -> tuple[str, ...]:
    """Names of the options a plug-in takes."""
    return tuple(_parameters(load(group, kind), kind))


@cache
def _parameters(factory: Callable[..., Any], kind: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (ValueError, TypeError) as error:
        raise JobError(f"{kind}: its options cannot be told: {error}") from error


def reader(kind: str, spec: Mapping[str, Any]) -> Source:
    """The source of a kind, with those of the `source` block's options that it takes."""
    parameters = _parameters(load("sources", kind), kind)
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in spec.items()
        if name in parameters and value is not None
    }
    try:
        return create("sources", kind, options)  # type: ignore[no-any-return]
    except JobError as error:
        raise JobError(f"source.{error}") from error
