"""Segmenters as a worker gets them: by name and options, or as a fit committed without pickle."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

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


def load_fit(data: bytes, surveyor: Any) -> tuple[dict[str, Any], Any]:
    """(about with digest, segmenter) behind a committed fit."""
    found = decode(data)
    if not isinstance(found, dict) or xxhash.xxh3_128_hexdigest(found["body"]) != found["digest"]:
        raise ValueError("not a committed fit, or a damaged one")
    segmenter = decode(found["body"], (type(surveyor).__module__.partition(".")[0],))
    if isinstance(segmenter, tuple):
        segmenter = surveyor.fit(segmenter[1])
    return {**found["about"], "digest": found["digest"]}, segmenter


def read_fit(objects: Objects, key: str, surveyor: Any) -> tuple[dict[str, Any], Any] | None:
    """The committed fit at a key; None where there is none that can be read."""
    data = objects.get(key)
    try:
        return None if data is None else load_fit(data, surveyor)
    except (ValueError, KeyError, TypeError):
        return None
