"""Whose failure a call of a store was, said once: StoreAccessError, and whether to try again."""

from __future__ import annotations

import contextlib
import errno
import re
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import ClassVar, Concatenate, ParamSpec, Protocol, TypeVar

from segengine.errors import SegengineError, StoreAccessError

URL = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOGIN = ("NoCredentialsError", "PartialCredentialsError", "NoRegionError", "ProfileNotFound")
"""What botocore raises before it asks anybody."""
_WRONG = (errno.EINVAL, errno.ENOSYS, errno.EMSGSIZE, errno.ENAMETOOLONG)
"""An object store's 4xx: it has answered."""
_AGAIN = "run the same command again"


@contextlib.contextmanager
def store_access(where: str) -> Iterator[None]:
    """What is raised inside is the store's: it becomes StoreAccessError."""
    try:
        yield
    except (SegengineError, GeneratorExit):
        raise
    except Exception as error:
        raise access_error(where, error) from error


def access_error(where: str, error: Exception) -> StoreAccessError:
    """A failed call of a store in words, and whether another try can go better."""
    number = error.errno if isinstance(error, OSError) else None
    said = _said(error)
    if number in _FULL:
        return StoreAccessError(
            f"{where}: the store is full: {said}", f"make room, then {_AGAIN}", True
        )
    if (
        number in _REFUSED
        or isinstance(error, PermissionError)
        or type(error).__name__ in _NO_LOGIN
    ):
        return StoreAccessError(
            f"{where}: the store refuses this user: {said}",
            f"mend its permissions or the credentials, then {_AGAIN}",
            True,
        )
    if not URL.match(where):
        return StoreAccessError(f"{where}: the store failed: {said}", _AGAIN)
    if isinstance(error, FileNotFoundError):
        return StoreAccessError(
            f"{where}: the store is not there: {said}", f"make its bucket, then {_AGAIN}", True
        )
    if number in _WRONG:
        return StoreAccessError(f"{where}: the store did not accept it: {said}", _AGAIN)
    return StoreAccessError(f"{where}: the store did not answer: {said}", _AGAIN)


def _said(error: Exception) -> str:
    """One line of what happened, with an object store's own code for it."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    response = getattr(error.__cause__ or error, "response", None)
    if isinstance(response, dict):
        code = response.get("Error", {}).get("Code", "")
        text = text if code in text else f"{code}: {text}"
    return " ".join(text.split())


_MISPLACED = (IsADirectoryError, NotADirectoryError, FileExistsError)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Retrying(Protocol):
    PAUSES: ClassVar[tuple[float, ...]]
    """Seconds before a call that failed is made again."""

    @property
    def root(self) -> str: ...
    def clear_way(self, key: str) -> bool: ...


_O = TypeVar("_O", bound=_Retrying)


def owned(
    method: Callable[Concatenate[_O, str, _P], _T],
) -> Callable[Concatenate[_O, str, _P], _T]:
    """Make what a method raises the store's error; try again where that may help."""

    @wraps(method)
    def call(self: _O, key: str, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        pauses = iter(self.PAUSES)
        while True:
            try:
                return method(self, key, *args, **kwargs)
            except SegengineError:
                raise
            except Exception as error:
                if isinstance(error, _MISPLACED) and self.clear_way(key):
                    continue
                failure = access_error(f"{self.root}/{key}".rstrip("/"), error)
                pause = None if failure.fatal else next(pauses, None)
                if pause is None:
                    raise failure from error
            time.sleep(pause)

    return call
