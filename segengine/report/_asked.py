"""What a run was asked to do: the job, key by key, as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from segengine.report._format import plain

PATHS = 6
"""Paths named."""
JOB = 20_000
"""Characters of the job that are shown."""
_UNSAID = {"kind": "auto", "every": 1, "void": 255}
"""Values that say nothing: what is taken where a key is left out."""


def asked(job: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, how) of the job's blocks, without those of how and where it runs."""
    return list(_asked(job))


def job_text(job: Mapping[str, Any]) -> str:
    """The job as JSON, cut where it is long: its paths may be many."""
    text = json.dumps(job, indent=2, ensure_ascii=False)
    return text if len(text) <= JOB else f"{text[:JOB]}\n... all of it is in zarr.json"


def _asked(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source = dict(job["source"])
    yield "inputs", _listed(source.pop("paths", []))
    yield from _block("read as", source)
    segmenter = dict(job["segmenter"])
    options = _options({k: v for k, v in segmenter.items() if k != "kind"})
    yield "segmenter", segmenter["kind"] + (f" · {options}" if options else "")
    truth = dict(job.get("truth") or {})
    if truth:
        yield "held against", _listed(truth.pop("paths", []))
    evaluate = job.get("evaluate") or {}
    if truth and evaluate:
        measures = [*evaluate.get("metrics", []), *evaluate.get("losses", [])]
        yield "measured by", ", ".join(_kind(one) for one in measures) or "confusion"
    for name in ("tracks", "solids", "budget"):
        yield from _block(name, job.get(name) or {})
    alerts = [
        " ".join([alert["figure"], _options({k: v for k, v in alert.items() if k != "figure"})])
        for alert in job.get("alerts") or ()
    ]
    if alerts:
        yield "alerts", "; ".join(alerts)


def _block(name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    options = _options(values)
    if options:
        yield name, options


def _options(values: Mapping[str, Any]) -> str:
    said = {k: v for k, v in values.items() if v is not None and _UNSAID.get(k) != v}
    return " · ".join(f"{key} {plain(value)}" for key, value in said.items())


def _listed(paths: Any) -> str:
    names = [paths] if isinstance(paths, str) else list(map(str, paths))
    more = f" and {len(names) - PATHS:,} more" if len(names) > PATHS else ""
    return ", ".join(names[:PATHS]) + more


def _kind(measure: Any) -> str:
    return str(measure.get("kind", measure)) if isinstance(measure, Mapping) else str(measure)
