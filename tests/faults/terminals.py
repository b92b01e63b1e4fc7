"""A terminal with a command in its foreground, as a person has it: typed keys, a hangup, a screen."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil
from harness import HERE, LONG, MARK, marked, until

import segengine

CTRL_C = b"\x03"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
_STEERING = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_BAR = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
_LEAD = """
import fcntl, os, signal, sys, termios

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # as a shell does, whoever started the tests
os.execv(sys.executable, [sys.executable, "-P", *sys.argv[1:]])
"""


class Terminal:
    """A pseudo-terminal, and a process that leads its session; what that starts carries its mark."""

    def __init__(
        self, folder: Path, *command: str, path: Iterable[Path] = (), **environment: str
    ) -> None:
        """`path`: folders on the module path, ahead of others."""
        roots = [*path, HERE, Path(segengine.__file__).parents[1]]
        self.mark = uuid.uuid4().hex
        given = {
            MARK: self.mark,
            "PYTHONPATH": os.pathsep.join(map(str, roots)),
            "PYTHONIOENCODING": "utf-8",
            "TERM": "xterm",
        }
        self._keys, screen = pty.openpty()
        termios.tcsetwinsize(screen, (40, 300))
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-c", _LEAD, *command],
            cwd=folder,
            env=os.environ | given | environment,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
        )
        os.close(screen)
        self._seen, self._is_open = b"", True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while self._is_open:
                if select.select([self._keys], [], [], 0.05)[0]:
                    self._seen += os.read(self._keys, 1 << 16)

    @property
    def screen(self) -> str:
        """All that was written to it so far."""
        return self._seen.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._keys, keys)

    def signal(self, number: signal.Signals) -> None:
        """To all processes in the foreground."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def close(self) -> None:
        """Shut the window."""
        if self._is_open:
            self._is_open = False
            self._reader.join()
            os.close(self._keys)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, which must come true before the command ends."""
        until(lambda: condition() or self.popen.poll() is not None, what)
        assert self.popen.poll() is None, f"{what}: it has ended: {self.screen}"

    def wait(self, seconds: float = LONG) -> int:
        """The exit code, once all is read."""
        code = self.popen.wait(seconds)
        if self._is_open:
            self._reader.join(5)
        return code

    def everyone(self) -> list[psutil.Process]:
        """All living processes that carry the mark."""
        return marked(self.mark)

    def workers(self) -> list[psutil.Process]:
        """The Dask workers of a local cluster."""
        found = []
        for process in self.everyone():
            with suppress(psutil.Error):
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def said(self) -> list[str]:
        """Lines on it, without bars, what steers it, and the keys that it echoes."""
        lines = re.split(r"[\r\n]+", _STEERING.sub("", self.screen).replace("^C", ""))
        return [line.strip() for line in lines if line.strip() and _BAR not in line]

    def cursor_is_shown(self) -> bool:
        """Whether a person sees where they type."""
        return self.screen.rfind(HIDE) <= self.screen.rfind(SHOW)

    def assert_nobody_left(self, seconds: float = 10.0) -> None:
        """Nothing that it started lives on for long."""
        until(lambda: not self.everyone(), "processes are left", seconds)

    def end(self) -> None:
        """Clean up."""
        for process in self.everyone():
            with suppress(psutil.Error):
                process.kill()
        self.popen.wait()
        self.close()
