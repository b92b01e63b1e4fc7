"""What a STAC API finds, against stac-fastapi on loopback: pages, limits, patience, and an end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date
from functools import partial
from typing import Any

import pytest

from segengine.errors import TransientInputError
from segengine.sources import _stac_documents, _stac_search
from segengine.sources._stac_items import Item, read_item
from segengine.sources._stac_links import Reach
from segengine.sources._stac_search import Search
from segengine.sources.listing import Unlisted

from .stac_server import State, serving

pytestmark = pytest.mark.system
COUNT = 230


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[State, str]]:
    state = State()
    with serving(state) as url:
        yield state, url


@pytest.fixture
def api(served: tuple[State, str]) -> tuple[State, str]:
    state, url = served
    vars(state).update(vars(State()))
    state.items = [
        {
            "type": "Feature", "stac_version": "1.0.0", "id": f"item-{i}",
            "collection": "odd" if i % 2 else "even", "bbox": [i / 10, 0, i / 10, 0],
            "geometry": {"type": "Point", "coordinates": [i / 10, 0]},
            "properties": {"datetime": f"2026-{i % 12 + 1:02}-15T00:00:00Z"},
            "assets": {"red": {"href": f"../data/{i}.tif"}}, "links": [],
        }
        for i in range(COUNT)
    ]  # fmt: skip
    return state, url


def found(url: str, **block: Any) -> list[Item | Unlisted]:
    read = partial(read_item, assets=("red",), reach=Reach.of([url]))
    return list(Search.of({"url": url, **block}).run(read))


def names(listed: list[Item | Unlisted]) -> set[str]:
    return {each.name for each in listed if isinstance(each, Item)}


def every(i: int = 0, step: int = 1) -> set[str]:
    return {f"item-{i}" for i in range(i, COUNT, step)}


@pytest.mark.parametrize("post", [True, False])
def test_all_pages_are_read(api: tuple[State, str], post: bool) -> None:
    state, url = api
    state.post, state.page = post, 50
    assert names(found(url)) == every()
    assert state.asked["POST /search" if post else "GET /search"] == 5


def test_the_address_may_be_that_of_the_search(api: tuple[State, str]) -> None:
    _, url = api
    assert names(found(f"{url}/search")) == every()
    assert names(found(f"{url}/")) == every()


def test_collections_boxes_and_times(api: tuple[State, str]) -> None:
    _, url = api
    assert names(found(url, collections=["odd"])) == every(1, 2)
    assert names(found(url, collections="odd")) == every(1, 2)
    assert names(found(url, bbox=[0.95, -1, 2.05, 1])) == {f"item-{i}" for i in range(10, 21)}
    assert names(found(url, datetime="2026-05/2026-06")) == every(4, 12) | every(5, 12)
    assert names(found(url, datetime="2026-05-15")) == every(4, 12)
    assert names(found(url, datetime=date(2026, 5, 15))) == every(4, 12)
    assert not found(url, collections=["none"])


def test_limit_is_the_most_in_all(api: tuple[State, str]) -> None:
    state, url = api
    assert names(found(url, limit=7)) == {f"item-{i}" for i in range(7)}
    state.page = 50
    state.asked.clear()
    assert len(names(found(url, limit=60))) == 60
    assert state.asked["POST /search"] == 2


def test_a_busy_api_is_asked_again(api: tuple[State, str]) -> None:
    state, url = api
    state.busy = 4
    start = time.monotonic()
    assert names(found(url)) == every()
    assert state.busy == 0
    assert time.monotonic() - start > 4 * 0.05


def test_one_that_stays_busy_stops_the_run(
    api: tuple[State, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, url = api
    monkeypatch.setattr(_stac_documents, "sleep", lambda _: None)
    state.busy = 1000
    with pytest.raises(TransientInputError, match=r"source.search.url: http.*429"):
        found(url)
    assert state.busy > 900


def test_no_server_has_us_wait_for_a_day() -> None:
    assert _stac_documents.pause({"Retry-After": "86400"}, 0) == 60
    assert _stac_documents.pause({"Retry-After": "nan"}, 0) == 60
    assert _stac_documents.pause({"Retry-After": "-1"}, 0) == 0
    assert _stac_documents.pause({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 2) == 2
    assert _stac_documents.pause({}, 1) == 1


def test_an_api_that_repeats_its_pages_ends(api: tuple[State, str]) -> None:
    state, url = api
    state.forever, state.page = "same", 50
    listed = found(url)
    assert len(names(listed)) == 50
    last = listed[-1]
    assert isinstance(last, Unlisted)
    assert (last.name, last.kind) == ("source.search", "corrupt")
    assert "pages without a new item" in last.reason


def test_an_api_that_pages_for_ever_ends(
    api: tuple[State, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, url = api
    monkeypatch.setattr(_stac_search, "_UNASKED", 1000)
    state.forever = "new"
    listed = found(url)
    assert len(names(listed)) == 1000
    assert isinstance(listed[-1], Unlisted)
    assert "finds more than 1,000 items" in listed[-1].reason
    assert len(found(url, limit=300)) == 300


def test_pages_of_another_host_are_not_followed(api: tuple[State, str]) -> None:
    state, url = api
    state.elsewhere, state.page = "http://elsewhere.example:9", 50
    listed = found(url)
    assert len(names(listed)) == 50
    assert isinstance(listed[-1], Unlisted)
    assert "of no host or bucket that the job names" in listed[-1].reason


def test_an_answer_is_bounded(api: tuple[State, str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = api
    monkeypatch.setattr(_stac_documents, "MOST_BYTES", 2000)
    monkeypatch.setattr(_stac_search, "MOST_BYTES", 2000)
    with pytest.raises(ValueError, match="bytes; at most 2,000 are read"):
        found(f"{url}/search")


def test_credentials_go_with_each_request_and_into_no_message(api: tuple[State, str]) -> None:
    _, url = api
    with_key = url.replace("http://", "http://me:secret@") + "?key=secret"
    assert names(found(with_key)) == every()
    for wrong in (with_key.replace("?", "/nope?"), "http://me:secret@127.0.0.1:9/?key=secret"):
        with pytest.raises((ValueError, TransientInputError)) as raised:
            found(wrong)
        assert "secret" not in str(raised.value)
        assert str(raised.value).startswith("source.search.url: http://127")


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("https://host", "search: is no mapping"),
        ({}, "search.url: is needed"),
        ({"url": "s3://bucket"}, "search.url: must be a http"),
        ({"url": "ftp://host"}, "search.url: ftp:// is not served"),
        ({"url": "https://host", "uri": 1}, "unknown key 'uri'"),
        ({"url": "https://host", "limit": 0}, "search.limit: is 0"),
        ({"url": "https://host", "limit": True}, "search.limit: is True"),
        ({"url": "https://host", "bbox": [1, 2, 3]}, "search.bbox: is"),
        ({"url": "https://host", "bbox": [1, 2, 3, float("nan")]}, "search.bbox: is"),
        ({"url": "https://host", "collections": 7}, "search.collections: is 7"),
        ({"url": "https://host", "datetime": 2026}, "search.datetime: is 2026"),
    ],
)
def test_a_wrong_block_names_its_key(block: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("'", ".")):
        Search.of(block)


def test_a_time_that_is_none_is_a_mistake(api: tuple[State, str]) -> None:
    _, url = api
    with pytest.raises(ValueError, match=r"source.search.datetime: 'yesterday'"):
        found(url, datetime="yesterday")


def test_no_api_at_all_is_a_mistake(api: tuple[State, str]) -> None:
    _, url = api
    with pytest.raises(ValueError, match="404 Not Found"):
        found(f"{url}/nope")
    with pytest.raises(ValueError, match="no link to a search"):
        found(f"{url}/conformance")
