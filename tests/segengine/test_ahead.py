"""One item is made ahead, in order, and never more."""

from collections.abc import Iterator

import pytest

from segengine.ahead import one_ahead


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
