"""Run the benchmarks named on the command line, or all, and print each row as it is measured.

python -m tests.benchmarks                    all but what trains networks (half an hour on two cores)
python -m tests.benchmarks kmeans satellite   only the rows of these
python -m tests.benchmarks training           every architecture by loss (about an hour); also overfit,
                                              vehicles, proposals and scaling
"""

import importlib
import os
import sys
import time

from tests.benchmarks.table import HEADING, line

NAMES = (
    "startup",
    "onephoto",
    "folder",
    "video",
    "satellite",
    "earth",
    "stores",
    "objectstore",
    "bucket",
    "workers",
    "orchestration",
    "scale",
    "records",
    "small",
    "fsync",
    "memory",
    "engine",
    "kmeans",
    "kernels",
    "background",
    "meanshift",
    "superpixels",
    "components",
    "stitching",
    "inference",
    "gpu",
    "maskrcnn",
    "metrics",
)
LEARNING = ("overfit", "training", "vehicles", "proposals", "scaling")
"""Those that train networks, which only who names them waits for."""


def main(names: list[str]) -> int:
    """Print the table; 2 for a name there is not, 1 where one failed."""
    known = (*NAMES, *LEARNING)
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    # As pip leaves an installation: compiled. Else each worker compiles all that it loads, each time.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        sys.dont_write_bytecode = False
    print(line(HEADING), flush=True)
    return max([_measured(name) for name in names or NAMES])


def _measured(name: str) -> int:
    """Print the rows of one; 1 where it failed, which loses no other."""
    started, failed = time.monotonic(), 0
    try:
        for row in importlib.import_module(f"tests.benchmarks.{name}").rows():
            print(line(row), flush=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
        print(f"{name}: failed: {' '.join(f'{type(error).__name__}: {error}'.split())}", flush=True)
        failed = 1
    print(f"... {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
