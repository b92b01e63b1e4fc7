"""What is installed here, at the scheduler and on its workers: one environment, or no run.

A worker with another NumPy may round otherwise, and one with another Dask may not understand a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segengine.errors import SegengineError

NEEDED = (
    "segengine",
    "dask",
    "distributed",
    "cloudpickle",
    "msgpack",
    "numpy",
    "zarr",
    "numcodecs",
)
"""What no worker can do without."""
SCHEDULERS = ("python", "dask", "distributed")
"""What a scheduler has a part in: it reads no task, and no pixel."""
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless")
"""Which of them brings `cv2`."""
PIXELS = (
    *("av", "pillow", "rasterio", "simplejpeg", "tifffile", "pillow-heif", "h5py"),
    *("scipy", "scikit-image", "pyproj", "shapely"),
    *("tensorflow", "keras", "onnxruntime", "openvino"),
)
"""What reads pixels or labels them; none may lack it that has no need of it."""
PACKAGES = (*NEEDED, *OPENCV, *PIXELS)


def require_one_environment(client: Any, where: str) -> None:
    """Raise SegengineError where a version differs from ours, naming what, and where."""
    found: Mapping[str, Any] = client.get_versions(packages=list(PACKAGES))
    ours = _installed(found["client"])
    scheduler = _installed(found["scheduler"])
    _refuse({"the scheduler": _differing(ours, scheduler, SCHEDULERS)}, where)
    workers = {f"worker {name}": _installed(told) for name, told in found["workers"].items()}
    names = ("python", *NEEDED, "cv2", *PIXELS)
    _refuse({name: _differing(ours, theirs, names) for name, theirs in workers.items()}, where)


def _installed(told: Mapping[str, Any]) -> dict[str, str]:
    """Versions by package; of Python, which of its releases makes no difference."""
    found = {name: str(version) for name, version in told["packages"].items() if version}
    found["python"] = ".".join(found["python"].split(".")[:2])
    opencv = next((found[name] for name in OPENCV if name in found), None)
    return found if opencv is None else {**found, "cv2": opencv}


def _differing(
    ours: Mapping[str, str], theirs: Mapping[str, str], names: tuple[str, ...]
) -> list[str]:
    return [
        f"{name} {theirs[name]} (here {ours[name]})" if name in theirs else f"no {name}"
        for name in names
        if name in ours and theirs.get(name) != ours[name] and (name in theirs or name in NEEDED)
    ]


def _refuse(differing: Mapping[str, list[str]], where: str) -> None:
    others = {name: what for name, what in differing.items() if what}
    for name, what in others.items():
        more = f", and {len(others) - 1} more differ" if len(others) > 1 else ""
        raise SegengineError(
            f"{where}: {name} has {', '.join(what)}{more}; install one version everywhere"
        )
