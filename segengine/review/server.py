"""The HTTP server of the page: loopback, one token, no other host or origin, nothing from outside.

    GET  /?token=...                       the page: one document, with its style and scripts inside
    GET  /api/desk                         classes, colours, number of frames
    GET  /api/frames?start=&count=&find=   a page of the list
    GET  /api/frame/N?window=K             size, tag and last save of a frame
    GET  /api/frame/N/picture?window=K     PNG or JPEG
    GET  /api/frame/N/mask?window=K        labels, row by row, zlib
    GET  /api/frame/N/correction?window=K  the same; ETag
    PUT  /api/frame/N/correction?window=K  the same, over what If-Match names; 409: another was first
    GET, PUT /api/frame/N/objects          ids (uint32); the PUT appends the labels of each pixel
    GET  /api/frame/N/superpixels?window=K&y=&x=

A browser sends `X-Token`, which no other site's form or picture can; `Host` is compared for pages that
had their name point here (DNS rebinding), `Origin` for those that ask all the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import zlib
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from segengine.corrections import ConflictError
from segengine.errors import JobError, MissingTruthError, SegengineError
from segengine.review.desk import Desk, MissingError

ADDRESS = "127.0.0.1"
SCRIPTS = ("state", "raster", "view", "tools", "objects", "remote", "keys", "main")
"""In the order in which they are read: each knows those before."""
PAGE = 200
"""Most frames of the list that are sent at once."""
_IDLE = 120
"""Seconds after which a silent connection is closed."""


class Server(ThreadingHTTPServer):
    """Serves a desk until the process ends."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, desk: Desk, token: str, port: int = 0) -> None:
        """`port` 0: one that is free. Raises JobError where it is taken."""
        self.desk, self.token = desk, token
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            raise JobError(
                f"--port: {port} cannot be had ({error}); choose another, or leave it out"
            ) from error

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://{ADDRESS}:{self.server_port}"

    @property
    def url(self) -> str:
        """What opens the page."""
        return f"{self.origin}/?token={self.token}"

    @cached_property
    def page(self) -> tuple[bytes, str]:
        """The page, and its Content-Security-Policy."""
        here = files("segengine.review")
        style = (here / "page.css").read_text(encoding="utf-8")
        scripts = [(here / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
        text = (here / "page.html").read_text(encoding="utf-8")
        text = text.replace("{{style}}", f"<style>{style}</style>")
        text = text.replace(
            "{{scripts}}", "".join(f"<script>{script}</script>" for script in scripts)
        )
        text = text.replace("{{title}}", html.escape(self.desk.title))
        allowed = {
            "default-src": "'none'",
            "script-src": " ".join(map(_hash, scripts)),
            "style-src": _hash(style),
            "img-src": "blob: data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        return text.encode(), "; ".join(f"{key} {value}" for key, value in allowed.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _RefusedError(Exception):
    """A request that is not answered: its status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "segengine", ""
    timeout = _IDLE

    def do_GET(self) -> None:
        """Answer what is read."""
        self._answer(self._get)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        """Answer what is saved."""
        self._answer(self._put)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody asked for a log, and it would hold the token."""

    def _answer(self, how: Any) -> None:
        try:
            self._admit()
            how()
        except _RefusedError as error:
            self._send_json({"error": str(error)}, error.status)
        except ConflictError as error:
            self._send_json({"error": str(error), "tag": error.tag, "save": error.save}, 409)
        except MissingError as error:
            self._send_json({"error": str(error)}, 404)
        except (ValueError, MissingTruthError) as error:
            self._send_json({"error": str(error)}, 400)
        except SegengineError as error:
            self._send_json({"error": str(error)}, 500)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def _admit(self) -> None:
        """Raise _RefusedError for whoever is not our own page."""
        if self.headers.get_all("Host") != [f"{ADDRESS}:{self.server.server_port}"]:
            raise _RefusedError(403, "another host")
        if self.headers.get("Origin", self.server.origin) != self.server.origin:
            raise _RefusedError(403, "another origin")
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.route = parts.path.strip("/").split("/")
        given = self.headers.get("X-Token", "")
        if not given and self.command in ("GET", "HEAD"):
            given = self.query.get("token", "")
        if not hmac.compare_digest(given.encode(), self.server.token.encode()):
            raise _RefusedError(403, "no token, or another; open the line that the command printed")

    # ---------------------------------------------------------------------------------------- reads

    def _get(self) -> None:
        desk = self.server.desk
        match self.route:
            case [""]:
                page, policy = self.server.page
                self._send(page, "text/html; charset=utf-8", {"Content-Security-Policy": policy})
            case ["api", "desk"]:
                self._send_json(desk.about())
            case ["api", "frames"]:
                count = min(self._number("count", PAGE), PAGE)
                words = self.query.get("find", "")
                self._send_json(desk.listed(self._number("start"), count, words))
            case ["api", "frame", number]:
                self._send_json(desk.opened(_integer(number), self._number("window")))
            case ["api", "frame", number, part]:
                self._get_part(_integer(number), self._number("window"), part)
            case _:
                raise _RefusedError(404, "no such page")

    def _get_part(self, number: int, window: int, part: str) -> None:
        desk = self.server.desk
        match part:
            case "picture":
                kind, data = desk.picture(number, window)
                self._send(data, kind)
            case "mask":
                self._send_map(desk.mask(number, window))
            case "correction":
                found, tag = desk.correction(number, window)
                self._send_map(found, {"ETag": f'"{tag}"'})
            case "objects":
                ids, tag = desk.objects_of(number)
                self._send_map(ids, {"ETag": f'"{tag}"'})
            case "superpixels":
                at = self._number("y"), self._number("x")
                top, left, tile = desk.superpixels(number, window, *at)
                self._send_map(tile, {"X-Box": f"{top} {left} {tile.shape[0]} {tile.shape[1]}"})
            case _:
                raise _RefusedError(404, "no such page")

    # --------------------------------------------------------------------------------------- writes

    def _put(self) -> None:
        desk = self.server.desk
        match self.route:
            case ["api", "frame", number, "correction" | "objects" as part]:
                which, window = _integer(number), self._number("window")
            case _:
                raise _RefusedError(404, "no such page")
        opened = desk.opened(which, window)
        if "refused" in opened:
            raise _RefusedError(404, opened["refused"])
        shape = opened["height"], opened["width"]
        pixels, seen = shape[0] * shape[1], self.headers.get("If-Match", "").strip('"')
        if part == "correction":
            body = self._body(pixels * desk.dtype.itemsize)
            labels = np.frombuffer(body, desk.dtype.newbyteorder("<")).reshape(shape)
            self._send_json(desk.save(which, window, labels, seen))
            return
        if not opened["objects"]:
            raise MissingError("no objects")
        body = self._body(pixels * (4 + desk.dtype.itemsize))
        ids = np.frombuffer(body, "<u4", pixels).reshape(shape)
        labels = np.frombuffer(body, desk.dtype.newbyteorder("<"), offset=4 * pixels).reshape(shape)
        self._send_json(desk.save_objects(which, ids, labels, seen))

    def _body(self, size: int) -> bytes:
        """The body, inflated to `size` bytes. Raises _RefusedError for any other."""
        length = _integer(self.headers.get("Content-Length", ""))
        if length > size + size // 1000 + 1024:
            self.close_connection = True
            raise _RefusedError(413, "more than the frame holds")
        data = self.rfile.read(length)
        inflate = zlib.decompressobj()
        try:
            body = inflate.decompress(data, size + 1)
        except zlib.error as error:
            raise _RefusedError(400, f"the map is damaged: {error}") from error
        if len(body) != size or not inflate.eof:
            raise _RefusedError(400, f"the map must have {size} bytes")
        return body

    # -------------------------------------------------------------------------------------- answers

    def _number(self, name: str, default: int = 0) -> int:
        value = self.query.get(name)
        return default if value is None else _integer(value)

    def _send_map(self, values: Any, headers: dict[str, str] | None = None) -> None:
        plain = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        more = {"Content-Encoding": "deflate", **(headers or {})}
        self._send(zlib.compress(plain, 1), "application/octet-stream", more)

    def _send_json(self, found: Any, status: int = 200) -> None:
        self._send(json.dumps(found).encode(), "application/json", {}, status)
        if status >= 400 and self.command == "PUT":
            self.close_connection = True  # what is left of its body is no request

    def _send(
        self, data: bytes, kind: str, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self.send_response(status)
        safe = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "X-Frame-Options": "DENY",
        }
        for name, value in {**safe, **(headers or {})}.items():
            self.send_header(name, value)
        if status >= 400 and self.command == "PUT":
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _integer(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise _RefusedError(400, "not a number")
    return int(text)
