"""Where the links of a STAC document lead, and which of them are followed.

    documents (child, item, next)    the hosts, buckets and folders that the job names
    assets of what lies behind a URL any http(s), s3 or gs URL, and never a file of this machine
    assets of local items            below the job's folders, links resolved, or such a URL

`trust: true` lifts all but the list of schemes.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, urljoin, urlsplit

from segengine.errors import CorruptInputError
from segengine.guards.schemes import refusal
from segengine.sources._files import is_url, is_web
from segengine.sources._gdal import REMEDY
from segengine.urls import public

_LONGEST = 8192
_ALIASES = {"s3a": "s3", "gcs": "gs"}
_MAGIC = re.compile(r"[*?\[]")


def resolved(href: object, base: str) -> str:
    """A link of the document at `base` as an absolute local path or a URL. Raises CorruptInputError."""
    if not isinstance(href, str) or not href.strip():
        raise CorruptInputError("has a link without an address")
    if len(href) > _LONGEST:
        raise CorruptInputError(f"has a link of {len(href):,} characters; at most {_LONGEST:,}")
    if href.lower().startswith("file://"):
        href = unquote(href[7:].removeprefix("localhost"))
    elif not is_url(href):
        href = _joined(href, base)
    reason = refusal(href)
    if reason is not None:
        raise CorruptInputError(f"links to {shown(href)}: {reason}")
    return href if is_url(href) else os.path.normpath(href)


def shown(uri: str) -> str:
    """A link as it may stand in a line."""
    return public(uri)[:200]


def _joined(href: str, base: str) -> str:
    if refusal(href) is not None:  # as `zip::...`, `/vsicurl/...`: what it is comes to light below
        return href
    if is_web(base):
        return urljoin(base, href)
    if not is_url(base):
        return os.path.join(os.path.dirname(base), href)
    scheme, _, rest = base.partition("://")
    bucket, _, key = rest.partition("/")
    below = posixpath.normpath(posixpath.join("/" + posixpath.dirname(key), href)).lstrip("/")
    return f"{scheme}://{bucket}/{below}"


@dataclass(frozen=True, slots=True)
class Reach:
    """Where the links of documents may lead."""

    folders: tuple[str, ...] = ()
    """Local ones, without links."""
    hosts: frozenset[str] = frozenset()
    """Of web servers (name and port) and of object stores (scheme and bucket)."""
    trust: bool = False

    @classmethod
    def of(cls, paths: Iterable[str], trust: bool = False) -> Reach:
        """That of a job with these paths and addresses of APIs."""
        folders, hosts = [], []
        for path in paths:
            if is_url(path) and not path.lower().startswith("file://"):
                hosts.append(_host(path))
            else:
                folders.append(_folder(path[7:] if is_url(path) else path))
        return cls(tuple(dict.fromkeys(folders)), frozenset(hosts), trust)

    def require_document(self, uri: str, base: str) -> None:
        """Raise CorruptInputError where the document at `base` may not lead to that at `uri`."""
        if self.trust:
            return
        if not is_url(uri):
            self._require_file(uri, base, "links to")
        elif _host(uri) not in self.hosts:
            raise CorruptInputError(
                f"links to {shown(uri)}, which is of no host or bucket that the job names; {REMEDY}"
            )

    def require_asset(self, uri: str, base: str, name: str) -> None:
        """Raise CorruptInputError where the item at `base` may not have its asset at `uri`."""
        if not self.trust and not is_url(uri):
            self._require_file(uri, base, f"its asset {name} is")

    def _require_file(self, path: str, base: str, what: str) -> None:
        if is_url(base):
            raise CorruptInputError(
                f"{what} {shown(path)}, a file of this machine, and the item lies behind a URL; {REMEDY}"
            )
        real = os.path.realpath(path)
        if not any(real.startswith(folder.rstrip("/") + "/") for folder in self.folders):
            raise CorruptInputError(
                f"{what} {shown(path)}, which lies in no folder of source.paths; {REMEDY}"
            )


def _host(uri: str) -> str:
    parts = urlsplit(uri)
    if not is_web(uri):
        scheme = parts.scheme.lower()
        return f"{_ALIASES.get(scheme, scheme)}://{parts.netloc.rpartition('@')[2]}"
    name = (parts.hostname or "").lower()
    # Behind a proxy an API may write http:// for itself: the name is what counts.
    return f"{name}:{parts.port}" if parts.port not in (None, 80, 443) else name


def _folder(path: str) -> str:
    """The folder that a path of the job names: of a file its own, of a glob that of its fixed part."""
    head = path[: match.start()] if (match := _MAGIC.search(path)) else path
    if head != path:
        return os.path.realpath(os.path.dirname(head))
    return os.path.realpath(path if os.path.isdir(path) else os.path.dirname(path))
