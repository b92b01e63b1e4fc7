"""Segmenters as a worker gets them: by name and options, or as a fit committed without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import xxhash

from segengine import asked, registry
from segengine.store.blobs import Objects, open_objects
from segengine.store.values import decode, encode
from segengine.types import Plugin, Segmenter, Surveyor

S = TypeVar("S")


@lru_cache(maxsize=8)
def plugin_of(kind: str, options: str) -> Plugin:
    """The segmenter or surveyor of a kind, once a process: a worker loads a model once."""
    plugin: Plugin = registry.create("segmenters", kind, json.loads(options))
    return plugin


def segmenter_of(kind: str, options: str) -> Segmenter:
    """The same, of a segmenter. Raises TypeError where it is none."""
    found = plugin_of(kind, options)
    if asked.surveys(found):
        raise TypeError(f"{type(found).__name__} surveys before it can label")
    return found


def surveyor_of(kind: str, options: str) -> Surveyor[Any]:
    """The same, of a surveyor. Raises TypeError where it is none."""
    return as_surveyor(plugin_of(kind, options))


def as_surveyor(plugin: Plugin) -> Surveyor[Any]:
    """Raises TypeError where it is none."""
    if not asked.surveys(plugin):
        raise TypeError(f"{type(plugin).__name__} has no survey, and what it fitted is asked for")
    return plugin


@lru_cache(maxsize=64)
def fitted(store: str, key: str, digest: str, kind: str, options: str) -> Segmenter:
    """The segmenter of a committed fit; `digest` tells it from one that lay there before."""
    data = open_objects(store).get(key)
    if data is None:
        raise FileNotFoundError(f"{key}: the committed fit is gone from the store")
    return load_fit(data, plugin_of(kind, options))[1]


def store_fit(
    objects: Objects, key: str, surveyor: Surveyor[S], state: S, about: Mapping[str, Any]
) -> str:
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

    def segmenter(self, surveyor: Plugin) -> Segmenter:
        """Raises ValueError where it is of a class that is not here."""
        found = decode(self.body, (type(surveyor).__module__.partition(".")[0],))
        if type(found) is tuple:
            return as_surveyor(surveyor).fit(found[1])
        fit: Segmenter = found
        return fit


def committed(data: bytes) -> Committed:
    """The fit behind stored bytes. Raises ValueError on others."""
    found = decode(data)
    if not isinstance(found, dict) or xxhash.xxh3_128_hexdigest(found["body"]) != found["digest"]:
        raise ValueError("not a committed fit, or a damaged one")
    return Committed({**found["about"], "digest": found["digest"]}, found["body"])


def load_fit(data: bytes, surveyor: Plugin) -> tuple[dict[str, Any], Segmenter]:
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


def read_fit(
    objects: Objects, key: str, surveyor: Plugin
) -> tuple[dict[str, Any], Segmenter] | None:
    """(about with digest, segmenter) of the fit at a key; None where there is none that can be read."""
    found = read_committed(objects, key)
    try:
        return None if found is None else (found.about, found.segmenter(surveyor))
    except (ValueError, KeyError, TypeError):
        return None
