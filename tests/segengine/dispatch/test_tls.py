"""Certificates that cannot serve are refused before any scheduler is asked, by the key of the job."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import pytest

from segengine.dispatch import tls
from segengine.errors import JobError, SegengineError
from segengine.job import load_job
from tests.authority import Authority

PLACE = "tls://127.0.0.1:9"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


def refused(address: str, options: dict[str, Any]) -> str:
    with pytest.raises(JobError) as caught:
        tls.security_of(address, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_certificates_come_from_files(authority: Authority) -> None:
    options = authority.options("driver")
    security = tls.security_of(PLACE, options)
    assert security is not None
    assert security.require_encryption
    found = security.get_tls_config_for_role("client")
    assert {name: found[name] for name in ("cert", "key")} == {
        name: options[name] for name in ("cert", "key")
    }
    assert found["ca_file"] == options["ca"]
    assert tls.security_of("tcp://127.0.0.1:9", {}) is None


def test_certificates_come_from_dasks_settings(authority: Authority) -> None:
    options = authority.options("driver")
    names = {"ca-file": "ca", "client.cert": "cert", "client.key": "key"}
    settings = {f"distributed.comm.tls.{dask}": options[ours] for dask, ours in names.items()}
    with dask.config.set(settings):
        security = tls.security_of(PLACE, {})
        assert security is not None
        assert security.tls_client_key == options["key"]
        # A key belongs to its own certificate.
        said = refused(PLACE, {"cert": options["cert"]})
    assert said.startswith(f"cluster.options: cert: {options['cert']}: holds no key")
    with dask.config.set({**settings, "distributed.comm.tls.client.cert": "/nowhere/a.pem"}):
        said = refused(PLACE, {"ca": options["ca"]})
    assert said == "distributed.comm.tls.client.cert: /nowhere/a.pem: there is no such file"


def test_a_certificate_and_its_key_may_lie_in_one_file(authority: Authority) -> None:
    options = authority.options("driver")
    both = authority.folder / "both.pem"
    both.write_text(Path(options["key"]).read_text() + Path(options["cert"]).read_text())
    assert tls.security_of(PLACE, {"ca": options["ca"], "cert": str(both)}) is not None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ca", None, "ca: a tls:// address needs ca, cert and key; name the files, or set DASK_"),
        ("cert", None, "set DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT"),
        ("ca", "/nowhere/ca.pem", "ca: /nowhere/ca.pem: there is no such file"),
        ("key", "/nowhere/key.pem", "key: /nowhere/key.pem: there is no such file"),
        ("ca", b"nothing", "holds no certificate in PEM"),
        ("cert", b"nothing", "holds no certificate in PEM"),
        ("key", b"nothing", "holds no key without a passphrase that fits cluster.options: cert"),
        ("key", "another", "holds no key without a passphrase that fits"),
    ],
)
def test_what_cannot_serve_is_refused_by_its_key(
    authority: Authority, tmp_path: Path, name: str, value: Any, said: str
) -> None:
    options: dict[str, Any] = authority.options("driver")
    if isinstance(value, bytes):
        (tmp_path / "file").write_bytes(value)
        value = str(tmp_path / "file")
    elif value == "another":
        value = str(authority.issue("another")[1])
    options[name] = value
    found = refused(PLACE, {n: v for n, v in options.items() if v is not None})
    assert found.startswith(f"cluster.options: {name}: ")
    assert said in found


def test_a_key_with_a_passphrase_asks_nobody(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    options = authority.options("driver")
    key = serialization.load_pem_private_key(Path(options["key"]).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert "without a passphrase" in refused(PLACE, {**options, "key": str(locked)})


def test_certificates_go_with_a_tls_address(authority: Authority) -> None:
    said = refused("tcp://scheduler:8786", authority.options("driver"))
    assert said.startswith("cluster.options: ca: goes with an address that begins with tls://")
    assert said.endswith("cluster.address is tcp://scheduler:8786")


def test_their_paths_are_taken_against_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "source: {paths: [photos]}\nsegmenter: {kind: threshold}\nstore: {path: m.zarr}\n"
        "cluster: {kind: address, address: 'tls://a:1', options: {ca: tls/ca.pem, cert: /c}}\n"
    )
    job = load_job(tmp_path / "job.yaml")
    assert job.cluster.options == {"ca": str(tmp_path / "tls" / "ca.pem"), "cert": "/c"}


@contextmanager
def server(context: ssl.SSLContext | None, greeting: bytes = b"") -> Iterator[str]:
    """One that greets who comes, with or without TLS; its address."""

    def wrapped(plain: socket.socket) -> socket.socket:
        return context.wrap_socket(plain, server_side=True) if context else plain

    def serve() -> None:
        with suppress(OSError), closing(listening):
            while True:
                with listening.accept()[0] as plain, suppress(OSError), wrapped(plain) as channel:
                    channel.sendall(greeting)
                    while channel.recv(1 << 16):
                        pass

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"tls://127.0.0.1:{port}"
    listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def context_of(authority: Authority, name: str, days: int = 1) -> ssl.SSLContext:
    """As a Dask scheduler's: it wants to see a certificate of the same authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca))
    context.load_cert_chain(*authority.issue(name, days=days))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def shaken(address: str, options: dict[str, str]) -> str:
    security = tls.security_of(address, options)
    with pytest.raises(SegengineError) as caught:
        tls.shake_hands(address, security, options)
    assert str(caught.value).startswith(f"cluster.address: {address}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_who_trusts_whom_is_found_out_by_a_handshake(authority: Authority, tmp_path: Path) -> None:
    options, theirs = authority.options("driver"), Authority(tmp_path / "theirs")
    security = tls.security_of(PLACE, options)
    assert security is not None
    with server(context_of(authority, "scheduler"), b"hello") as place:
        tls.shake_hands(place, security, options)
        assert tls.speaks_tls(place)
        stranger = {**theirs.options("driver"), "ca": options["ca"]}
        said = shaken(place, stranger)
        assert f"it refuses our certificate, cluster.options: cert, {stranger['cert']}: " in said
        assert "unknown ca" in said
        stranger = {**options, "ca": str(theirs.ca)}
        said = shaken(place, stranger)
        assert f"its certificate is not one of cluster.options: ca, {theirs.ca}: " in said
    with server(context_of(authority, "late", days=-1), b"hello") as place:
        assert "certificate has expired" in shaken(place, options)
    with server(None, b"\x08" * 99) as place:
        assert shaken(place, options).endswith(
            "does not speak TLS; write tcp://, or start the scheduler with certificates"
        )
        assert not tls.speaks_tls(place.replace("tls", "tcp"))


def test_who_never_answers_is_not_waited_for(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "PATIENCE", 0.2)
    options = authority.options("driver")
    with server(None) as place:
        said = shaken(place, options)
    assert "no handshake within 0.2 s; is the scheduler running, and does it speak TLS?" in said
    assert "refused; is the scheduler running?" in shaken(place, options)
