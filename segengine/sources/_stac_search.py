"""The items that a STAC API finds: `source.search`, through pystac-client, within bounds.

    POST url/search {collections, bbox, datetime} -> page -> its link `next` -> page ... -> `limit`

Requests are made again while the API says that it is busy (429, 503), each answer is of bounded size,
links lead to no other host, and a page without a new item ends an API that pages for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from time import monotonic
from typing import Any, Required
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit, urlunsplit

from typing_extensions import TypedDict  # of the standard library only pydantic on 3.12 reads it

from segengine.errors import CorruptInputError, TransientInputError
from segengine.guards.schemes import refusal
from segengine.sources._files import is_web, one_line
from segengine.sources._stac_documents import MOST_BYTES, bounded, parsed, patiently, too_large
from segengine.sources._stac_items import Item
from segengine.sources._stac_links import Reach, resolved, shown
from segengine.sources._stac_needs import need
from segengine.sources._stac_walk import read_one
from segengine.sources.listing import Unlisted
from segengine.urls import public

KEYS = ("url", "collections", "bbox", "datetime", "limit")
_PAGE = 200
"""Items that are asked for at a time."""
_MOST_ITEMS = 1_000_000
_UNASKED = 100_000
"""Items that are taken where the job sets no limit."""
_WAIT, _LONGEST = 60.0, 300.0
"""Seconds without a byte, and for a whole answer."""
_MOST_MOVES = 5
_PASSING = frozenset((401, 403, 408, 429))
"""Statuses below 500 that another try may not have."""


class Block(TypedDict, total=False):
    """`source.search` of a job."""

    url: Required[str]
    collections: list[str]
    bbox: list[float]
    datetime: str
    limit: int


@dataclass(frozen=True, slots=True)
class Search:
    """What an API is asked for, as `source.search` has it."""

    url: str
    collections: tuple[str, ...] = ()
    bbox: tuple[float, ...] = ()
    """West, south, east, north in degrees."""
    datetime: str = ""
    """A time or two with `/` between, RFC 3339 or the front part of it: `2026-05/2026-06`."""
    limit: int | None = None
    """The most items in all."""
    ids: tuple[str, ...] = ()
    """Of the items that are wanted, which no job says; none: all. Not every API looks at them."""

    @property
    def bare(self) -> str:
        """The address without a query and credentials, which go with each request."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @classmethod
    def of(cls, block: object) -> Search:
        """The block of a job. Raises ValueError naming its key."""
        if not isinstance(block, Mapping):
            raise ValueError("search: is no mapping with url, collections, bbox, datetime, limit")
        for key in block:
            if key not in KEYS:
                raise ValueError(f"search: unknown key {key!r}; known here: {', '.join(KEYS)}")
        given = {key: value for key, value in block.items() if value is not None}
        return cls(
            _url(given.get("url")),
            _collections(given.get("collections", ())),
            _bbox(given.get("bbox", ())),
            _datetime(given.get("datetime", "")),
            _limit(given["limit"]) if "limit" in given else None,
        )

    def of_item(self, name: str) -> Search:
        """The search for the item of a name, which its collection may stand before."""
        limit = None if self.limit is None else max(self.limit, _PAGE)
        ids = dict.fromkeys((name, name.partition("/")[2] or name))
        return replace(self, limit=limit, ids=tuple(ids))

    def run(
        self, read: Callable[[Mapping[str, Any], str], Item], trust: bool = False
    ) -> Iterator[Item | Unlisted]:
        """The items, at most `limit`, then what ended the search before its end.

        Raises ValueError where that is no API, TransientInputError where it does not answer.
        """
        seen: set[tuple[str, str]] = set()
        where = f"source.search.url: {public(self.url)}"
        try:
            for page in _pages(self, Reach.of([self.url], trust)):
                before = len(seen)
                for item in page:
                    about = item if isinstance(item, Mapping) else {}
                    key = str(about.get("collection")), str(about.get("id"))
                    if key in seen:
                        continue
                    seen.add(key)
                    yield read_one(item, self.bare, read)
                    if len(seen) == self.limit:
                        return
                    if self.limit is None and len(seen) >= _UNASKED:
                        raise CorruptInputError(
                            f"finds more than {_UNASKED:,} items, and no more are taken; set "
                            "source.search.limit"
                        )
                if len(seen) == before:
                    raise CorruptInputError(
                        "sends pages without a new item; what came before is taken"
                    )
        except CorruptInputError as error:
            if not seen:
                raise ValueError(f"{where}: {error}") from error
            # What its other pages would have listed has not vanished.
            yield Unlisted("source.search", self.url, str(error), "corrupt", lists=True)
        except TransientInputError as error:
            # With a part of the items the others would count as gone.
            raise type(error)(f"{where}: {error}") from error


