"""Segmenters as a worker gets them: by name and options, or as a fit committed without pickle."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import xxhash

from segengine import registry
from segengine.store.blobs import Objects, open_objects
from segengine.store.values import decode, encode


@lru_cache(maxsize=8)
def plugin_of(kind: str, options: str) -> Any:
    """The segmenter or surveyor of a kind, once a process: a worker loads a model once."""
    return registry.create("segmenters", kind, json.loads(options))


@lru_cache(maxsize=64)
def fitted(store: str, key: str, digest: str, kind: str, options: str) -> Any:
    """The segmenter of a committed fit; `digest` tells it from one that lay there before."""
    data = open_objects(store).get(key)
    if data is None:
        raise FileNotFoundError(f"{key}: the committed fit is gone from the store")
    return load_fit(data, plugin_of(kind, options))[1]


def store_fit(objects: Objects, key: str, surveyor: Any, state: Any, about: Any) -> str:
    """Commit a fit; returns its digest. `about`: job fingerprint, inputs, frames it saw."""
    segmenter = surveyor.fit(state)
    try:
        body = encode(segmenter)
    except TypeError:  # not of plain values: keep the state, and fit again when it is loaded
        body = encode(("state", state))
    digest = xxhash.xxh3_128_hexdigest(body)
    objects.put(key, encode({"about": about, "digest": digest, "body": body}))
    return digest


class Committed(NamedTuple):
    """A committed fit, of which the segmenter itself is not read yet."""

    about: dict[str, Any]
    """With its digest."""
    body: bytes

    def segmenter(self, surveyor: Any) -> Any:
        """Raises ValueError where it is of a class that is not here."""
        found = decode(self.body, (type(surveyor).__module__.partition(".")[0],))
        return surveyor.fit(found[1]) if type(found) is tuple else found


def committed(data: bytes) -> Committed:
    """The fit behind stored bytes. Raises ValueError on others."""
    found = decode(data)
    if not isinstance(found, dict) or xxhash.xxh3_128_hexdigest(found["body"]) != found["digest"]:
        raise ValueError("not a committed fit, or a damaged one")
    return Committed({**found["about"], "digest": found["digest"]}, found["body"])


def load_fit(data: bytes, surveyor: Any) -> tuple[dict[str, Any], Any]:
    """(about with digest, segmenter) behind a committed fit."""
    found = committed(data)
    return found.about, found.segmenter(surveyor)


def read_committed(objects: Objects, key: str) -> Committed | None:
    """The committed fit at a key; None where there is none, or a damaged one."""
    data = objects.get(key)
    try:
        return None if data is None else committed(data)
    except (ValueError, KeyError, TypeError):
        return None


def read_fit(objects: Objects, key: str, surveyor: Any) -> tuple[dict[str, Any], Any] | None:
    """(about with digest, segmenter) of the fit at a key; None where there is none that can be read."""
    found = read_committed(objects, key)
    try:
        return None if found is None else (found.about, found.segmenter(surveyor))
    except (ValueError, KeyError, TypeError):
        return None
