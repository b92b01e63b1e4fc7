"""What waits for others beside what works: one item ahead, and several objects of a store at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

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


NEAR, FAR = 4, 16
"""Threads, for files here and for what each request to takes its time."""


def each_of(items: Iterable[_Item], work: Callable[[_Item], Any], root: str) -> None:
    """Do what mostly waits for the store at `root`, several at once; raises what the first raises.

    >>> each_of([2, 1], lambda item: print(item), "m.zarr")
    2
    1
    """
    items = list(items)
    if len(items) < FAR:  # not worth starting threads for
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(FAR if "://" in root else NEAR, "segengine-store") as pool:
        try:
            for _ in pool.map(work, items):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
