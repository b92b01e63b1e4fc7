"""Which tests need what a machine may lack: a marker each, skipped with the remedy where it does.

With REQUIRE_TOOLS in the environment what a package would bring must be there: without it tests fail.
What only a kernel could allow is skipped all the same, by name.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from typing import NamedTuple

from tests.slurm import NEEDED

PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *glob.glob("/usr/lib/postgresql/*/bin")]
)


class Need(NamedTuple):
    """What the tests of a marker need: programs, and most of them root."""

    programs: tuple[str, ...]
    remedy: str
    root: bool = True
    trial: str = ":"
    """Shell words that work where the kernel allows what they do."""


NEEDS = {
    "slurm": Need(NEEDED, "Slurm's daemons: apt-get install slurm-wlm munge"),
    "containers": Need(
        ("buildah", "unshare", "setpriv", "chroot"),
        "a builder of images: apt-get install buildah",
        trial="unshare --mount --pid --fork true",
    ),
    "hosts": Need(
        ("ip", "unshare"),
        "network namespaces: apt-get install iproute2",
        trial="unshare --net true && exec 3<>/dev/net/tun",
    ),
    "pods": Need(
        ("postgres", "initdb", "unshare", "setpriv", "chroot"),
        "PostgreSQL's server: apt-get install postgresql",
        trial="unshare --mount --pid --fork true",
    ),
    "browser": Need(("chromium",), "a browser: apt-get install chromium", root=False),
}
"""By marker."""


def lacking() -> dict[str, str]:
    """By marker, why its tests cannot run here; without those that can."""
    found = {}
    for marker, need in NEEDS.items():
        there = all(shutil.which(program, path=PATH) for program in need.programs)
        allowed = not need.root or os.geteuid() == 0
        if os.environ.get("REQUIRE_TOOLS") and not (there and allowed):
            continue
        if not there:
            found[marker] = f"needs {need.remedy}"
        elif not allowed:
            found[marker] = f"needs root: sudo pytest -m {marker}"
        elif subprocess.run(["sh", "-c", need.trial], check=False, capture_output=True).returncode:
            found[marker] = f"the kernel does not allow: {need.trial}"
    return found
