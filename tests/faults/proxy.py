"""An S3 that has bad minutes: a proxy on loopback that answers some requests itself."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BODY = "<Error><Code>{code}</Code><Message>{code}, says the proxy</Message></Error>"
STATUS = {"SlowDown": 503, "InternalError": 500, "AccessDenied": 403}
_HOP = ("connection", "transfer-encoding", "keep-alive", "content-length")


@dataclass
class Rule:
    """What is answered to requests, and how often."""

    code: str
    """An error's; `reset` closes the connection without a word."""
    matches: Callable[[str, str], bool]
    """Of the method and the path."""
    times: int = 1 << 30
    done: list[str] = field(default_factory=list)


class Proxy(ThreadingHTTPServer):
    """Forwards to a server unless a rule matches."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        self.server = urlsplit(server)
        self.rules: list[Rule] = []
        self.delay = 0.0
        """Seconds before a request is looked at."""
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def rule(self, method: str, path: str) -> Rule | None:
        """The rule that this request falls under."""
        with self.lock:
            for rule in self.rules:
                if len(rule.done) < rule.times and rule.matches(method, path):
                    rule.done.append(path)
                    return rule
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.delay)
        rule = self.server.rule(self.command, urlsplit(self.path).path)
        if rule is None:
            self._forward(body)
        elif rule.code == "reset":
            self.close_connection = True
        else:
            data = BODY.format(code=rule.code).encode()
            self._send(STATUS[rule.code], [("Content-Type", "application/xml")], data)

    def _forward(self, body: bytes) -> None:
        there = self.server.server
        client = http.client.HTTPConnection(str(there.hostname), there.port, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            client.request(self.command, self.path, body, headers)
            answer = client.getresponse()
            data = answer.read()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
            if self.command == "HEAD":
                kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
            self._send(answer.status, kept, data)
        finally:
            client.close()

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Not on the terminal."""


@contextmanager
def proxied(server: str) -> Iterator[Proxy]:
    """A proxy before a server."""
    with Proxy(server) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
