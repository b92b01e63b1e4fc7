"""The job that a store holds, as far as it may be used: the code that it names only where trusted."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from segengine.errors import UntrustedError
from segengine.guards.trust import UNTRUSTED, code_in, is_trusting
from segengine.job import Job
from segengine.store.blobs import Objects
from segengine.store.keys import CONFIDENCE, INSTANCES, PROBABILITIES, metadata_key
from segengine.types import Color, Pixels, Prediction

_MAPS = {"probabilities": PROBABILITIES, "confidence": CONFIDENCE, "instances": INSTANCES}


@dataclass(frozen=True)
class StandIn:
    """A segmenter whose class is not used: what the store says of it is enough to measure masks."""

    kind: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    version: int
    weights: str
    keys: Mapping[str, Any]
    """What can change a mask, as the run noted it."""
    fingerprint: str
    """Digest of it."""
    halo = 0
    stride = 1

    def segment(self, pixels: Pixels) -> Prediction:
        """Raises UntrustedError."""
        raise UntrustedError(f"{self.kind}: {UNTRUSTED}")

    def outputs(self, objects: Objects, scenes: Collection[str]) -> tuple[str, ...]:
        """What it predicted: the maps that are stored."""
        first = next(iter(scenes), None)
        there = (
            name
            for name, path in _MAPS.items()
            if first is not None and objects.get(metadata_key(first, path)) is not None
        )
        return ("labels", *there)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A store's job, ready for use."""

    job: Job
    left_out: tuple[str, ...] = ()
    """Its keys that are not used, and why; for a person."""


def stored_job(
    attributes: Mapping[str, Any],
    trust: bool | None = None,
    blocks: Mapping[str, Any] | None = None,
) -> StoredJob:
    """The job in a store's attributes; `blocks` stand instead of its own, and are the user's.

    Not trusted, its own segmenter is a `StandIn`, its own source reads nothing, and work is done on
    this machine: who answers at the scheduler's address may run what he likes here.
    """
    given = blocks or {}
    data = {**copy.deepcopy(dict(attributes["job"])), **given}
    data.pop("trust", None)  # it was said of other inputs, by whoever made the store
    if is_trusting(trust):
        return StoredJob(Job.model_validate({**data, "trust": True}))
    left_out = foreign_code(attributes, given)
    named = [key for key, _ in (entry.split(" ", 1) for entry in left_out)]
    if any(key.startswith("source.") for key in named):
        data["source"] = {"paths": data["source"]["paths"]}
    if data.get("cluster", {}).get("kind", "local") != "local":
        left_out = (*left_out, f"cluster.kind {data['cluster']['kind']}")
        data["cluster"] = {}
    job = Job.model_validate(data)
    if any(key.startswith("segmenter.") for key in named):
        # in place of the one that would be made and cached
        job.__dict__["plugin"] = _stand_in(data["segmenter"]["kind"], attributes)
    return StoredJob(job, left_out)


def foreign_code(
    attributes: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Key and name of all code that a store's own job names; `given`: blocks that are the user's."""
    job = {k: v for k, v in attributes["job"].items() if k not in (given or {})}
    return tuple(f"{key} {name}" for key, name in code_in(job).items())


def standing_in(job: Job, attributes: Mapping[str, Any]) -> Job:
    """A store's job without its segmenter: what the store says of it stands in."""
    found = job.model_copy()
    found.__dict__["plugin"] = _stand_in(job.segmenter.kind, attributes)
    return found


def _stand_in(kind: str, attributes: Mapping[str, Any]) -> StandIn:
    made = attributes["fingerprints"]
    return StandIn(
        kind=kind,
        classes=tuple(attributes["classes"]),
        colors=tuple((int(r), int(g), int(b)) for r, g, b in attributes["colors"]),
        version=int(made["segmenter_version"]),
        weights=str(made["weights"]),
        keys=dict(made["keys"]),
        fingerprint=str(made["job"]),
    )
