"""A STAC API on loopback: stac-fastapi's own application over items in memory, and files beside it.

It can be busy (429), fail by path, refuse what is not signed, and page for ever, as real ones do.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.staticfiles import StaticFiles
from shapely.geometry import box, shape
from stac_fastapi.api.app import StacApi
from stac_fastapi.api.models import create_get_request_model, create_post_request_model
from stac_fastapi.extensions.pagination import TokenPaginationExtension
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.errors import NotFoundError
from stac_fastapi.types.requests import get_base_url
from stac_fastapi.types.rfc3339 import str_to_interval


@dataclass
class State:
    """What is served, and how."""

    items: list[dict[str, Any]] = field(default_factory=list)
    busy: int = 0
    """So many of the next requests for items are answered 429."""
    forever: str = ""
    """`same`: the first page again and again; `new`: pages that never end."""
    elsewhere: str = ""
    """Where the link to the next page leads, in place of this server."""
    beyond: int = 0
    """Status with which pages after the first are answered: their tokens have expired."""
    post: bool = True
    page: int = 1000
    """The most items in one answer."""
    signed: bool = False
    """Files but documents need `?sig=<epoch>`, which has not passed."""
    uses: int = sys.maxsize
    """So many requests for a file a signature serves, and no more."""
    used: Counter[str] = field(default_factory=Counter)
    failing: dict[str, int] = field(default_factory=dict)
    """Status with which requests for a path are answered, by its end."""
    heads: bool = True
    """Those for the head alone fail too."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests, by method and path."""
    refused: int = 0


def _time(item: dict[str, Any]) -> Any:
    return str_to_interval(item["properties"]["datetime"])


class MemoryClient(BaseCoreClient):  # type: ignore[misc]
    """The core of stac-fastapi over a list."""

    state: State

    def _found(
        self, collections: Any, bbox: Any, datetime: Any, ids: Any = None
    ) -> list[dict[str, Any]]:
        found = self.state.items
        if collections:
            found = [item for item in found if item["collection"] in collections]
        if ids:
            found = [item for item in found if item["id"] in ids]
        if bbox:
            found = [item for item in found if shape(item["geometry"]).intersects(box(*bbox))]
        if datetime:
            start, end = datetime if isinstance(datetime, tuple) else (datetime, datetime)
            found = [
                item
                for item in found
                if (start is None or _time(item) >= start) and (end is None or _time(item) <= end)
            ]
        return found

    def _page(
        self,
        found: list[dict[str, Any]],
        limit: int,
        token: str | None,
        request: Request,
        body: Any,
    ) -> dict[str, Any]:
        if token and self.state.beyond:
            raise HTTPException(self.state.beyond)
        start = int(token or 0)
        size = min(limit, self.state.page)
        features = found[start : start + size]
        more = start + size < len(found)
        if self.state.forever:
            features, more = found[:size], True
        if self.state.forever == "new":
            features = [{**item, "id": f"{item['id']}-{start}"} for item in features]
        links = []
        base = self.state.elsewhere or get_base_url(request).rstrip("/")
        if more and body is not None:
            body = {**body, "token": str(start + size)}
            links.append({"rel": "next", "href": f"{base}/search", "method": "POST", "body": body})
        elif more:
            url = request.url.include_query_params(token=start + size)
            links.append({"rel": "next", "href": str(url), "method": "GET"})
        return {"type": "FeatureCollection", "features": features, "links": links}

    def post_search(self, search_request: Any, **kwargs: Any) -> Any:
        body = search_request.model_dump(mode="json", exclude_none=True)
        interval = search_request.datetime and str_to_interval(search_request.datetime)
        found = self._found(
            search_request.collections, search_request.bbox, interval, search_request.ids
        )
        return self._page(
            found, search_request.limit or 10, search_request.token, kwargs["request"], body
        )

    def get_search(self, collections=None, ids=None, bbox=None, intersects=None, datetime=None,
                   limit=10, token=None, **kwargs: Any) -> Any:  # type: ignore[no-untyped-def] # fmt: skip
        interval = str_to_interval(datetime) if isinstance(datetime, str) else datetime
        found = self._found(collections, bbox, interval, ids)
        return self._page(found, limit or 10, token, kwargs["request"], None)

    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> Any:
        for item in self.state.items:
            if (item["id"], item["collection"]) == (item_id, collection_id):
                return item
        raise NotFoundError(item_id)

    def all_collections(self, **kwargs: Any) -> Any:
        ids = sorted({item["collection"] for item in self.state.items})
        return {"collections": [self.get_collection(each) for each in ids], "links": []}

    def get_collection(self, collection_id: str, **kwargs: Any) -> Any:
        return {
            "type": "Collection", "stac_version": "1.0.0", "id": collection_id, "description": "-",
            "license": "other", "links": [],
            "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]},
                       "temporal": {"interval": [[None, None]]}},
        }  # fmt: skip

    def item_collection(self, collection_id, bbox=None, datetime=None, limit=10, token=None,
                        **kwargs: Any) -> Any:  # type: ignore[no-untyped-def] # fmt: skip
        return self._page(
            self._found([collection_id], bbox, None), limit, token, kwargs["request"], None
        )


def application(state: State, folder: Path | None) -> FastAPI:
    """The API, with the files of a folder below /data, and each as /data/get?file= too."""
    settings = ApiSettings(enable_response_models=False, enable_direct_response=False)
    paging = [TokenPaginationExtension()]
    client = MemoryClient()
    client.state = state
    api = StacApi(
        settings=settings,
        client=client,
        extensions=paging,
        search_get_request_model=create_get_request_model(paging),
        search_post_request_model=create_post_request_model(paging),
    )
    app = api.app
    if folder is not None:
        app.mount("/data", StaticFiles(directory=folder))

    @app.middleware("http")
    async def gate(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        path = request.url.path
        state.asked[f"{request.method} {path}"] += 1
        for end, status in state.failing.items():
            if path.endswith(end) and (state.heads or request.method != "HEAD"):
                return Response("later", status)
        if state.busy and not path.startswith("/data"):
            state.busy -= 1
            return Response("later", 429, {"Retry-After": "0.05"})
        if path == "/search" and request.method == "POST" and not state.post:
            return Response("no", 405)
        if path.startswith("/data") and state.signed and not path.endswith(".json"):
            try:
                good = float(request.query_params["sig"]) > time.time()
            except (KeyError, ValueError):
                good = False
            state.used[str(request.url)] += 1
            if not good or state.used[str(request.url)] > state.uses:
                state.refused += 1
                return Response("expired", 403)
        if path == "/data/get":
            if "file" not in request.query_params:
                return Response("which?", 403)
            request.scope["path"] = f"/data/{request.query_params['file']}"
        return await call_next(request)

    return app


@contextmanager
def serving(state: State, folder: Path | None = None) -> Iterator[str]:
    """The address of the API while it runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(128)
        config = uvicorn.Config(application(state, folder), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
