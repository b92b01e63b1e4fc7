"""The self-contained HTML report of a store.

`report/index.html` needs no network and no script: style, pictures and charts are inside. Whatever
came from a file or a job is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from segengine.store.blobs import NOBODY, Writer
from segengine.store.keys import REPORT
from segengine.store.seals import sealed_report

if TYPE_CHECKING:
    import pyarrow as pa
    from jinja2 import Template

    from segengine.store.layouts import Layout


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
    from segengine.report._content import content
    from segengine.urls import public

    store = replace(open_store(store_path, trust), live=layouts or {}, truth=truth)
    store.objects.base.by(writer).put(REPORT, sealed_report(_render(content(store, runs))))
    return public(f"{store.path}/{REPORT}")


def _render(values: dict[str, object]) -> str:
    return rendered("page.html", values)


def rendered(template: str, values: Mapping[str, object]) -> str:
    """One of the templates that lie here, in the style of the report."""
    from importlib.resources import files

    from markupsafe import Markup

    style = Markup((files(__name__) / "page.css").read_text(encoding="utf-8"))
    return _template(template).render(style=style, **values)


@cache
def _template(name: str) -> Template:
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    from segengine.report import _format

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=_format.count,
        short=_format.short,
        percent=_format.percent,
        hundredths=_format.hundredths,
        figure=_format.figure,
        area=_format.area,
        plain=_format.plain,
    )
    return environment.from_string((files(__name__) / name).read_text(encoding="utf-8"))
