"""Who takes a connection and is no scheduler is not listened to for ever."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from segengine.dispatch import clusters, connecting, tls
from segengine.errors import SegengineError
from segengine.job import ClusterSpec

GREETINGS = {"mute": b"", "another protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n"}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_who_is_no_scheduler_is_told_in_time(
    greeting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                held.append(listening.accept()[0])
                held[-1].sendall(greeting)

    monkeypatch.setattr(tls, "PATIENCE", 0.1)
    monkeypatch.setattr(connecting, "HEARING", 0.1)
    monkeypatch.setattr(clusters, "CONNECTION", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        place = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(SegengineError) as caught:
            clusters.address(ClusterSpec(kind="address", address=place), 1).__enter__()
        listening.shutdown(socket.SHUT_RDWR)
    for one in held:
        one.close()
    assert str(caught.value) == (
        f"cluster.address: {place} does not answer: who takes the connection does not speak as a Dask "
        "scheduler does; is the scheduler running?"
    )
    assert caught.value.exit_code == 1
