"""Addresses of what listens somewhere: `tcp://scheduler:8786`, `https://gateway/dask`."""

from __future__ import annotations

from urllib.parse import urlsplit

from segengine.urls import public


def flaw_of(address: str, schemes: tuple[str, str], port: bool) -> str:
    """What is wrong with an address, in words that follow its key; empty: nothing.

    `port`: it must name one, and nothing behind it.

    >>> flaw_of("tcp://scheduler:8786", ("tcp", "tls"), True)
    ''
    >>> flaw_of("tcp://scheduler", ("tcp", "tls"), True)
    "needs a port, as tcp://host:8786, got 'tcp://scheduler'"
    """
    got = f"got {public(address)!r}"
    if not address.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        return f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}, {got}"
    if not address.isprintable() or " " in address:
        return f"holds a blank, {got}"
    example = f"{address.partition(':')[0]}://host" + ":8786" * port
    try:
        parts = urlsplit(address)
        number = parts.port
    except ValueError:  # brackets that are not closed, letters for a port, or one beyond 65535
        return f"must be as {example}, with a port up to 65535, {got}"
    if not parts.hostname:
        return f"needs a host, as {example}, {got}"
    if number == 0 or (number is None and (port or parts.netloc.endswith(":"))):
        return f"needs a port, as {example}, {got}"
    if port and (f"{parts.scheme}://{parts.netloc}" != address or "@" in parts.netloc):
        return f"must be as {example} and no more, {got}"
    return ""
