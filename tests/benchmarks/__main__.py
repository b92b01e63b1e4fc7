"""Run the benchmarks named on the command line, or all, and print each row as it is measured.

python -m tests.benchmarks                    all but what trains networks (half an hour on two cores)
python -m tests.benchmarks kmeans satellite   only the rows of these
python -m tests.benchmarks training           every architecture by loss (about an hour); also overfit,
                                              vehicles, proposals and scaling
"""

import importlib
import os
import subprocess
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
    "confidence",
)
PACKAGE = "tests.benchmarks"
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
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(line(HEADING), flush=True)
    return max([_measured(name) for name in names or NAMES])


def _measured(name: str) -> int:
    """Print the rows of one, by a process of its own: what another took is no memory of this one."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _ONE, f"{PACKAGE}.{name}"], check=False)
    if done.returncode < 0:
        print(f"{name}: failed: ended by signal {-done.returncode}", flush=True)
    print(f"... {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return int(done.returncode != 0)


_ONE = "import sys; from tests.benchmarks.__main__ import show; sys.exit(show(sys.argv[1]))"


def show(name: str) -> int:
    """Print the rows of a module; 1 where it failed, which loses no other."""
    try:
        for row in importlib.import_module(name).rows():
            print(line(row), flush=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
        what = name.rpartition(".")[2]
        print(f"{what}: failed: {' '.join(f'{type(error).__name__}: {error}'.split())}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
