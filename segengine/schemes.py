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
_VIRTUAL = re.compile(r"(/vsi[a-z0-9_]+)[/?]", re.IGNORECASE)


def require_served(path: str, key: str, schemes: tuple[str, ...] | None = None) -> None:
    """Raise JobError, naming the key, for a URL of another kind than those served."""
    reason = refusal(path, schemes)
    if reason is not None:
        raise JobError(f"{key}: {reason}")


def refusal(path: str, schemes: tuple[str, ...] | None = None) -> str | None:
    """Why a path or a URL is not served; None: it is. Names the scheme, never the whole URL."""
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
    if "::" in bare:
        return (
            f"{scheme}://...::... chains one reader to another, which is not served; {_use(known)}"
        )
    return None


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it. Raises ValueError for one not served."""
    reason = refusal(url)
    if reason is not None:
        raise ValueError(reason)
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url, **options)
    return system, str(path)


def _use(known: tuple[str, ...]) -> str:
    return f"use a local path, or one of {', '.join(f'{scheme}://' for scheme in known)}"
