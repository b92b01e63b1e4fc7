"""`segengine prune`, killed: `python pruner.py N prune STORE ...` ends itself with SIGKILL right before the
N-th rename or removal of a file in its store."""

from __future__ import annotations

import os
import signal
import sys

from segengine_flows.cli import main


def kill_before(count: int, store: str) -> None:
    """Arm it."""
    left = [count]

    def audit(event: str, args: tuple[object, ...]) -> None:
        if event not in ("os.rename", "os.remove"):
            return
        if str(args[1 if event == "os.rename" else 0]).startswith(store):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


if __name__ == "__main__":
    kill_before(int(sys.argv[1]), sys.argv[3])
    sys.exit(main(sys.argv[2:]))
