"""What a kind of cluster takes in the job's `cluster` block, found by its name like the kind itself.

A kind's factory imports Dask, and what its workers are asked of besides; what a job may say of it is
needed before that, in a second and without either. So the terms of a kind are a class of their own,
registered under `segengine.terms`; a kind without them checks its options when it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, ValidationError

from segengine.terms.booleans import NoBooleans


class Terms(NoBooleans):
    """The options of a kind, and what else its block must say. Fields are the options."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str]
    ranges: ClassVar[bool] = True
    """`workers` may be {min, max}."""
    auto: ClassVar[bool] = False
    """`workers` may be left out."""
    addressed: ClassVar[bool] = False
    """It needs `address`; other kinds refuse one."""
    files: ClassVar[tuple[str, ...]] = ()
    """Options that are paths: relative ones are taken against the job file."""

    @property
    def worker_bytes(self) -> int | None:
        """Memory of a worker; None: not known before it is there."""
        return None

    def refusal(self, workers: Any, address: str | None) -> str:
        """What is wrong with the rest of the block, beginning with its key; empty: nothing."""
        if not self.addressed and address is not None:
            return f"address: {self.kind} takes none; leave the key out"
        if self.addressed and address is None:
            return f"address: {self.kind} needs one"
        if workers == "auto":
            example = "{min: 2, max: 50}"
            return "" if self.auto else f"workers: {self.kind} needs a number, or {example}"
        if not isinstance(workers, int) and not self.ranges:
            return (
                f"workers: {self.kind} takes a number; {{min, max}} is for workers that come and go"
            )
        return ""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Those options. Raises ValueError in one line that begins with the option's name."""
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            found = error.errors(include_url=False)
            first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
            name = ".".join(part for part in first["loc"] if isinstance(part, str))
            raise ValueError(f"{name or cls.kind}: {cls._said(first)}") from None

    @classmethod
    def _said(cls, error: Any) -> str:
        deep = len(error["loc"]) > 1
        if error["type"] == "extra_forbidden":
            takes = "" if deep else f"; it takes {', '.join(cls.model_fields) or 'none'}"
            return f"{cls.kind} has no such option{takes}"
        if error["type"] == "missing":
            return f"{cls.kind} needs this option"
        if error["type"] == "string_pattern_mismatch":
            return f"cannot be {error['input']!r}; one line, and for a name no more than that"
        if error["type"] in ("tuple_type", "list_type"):
            return f"must be a list, as [...], got {error['input']!r}"
        if error["type"] in ("dict_type", "model_type"):
            return f"must be a block of keys, got {error['input']!r}"
        if error["type"].startswith("bool"):
            return f"must be true or false, got {error['input']!r}"
        message = str(error["msg"]).removeprefix("Value error, ")
        told = repr(error["input"]) in message
        return message if told else f"{message}, got {error['input']!r}"
