"""A client of a scheduler that runs elsewhere, within a time that holds.

Dask's own limit is for the connection. To who takes one and then says nothing, or speaks another protocol,
its client listens without end. So who is there is asked first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segengine.dispatch.aside import Aside
from segengine.dispatch.dask import NO_WORKERS

if TYPE_CHECKING:
    from distributed import Client, Security

HEARING = 10.0
"""Seconds in which who takes a connection says that it is a scheduler."""


def client_of(place: str, seconds: float, security: Security | None = None) -> Client:
    """A client of the scheduler there, which takes a connection within so many seconds.

    Raises OSError in one line where none answers.
    """
    from distributed import Client, Security

    aside = Aside("segengine-connecting")
    arguments = (security or Security()).get_connection_args("client")
    try:
        known = aside.answer(_is_scheduler(place, seconds, arguments), seconds + HEARING)
    except TimeoutError:
        known = False
    finally:
        aside.end()
    if not known:
        raise OSError("who takes the connection does not speak as a Dask scheduler does")
    client = Client(place, timeout=seconds, set_as_default=False, security=security)
    # Seconds in which it connects anew, of which Dask makes no argument.
    client._timeout = NO_WORKERS
    return client


async def _is_scheduler(place: str, seconds: float, arguments: Any) -> bool:
    """Whether one takes the connection. Raises OSError where nobody does."""
    from distributed.comm import connect

    try:
        comm = await connect(place, timeout=seconds, deserialize=False, **arguments)
        try:
            await comm.write({"op": "identity", "n_workers": 0, "reply": True})
            said = await comm.read()
        finally:
            comm.abort()
    except OSError:
        raise
    except Exception:  # noqa: BLE001 # words of another protocol may be taken for anything
        return False
    return isinstance(said, dict) and said.get("type") == "Scheduler"
