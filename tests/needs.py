"""Which tests need what a machine may lack: a marker each, skipped with the remedy where it does.

With REQUIRE_TOOLS in the environment nothing is skipped: what lacks then fails.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.slurm import NEEDED

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
NEEDS = {
    "slurm": (NEEDED, (), "Slurm's daemons: apt-get install slurm-wlm munge"),
    "containers": (
        ("buildah", "unshare", "setpriv", "chroot"),
        (),
        "a builder of images: apt-get install buildah",
    ),
    "hosts": (("ip",), ("/dev/net/tun",), "network namespaces: apt-get install iproute2"),
}
"""By marker: programs, devices, and what they are. All of it needs root."""


def lacking() -> dict[str, str]:
    """By marker, why its tests cannot run here; without those that can."""
    if os.environ.get("REQUIRE_TOOLS"):
        return {}
    found = {}
    for marker, (programs, devices, remedy) in NEEDS.items():
        there = [shutil.which(program, path=PATH) for program in programs]
        if not all(there) or not all(Path(device).exists() for device in devices):
            found[marker] = f"needs {remedy}"
        elif os.geteuid() != 0:
            found[marker] = f"needs root: sudo pytest -m {marker}"
    return found
