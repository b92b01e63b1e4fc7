"""Whose code may run: what a job or a store names as `package.module:Class`.

    named by                  runs
    the user's own job        yes: it is the user's code; so is the architecture of a bundle it names
    a store                   only where the user says so: `--trust`, or `trust: true` of the job
    anyone                    never where the deployment forbids it: SEGENGINE_ALLOW_CODE=0

Installed entry points are nobody's surprise, and are always used. Importing a module runs it, so all
of this is decided before anything is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from segengine.errors import JobError, UntrustedError

ALLOW = "SEGENGINE_ALLOW_CODE"
_NAMED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_STORE_TRUSTED: ContextVar[bool] = ContextVar("store_trusted", default=False)
_FOREIGN: ContextVar[frozenset[str] | None] = ContextVar("foreign", default=None)
"""While names come from a store that is not trusted: those that the user gave beside it."""


def is_code(name: str) -> bool:
    """True for `package.module:Class`, which is imported, and no entry point's name."""
    return ":" in name


def may_be_code(name: str) -> bool:
    """True where a name has the form of `package.module:Class`.

    >>> may_be_code("a.b:C"), may_be_code("{a: b}")
    (True, False)
    """
    return _NAMED.fullmatch(name) is not None


def is_forbidden() -> bool:
    """True where no code that anyone names may run here; a word that is not known forbids it too."""
    return os.environ.get(ALLOW, "1").strip().lower() not in ("1", "true", "yes", "on", "")


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """In this block, and where nothing else is said, a store's own code may run."""
    token = _STORE_TRUSTED.set(trust)
    try:
        yield
    finally:
        _STORE_TRUSTED.reset(token)


def is_trusting(trust: bool | None = None) -> bool:
    """`trust`, or where it is None what the block around says."""
    return _STORE_TRUSTED.get() if trust is None else trust


@contextmanager
def named_by_store(trust: bool | None = None, own: Collection[str] = ()) -> Iterator[None]:
    """In this block names come from a store; `own`: those that the user gave beside it."""
    token = _FOREIGN.set(None if is_trusting(trust) else frozenset(own))
    try:
        yield
    finally:
        _FOREIGN.reset(token)


def may_use(name: str) -> bool:
    """Whether the code behind a name may be imported here and now."""
    own = _FOREIGN.get()
    return not is_code(name) or not (is_forbidden() or (own is not None and name not in own))


def require(name: str) -> None:
    """Raise JobError where the code behind a name may not be imported."""
    if may_use(name):
        return
    if is_forbidden():
        raise JobError(f"{name}: {_FORBIDDEN}")
    raise UntrustedError(f"{name}: {UNTRUSTED}")


_FORBIDDEN = (
    f"names code, which this deployment forbids ({ALLOW}=0); use an installed kind, "
    "or install its package with an entry point"
)
UNTRUSTED = "is code that the store names; --trust uses it"


def code_in(job: Mapping[str, Any]) -> dict[str, str]:
    """Every `package.module:Class` that a job as JSON names, by its key."""
    found: dict[str, str] = {}
    for block in ("source", "segmenter", "cluster", "architecture"):
        _kinds(job.get(block), block, found)
    measured = job.get("evaluate")
    if isinstance(measured, Mapping):
        for key in ("metrics", "losses"):
            _names(measured.get(key), f"evaluate.{key}", found)
    for key in ("metrics", "loss"):  # of a training
        _names(job.get(key), key, found)
    return found


def refuse_forbidden(job: Any, where: str = "") -> None:
    """Raise JobError where a job names code and the deployment forbids it; nothing is imported."""
    if not (isinstance(job, Mapping) and is_forbidden()):
        return
    for key, name in code_in(job).items():
        raise JobError(f"{where}{key}: {name} {_FORBIDDEN}")


def _kinds(block: Any, key: str, found: dict[str, str]) -> None:
    """The kinds that a block and the blocks inside it name."""
    if isinstance(block, Mapping):
        for name, value in block.items():
            if name in ("kind", "name") and isinstance(value, str) and is_code(value):
                found[f"{key}.{name}"] = value
            else:
                _kinds(value, f"{key}.{name}", found)
    elif isinstance(block, list | tuple):
        for value in block:
            _kinds(value, key, found)


def _names(block: Any, key: str, found: dict[str, str]) -> None:
    """Whatever looks like code among names of metrics or losses, and inside compounds of them."""
    if isinstance(block, str) and may_be_code(block):
        found[key] = block
    elif isinstance(block, Mapping):
        for name, value in block.items():
            _names(name, key, found)
            _names(value, key, found)
    elif isinstance(block, list | tuple):
        for value in block:
            _names(value, key, found)
