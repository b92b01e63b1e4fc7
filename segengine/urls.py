r"""What of a URL may be shown or stored: scheme, host, port and path.

    https://user:secret@host:8443/nights/a.tif?sig=secret#page      as a reader is given it
    https://host:8443/nights/a.tif                                  as everyone else sees it

The full URL lives in a job, in a listing and in the tasks of workers, and nowhere else: whatever is
written to a store, a log, Prefect or a terminal, and every message of an error, goes through `public`.
It keeps what is on its list and drops all else, also where URLs stand inside a longer text, behind
`/vsicurl/` or percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_UNKNOWN = "..."
"""What stands for a host that cannot be told from a password."""
_HOST = re.compile(r"(?:[\w.~%*?\[\]!{}-]*|\[[0-9a-fA-F:.]+\]|arn:[\w:.*-]*)(?::\d*)?")
_OBJECTS = frozenset(("s3", "s3a", "gs", "gcs", "file", "memory"))
"""Schemes of names without a query: `?` and `#` are parts of a key, or of a glob."""
_END = r"(?:[^\s\"'<>`]|'(?![\s,)\]}:;]|$))"
"""A character of a URL in a text; a quote that closes is none."""
# With one slash: as a path has it that was a URL.
_IN_TEXT = re.compile(
    r"(?P<scheme>(?:[a-zA-Z][a-zA-Z0-9+.-]*://|\b(?:https?|s3|gs|ftp):/(?!/)))"
    rf"(?P<authority>(?:[^\s/]*@)?[^\s/?#\"'<>`\\,)]*)"
    rf"(?P<path>[^\s?#\"'<>`]*)(?P<rest>[?#]{_END}*)?"
)
_ENCODED = re.compile(
    rf"[a-zA-Z][a-zA-Z0-9+.-]*%(?:25)*3A(?:%(?:25)*2F){{2}}{_END}*", re.IGNORECASE
)
_VIRTUAL = re.compile(rf"(/vsi\w+)\?{_END}*")
"""GDAL's other way to name a URL, with its headers beside it."""
_ASSIGNED = re.compile(rf"\?[\w.~%+-]+={_END}*")
"""The query of a URL that a blank cut off."""
_WEB_QUERY = re.compile(rf"\?{_END}+")
_CLOSING = "\"'`)]},;:."


def public(text: str) -> str:
    """A text with all URLs in it cut down to scheme, host, port and path; others as they are.

    >>> public("403: url='https://me:secret@host:81/a.png?sig=secret', after s3://k:v@bucket/a#b.png")
    "403: url='https://host:81/a.png', after s3://bucket/a#b.png"
    >>> public("/vsicurl?header=Authorization:secret&url=https%3A%2F%2Fhost%2Fa.tif%3Fsig%3Dsecret")
    '/vsicurl'
    """
    if ":/" not in text and "/vsi" not in text and "%" not in text:
        return text
    found = _VIRTUAL.sub(r"\1", text)
    found = _ENCODED.sub(lambda match: public(_decoded(match[0])), found)
    if ":/" not in found:
        return found
    found = _IN_TEXT.sub(_shown, found)
    found = _ASSIGNED.sub("", found)
    return _WEB_QUERY.sub("", found) if re.search(r"https?:/", found, re.IGNORECASE) else found


def without_query(url: str) -> str:
    """A URL as `public` has it, with `?` at its end where that left out a query of it.

    >>> without_query("https://me:secret@host/get?band=red&sig=secret"), without_query("https://host/a.tif")
    ('https://host/get?', 'https://host/a.tif')
    """
    is_web = url[:8].lower().startswith(("http://", "https://"))
    query = is_web and "?" in url.partition("#")[0]
    return public(url) + "?" * query


def public_values(value: Any) -> Any:
    """A JSON value with every text in it, the keys too, as `public` has it."""
    if isinstance(value, str):
        return public(value)
    if isinstance(value, Mapping):
        return {public_values(k): public_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [public_values(v) for v in value]
    return value


def _decoded(text: str) -> str:
    while "://" not in text:
        text = unquote(text)
    return text


def _shown(match: re.Match[str]) -> str:
    scheme, authority, path = match["scheme"], match["authority"], match["path"]
    rest = match["rest"] or ""
    host = authority.rpartition("@")[2]
    if not path and re.search(r":\d+:$", authority):
        host, rest = host[:-1], ":"  # the text's: `tcp://host:8786: it does not answer`
    if not _HOST.fullmatch(host):
        return f"{scheme}{_UNKNOWN}{_closing(match[0])}"
    if ":/" in path:
        path = public(path)
    kept = (
        rest
        if scheme.partition(":")[0].lower() in _OBJECTS and not re.search("[=&@]", rest)
        else _closing(rest)
    )
    return f"{scheme}{host}{path}{kept}"


def _closing(text: str) -> str:
    """The brackets, quotes and stops that a text goes on with after a URL."""
    return text[len(text.rstrip(_CLOSING)) :]


def printable(text: str) -> str:
    r"""`text` on one line, without credentials that a URL may carry, and with everything that could
    steer a terminal written as an escape.

    >>> print(printable("a\x1b[31m\nb \u202e.jpg"))
    a\x1b[31m\nb \u202e.jpg
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in public(text)
    )
