"""Loops that NumPy has no words for, compiled by Numba when they are first called.

Each operation is what Python's would be on fixed-width numbers, in the order that is written: floating
point is neither contracted nor reassociated, so that labels are the same on every processor. What was
compiled is kept beside the code, or in the user's cache, and loaded by the next process.

    @compiled
    def above(gray: Array, level: float, out: Array) -> None:
        for y in range(gray.shape[0]):
            for x in range(gray.shape[1]):
                out[y, x] = gray[y, x] > level
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Compiled(Generic[_P, _R]):
    """A function of arrays and numbers; other threads run beside it. Numba is loaded when it is called."""

    def __init__(self, plain: Callable[_P, _R]) -> None:
        self.plain = plain
        """The same, run by Python: what it must give, slowly."""
        self._ready: Callable[_P, _R] | None = None
        self._lock = threading.Lock()
        update_wrapper(self, plain)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return (self._ready or self.ready())(*args, **kwargs)

    def ready(self) -> Callable[_P, _R]:
        """Numba's dispatcher, which compiles for the types that it meets."""
        with self._lock:
            if self._ready is None:
                self._ready = _dispatcher(self.plain)
            return self._ready


def compiled(function: Callable[_P, _R]) -> Compiled[_P, _R]:
    """Have it compiled on its first call; it may call others that are, of the same module."""
    return Compiled(function)


def _dispatcher(plain: Callable[..., Any]) -> Callable[..., Any]:
    import numba

    assert isinstance(plain, types.FunctionType)
    names = plain.__globals__
    ready = {
        name: names[name].ready()
        for name in plain.__code__.co_names
        if isinstance(names.get(name), Compiled)
    }
    function = types.FunctionType(plain.__code__, {**names, **ready}, plain.__name__)
    function.__module__, function.__qualname__ = plain.__module__, plain.__qualname__
    compile_it: Any = partial(numba.njit, nogil=True, error_model="numpy", fastmath=False)
    made: Callable[..., Any]
    try:
        made = compile_it(cache=True)(function)
    except RuntimeError:  # neither the code's folder nor the user's can be written to
        made = compile_it()(function)
    return made
