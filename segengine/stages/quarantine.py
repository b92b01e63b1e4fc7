"""Frames given up so far, and when they are too many."""

from __future__ import annotations

import math

from segengine.errors import TooManyQuarantinedError
from segengine.progress import FailedFrame

ALWAYS_ALLOWED = 5
"""Frames that never stop a run, however few are planned."""


class Quarantine:
    """Failed frames by name; raises when they pass the job's limit."""

    def __init__(self, frames: int, share: float) -> None:
        self.limit = max(ALWAYS_ALLOWED, math.floor(share * frames))
        self.frames, self.share = frames, share
        self.failed: dict[str, FailedFrame] = {}

    def __len__(self) -> int:
        return len(self.failed)

    def add(self, frame: FailedFrame) -> None:
        """Count a frame once. Raises TooManyQuarantinedError."""
        self.failed.setdefault(frame.name, frame)
        if len(self.failed) > self.limit:
            worst = next(reversed(self.failed.values()))
            raise TooManyQuarantinedError(
                f"{len(self.failed)} of {self.frames} frames are quarantined, above "
                f"faults.max_quarantined {self.share:g} ({self.limit} frames); the last one: "
                f"{worst.name}: {worst.reason}; mend the inputs or raise the limit"
            )
