"""What a job says of the batch system that starts its workers: `cluster.options` of `kind: jobqueue`.

A job of the batch system has `cores` worker processes of one thread each, which share its memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from segengine.guards.trust import ALLOW, is_forbidden

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) *([KMGT])(i?)B?", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d\d)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LEAST = 60
"""Seconds: batch systems count minutes."""
Line = Annotated[str, Field(pattern=r"^[^\r\n]*$")]
"""What stands on a line of a script, and starts no other."""


class Options(BaseModel):
    """How workers are asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    system: Literal["slurm", "pbs", "lsf", "sge"]
    queue: Line | None = None
    """Partition or queue; omitted: the site's own."""
    cores: int = Field(1, ge=1)
    """Of a job: so many workers."""
    memory: str
    """Of a job, as `16GB`."""
    walltime: str | int | float = "1h"
    """Of a job: `90m`, `4h`, `01:30:00`, or seconds."""
    prologue: tuple[str, ...] = ()
    """Shell lines before the workers start: modules, variables."""
    directives: tuple[Line, ...] = ()
    """What else the system is told, as `--account=x`, without its `#SBATCH`."""
    interface: Annotated[str, Field(pattern=r"^[\w.:@-]+$")] | None = None
    """Network that scheduler and workers meet on; omitted: this host's loopback."""

    @field_validator("memory")
    @classmethod
    def _memory_is_one(cls, value: str) -> str:
        if not _MEMORY.fullmatch(value.strip()):
            raise ValueError("must be a size as 16GB or 500M")
        return value

    @field_validator("walltime")
    @classmethod
    def _walltime_is_one(cls, value: str | float) -> str | float:
        found = _seconds(value)
        if found is None:
            raise ValueError("must be a duration as 90m, 4h or 01:30:00")
        if found < _LEAST:
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
        return int(_seconds(self.walltime) or 0)

    @property
    def bytes(self) -> int:
        """Memory of a job."""
        match = _MEMORY.fullmatch(self.memory.strip())
        assert match is not None
        power = "KMGT".index(match[2].upper()) + 1
        return int(float(match[1]) * (1024 if match[3] else 1000) ** power)

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker."""
        return self.bytes // self.cores


def options_of(given: Mapping[str, Any]) -> Options:
    """Those options. Raises ValueError in one line that begins with the option's name."""
    try:
        return Options.model_validate(dict(given))
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
        name = str(first["loc"][0])
        raise ValueError(f"{name}: {_said(first)}") from None


def _said(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"jobqueue has no such option; it takes {', '.join(Options.model_fields)}"
    if error["type"] == "missing":
        return "jobqueue needs this option"
    if error["type"] == "string_pattern_mismatch":
        return f"cannot be {error['input']!r}; one line, and for an interface its name"
    return f"{error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"


def _seconds(value: str | float) -> float | None:
    """A duration in seconds; None where it is none. A number is seconds, as YAML reads 1:30:00."""
    if isinstance(value, int | float):
        return float(value)
    if match := _DURATION.fullmatch(value.strip()):
        return float(match[1]) * _SECONDS[match[2]]
    if match := _CLOCK.fullmatch(value.strip()):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    return None
