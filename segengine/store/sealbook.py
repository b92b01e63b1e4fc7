"""What a seal is, which objects have one, and the bytes that carry their own checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import xxhash
from numcodecs.zstd import compress, decompress

from segengine.store.keys import (
    COLORS,
    CUT_INSTANCES,
    FITS,
    LAYOUTS,
    METADATA,
    METRICS,
    PRUNED,
    RECORDS,
    REPORT,
    ROOT,
    RUNS,
    SCENES,
    TABLES,
    UNPLACED,
    UNSEEN,
    is_pack,
)

MISSING = "it is missing"
CHANGED = "its bytes are not those that were stored"
_MAGIC = b"SEGK\x01"
_DIGEST = 16
_REPORT_END = "<!-- xxh3-128 of all above: {} -->\n"


class Seal(NamedTuple):
    """What an object must be."""

    digest: str
    """XXH3-128 of its bytes, 32 hex digits; empty: it carries its own checksum."""
    copies: str = ""
    """Name of the object of copies that holds its second one; empty: it can be made again."""


@dataclass(slots=True)
class Book:
    """All seals of a store, as they are stored in one object."""

    seals: dict[str, Seal] = field(default_factory=dict)
    published: str = ""
    """What the last complete publish stands for; empty while a run has work under way."""
    complete: bool = False
    """Nothing lies there without a seal but what a run has under way: no store of before, and no
    seals were lost."""
    saves: int = 0
    """How often they were stored: their second copy is of this time, or a kill left the one before."""

    def stored(self) -> bytes:
        """As the object that is stored."""
        seals = {key: list(seal) for key, seal in sorted(self.seals.items())}
        raw = {
            "seals": seals,
            "published": self.published,
            "complete": self.complete,
            "saves": self.saves,
        }
        text = json.dumps(raw, separators=(",", ":"))
        return closed(text.encode("utf-8", "surrogateescape"))

    @classmethod
    def read(cls, data: bytes | None) -> Book | None:
        """The seals in a stored object; None where there is none, or a damaged one."""
        if data is None:
            return None
        try:
            raw = json.loads(opened(data))
            seals = {key: Seal(*value) for key, value in raw["seals"].items()}
            return cls(seals, raw["published"], raw["complete"], raw.get("saves", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def is_sealed(key: str) -> bool:
    """True for what a seal vouches for: no shard of a mask, no single record, nothing of one run.

    >>> is_sealed("zarr.json"), is_sealed("scenes/a/mask/0/c/0/0/0"), is_sealed("scenes/a/mask/zarr.json")
    (True, False, True)
    >>> is_sealed("records/a.parquet"), is_sealed("records/a/mask/0.0.0.json")
    (True, False)
    """
    head, _, rest = key.partition("/")
    if head == SCENES:
        return rest.endswith(METADATA) or rest.split("/")[1:2] == [COLORS]
    if head == RECORDS:
        return key == CUT_INSTANCES or is_kept_twice(key)
    return head == TABLES or key in (ROOT, METRICS, REPORT)


TWICE = (f"{LAYOUTS}/", f"{FITS}/")
ALONE = (ROOT, UNPLACED, RUNS, PRUNED, UNSEEN)
HOLDS_COPIES = ("", RECORDS, TABLES, *(prefix.rstrip("/") for prefix in TWICE))


def is_kept_twice(key: str) -> bool:
    """True for what nothing else in the store, and no input, could tell again."""
    return is_pack(key) or key.startswith(TWICE) or key in ALONE


def sealed_report(page: str) -> bytes:
    """A report with its own checksum at its end; names may hold bytes that are no text."""
    text = page.encode("utf-8", "backslashreplace")
    return text + _REPORT_END.format(xxhash.xxh3_128_hexdigest(text)).encode()


def is_whole_report(data: bytes) -> bool:
    """True where a report ends with the checksum of what stands before."""
    end = len(_REPORT_END.format("0" * 32).encode())
    return data[-end:] == _REPORT_END.format(xxhash.xxh3_128_hexdigest(data[:-end])).encode()


def digest(data: bytes) -> str:
    """Checksum of stored bytes: XXH3-128, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def matches(seal: Seal, data: bytes | None) -> bool:
    """Whether bytes are those that were sealed."""
    if data is None:
        return False
    return is_whole_report(data) if not seal.digest else digest(data) == seal.digest


def closed(body: bytes) -> bytes:
    """Bytes that carry their own checksum, compressed."""
    small = bytes(compress(body, 3))
    return _MAGIC + xxhash.xxh3_128_digest(small) + small


def opened(data: bytes) -> bytes:
    """The body of `closed` bytes. Raises ValueError on others."""
    start = len(_MAGIC) + _DIGEST
    body = data[start:]
    if data[:start] != _MAGIC + xxhash.xxh3_128_digest(body):
        raise ValueError(CHANGED)
    return bytes(decompress(body))


def packed(objects: Mapping[str, bytes]) -> bytes:
    """Objects by key as one object."""
    index = json.dumps({key: len(data) for key, data in objects.items()}).encode()
    return closed(b"".join([len(index).to_bytes(8, "little"), index, *objects.values()]))


def unpacked(data: bytes) -> dict[str, bytes]:
    """Objects by key. Raises ValueError on damaged bytes."""
    body = memoryview(opened(data))
    at = 8 + int.from_bytes(body[:8], "little")
    found: dict[str, bytes] = {}
    for key, length in json.loads(bytes(body[8:at])).items():
        found[key] = bytes(body[at : at + length])
        at += length
    return found
