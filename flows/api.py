"""The embedded Prefect API: a child process on loopback that never outlives its parent.

The parent opens the listening socket (no race for a port) and a pipe whose write end it alone
holds: when the parent ends, however it ends, the child reads the end of the pipe and is gone.
Run as `python -P -m segengine_flows.api SOCKET PIPE`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from segengine_flows.settings import home

QUIET = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
"""Prefect keeps its records in its API, and leaves the terminal to the run."""

NO_ANALYTICS = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

STANDSTILL = 6.0
"""Seconds in which an API that starts may do nothing."""

SERVER = {
    # What Prefect's own temporary server sets (prefect.server.api.server.SubprocessASGIServer).
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    # Nothing that a run needs, and each costs start-up time.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    **NO_ANALYTICS,
}


class EmbeddedApi:
    """A Prefect API of our own, for as long as this process lives."""

    def __init__(self) -> None:
        """Start the process and return at once; it needs some seconds until it answers."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            pipe, self._lifeline = os.pipe()
            self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
            fds = (listener.fileno(), pipe)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "segengine_flows.api", *map(str, fds)],
                    env=_server_environment(),
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._log,
                    # Ctrl-C is for the run, which then ends its API itself.
                    start_new_session=True,
                )
            finally:
                os.close(pipe)

    @property
    def pid(self) -> int:
        """Process id of the API."""
        return self._process.pid

    def is_alive(self) -> bool:
        """False once its process has ended."""
        return self._process.poll() is None

    def cpu_seconds(self) -> float:
        """Processor time it has used so far: grows while it starts, stands still where it hangs."""
        import psutil

        try:
            times = psutil.Process(self.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def is_ready(self, timeout: float = 2.0) -> bool:
        """True where it answers, with its database."""
        import http.client

        host = self.url.removeprefix("http://").partition("/")[0]
        connection = http.client.HTTPConnection(host, timeout=timeout)
        try:
            connection.request("GET", "/api/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait(self, seconds: float) -> None:
        """Wait until it answers. Raises RuntimeError, with its last words, where it does not."""
        began = worked = time.monotonic()
        used = 0.0
        # The socket listens already: a request waits in its queue until the API takes it.
        while not self.is_ready(1.0):
            now = time.monotonic()
            # A first start makes a database: patience while it works on that.
            working = self.cpu_seconds()
            worked, used = (now, working) if working > used else (worked, used)
            if not self.is_alive():
                raise RuntimeError(f"it ended at its start: {self._last_words()}")
            if now - began >= seconds or now - worked >= STANDSTILL:
                raise RuntimeError(f"it did not answer within {now - began:.0f} s")
            time.sleep(0.05)

    def stop(self, patience: float = 3.0) -> None:
        """End the process: let it write down what it has, then insist."""
        if self.is_alive() and patience > 0:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        if self.is_alive():
            self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else f"exit code {self._process.returncode}"


def _server_environment() -> dict[str, str]:
    client_only = {"PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"}
    return {k: v for k, v in os.environ.items() if k not in client_only} | SERVER


def prepare_client(url: str | None) -> None:
    """Settings for the Prefect client in this process; to be called before Prefect is loaded.

    `url`: the embedded API's, or None for one that is configured. What the user has set stays.
    """
    defaults = {"PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false"}
    if url is not None:
        os.environ["PREFECT_API_URL"] = url
        os.environ.update(NO_ANALYTICS)
    if os.environ.get("SEGENGINE_DEBUG") != "1":
        defaults |= QUIET
        # Else Prefect writes to stderr, past logging, whenever it cannot send its log lines.
        logging.raiseExceptions = False
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


# ------------------------------------------------------------------------------------- the process


def _end_with_parent(pipe: int, parent: int) -> None:
    """End this process when the pipe ends, or when another process has become its parent."""
    while os.getppid() == parent:
        readable, _, _ = select.select([pipe], [], [], 1.0)
        if readable and not os.read(pipe, 1):
            break
    # Not sys.exit: nothing here may keep the process, and SQLite stands a kill.
    os._exit(0)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold Prefect's database while it is created or migrated: two at once fail."""
    home().mkdir(parents=True, exist_ok=True)
    with open(home() / "segengine-api.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def serve(listener: socket.socket) -> None:
    """Serve the Prefect API on a socket until SIGTERM."""
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            with _one_at_a_time():
                await super().startup(sockets)

    app: Any = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    Server(config).run(sockets=[listener])


def main(argv: list[str]) -> None:
    """Entry point of the process: file descriptors of the socket and of the pipe."""
    parent = os.getppid()
    listener, pipe = socket.socket(fileno=int(argv[0])), int(argv[1])
    os.set_inheritable(pipe, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(pipe, parent), daemon=True).start()
    serve(listener)


if __name__ == "__main__":
    main(sys.argv[1:])
