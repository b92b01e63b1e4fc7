"""What the kinds take that need nothing but Dask: workers here, or those of a scheduler that runs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import StrictBool

from segengine.terms import Terms
from segengine.terms.places import flaw_of


class Local(Terms):
    """Worker processes on this machine."""

    kind: ClassVar[str] = "local"
    ranges: ClassVar[bool] = False
    auto: ClassVar[bool] = True
    dashboard: StrictBool = False
    """Dask's pages are served on loopback."""
    gpus: Literal[0, 1] | None = None
    """Of each worker; 1: one of its own, 0: none; omitted: what is here is shared out."""


class Address(Terms):
    """A scheduler that runs; its certificates are files."""

    kind: ClassVar[str] = "address"
    ranges: ClassVar[bool] = False
    auto: ClassVar[bool] = True
    addressed: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("ca", "cert", "key")
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def refusal(self, workers: Any, address: str | None) -> str:
        """As `Terms.refusal`."""
        if address is not None and (flaw := flaw_of(_whole(address), ("tcp", "tls"), port=True)):
            return f"address: {flaw}"
        return super().refusal(workers, address)


def _whole(address: str) -> str:
    """An address with its scheme: Dask takes `host:8786` for tcp."""
    bare = address and "://" not in address
    return f"tcp://{address}" if bare else address
