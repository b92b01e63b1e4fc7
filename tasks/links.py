"""Where the browser of whoever reads Prefect's pages finds a store.

    SEGENGINE_LINKS='/srv/segengine=https://files.example.org/seg; s3://masks=https://masks.example.org'

    /srv/segengine/a.zarr/report/index.html -> https://files.example.org/seg/a.zarr/report/index.html

A browser opens neither `file://` of a page that it was sent, nor `s3://`: without a pair for it a place
is text, and no link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import quote

VARIABLE = "SEGENGINE_LINKS"


def link(place: str) -> str | None:
    """The address of a path or URL; None where no pair is for it. Of several the longest is."""
    fitting = [(head, base) for head, base in _pairs() if place == head or _below(place, head)]
    if not fitting:
        return None
    head, base = max(fitting, key=lambda pair: len(pair[0]))
    return f"{base}{quote(place[len(head) :], safe='/')}"


def mistakes() -> Iterator[str]:
    """What is no pair, and what it should be."""
    for text in _given():
        if not _is_pair(text):
            yield f"{VARIABLE}: {text}: write PLACE=https://..., with ; between several"


def _pairs() -> Iterator[tuple[str, str]]:
    for text in filter(_is_pair, _given()):
        # A path may hold what separates: the address has none before its scheme.
        head, _, base = text.rpartition("=http")
        yield head.strip().rstrip("/"), f"http{base.strip().rstrip('/')}"


def _given() -> list[str]:
    parts = os.environ.get(VARIABLE, "").split(";")
    return [part.strip() for part in parts if part.strip()]


def _is_pair(text: str) -> bool:
    head, marked, base = text.rpartition("=http")
    return bool(marked and head.strip() and base.startswith(("://", "s://")))


def _below(place: str, head: str) -> bool:
    return place.startswith(f"{head}/")
