"""Where the `segengine` command begins: signals first, then all that takes time to load."""

from __future__ import annotations

import gc
import sys

from segengine_flows.early import catch_early

OBJECTS = 20_000
"""New objects after which Python looks for what is not needed any more; 700 as it comes, which takes
a fifth of the time of all that is loaded here, and is to stay."""


def main() -> int:
    """Run the command; returns its exit code."""
    catch_early()
    gc.set_threshold(OBJECTS)
    from segengine_flows.leaving import Interrupted, catch_signals

    catch_signals()
    try:
        from segengine_flows.cli import main as command

        return command()
    except Interrupted as interrupted:
        interrupted.leave()


if __name__ == "__main__":
    sys.exit(main())