def _pages(search: Search, reach: Reach) -> Iterator[list[Any]]:
    """Items of the API, page by page."""
    with need("pystac_client"):
        import pystac_client  # noqa: F401
    io = _guarded(search, reach)
    url = _endpoint(search, io)
    for method in ("POST", "GET"):
        try:
            for page in io.get_pages(url, method, _asked(search, url, method, io)):
                features = page.get("features")
                if not isinstance(features, list):
                    raise CorruptInputError("sends a page that is no list of items")
                yield features
        except _NotAllowedError:
            continue
        except (CorruptInputError, TransientInputError, ValueError):
            raise
        except Exception as error:
            raise CorruptInputError(
                f"sends what is no answer of a STAC API: {one_line(error)}"
            ) from error
        return
    raise CorruptInputError("takes neither POST nor GET for a search")


def _asked(search: Search, url: str, method: str, io: Any) -> dict[str, Any]:
    """The search as pystac-client writes it; raises ValueError for a time that is none."""
    from pystac_client.item_search import ItemSearch

    try:
        asked = ItemSearch(
            url,
            method=method,
            ids=list(search.ids) or None,
            collections=list(search.collections) or None,
            bbox=list(search.bbox) or None,
            datetime=search.datetime or None,
            limit=min(_PAGE, search.limit or _PAGE),
            stac_io=io,
        )
    except Exception as error:
        raise ValueError(f"source.search.datetime: {search.datetime!r}: {error}") from error
    found: dict[str, Any] = asked.get_parameters()
    return found


def _endpoint(search: Search, io: Any) -> str:
    """Where the API takes searches: what its landing page says."""
    url = search.bare
    if url.endswith("/search"):
        return url
    links = io.read_json(url).get("links")
    for link in links if isinstance(links, list) else ():
        if isinstance(link, Mapping) and link.get("rel") == "search":
            return resolved(link.get("href"), url.rstrip("/") + "/")
    raise CorruptInputError("has no link to a search: no STAC API with item search")


class _NotAllowedError(CorruptInputError):
    """The API takes no such request."""


