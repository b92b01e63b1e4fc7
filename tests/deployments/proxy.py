"""A proxy before a Prefect API: it answers late, fails now and then, or goes away for good."""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOP = ("connection", "keep-alive", "transfer-encoding", "date", "server")


class Proxy:
    """Between a client and the API at `port`; what it does can be changed at any time."""

    def __init__(self, port: int, *, delay: float = 0.0, failing: float = 0.0) -> None:
        self.upstream, self.delay, self.failing = port, delay, failing
        self.random = random.Random(16)
        self.answered, self.failed = 0, 0
        self.open: set[socket.socket] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                proxy.open.add(self.connection)

            def finish(self) -> None:
                proxy.open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def handle(self) -> None:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    super().handle()

            def log_message(self, *_: Any) -> None:
                return

            def do_GET(self) -> None:
                if self.headers.get("Upgrade", "").lower() == "websocket":
                    proxy.tunnel(self)
                else:
                    proxy.forward(self)

            do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                return

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def forward(self, handler: BaseHTTPRequestHandler) -> None:
        """One request and its answer."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if self.failing and self.random.random() < self.failing:
            self.failed += 1
            if self.random.random() < 0.5:
                reset(handler.connection)
            else:
                handler.send_response(503)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        with contextlib.closing(upstream):
            headers = {k: v for k, v in handler.headers.items() if k.lower() != "connection"}
            upstream.request(handler.command, handler.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
        time.sleep(self.delay)
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
        self.answered += 1

    def tunnel(self, handler: BaseHTTPRequestHandler) -> None:
        """A web socket: bytes both ways, the first of the API's late."""
        handler.close_connection = True
        with socket.create_connection(("127.0.0.1", self.upstream)) as upstream:
            head = "".join(f"{k}: {v}\r\n" for k, v in handler.headers.items())
            upstream.sendall(f"GET {handler.path} HTTP/1.1\r\n{head}\r\n".encode())
            pumps = (
                threading.Thread(target=pump, args=(handler.connection, upstream, 0.0)),
                threading.Thread(target=pump, args=(upstream, handler.connection, self.delay)),
            )
            for thread in pumps:
                thread.start()
            for thread in pumps:
                thread.join()

    def go(self) -> None:
        """Go away for good: what is open is reset, nothing new is taken."""
        self.server.shutdown()
        self.server.server_close()
        for connection in tuple(self.open):
            reset(connection)


def reset(connection: socket.socket) -> None:
    """End a connection as a process that was killed does."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def pump(source: socket.socket, target: socket.socket, delay: float) -> None:
    """Bytes from one to the other until one of them ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            time.sleep(delay)
            delay = 0.0
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
