"""What waits for others beside what works: one item ahead, and several objects of a store at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


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


FEW = 8
"""Items that are not worth starting threads for."""
AHEAD = 16
"""Items a thread that are handed out before they are asked for: a million at once take 2 GB."""


def is_far(root: str) -> bool:
    """Whether each object of a store is a request to a network.

    >>> is_far("s3://bucket/masks"), is_far("/data/masks")
    (True, False)
    """
    return "://" in root


def several(
    items: Sequence[_Item], work: Callable[[_Item], _Found], *, far: bool
) -> Iterator[_Found]:
    """What `work` makes of each item, in their order; several at once, for it mostly waits.

    `far`: for a network. What one raises is raised in its place, and the rest is left.

    >>> list(several([2, 1], str, far=False))
    ['2', '1']
    """
    if len(items) < FEW:
        yield from map(work, items)
        return
    threads = FAR if far else NEAR
    with ThreadPoolExecutor(threads, "segengine-several") as pool:
        waiting: deque[Future[_Found]] = deque()
        try:
            for item in items:
                if len(waiting) == AHEAD * threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def requested(
    items: Sequence[_Item], work: Callable[[_Item], _Found], root: str
) -> Iterator[_Found]:
    """As `several` where each is a request to the store at `root`; here one after another, for then
    the interpreter is what they wait for."""
    yield from several(items, work, far=True) if is_far(root) else map(work, items)


def each_of(items: Iterable[_Item], work: Callable[[_Item], object], root: str) -> None:
    """Do it for each item, several at once; `root`: of the store that it waits for."""
    for _ in several(list(items), work, far=is_far(root)):
        pass
