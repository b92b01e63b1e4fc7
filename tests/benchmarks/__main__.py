"""Run the benchmarks named on the command line, or all, and print one table.

python -m tests.benchmarks                  everything (about an hour on two cores)
python -m tests.benchmarks kmeans startup   only these
"""

import importlib
import sys

from tests.benchmarks.table import Row, show

NAMES = (
    "startup",
    "orchestration",
    "records",
    "memory",
    "engine",
    "kmeans",
    "stitching",
    "inference",
    "metrics",
)


def main(names: list[str]) -> int:
    """Print the table; 2 for a name there is not."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return 2
    rows: list[Row] = []
    for name in names or NAMES:
        print(f"... {name}", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"tests.benchmarks.{name}").rows()
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
