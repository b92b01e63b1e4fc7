"""Counts as people write them."""


def count(number: int, noun: str) -> str:
    """A number and what it counts.

    >>> count(1, "frame"), count(1200, "shard")
    ('1 frame', '1,200 shards')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