class _StatusError(Exception):
    """An answer that is none."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"the server answers {status} {reason}".rstrip())
        self.status, self.headers = status, headers


def _guarded(search: Search, reach: Reach) -> Any:
    """pystac-client's way to an API, with our bounds and our patience."""
    from pystac_client.stac_api_io import StacApiIO
    from requests import Request
    from urllib3 import Retry

    class Guarded(StacApiIO):
        def read_json(self, source: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return parsed(self.read_text(source, *args, **kwargs).encode())

        def request(
            self,
            href: str,
            method: str | None = None,
            headers: dict[str, str] | None = None,
            parameters: dict[str, Any] | None = None,
        ) -> str:
            uri = self._allowed(href)
            kind = "POST" if (method or "GET").upper() == "POST" else "GET"
            told = {"json": parameters} if kind == "POST" else {"params": parameters or {}}
            for _ in range(_MOST_MOVES):
                asked = Request(kind, uri, headers=headers, **told)
                answer, moved = patiently(partial(self._answer, asked), uri)
                if not moved:
                    return answer.decode("utf-8", "replace")
                uri = self._allowed(urljoin(uri, moved))
            raise CorruptInputError("sends us from one address to the next")

        def _allowed(self, href: str) -> str:
            uri = resolved(href, search.bare)
            if not is_web(uri):
                raise CorruptInputError(f"links to {shown(uri)}, which is no web address")
            reach.require_document(uri, search.url)
            return uri

        def _answer(self, asked: Request) -> tuple[bytes, str]:
            """What is sent; or where it lies now."""
            prepared = self.session.prepare_request(asked)
            settings = self.session.merge_environment_settings(
                str(prepared.url), proxies={}, stream=True, verify=None, cert=None
            )
            until = monotonic() + _LONGEST
            # Redirects are looked at as links are.
            settings |= {"timeout": _WAIT, "allow_redirects": False}
            with _sent(self.session, prepared, settings) as answer:
                if answer.is_redirect:
                    return b"", answer.headers["Location"]
                if answer.status_code in (405, 501) and prepared.method == "POST":
                    raise _NotAllowedError
                if 400 <= answer.status_code < 500 and answer.status_code not in _PASSING:
                    raise CorruptInputError(
                        f"the server answers {answer.status_code} {answer.reason}".rstrip()
                    )
                if answer.status_code >= 400:
                    raise _StatusError(answer.status_code, answer.reason, answer.headers)
                size = answer.headers.get("Content-Length", "")
                if size.isdecimal() and int(size) > MOST_BYTES:
                    raise too_large(int(size))
                pieces = answer.iter_content(1 << 16)

                def read(_: int) -> bytes:
                    if monotonic() > until:
                        raise TransientInputError(f"has sent no whole answer in {_LONGEST:g} s")
                    return next(pieces, b"")

                return bounded(read), ""

    # Busy servers are waited for above: urllib3 would wait as long as it is told.
    found = Guarded(
        parameters=dict(parse_qsl(urlsplit(search.url).query)),
        max_retries=Retry(3, status=0, respect_retry_after_header=False),
    )
    parts = urlsplit(search.url)
    if parts.username is not None:
        found.session.auth = (unquote(parts.username), unquote(parts.password or ""))
    return found


@contextmanager
def _sent(session: Any, prepared: Any, settings: dict[str, Any]) -> Iterator[Any]:
    """The answer; what goes wrong on the way names no address: that may hold a key."""
    from requests import RequestException

    try:
        with session.send(prepared, **settings) as answer:
            yield answer
    except RequestException as error:
        raise TransientInputError(f"cannot be reached: {type(error).__name__}") from error


def _url(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("search.url: is needed, the address of a STAC API")
    reason = refusal(value)
    if reason is not None or not is_web(value):
        raise ValueError(f"search.url: {reason or 'must be a http:// or https:// address'}")
    return value


def _collections(value: object) -> tuple[str, ...]:
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"search.collections: is {value!r}; it must list ids of collections")
    return tuple(value)


def _bbox(value: object) -> tuple[float, ...]:
    sides = value if isinstance(value, Sequence) and not isinstance(value, str) else ["none"]
    numbers = all(isinstance(each, int | float) and math.isfinite(each) for each in sides)
    if not numbers or len(sides) not in (0, 4, 6):
        raise ValueError(
            f"search.bbox: is {value!r}; it must be [west, south, east, north] in degrees"
        )
    return tuple(map(float, sides))


def _datetime(value: object) -> str:
    # YAML takes 2026-05-01 for a date.
    if not isinstance(value, str | date):
        raise ValueError(
            f"search.datetime: is {value!r}; it must be a time or two, as 2026-05/2026-06"
        )
    return value if isinstance(value, str) else value.isoformat()


def _limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_ITEMS:
        raise ValueError(
            f"search.limit: is {value!r}; it must be a whole number from 1 to {_MOST_ITEMS:,}"
        )
    return value
