"""Classes in stores: short tags, former names, and what another package registers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from numcodecs.zstd import compress, decompress

from segengine.store.layouts import Unplaced
from segengine.store.tags import FORMER, NAMED, class_of, path_of, stored_as, tag_of
from segengine.store.values import MAGIC, decode, encode

OURS = ("tests",)


def written(name: str, fields: dict[str, Any]) -> bytes:
    """A value as a store holds it."""
    header = json.dumps({"c": name, "f": fields}).encode()
    return bytes(compress(b"".join([MAGIC, len(header).to_bytes(8, "little"), header]), 1))


@pytest.mark.parametrize("tag", NAMED)
def test_each_tag_is_of_a_class_that_is_there(tag: str) -> None:
    found = class_of(tag, ("segengine",))
    assert path_of(found) == NAMED[tag]
    assert tag_of(found) == tag
    assert re.fullmatch(r"[a-z][a-z-]*/[1-9]", tag)


@pytest.mark.parametrize("former", FORMER)
def test_each_former_name_leads_to_a_class(former: str) -> None:
    assert class_of(former, ("segengine",)) is class_of(FORMER[former], ("segengine",))


def test_what_was_stored_by_its_path_is_read() -> None:
    value = Unplaced("a.png", "/photos/a.png", "1-2", "corrupt", "torn")
    fields = {
        name: getattr(value, name) for name in ("name", "uri", "fingerprint", "kind", "reason")
    }
    assert decode(written("segengine.layout:Unplaced", fields)) == value
    assert decode(written("unplaced/1", fields)) == value
    assert b"unplaced/1" in decompress(encode(value))
    assert b"segengine" not in decompress(encode(value))


@stored_as("acme-fit/1", former=("acme.old:Fit",))
@dataclass(frozen=True)
class Fit:
    level: int


@stored_as("acme-sums/2")
class Sums(NamedTuple):
    count: int


@dataclass(frozen=True)
class Untagged:
    level: int


@pytest.mark.parametrize("value", [Fit(3), Sums(4), Untagged(5)])
def test_what_another_package_stores(value: Any) -> None:
    data = encode(value)
    assert decode(data, OURS) == value
    with pytest.raises(ValueError, match="not a class"):
        decode(data)
    assert (__name__.encode() in decompress(data)) == isinstance(value, Untagged)


def test_another_packages_former_names() -> None:
    for name in ("acme.old:Fit", f"{__name__}:Fit", "acme-fit/1"):
        assert decode(written(name, {"level": 7}), OURS) == Fit(7)
        with pytest.raises(ValueError, match="not a class of that module"):
            decode(written(name, {"level": 7}))


@pytest.mark.parametrize("name", ["nobody/1", "layout/9", "", "/", "a:b"])
def test_what_is_not_here_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        decode(written(name, {}), OURS)


@pytest.mark.parametrize("tag", ["", "fit", "fit/", "/1", "fit/one", "a:b/1", "a/b/1"])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="is no tag: name it `my-fit/1`"):
        stored_as(tag)


@pytest.mark.parametrize("tag", ["layout/1", "acme-fit/1"])
def test_a_tag_is_of_one_class(tag: str) -> None:
    with pytest.raises(ValueError, match=f"^{tag} is taken by "):
        stored_as(tag)(Untagged)
    assert stored_as("acme-fit/1")(Fit) is Fit  # a module that is loaded again


SEGMENTERS = (
    {"kind": "kmeans", "clusters": 3, "scope": "run"},
    {"kind": "threshold", "method": "otsu", "scope": "scene", "instances": "components"},
    {"kind": "edges", "operator": "canny"},
)


@pytest.mark.parametrize("segmenter", SEGMENTERS, ids=lambda s: s["kind"])
def test_no_class_of_ours_is_stored_by_its_path(
    segmenter: dict[str, Any], bench: Any, noise: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[str] = set()

    def noted(kind: type) -> str:
        found.add(tag_of(kind))
        return tag_of(kind)

    monkeypatch.setattr("segengine.store.values.tag_of", noted)
    for i in range(2):
        bench.put(f"{i}.png", noise(i, (40, 56, 3)))
    bench.run(segmenter, store={"shard": 16})
    assert found >= {"layout/1"}
    assert {name for name in found if name not in NAMED} == set()
