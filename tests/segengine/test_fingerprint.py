"""What a mask depends on: every key that can change one, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segengine.fingerprint import changes, digest, mask_keys
from segengine.job import parse_job

MEAN = {"kind": "threshold", "method": "mean"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
KEYS = st.dictionaries(st.text(min_size=1, max_size=4), VALUES, max_size=5)


def keys(segmenter: Any = MEAN, outputs: tuple[str, ...] = ("labels",), **blocks: Any) -> Any:
    source = {"paths": ["/in"]} | blocks.pop("source", {})
    store = {"path": "/masks.zarr"} | blocks.pop("store", {})
    return mask_keys(
        parse_job({"segmenter": segmenter, "source": source, "store": store, **blocks}), outputs
    )


@pytest.mark.parametrize(
    ("blocks", "changed"),
    [
        ({"segmenter": MEAN | {"method": "otsu"}}, "segmenter.method"),
        ({"segmenter": MEAN | {"scope": "run"}}, "segmenter.scope"),
        ({"segmenter": MEAN | {"instances": "components"}}, "segmenter.instances"),
        ({"segmenter": {"kind": "edges"}}, "segmenter.kind"),
        ({"source": {"bands": [2]}}, "source.bands"),
        ({"source": {"color": "gray"}}, "source.color"),
        ({"source": {"every": 3}}, "source.every"),
        ({"outputs": ("labels", "probabilities")}, "store.probabilities"),
    ],
)
def test_what_can_change_a_mask_changes_its_keys(blocks: Any, changed: str) -> None:
    lines = changes(keys(), keys(**blocks))
    assert changed in [line.partition(":")[0] for line in lines]


@pytest.mark.parametrize(
    "blocks",
    [
        {"name": "another"},
        {"segmenter": MEAN | {"scope": "frame"}},  # the default, said
        {"source": {"every": 1}},
        {"source": {"paths": ["/elsewhere"]}},  # inputs have digests of their own
        {"store": {"path": "/others.zarr"}},
        {"store": {"chunk": 32, "shard": 64, "frames": 8}},
        {"faults": {"retries": 9, "deadline": 5}},
        {"cluster": {"workers": 7}},
        {"evaluate": {"metrics": ["object_counts"]}},
    ],
)
def test_what_cannot_change_a_mask_is_in_no_key(blocks: Any) -> None:
    assert changes(keys(), keys(**blocks)) == []


@given(KEYS, KEYS)
def test_there_is_nothing_to_tell_exactly_where_all_is_equal(a: Any, b: Any) -> None:
    assert changes(a, a) == []
    told = changes(a, b)
    assert sorted(line.partition(":")[0] for line in told if line) == sorted(
        name.partition(":")[0]
        for name in {*a, *b}
        if a.get(name, "default") != b.get(name, "default")
    )


@given(KEYS)
def test_a_digest_knows_no_order(found: dict[str, Any]) -> None:
    assert digest(found) == digest(dict(reversed(list(found.items()))))
    assert len(digest(found)) == 16
    assert digest(found | {"one more": 1}) != digest(found)


def test_digests_are_those_of_stores_that_there_are() -> None:
    """Were they others, every shard of every store would be made again."""
    assert digest({"segmenter.kind": "kmeans", "segmenter.clusters": 4}) == "039ad1dddcde5a83"
    assert digest("caf\udce9") == "31d8b693a2648548"  # a name whose bytes are no UTF-8
