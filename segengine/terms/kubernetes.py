"""What a job says of the pods that are its workers: `cluster.options` of `kind: kubernetes`.

Each worker is a pod of one container with one thread; the scheduler is one too.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from segengine.terms import Terms
from segengine.terms.booleans import NoBooleans
from segengine.terms.quantities import (
    Count,
    Duration,
    Line,
    Size,
    Word,
    bytes_of,
    require_worker,
    seconds_of,
)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def _is_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be lower case letters, digits, hyphens and dots, and begin and end with a letter or digit"
        )
    return value


def _is_absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("must be an absolute path, as /scenes")
    return value


Name = Annotated[str, Field(max_length=253), AfterValidator(_is_name)]
"""Of an object: small letters, digits, hyphens and dots."""
_CPU = re.compile(r"\d+(\.\d+)?|\d+m")
_LEAST = 10
"""Seconds: the operator looks for idle clusters every five."""


class _Part(NoBooleans):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Part):
    """Of each worker; what it asks for is what it is held to."""

    cpu: str | int | float = 1
    """Cores, as Kubernetes counts them: 1, 0.5, 500m."""
    memory: Size
    gpu: Count = Field(0, ge=0)

    @field_validator("cpu")
    @classmethod
    def _cpu_is_a_quantity(cls, value: str | float) -> str | float:
        if not _CPU.fullmatch(str(value)):
            raise ValueError("must be a number of cores as 1, 0.5 or 500m")
        return value

    @field_validator("memory")
    @classmethod
    def _memory_is_enough(cls, value: str) -> str:
        require_worker(value)
        return value


class Toleration(_Part):
    """A taint of nodes that pods put up with."""

    key: Line | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: Line | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Volume(_Part):
    """A folder that each pod has, of a claim, a secret or a config map."""

    name: Name
    claim: Name | None = None
    secret: Name | None = None
    config_map: Name | None = None
    path: Annotated[Line, AfterValidator(_is_absolute)]
    read_only: StrictBool = False

    @model_validator(mode="after")
    def _is_of_one(self) -> Volume:
        if sum(of is not None for of in (self.claim, self.secret, self.config_map)) != 1:
            raise ValueError(f"{self.name} must be of one: claim, secret or config_map")
        return self


class Kubernetes(Terms):
    """What pods are made of."""

    kind: ClassVar[str] = "kubernetes"
    image: Word
    """Has segengine and Python, of the driver's versions."""
    namespace: Name | None = None
    """Omitted: that of the context, or of the pod that the driver runs in."""
    resources: Resources
    service_account: Name | None = None
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = Field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    """Variables; what is secret belongs to `env_from`."""
    env_from: tuple[Name, ...] = ()
    """Secrets whose entries are variables."""
    pull_secrets: tuple[Name, ...] = ()
    """Secrets that the image is pulled with."""
    idle_timeout: Duration = "30m"
    """Without work for so long, the operator ends the cluster: the driver is gone."""

    @field_validator("idle_timeout")
    @classmethod
    def _idle_timeout_is_long_enough(cls, value: str | float) -> str | float:
        if seconds_of(value) < _LEAST:
            raise ValueError("must be 10 s at least")
        return value

    @property
    def idle_seconds(self) -> int:
        """The idle timeout."""
        return int(seconds_of(self.idle_timeout))

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker."""
        return bytes_of(self.resources.memory)
