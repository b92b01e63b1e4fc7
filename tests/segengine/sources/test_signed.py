"""Signatures: when they run out, who renews them, and what is said where that fails."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from segengine.errors import JobError, TransientInputError
from segengine.sources import _signed
from segengine.sources._signed import expiry, signed

from .stac_scenes import install_signer

URL = "https://host/a.tif"
Install = Callable[[Callable[[str], Any]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a function as the signer `mine`, as the entry point of another package would."""

    return partial(install_signer, monkeypatch)


def test_a_signature_is_kept_until_it_runs_out(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def sign(url: str) -> str:
        calls.append(url)
        return f"{url}?Expires={now + 600:.0f}&Signature={len(calls)}"

    install(sign)
    now = 1_777_597_200.0
    monkeypatch.setattr(_signed, "time", lambda: now)
    first = signed(URL, "mine")
    assert first.endswith("Signature=1")
    assert signed(URL, "mine") == first
    now += 530
    assert signed(URL, "mine") == first
    now += 20  # less than a minute is left
    assert signed(URL, "mine").endswith("Signature=2")
    assert signed(URL, "mine", anew=True).endswith("Signature=3")
    assert calls == [URL] * 3


def test_one_that_never_runs_out_is_kept(install: Install) -> None:
    calls: list[str] = []
    install(lambda url: calls.append(url) or f"{url}?key=1")
    assert {signed(URL, "mine") for _ in range(3)} == {f"{URL}?key=1"}
    assert len(calls) == 1


def test_short_lives_are_used_for_most_of_their_time(install: Install) -> None:
    calls: list[str] = []
    install(lambda url: calls.append(url) or f"{url}?Expires={time.time() + 10}")
    for _ in range(5):
        signed(URL, "mine")
    assert len(calls) == 1


def test_local_files_and_jobs_without_a_signer_are_left_alone(install: Install) -> None:
    install(lambda url: pytest.fail("asked for nothing"))
    assert signed("/data/a.tif", "mine") == "/data/a.tif"
    assert signed(URL, None) == URL


@pytest.mark.parametrize("given", [None, 7, "", "/etc/passwd", "file:relative", "ftp://host/a"])
def test_what_is_no_url_is_said(install: Install, given: Any) -> None:
    install(lambda url: given)
    with pytest.raises(TransientInputError, match="cannot be signed by mine: what it gives"):
        signed(URL, "mine")


def test_a_signer_that_fails_is_said_in_a_line(install: Install) -> None:
    def sign(url: str) -> str:
        raise RuntimeError(f"no token for {url}?key=secret\nmore")

    install(sign)
    with pytest.raises(TransientInputError, match="cannot be signed by mine: no token") as raised:
        signed(URL, "mine")
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_one_that_is_not_installed_is_named() -> None:
    with pytest.raises(JobError, match=r"planetary-computer"):
        signed(URL, "planetary")


@pytest.mark.parametrize(
    ("query", "expires"),
    [
        ("X-Amz-Date=20260501T000000Z&X-Amz-Expires=3600", 1_777_597_200),
        ("X-Goog-Date=20260501T000000Z&X-Goog-Expires=3600", 1_777_597_200),
        ("se=2026-05-01T01%3A00%3A00Z&sig=x", 1_777_597_200),
        ("se=2026-05-01t01%3A00%3A00z&sig=x", 1_777_597_200),
        ("st=2026-05-01&se=2026-05-01T01:00:00", 1_777_597_200),
        ("Expires=1777597200&Signature=x", 1_777_597_200),
        ("", None),
        ("sig=x", None),
        ("se=tomorrow", None),
        ("Expires=never", None),
        ("X-Amz-Date=20260501T000000Z", None),
    ],
)
def test_when_a_signature_runs_out(query: str, expires: float | None) -> None:
    assert expiry(f"{URL}?{query}") == expires


def test_the_planetary_computers_own_package_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens come from a server on loopback, in the form of the real one's."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    asked: list[str] = []

    class Tokens(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = b'{"msft:expiry": "2999-01-01T00:00:00Z", "token": "se=2999-01-01&sig=s"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, at what the package is written with
        from planetary_computer.settings import Settings
    try:
        Settings.get.cache_clear()
        monkeypatch.setenv("PC_SDK_SAS_URL", f"http://127.0.0.1:{server.server_port}")
        url = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/a.tif"
        found = signed(url, "planetary-computer")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        Settings.get.cache_clear()
    assert found == f"{url}?se=2999-01-01&sig=s"
    assert len(asked) == 1
    assert "sentinel2l2a01" in asked[0]


def test_without_that_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "planetary_computer", None)
    monkeypatch.setattr(_signed, "_HELD", _signed._Held())
    with pytest.raises(TransientInputError, match=r"pip install .segengine.planetary-computer"):
        signed(URL, "planetary-computer")
