"""One item is made ahead, in order, and never more; many objects are written at once, each once."""

import time
from collections.abc import Iterator

import pytest

from segengine.ahead import AHEAD, FAR, each_of, one_ahead, several


def test_one_item_is_made_while_one_is_used() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i

    for used, item in enumerate(one_ahead(items())):
        assert item == used
        assert len(made) <= used + 2
    assert made == [0, 1, 2, 3, 4]


def test_what_an_item_raises_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second is bad")

    found = one_ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="the second is bad"):
        next(found)


@pytest.mark.parametrize("root", ["m.zarr", "s3://bucket/m.zarr"])
@pytest.mark.parametrize("count", [3, 200])
def test_each_of_many_is_done_once(root: str, count: int) -> None:
    done: list[int] = []
    each_of(range(count), done.append, root)
    assert sorted(done) == list(range(count))


def test_of_very_many_only_some_are_handed_out_ahead() -> None:
    done: list[int] = []
    found = several(range(5000), done.append, far=True)
    for _ in range(10):
        next(found)
    time.sleep(0.05)
    assert len(done) <= 10 + AHEAD * FAR
    assert len(list(found)) == 4990
    assert sorted(done) == list(range(5000))


def test_what_one_raises_is_raised_and_the_rest_is_left() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 20:
            raise ValueError(item)
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ValueError, match="20"):
        each_of(range(5000), work, "m.zarr")
    assert 20 <= len(done) < 1000
    count = len(done)
    time.sleep(0.05)
    assert len(done) == count
