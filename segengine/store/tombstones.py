"""Names that a store must not hold again, told by nothing but hashes with a salt of the store's own.

Whoever has a name can ask whether it is among them; nobody can list them.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from segengine.store.blobs import Objects
from segengine.store.keys import PRUNED
from segengine.store.values import decode, encode

SALT = 32
"""Bytes of the salt."""
SIZE = 16
"""Bytes of a hash: two of a billion names have the same once in 10^20 stores."""


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Those of a store."""

    salt: bytes = field(default_factory=lambda: secrets.token_bytes(SALT), repr=False)
    hashes: frozenset[bytes] = frozenset()
    complete: bool = True
    """Nothing of the names is left; False while a prune is under way, or was killed."""

    @classmethod
    def read(cls, objects: Objects) -> Tombstones:
        """Those of a store; none where nothing was pruned, or only damaged remains are there."""
        data = objects.get(PRUNED)
        try:
            found = None if data is None else decode(data)
            if isinstance(found, dict):
                return cls(found["salt"], frozenset(found["hashes"]), found["complete"])
        except (ValueError, KeyError, TypeError):
            pass
        return cls()

    def write(self, objects: Objects) -> None:
        """Put them in their place, atomically."""
        found = {"salt": self.salt, "hashes": sorted(self.hashes), "complete": self.complete}
        objects.put(PRUNED, encode(found))

    def __contains__(self, name: str) -> bool:
        return bool(self.hashes) and self._hash(name) in self.hashes

    def beside(self, names: Iterable[str]) -> Tombstones:
        """With some names more."""
        return replace(self, hashes=self.hashes | {self._hash(name) for name in names})

    def _hash(self, name: str) -> bytes:
        raw = name.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(raw, digest_size=SIZE, key=self.salt).digest()
