"""The published weights, fetched once into a cache folder; resumed where a connection broke."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urldefrag

from segengine.errors import SegengineError

COCO_URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5"
COCO_SIZE = 257_557_808
"""Bytes of the published file; no digest was published with it."""
COCO = "mask_rcnn_coco.h5"
RETRIES = 5
"""Attempts in a row that bring no byte before giving up."""
TIMEOUT = 30.0
"""Seconds a server may be silent."""
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """`SEGENGINE_CACHE`, else `segengine` in the user's cache folder."""
    own = os.environ.get("SEGENGINE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "segengine"


def resolve(weights: str, url: str | None = None) -> Path:
    """The file that `weights` names: a path, or `coco`, which is fetched where it is not cached.

    `url`: where to fetch `coco` from instead of its public release; `#sha256=<hex>` at its end is
    checked. Raises ValueError for a path without a file, SegengineError where nothing can be
    fetched.
    """
    if weights != "coco":
        path = Path(weights)
        if not path.is_file():
            raise ValueError(f"weights: {path}: there is no such file")
        return path
    target = cache_folder() / COCO
    if not target.is_file():
        fetch(url or COCO_URL, target, None if url else COCO_SIZE)
    return target


def fetch(url: str, target: Path, size: int | None = None) -> None:
    """Fetch a URL (http, https) into a file that appears only when it is whole.

    What arrived is kept beside it (`.part`) and continued, by this call after a broken connection
    or by a later one. `size` in bytes and a fragment `#sha256=<hex>` are checked.
    """
    plain, fragment = urldefrag(url)
    if not plain.startswith(("http://", "https://")):
        raise ValueError(f"weights_url: {url} is neither http nor https")
    digest = fragment.removeprefix("sha256=").lower() if fragment.startswith("sha256=") else None
    part = target.with_name(target.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, _locked(file):
            if target.is_file():  # another process was faster
                return
            file.seek(0, os.SEEK_END)  # it may have grown while another process held it
            total = _fetch_all(plain, file)
            found = file.tell()
            if found != (size or total or found):
                file.truncate(0)
                raise SegengineError(
                    f"{plain}: has {found} bytes, not {size or total}; fetch it yourself and put it "
                    f"at {target}"
                )
            if digest is not None and _sha256(part) != digest:
                file.truncate(0)
                raise SegengineError(
                    f"{plain}: its SHA-256 is not {digest}; it was deleted; check the address and run "
                    "again"
                )
            part.replace(target)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise SegengineError(
            f"{plain}: cannot be fetched: {reason}; put the file at {target}, or set weights to its "
            "path"
        ) from error


def _fetch_all(url: str, file: BinaryIO) -> int | None:
    """Append what is missing, over several connections; returns the whole length where told."""
    idle = 0
    while True:
        before = file.tell()
        try:
            return _fetch_rest(url, file)
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException):
            idle = 0 if file.tell() > before else idle + 1
            if idle >= RETRIES or (before == 0 and file.tell() == 0):
                raise


def _fetch_rest(url: str, file: BinaryIO) -> int | None:
    start = file.tell()
    # Compressed, the bytes of a range would be others.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left
            told = error.headers.get("Content-Range", "").rpartition("/")[2]
            return int(told) if told.isdigit() else None
        raise
    with reply:
        if start and reply.status != 206:  # the server does not resume
            file.seek(0)
            file.truncate()
            start = 0
        length = reply.headers.get("Content-Length")
        total = start + int(length) if length else None
        while chunk := reply.read(_CHUNK):
            file.write(chunk)
        file.flush()
        if total is not None and file.tell() < total:
            raise ConnectionError(f"the connection broke after {file.tell()} of {total} bytes")
        return total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """One process at a time; the others wait."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
