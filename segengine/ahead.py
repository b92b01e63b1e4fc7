"""One item ahead: the next is made while this one is used, in a thread that holds no more than it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")


def one_ahead(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items in their order; what making one raises is raised in its place.

    >>> list(one_ahead(range(3)))
    [0, 1, 2]
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "segengine-ahead") as pool:
        waiting = pool.submit(lambda: next(iterator, None))
        while (item := waiting.result()) is not None:
            waiting = pool.submit(lambda: next(iterator, None))
            yield item
