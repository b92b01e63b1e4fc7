"""The `source` block of a job: as workers take it, and whether layouts were made with the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from segengine.fingerprint import area_mark
from segengine.job import Job

_LAID_OUT_BY: Mapping[str, Any] = {
    "kind": "auto", "bands": None, "color": None, "every": 1, "resolution": None, "crs": None,
    "assets": None, "mosaic": None, "window": None, "tissue": False,
}  # fmt: skip
"""Keys of `source` that change what a header is told to say, with their defaults."""


def source_json(job: Job) -> str:
    """The `source` block for workers: without the paths, which frames carry themselves, unless a file
    among them may name others."""
    options = marked_options(job)
    kind, paths = options.pop("kind"), options["paths"]
    if kind not in ("auto", "raster") or not any(map(_may_name_others, paths)):
        del options["paths"]
    options.pop("search", None)  # what it found is told by the frames as well
    return json.dumps(options)


def marked_options(job: Job) -> dict[str, Any]:
    """The `source` block as readers of this run take it: its area may not change under way."""
    mark = area_mark(job) if isinstance(job.source.area, str) else ""
    return {**job.source_options(), **({"area_mark": mark} if mark else {})}


def lays_out_alike(job: Job, old: Mapping[str, Any]) -> bool:
    """Whether a header says the same to this job as to the one of a store's root, its attributes."""
    before, now = old.get("job", {}).get("source", {}), job.source_options()
    same = all(
        _laid_out(k, before.get(k, d)) == _laid_out(k, now.get(k, d))
        for k, d in _LAID_OUT_BY.items()
    )
    if job.source.mosaic is not None:  # whose extent is the area's
        keys = old.get("fingerprints", {}).get("keys", {})
        same &= keys.get("source.area", "") == area_mark(job)
    return same


def reaches_alike(job: Job, old: Mapping[str, Any]) -> bool:
    """Whether the same paths are named and trusted: what was out of reach then still is."""
    about = old.get("job", {})
    before = about.get("source", {}).get("paths", ())
    return about.get("trust", False) == job.trust and set(before) == set(
        job.source_options()["paths"]
    )


def _laid_out(key: str, value: Any) -> Any:
    """What of an option a layout depends on: not which scene of a map is on top."""
    return value is not None if key == "mosaic" else value


def _may_name_others(path: str) -> bool:
    """True of a folder, a glob or a VRT, whose sources may lie among all of the job's paths."""
    return any(c in path for c in "*?[") or PurePosixPath(path).suffix.lower() in ("", ".vrt")
