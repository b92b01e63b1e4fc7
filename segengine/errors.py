"""Errors whose kind decides the exit code; everything else raises built-ins.

Their messages hold no credentials, whatever they are made from.
"""

from __future__ import annotations

from segengine.urls import public


class _PublicError(Exception):
    """An error whose message anyone may read."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(public(a) if isinstance(a, str) else a for a in args))


class SegengineError(_PublicError):
    """An error that stops a run. One line: what is wrong, where, and what to do."""

    exit_code = 1


class JobError(SegengineError):
    """The job file or the command line is wrong; nothing was started."""

    exit_code = 2


class UntrustedError(JobError):
    """A store names code of its own, which is not used unless told to."""


class StoreLockedError(SegengineError):
    """Another run works on the store."""


class TooManyQuarantinedError(SegengineError):
    """More frames are quarantined than the job's `faults.max_quarantined` allows."""


class StoreError(SegengineError):
    """The store cannot be read or written."""


HEAL = "mend it with: segengine run JOB.yaml --repair"


class DamagedStoreError(StoreError):
    """Stored bytes are not those that were committed; `segengine run --repair` mends them."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key}: {what}; {HEAL}")
        self.key, self.what = key, what


class StoreAccessError(StoreError):
    """A call of the store that failed."""

    def __init__(self, what: str, remedy: str = "run the same command again", fatal: bool = False):
        super().__init__(what, remedy, fatal)
        self.what, self.remedy = public(what), remedy
        self.fatal = fatal
        """No other try goes better: full, refused, not there."""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class StoppedError(Exception):
    """The run was asked to stop; the same command goes on."""


class CorruptInputError(_PublicError):
    """An input that cannot be decoded, now or later, until it changes; becomes a value in a record."""


class OutsideError(CorruptInputError):
    """An input of which no pixel lies in the job's area: it takes no place, and nothing is wrong."""


class TransientInputError(_PublicError):
    """An input that could not be read now and may be readable later (network, permissions)."""


class MissingInputError(TransientInputError):
    """An input that is not there: of one that was, the mask stays, marked gone."""


class DeniedInputError(TransientInputError):
    """A server refuses an input: a signature has expired, or credentials are missing."""


class TooLargeError(_PublicError):
    """A volume that is too large for a figure: it is left out, and named."""


class MissingTruthError(_PublicError):
    """A frame's truth is not there, cannot be read, or is not of the frame's size."""
