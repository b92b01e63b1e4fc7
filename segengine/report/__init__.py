"""The self-contained HTML report of a store.

`report/index.html` needs no network: style, pictures and charts are inside. Its one script moves what
lies over the pictures; without it they are there all the same. Whatever came from a file or a job is
escaped, and the page's own policy lets no other script run, and nothing be loaded.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING

from segengine.store.blobs import NOBODY, Writer
from segengine.store.keys import REPORT
from segengine.store.sealbook import sealed_report

if TYPE_CHECKING:
    import pyarrow as pa
    from jinja2 import Environment

    from segengine.reader import Store
    from segengine.store.layouts import Layout

MOST_BYTES = 2_900_000
"""Of a page: it is sent by mail."""
LEAST_ROOM = 500_000
"""Of its pictures, however much there is to be said."""
FILTERS = (
    "area", "change", "count", "duration", "figure", "hundredths", "percent", "plain", "short",
)  # fmt: skip


def build(
    store_path: str,
    writer: Writer = NOBODY,
    layouts: Mapping[str, Layout] | None = None,
    truth: str = "",
    trust: bool | None = None,
    runs: pa.Table | None = None,
) -> str:
    """Write the report of a store, finished or not, into it; its path or URL.

    `writer`, `layouts`, `truth`: those of the run that writes it. The committed ones lack the
    credentials that images and truth behind a URL may need. `trust`: code that the store names may be
    used. `runs`: the store's, with the one that writes it; without it those that are stored. Raises
    JobError where there is no store, StoreError where it has not been published yet.
    """
    from segengine.reader import open_store
    from segengine.urls import public

    store = replace(open_store(store_path, trust), live=layouts or {}, truth=truth)
    store.objects.base.by(writer).put(REPORT, sealed_report(_page(store, runs)))
    return public(f"{store.path}/{REPORT}")


def _page(store: Store, runs: pa.Table | None) -> str:
    """The page; its pictures take what the rest leaves of MOST_BYTES."""
    from segengine.report._content import content, with_pictures

    values = content(store, runs)
    room = MOST_BYTES - len(_render(values).encode("utf-8", "surrogateescape"))
    return _render(with_pictures(store, values, max(room, LEAST_ROOM)))


def _render(values: Mapping[str, object]) -> str:
    script = _read("page.js")
    allowed = f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
    return rendered("page.html", {**values, "script": _as_is(script), "script_hash": allowed})


def rendered(template: str, values: Mapping[str, object]) -> str:
    """One of the templates that lie here, in the style of the report."""
    style = _as_is(_read("page.css"))
    return _templates().get_template(template).render(style=style, **values)


def _read(name: str) -> str:
    from importlib.resources import files

    return (files(__name__) / name).read_text(encoding="utf-8")


def _as_is(text: str) -> str:
    """What lies here needs no escape."""
    from markupsafe import Markup

    return Markup(text)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from segengine.report import _format

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_read),
    )
    for name in FILTERS:
        environment.filters[name] = getattr(_format, name)
    return environment
