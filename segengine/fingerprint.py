"""What a mask depends on, as digests. Never the code itself: a refactor must not recompute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xxhash

from segengine import asked, registry
from segengine.errors import JobError
from segengine.urls import public_values

if TYPE_CHECKING:
    from segengine.job import Job

_SOURCE_DEFAULTS: dict[str, Any] = {
    "bands": None, "color": None, "every": 1, "resolution": None, "crs": None, "resampling": None,
    "assets": None, "mosaic": None, "window": None, "tissue": False,
}  # fmt: skip

AREA = "source.area"


def digest(value: Any) -> str:
    """16 hex digits of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogateescape"))


def mask_keys(job: Job, outputs: tuple[str, ...]) -> dict[str, Any]:
    """The keys of a job that can change a mask, with their values; defaults are left out."""
    kind = job.segmenter.kind
    found: dict[str, Any] = {"segmenter.kind": kind}
    options = _options(kind, job.segmenter.options, bool(asked.weights(job.plugin)))
    found |= {f"segmenter.{k}": value for k, value in options.items()}
    found["segmenter version"] = asked.version(job.plugin)
    source = job.source.model_dump(mode="json")
    for name, default in _SOURCE_DEFAULTS.items():
        if source.get(name, default) != default:
            found[f"source.{name}"] = source[name]
    if found.get("source.resampling") == "nearest":  # as where it is omitted
        del found["source.resampling"]
    warped = found.get("source.crs") is not None or found.get("source.mosaic") is not None
    if found.get("source.resampling") in ("bilinear", "cubic") and warped:
        found["source.resampling version"] = 2  # 1: a kernel as wide as the scene's rectangle told
    if found.get("source.tissue"):
        found["source.tissue version"] = 2  # 1: looked at a finer level as it is
    if job.source.area is not None:
        found[AREA] = area_mark(job)
    if job.segmenter.instances is not None:
        found["segmenter.instances"] = job.segmenter.as_instances()
    if job.still:  # 0 changes no mask
        found["source.skip.still"] = job.still
    if "probabilities" in outputs:
        found["store.probabilities"] = True
    if "confidence" in outputs:
        found["store.confidence"] = True
    # What a URL is asked with may change from night to night, and is nobody else's to read.
    shown: dict[str, Any] = public_values(found)
    return shown


def _options(kind: str, options: Mapping[str, Any], digested: bool) -> dict[str, Any]:
    """Those that can change a mask. digested: where the weights' files lie is no matter."""
    from segengine.job import FILES, MEMBERS  # workers, who only want `digest`, do without pydantic

    found = registry.non_default("segmenters", kind, options)
    if digested:
        found = {name: value for name, value in found.items() if name not in FILES}
    if isinstance(found.get(MEMBERS), list) and all(map(_is_block, found[MEMBERS])):
        found[MEMBERS] = [
            {"kind": one["kind"], **_options(one["kind"], _without_kind(one), digested)}
            for one in found[MEMBERS]
        ]
    return found


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("kind"), str)


def _without_kind(block: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != "kind"}


def area_mark(job: Job) -> str:
    """Digest of what `source.area` says; empty where there is none, or its file cannot be read."""
    if job.source.area is None:
        return ""
    from segengine.sources._area import mark_of

    try:
        return mark_of(job.source.area)
    except ValueError:
        return ""


def require_area(job: Job) -> None:
    """Raise JobError where `source.area` cannot be read, or holds no polygon."""
    if job.source.area is not None:
        from segengine.sources._area import require_polygons

        try:
            require_polygons(job.source.area)
        except ValueError as error:
            raise JobError(f"source.{error}") from error


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of keys, one line each.

    >>> changes({"segmenter.clusters": 3}, {"segmenter.clusters": 4})
    ['segmenter.clusters: 3 -> 4']
    """
    absent = "default"
    found = []
    for name in sorted({*old, *new}):
        without = 1 if name.endswith(" version") else absent
        before, now = old.get(name, without), new.get(name, without)
        if before != now:
            found.append(
                _area(name in old, name in new)
                if name == AREA
                else f"{name}: {_text(before)} -> {_text(now)}"
            )
    return found


def _area(before: bool, now: bool) -> str:
    """Of an area a mark is kept, which says nothing to anybody."""
    if before and now:
        return f"{AREA}: another area"
    return f"{AREA}: {'an area' if before else 'none'} -> {'an area' if now else 'none'}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
