"""Run the benchmarks named on the command line, or all, and print one table.

python -m tests.benchmarks                  all but what trains networks (about an hour on two cores)
python -m tests.benchmarks kmeans startup   only these
python -m tests.benchmarks training         every architecture by loss (about an hour); also overfit,
                                            vehicles, proposals and scaling
"""

import importlib
import sys

from tests.benchmarks.table import Row, show

NAMES = (
    "startup",
    "onephoto",
    "orchestration",
    "records",
    "small",
    "fsync",
    "memory",
    "engine",
    "kmeans",
    "kernels",
    "stitching",
    "inference",
    "maskrcnn",
    "metrics",
)
LEARNING = ("overfit", "training", "vehicles", "proposals", "scaling")
"""Those that train networks, which only who names them waits for."""


def main(names: list[str]) -> int:
    """Print the table; 2 for a name there is not."""
    known = (*NAMES, *LEARNING)
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    rows: list[Row] = []
    for name in names or NAMES:
        print(f"... {name}", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"tests.benchmarks.{name}").rows()
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
