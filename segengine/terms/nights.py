"""What a job says of its nights: the hours that a run keeps, and what it tells in the morning."""

from __future__ import annotations

import math
import re
from datetime import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from segengine.terms.quantities import seconds_of

_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?")
_DURATION = re.compile(r"[0-9]+(\.[0-9]+)? *[smhd]")
_QUOTED = 'a time of day in quotes, as "06:00"'


def _shown(pattern: re.Pattern[str]) -> dict[str, Any]:
    """What an editor may know of a text's form."""
    return {"pattern": f"^{pattern.pattern}$"}


class BudgetSpec(BaseModel):
    """The hours that a run keeps: no shard begins that would not end in them"""

    model_config = ConfigDict(extra="forbid", frozen=True)
    until: str | None = Field(
        None,
        json_schema_extra=_shown(_TIME),
        description='The next such time of day, as "06:00"; or `duration`, one of the two',
    )
    zone: str | None = Field(
        None, description="Of `until`, as Europe/Berlin; omitted = the machine's own"
    )
    duration: str | None = Field(
        None,
        json_schema_extra=_shown(_DURATION),
        description="From the beginning of the run, as 90m or 4h",
    )
    order: Literal["newest", "path", "smallest"] = Field(
        "newest",
        description="Which shards are first: newest by the input's time (the item's datetime, the file's "
        "time of change, else its name), path by its name, smallest by its pixels",
    )

    @field_validator("until", mode="before")
    @classmethod
    def _until_is_a_time(cls, value: Any) -> Any:
        # YAML reads 22:00 without quotes as a number of minutes.
        if value is not None and not (isinstance(value, str) and _TIME.fullmatch(value)):
            raise ValueError(f"must be {_QUOTED}")
        return value

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, value: str | None) -> str | None:
        from zoneinfo import ZoneInfo

        if value is not None:
            try:
                ZoneInfo(value)
            except (ValueError, OSError, KeyError):
                raise ValueError("is no zone of the IANA database, as Europe/Berlin is") from None
        return value

    @field_validator("duration", mode="before")
    @classmethod
    def _duration_is_one(cls, value: Any) -> Any:
        if value is None:
            return value
        if not (isinstance(value, str) and _DURATION.fullmatch(value.strip())):
            raise ValueError("must be a number and s, m, h or d, as 4h")
        if not 0 < seconds_of(value) < math.inf:
            raise ValueError("must be more than nothing")
        return value.strip()

    @model_validator(mode="after")
    def _one_of_two(self) -> BudgetSpec:
        if (self.until is None) == (self.duration is None):
            raise ValueError("until: say this, or duration: one of the two")
        if self.zone is not None and self.until is None:
            raise ValueError("zone: goes with until")
        return self

    @property
    def time(self) -> time | None:
        """`until`."""
        return None if self.until is None else time.fromisoformat(self.until)

    @property
    def seconds(self) -> float | None:
        """`duration`."""
        return None if self.duration is None else seconds_of(self.duration)


class AlertSpec(BaseModel):
    """A figure that is told of where it passes a limit, or shifts from what it was"""

    model_config = ConfigDict(extra="forbid", frozen=True)
    figure: str = Field(
        min_length=1,
        description="A column of tables/runs.parquet: area.CLASS in pixels, mean_iou, frames.failed ...",
    )
    shift: float | None = Field(
        None,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="By which share it may differ from its median over the 7 runs before, as 0.2",
    )
    below: float | None = Field(
        None, strict=True, allow_inf_nan=False, description="The least it may be"
    )
    above: float | None = Field(
        None, strict=True, allow_inf_nan=False, description="The most it may be"
    )
    change: Literal[True] | None = Field(
        None,
        description="true: told where its level changed in one of the last 3 runs, by its noise in up to "
        "60; takes segengine[alerts]",
    )

    @field_validator("change", mode="before")
    @classmethod
    def _change_is_true(cls, value: Any) -> Any:
        if value is not None and value is not True:  # 1 equals it
            raise ValueError("must be true, or left out")
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> AlertSpec:
        if len(self.rules) != 1:
            raise ValueError(
                "figure: needs one of shift, below, above, change; write an alert for each"
            )
        return self

    @property
    def rules(self) -> dict[str, float]:
        """The one that is given."""
        found = {
            "shift": self.shift,
            "below": self.below,
            "above": self.above,
            "change": self.change,
        }
        return {name: value for name, value in found.items() if value is not None}
