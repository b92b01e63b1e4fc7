"""Where this folder is on the path, a process waits in the midst of its imports: a Dask worker, or
whoever imports what WAIT_IN names."""

import os
import sys
import time
from pathlib import Path

MODULE = os.environ.get("WAIT_IN", "distributed.nanny")


def _audit(event: str, args: tuple[object, ...]) -> None:
    gate = Path(os.environ["WAIT_GATE"])
    if event == "import" and args[0] == MODULE and gate.exists():
        gate.with_suffix(".there").touch()
        while gate.exists():
            time.sleep(0.05)


if "WAIT_IN" in os.environ or any("spawn_main" in part for part in sys.orig_argv):
    sys.addaudithook(_audit)
