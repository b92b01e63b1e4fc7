"""Where the `segengine` command begins: signals first, then all that takes time to load."""

from __future__ import annotations

import sys

from segengine_flows.early import catch_early


def main() -> int:
    """Run the command; returns its exit code."""
    catch_early()
    from segengine_flows.leaving import Interrupted, catch_signals

    catch_signals()
    try:
        from segengine_flows.cli import main as command

        return command()
    except Interrupted as interrupted:
        interrupted.leave()


if __name__ == "__main__":
    sys.exit(main())
