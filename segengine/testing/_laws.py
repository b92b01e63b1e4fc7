"""What all suites have in common: how a law fails, pickling by name, and the refusal of bad options."""

from __future__ import annotations

import pickle  # noqa: TID251 - what travels to workers is tried here, and nothing is stored
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from segengine import registry
from segengine.errors import JobError

UNKNOWN = "no_such_option"


def require(holds: object, message: str) -> None:
    """Fail with one line where a law does not hold."""
    __tracebackhide__ = True
    if not holds:
        raise AssertionError(message)


@contextmanager
def expected(what: str, remedy: str) -> Iterator[None]:
    """Fail with one line where what should work raises."""
    __tracebackhide__ = True
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what} raised {said(error)}; {remedy}") from error


def said(error: BaseException) -> str:
    """An error's kind and first line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def name_of(plugin: object) -> str:
    """What a plug-in is called in a message."""
    while isinstance(plugin, partial):
        plugin = plugin.func
    return str(getattr(plugin, "__qualname__", "") or type(plugin).__qualname__)


def require_by_name(kind: Any) -> None:
    """Workers find a class or function by its module and name; of a partial, what it calls."""
    __tracebackhide__ = True
    while isinstance(kind, partial):
        kind = kind.func
    name = f"{kind.__module__}:{kind.__qualname__}"
    require(
        "<locals>" not in kind.__qualname__,
        f"{name} is made inside a function, where no worker can find it; move it to its module",
    )
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    require(
        found is kind,
        f"{name} is another object than this one; leave its name in its module to it alone",
    )


def sent(value: Any, what: str) -> Any:
    """A value as a worker gets it."""
    __tracebackhide__ = True
    remedy = "keep options and plain values in it, and open files, locks and models where used"
    with expected(f"pickling {what}", remedy):
        return pickle.loads(pickle.dumps(value))  # noqa: S301 - made one line before


class RefusalTests(ABC):
    """Laws of whatever takes options: it refuses those that it does not know, and bad values."""

    options: ClassVar[Mapping[str, Any]] = {}
    """Options of a job without which it cannot be made."""
    refused: ClassVar[Mapping[str, Iterable[Any]]] = {}
    """By option, values that it has to refuse: each is tried."""

    def test_an_unknown_option_is_refused(self) -> None:
        """A typing error in a job is no silent default."""
        self._require_refused(UNKNOWN, 1)

    def test_bad_values_are_refused(self) -> None:
        """Each value in `refused`, in an error that names the option."""
        for option, values in self.refused.items():
            for value in values:
                self._require_refused(option, value)

    @abstractmethod
    def _require_refused(self, option: str, value: Any) -> None:
        """Raise AssertionError where it takes an option with this value."""


class PluginTests(RefusalTests):
    """Laws of every plug-in: it is found by name, and refuses options that it does not know."""

    def make(self) -> Any:
        """The plug-in to try."""
        raise NotImplementedError("make: this suite needs it; return the plug-in to try")

    def factory(self) -> Callable[..., Any]:
        """What is registered and called with the job's options: the plug-in's class."""
        return type(self.make())

    def test_workers_find_it_by_name(self) -> None:
        """Its class, or function, lies in a module under its name."""
        require_by_name(self.factory())

    def _require_refused(self, option: str, value: Any) -> None:
        __tracebackhide__ = True
        name = name_of(self.factory())
        try:
            self._build({**self.options, option: value})
        except JobError as error:
            require(
                str(error).startswith(f"{option}:"),
                f"{name} refuses {option}={value!r} with {str(error)!r}; start the message with "
                f"`{option}: ` and say what is allowed",
            )
        except Exception as error:
            raise AssertionError(
                f"{name} refuses {option}={value!r} with {said(error)}; raise ValueError"
            ) from error
        else:
            raise AssertionError(
                f"{name} takes {option}={value!r} without a word; "
                + (
                    "name each option in its signature, so that a typing error is refused"
                    if option == UNKNOWN
                    else f"raise ValueError('{option}: ...') where it is made"
                )
            )

    def _build(self, options: dict[str, Any]) -> Any:
        """Make it as the engine does, with a job's options."""
        factory = self.factory()
        return registry.build(factory, name_of(factory), options)
