"""A scheduler that speaks TLS: what is shown to it, and what is wrong where the two do not agree.

Dask would try until its time is over, and say that it is. So the first handshake is made here.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from segengine.errors import JobError, SegengineError
from segengine.terms.dask import Address

if TYPE_CHECKING:
    from distributed import Security

CERTIFICATES = Address.files
PATIENCE = 5.0
"""Seconds in which a scheduler answers a handshake."""
_DASK = {
    "ca": ("tls_ca_file", "ca-file"),
    "cert": ("tls_client_cert", "client.cert"),
    "key": ("tls_client_key", "client.key"),
}
"""Of each option: Dask's field, and the setting that stands in for it, below `distributed.comm.tls`."""


def security_of(address: str, options: Mapping[str, Any]) -> Security | None:
    """What the scheduler is shown; None where it does not speak TLS. Raises JobError naming the key."""
    for name in options:
        if not _is_tls(address):
            raise JobError(
                f"cluster.options: {name}: goes with an address that begins with tls://, and "
                f"cluster.address is {address}"
            )
    if not _is_tls(address):
        return None
    from distributed import Security

    given = {_DASK[name][0]: os.path.expanduser(value) for name, value in options.items()}
    if "cert" in options:  # Dask's own key belongs to Dask's own certificate
        given.setdefault("tls_client_key", None)
    security = Security(require_encryption=True, **given)
    _check(security, options)
    return security


def _listed() -> str:
    return ", ".join(CERTIFICATES[:-1]) + f" and {CERTIFICATES[-1]}"


def _is_tls(address: str) -> bool:
    return address.startswith("tls://")


def _key(name: str, options: Mapping[str, Any]) -> str:
    """Where that certificate is named."""
    return (
        f"cluster.options: {name}" if name in options else f"distributed.comm.tls.{_DASK[name][1]}"
    )


def _check(security: Security, options: Mapping[str, Any]) -> None:
    """Raise JobError where a file is missing, or is not what it is to be."""
    files = {name: getattr(security, field) for name, (field, _) in _DASK.items()}
    for name in ("ca", "cert"):
        if not files[name]:
            setting = _DASK[name][1]
            variable = "DASK_DISTRIBUTED__COMM__TLS__" + setting.upper().replace(".", "__")
            raise JobError(
                f"cluster.options: {name}: a tls:// address needs {_listed()}; name the files, or "
                f"set {variable.replace('-', '_')}"
            )
    for name, file in files.items():
        if file and "\n" not in file and not os.path.isfile(file):
            raise JobError(f"{_key(name, options)}: {file}: there is no such file")
    if any("\n" in file for file in files.values() if file):
        return  # the certificates themselves, in Dask's settings
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=files["ca"])
    except (ssl.SSLError, OSError) as error:
        raise _unreadable("ca", files, options, "holds no certificate in PEM", error) from error
    try:
        context.load_verify_locations(cafile=files["cert"])
    except (ssl.SSLError, OSError) as error:
        raise _unreadable("cert", files, options, "holds no certificate in PEM", error) from error
    name = "key" if files["key"] else "cert"
    try:  # with a passphrase, else OpenSSL would ask the terminal for one
        context.load_cert_chain(files["cert"], files["key"], password=lambda: "none")
    except (ssl.SSLError, OSError) as error:
        what = "holds no key without a passphrase that fits " + _key("cert", options)
        raise _unreadable(name, files, options, what, error) from error


def _unreadable(
    name: str, files: Mapping[str, str], options: Mapping[str, Any], what: str, error: OSError
) -> JobError:
    said = _reason(error) if isinstance(error, ssl.SSLError) else error.strerror
    return JobError(f"{_key(name, options)}: {files[name]}: {what} ({said})")


def shake_hands(address: str, security: Security, options: Mapping[str, Any]) -> None:
    """Raise SegengineError where the scheduler and we do not trust each other, and say which."""
    from distributed.comm.addressing import parse_host_port

    where = f"cluster.address: {address}"
    context = security.get_connection_args("client")["ssl_context"]
    try:
        host = parse_host_port(address.removeprefix("tls://"))
        with (
            socket.create_connection(host, timeout=PATIENCE) as plain,
            context.wrap_socket(plain) as channel,
        ):
            # It looks at our certificate after we have looked at its; then it speaks first.
            channel.recv(1)
    except ssl.SSLCertVerificationError as error:
        raise SegengineError(
            f"{where}: its certificate is not one of {_key('ca', options)}, {security.tls_ca_file}: "
            f"{error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise SegengineError(f"{where}{_refusal(error, security, options)}") from error
    except TimeoutError as error:
        raise SegengineError(
            f"{where} does not answer: no handshake within {PATIENCE:g} s; is the scheduler running, "
            "and does it speak TLS?"
        ) from error
    except (OSError, ValueError) as error:
        raise SegengineError(
            f"{where} does not answer: {error}; is the scheduler running?"
        ) from error


def _refusal(error: ssl.SSLError, security: Security, options: Mapping[str, Any]) -> str:
    if error.reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "HTTP_REQUEST"):
        return " does not speak TLS; write tcp://, or start the scheduler with certificates"
    if error.reason and "ALERT" in error.reason:
        return (
            f": it refuses our certificate, {_key('cert', options)}, {security.tls_client_cert}: "
            f"{_reason(error)}"
        )
    return f": no handshake: {_reason(error)}"


def _reason(error: ssl.SSLError) -> str:
    return str(error.reason or error).lower().replace("_", " ")


def speaks_tls(address: str) -> bool:
    """Whether who does not talk to us at a tcp:// address would, at tls://."""
    from distributed.comm.addressing import parse_host_port

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError, ValueError):
        host = parse_host_port(address.removeprefix("tcp://"))
        with socket.create_connection(host, timeout=PATIENCE) as plain, context.wrap_socket(plain):
            return True
    return False
