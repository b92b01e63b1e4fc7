"""URLs that are signed when they are read: by a function of another package, renewed as they expire.

    [project.entry-points."segengine.signers"]
    mine = "package.module:sign"             # sign(url) -> url

A plan, a store and a record hold the plain URL. A worker signs it for itself and keeps what it got
until the signature runs out, which its query tells; where a server refuses one before that, it is
signed once more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from time import time
from urllib.parse import parse_qs, urlsplit

from segengine import registry
from segengine.errors import TransientInputError
from segengine.guards.schemes import refusal
from segengine.instants import seconds_of
from segengine.sources._files import is_url, is_web, one_line
from segengine.urls import public

Sign = Callable[[str], object]
_KEPT = 1 << 14
"""Signed URLs of a process."""
_SPARE, _SHARE = 60.0, 0.1
"""Seconds, or that part of what is left, by which a signature is renewed before it expires."""


class _Held:
    """Signed URLs and until when they serve."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.urls: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def get(self, key: tuple[str, str]) -> str | None:
        with self.lock:
            url, until = self.urls.get(key, ("", 0.0))
            return url if time() < until else None

    def put(self, key: tuple[str, str], url: str) -> None:
        expires, now = expiry(url), time()
        until = float("inf") if expires is None else expires - min(_SPARE, _SHARE * (expires - now))
        with self.lock:
            self.urls[key] = url, until
            self.urls.move_to_end(key)
            while len(self.urls) > _KEPT:
                self.urls.popitem(last=False)


_HELD = _Held()


def signed(uri: str, signer: str | None, *, anew: bool = False) -> str:
    """A URL as the signer of that name has it; a local path, or one without a signer, as it is.

    `anew`: what was signed before was refused. Raises TransientInputError where it cannot be signed,
    JobError where no such signer is installed.
    """
    if signer is None or not is_url(uri):
        return uri
    key = signer, uri
    found = None if anew else _HELD.get(key)
    if found is not None:
        return found
    sign: Sign = registry.load("signers", signer)
    try:
        url = sign(uri)
    except Exception as error:
        raise TransientInputError(f"cannot be signed by {signer}: {one_line(error)}") from error
    if not isinstance(url, str) or not is_url(url) or refusal(url) is not None:
        raise TransientInputError(f"cannot be signed by {signer}: what it gives is no URL")
    _HELD.put(key, url)
    return url


def expiry(url: str) -> float | None:
    """When the signature of a URL runs out, in seconds since 1970; None: it does not say.

    >>> expiry("https://bucket/a.tif?X-Amz-Date=20260501T000000Z&X-Amz-Expires=3600&X-Amz-Signature=s")
    1777597200.0
    >>> expiry("https://account.blob.core.windows.net/a.tif?se=2026-05-01T01%3A00%3A00Z&sig=s")
    1777597200.0
    >>> expiry("https://host/a.tif?Expires=1777597200&Signature=s")
    1777597200.0
    """
    said = {key.lower(): values[0] for key, values in parse_qs(urlsplit(url).query).items()}
    try:
        for kind in ("x-amz", "x-goog"):  # AWS signature 4; Google's
            if f"{kind}-date" in said:
                start = datetime.strptime(said[f"{kind}-date"], "%Y%m%dT%H%M%SZ")
                return start.replace(tzinfo=UTC).timestamp() + float(said[f"{kind}-expires"])
        if "se" in said:  # Azure
            return seconds_of(said["se"])
        return float(said["expires"]) if "expires" in said else None  # CloudFront, S3's signature 2
    except (KeyError, ValueError, OverflowError):
        return None


_SIGNATURES = ("sig", "signature", "x-amz-signature", "x-goog-signature")
_OF_SIGNED = frozenset(
    ("awsaccesskeyid", "expires", "googleaccessid", "key-pair-id", "policy", "se", "si", "sig",
     "signature", "sip", "ske", "skoid", "sks", "skt", "sktid", "skv", "sp", "spr", "sr", "st", "sv")
)  # fmt: skip
"""What stands beside a signature, of CloudFront, S3, Google and Azure, and is of it."""


def unsigned(url: str) -> str:
    """A URL without its signature and user: the same one, however it is signed each time.

    >>> unsigned("https://me:secret@host/get?band=red&se=2026-05-01&sig=s"), unsigned("https://host/a?st=1")
    ('https://host/get?band=red', 'https://host/a?st=1')
    """
    if not is_web(url):
        return url
    fields = urlsplit(url).query.split("&")
    names = [field.partition("=")[0].lower() for field in fields]
    if any(name in _SIGNATURES for name in names):
        fields = [
            field
            for field, name in zip(fields, names, strict=True)
            if name not in _OF_SIGNED and not name.startswith(("x-amz-", "x-goog-"))
        ]
    query = "&".join(filter(None, fields))
    return public(url) + (f"?{query}" if query else "")


def planetary_computer(url: str) -> str:
    """A URL of Microsoft's Planetary Computer with a token of its own; of other hosts as it is."""
    try:
        import planetary_computer as planetary
    except ImportError as error:
        raise RuntimeError(
            "its package is not installed; python -m pip install 'segengine[planetary-computer]'"
        ) from error
    return str(planetary.sign_url(url))
