"""What a job says of the batch system that starts its workers: `cluster.options` of `kind: jobqueue`.

A job of the batch system has `cores` worker processes of one thread each, which share its memory.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from segengine.guards.trust import ALLOW, is_forbidden
from segengine.terms import Terms
from segengine.terms.quantities import (
    Count,
    Duration,
    Size,
    Word,
    bytes_of,
    require_worker,
    seconds_of,
)

_LEAST = 60
"""Seconds: batch systems count minutes."""


class Jobqueue(Terms):
    """How workers are asked for."""

    kind: ClassVar[str] = "jobqueue"
    system: Literal["slurm", "pbs", "lsf", "sge"]
    queue: Word | None = None
    """Partition or queue; omitted: the site's own."""
    cores: Count = Field(1, ge=1)
    """Of a job: so many workers."""
    memory: Size
    """Of a job, as `16GB`."""
    gpus: Literal[0, 1] = 0
    """Of each worker: a job has as many as it has cores."""
    walltime: Duration = "1h"
    """Of a job: `90m`, `4h`, `01:30:00`, or seconds."""
    prologue: tuple[str, ...] = ()
    """Shell lines before the workers start: modules, variables."""
    directives: tuple[Word, ...] = ()
    """What else the system is told, as `--account=x`, without its `#SBATCH`."""
    interface: Annotated[str, Field(pattern=r"^[\w.:@-]+$")] | None = None
    """Network that scheduler and workers meet on; omitted: this host's loopback."""

    @field_validator("memory")
    @classmethod
    def _memory_is_enough(cls, value: str, info: ValidationInfo) -> str:
        require_worker(value, info.data.get("cores", 1))
        return value

    @field_validator("walltime")
    @classmethod
    def _walltime_is_long_enough(cls, value: str | float) -> str | float:
        if seconds_of(value) < _LEAST:
            raise ValueError("must be a minute at least")
        return value

    @field_validator("prologue")
    @classmethod
    def _commands_are_allowed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and is_forbidden():
            raise ValueError(f"runs commands, which this deployment forbids ({ALLOW}=0)")
        return value

    @property
    def seconds(self) -> int:
        """The walltime."""
        return int(seconds_of(self.walltime))

    @property
    def bytes(self) -> int:
        """Memory of a job."""
        return bytes_of(self.memory)

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker."""
        return self.bytes // self.cores
