"""What a job says of a Dask gateway: `cluster.options` of `kind: gateway`.

What is not named here is an option of the gateway's own, which it alone can judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from segengine.terms import Terms
from segengine.terms.places import flaw_of
from segengine.urls import public


class Gateway(Terms):
    """Which cluster of a gateway, and how it is asked."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: ClassVar[str] = "gateway"
    auth: Literal["basic", "jupyterhub", "kerberos"] | None = None
    """How it is asked; omitted: as Dask's own settings say. Passwords stand there, and in no job."""
    name: str | None = None
    """A cluster that runs, and goes on after the run; omitted: one of its own."""
    addressed: ClassVar[bool] = True
    auto: ClassVar[bool] = True

    @property
    def theirs(self) -> Mapping[str, Any]:
        """Options that go to the gateway."""
        return dict(self.model_extra or {})

    def refusal(self, workers: Any, address: str | None) -> str:
        """As `Terms.refusal`."""
        if workers == "auto" and self.name is None:
            return "workers: gateway needs a number, or {min: 2, max: 50}; none goes with options: name"
        if address is not None and (flaw := flaw_of(address, ("http", "https"), port=False)):
            return f"address: {flaw}"
        if address is not None and public(address) != address:
            return (
                "address: gateway takes no user, password or query; set "
                "DASK_GATEWAY__AUTH__KWARGS__USERNAME and DASK_GATEWAY__AUTH__KWARGS__PASSWORD"
            )
        if self.name is not None and self.theirs:
            option = next(iter(self.theirs))
            return f"options: {option}: a cluster that runs has its options; leave the key out"
        return super().refusal(workers, address)
