"""A web server on loopback that wants a token or a password: `python _guarded.py FOLDER`; prints its port.

A process of its own: GDAL holds the interpreter while it waits for an answer.
"""

from __future__ import annotations

import base64
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "SECRETuser", "SECRETword"
TOKENS = ("SECRETone/+=", "SECRETtwo/+=")


class Guarded(SimpleHTTPRequestHandler):
    """Files for those who know a token or the password; what is called `denied` for nobody."""

    def do_GET(self) -> None:
        if self._allowed():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._allowed():
            super().do_HEAD()

    def _allowed(self) -> bool:
        parts = urlsplit(self.path)
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        given = parse_qs(parts.query).get("token", [""])[0]
        asked = self.headers.get("Authorization") == f"Basic {known}"
        if "denied" in parts.path or not (asked or given in TOKENS):
            self.send_error(403, f"not with {self.path}")
            return False
        return True

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{path.stat().st_size}-{path.stat().st_mtime_ns}"')
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=sys.argv[1]))
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
