"""Which URLs are served: one list, for what is read and what is written.

https://host/a.tif, s3://bucket/a       yes: the scheme is on the list
zip://a.zip::https://host, github://    no: fsspec would serve them, and run or open what they name
"""

from __future__ import annotations

import os
import re
from typing import Any

from segengine.errors import JobError

SERVED = ("file", "http", "https", "s3", "s3a", "gs", "gcs")
"""In lower case; the others are written `s3://`, `gs://`."""
WRITTEN = ("file", "s3", "s3a", "gs", "gcs")
"""Where a store can lie that a run writes."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]*):(//|/|\\)")
_CHAIN = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]*)::(?=.*://|/)", re.DOTALL)
_DATA = re.compile(r"(data):[\w/+.-]*[;,]", re.IGNORECASE)
_ADDRESS = re.compile(r"^(https?://(?:[^/@]*@)?)\[[0-9A-Fa-f:.]+\](?=[:/?#]|$)")
_PATTERN = re.compile(rb"[*?\[{]")
"""Of a glob, or with fields: not a name itself."""
_PATH_MAX, _NAME_MAX = 4096, 255
"""Bytes, as Linux has them."""
_VIRTUAL = re.compile(r"(/vsi[a-z0-9_]+)[/?]", re.IGNORECASE)


def require_served(path: str, key: str, schemes: tuple[str, ...] | None = None) -> None:
    """Raise JobError, naming the key, for a URL of another kind than those served."""
    reason = refusal(path, schemes)
    if reason is not None:
        raise JobError(f"{key}: {reason}")


def require_path(path: str, key: str) -> None:
    """Raise JobError, naming the key, for what no file system takes as a path."""
    reason = unusable(path)
    if reason is not None:
        raise JobError(f"{key}: {reason}")


def unusable(path: str) -> str | None:
    """Why no file system takes a path; None: one may."""
    if "\0" in path:
        return "holds a NUL character, which no path can; take it out"
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate), which no path can; take it out"
    longest = max(
        (part for part in raw.split(b"/") if not _PATTERN.search(part)), default=b"", key=len
    )
    if "://" not in path and (len(raw) >= _PATH_MAX or len(longest) > _NAME_MAX):
        return (
            f"is too long for a path: {len(raw):,} bytes, {len(longest):,} in one name; at most "
            f"{_PATH_MAX - 1:,} and {_NAME_MAX}"
        )
    return None


def refusal(path: str, schemes: tuple[str, ...] | None = None) -> str | None:
    """Why a path or a URL is not served; None: it is. Names the scheme, never the whole URL."""
    if (reason := unusable(path)) is not None:
        return reason
    known = SERVED if schemes is None else schemes
    bare = path.strip()
    if match := _CHAIN.match(bare):
        return f"{match[1]}::... chains one reader to another, which is not served; {_use(known)}"
    if match := _DATA.match(bare):
        return f"{match[1]}: is not served; {_use(known)}"
    if (match := _VIRTUAL.match(bare)) and not os.path.exists(match[1]):
        return f"{match[1]} is GDAL's own way to name a file, which is not served; {_use(known)}"
    match = _SCHEME.match(bare)
    if match is None:
        return None
    scheme, slashes = match[1], match[2]
    if scheme not in known:
        hint = f"write {scheme.lower()}://" if scheme.lower() in known else _use(known)
        return f"{scheme}:// is not served; {hint}"
    if slashes != "//" or "\\" in bare[match.end() :].partition("/")[0]:
        return f"write {scheme}:// with two slashes, and none backwards"
    if bare != path or any(ord(letter) < 32 for letter in path):
        return f"there is white space around a {scheme}:// URL; take it out"
    if "::" in _without_address(bare):
        return (
            f"{scheme}://...::... chains one reader to another, which is not served; {_use(known)}"
        )
    return None


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it. Raises ValueError for one not served."""
    reason = refusal(url)
    if reason is not None:
        raise ValueError(reason)
    if "::" in url:  # an address of IPv6, which fsspec would take for a chain
        import fsspec

        system = fsspec.filesystem(url.partition("://")[0], **options)
        return system, str(system._strip_protocol(url))
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url, **options)
    return system, str(path)


def _without_address(url: str) -> str:
    """A URL without its host where that is an address of IPv6: http://[::1]:8080/a.tif."""
    return _ADDRESS.sub(r"\1", url)


def _use(known: tuple[str, ...]) -> str:
    return f"use a local path, or one of {', '.join(f'{scheme}://' for scheme in known)}"
