"""What a STAC item of the extension MLM says is to be done to values, as the option `scale`.

A Value Scaling Object stands for a band, or one for all (MLM 1.5, "Value Scaling Object"):

    min-max     (value - minimum) / (maximum - minimum)
    z-score     (value - mean) / stddev
    clip        min(max(value, minimum), maximum); clip-min and clip-max one side of it
    offset      value - value of the object
    scale       value / value of the object
    processing  an expression, which is never run
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segengine.networks.said import listed, mapping, mappings, number

_MOST = 4096
"""Bands."""
_LONGEST = 60
"""Letters of a stranger's that a message holds."""


@dataclass(frozen=True, slots=True)
class _Step:
    """`(min(max(value, low), high) - mean) / std` of a band."""

    mean: float = 0.0
    std: float = 1.0
    low: float = -math.inf
    high: float = math.inf


def of_input(taken: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The option `scale` of a Model Input Object (None: values as they are); or why it is not done."""
    if taken.get("pre_processing_function") is not None:
        return None, "names a pre-processing function, which is never run"
    objects = taken.get("value_scaling")
    if objects is None and taken.get("norm_type") is not None:  # before 1.3
        kind = taken["norm_type"]
        objects = [{**each, "type": kind} for each in mappings(taken.get("statistics"))]
        objects = objects or [{"type": kind}]
    if objects is None:
        return None, ""
    steps = [_step(each) for each in listed(objects)]
    known = [step for step in steps if step is not None]
    if not 0 < len(steps) <= _MOST or len(known) < len(steps):
        return None, f"scales its values in a way that is not done here ({_blamed(objects, steps)})"
    return _scale(known) or None, ""


def _scale(steps: list[_Step]) -> dict[str, Any]:
    """As `Scale.of` takes it, without what changes nothing."""
    found: dict[str, Any] = {}
    for key, name, idle in (("minimum", "low", -math.inf), ("maximum", "high", math.inf)):
        bounds = [getattr(step, name) for step in steps]
        if any(bound != idle for bound in bounds):
            found[key] = [None if bound == idle else bound for bound in bounds]
    if any((step.mean, step.std) != (0, 1) for step in steps):
        found |= {"mean": [step.mean for step in steps], "std": [step.std for step in steps]}
    return found


def _step(given: Any) -> _Step | None:
    """What a Value Scaling Object does to a band; None: it is something else."""
    about = mapping(given)
    kind = about.get("type")
    if given is None or (kind is None and about):
        return _Step()
    low, high, mean, std, value = (
        number(about.get(key)) for key in ("minimum", "maximum", "mean", "stddev", "value")
    )
    if kind == "z-score" and mean is not None and std:
        return _Step(mean, std)
    if kind == "offset" and value is not None:
        return _Step(mean=value)
    if kind == "scale" and value:
        return _Step(std=value)
    if kind == "clip-min" and low is not None:
        return _Step(low=low)
    if kind == "clip-max" and high is not None:
        return _Step(high=high)
    if low is None or high is None:
        return None
    if kind == "min-max" and high != low and math.isfinite(high - low):
        return _Step(low, high - low)
    return _Step(low=low, high=high) if kind == "clip" and low <= high else None


def _blamed(objects: Any, steps: list[_Step | None]) -> str:
    """The kinds that are not done, in letters that a line can hold."""
    odd = [each for each, step in zip(listed(objects), steps, strict=True) if step is None]
    kinds = sorted({str(mapping(each).get("type")) for each in odd})
    told = ", ".join(kinds) if kinds else str(objects)
    shown = told if told.isprintable() else ascii(told)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 3]}..."
