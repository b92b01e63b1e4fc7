"""What the kinds take that need nothing but Dask: workers here, or those of a scheduler that runs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import StrictBool

from segengine.terms import Terms


class Local(Terms):
    """Worker processes on this machine."""

    kind: ClassVar[str] = "local"
    ranges: ClassVar[bool] = False
    auto: ClassVar[bool] = True
    dashboard: StrictBool = False
    """Dask's pages are served on loopback."""


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
