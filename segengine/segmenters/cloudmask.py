"""Clouds and their shadows in Sentinel-2 and Landsat scenes, by the network of ukis-csmask.

The wheel `ukis-csmask` (DLR, Apache-2.0; `pip install segengine[cloudmask]`) carries U-Nets on an
EfficientNet-B4 encoder as ONNX, for four bands (blue, green, red, nir) and six (swir16 and swir22
too), for top-of-atmosphere (L1C) and surface reflectance (L2A), each with the mean and standard
deviation of its training set. Only these files are used; the package itself is not imported.

Windows stand where those of its `CSmask` stand on the whole scene, and fade into one another with
the same weights (Tukey's, over 51 pixels), so that the labels are equal to its own, but for 256
pixels at the bottom and right, where the scene is continued in another way. However many shards and
workers a scene is cut into, there is one grid and no seam between them. The network was made for
pixels of about 30 m.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from segengine.engines import Precision
from segengine.segmenters import _files
from segengine.segmenters._augment import Augment, Augmented, augmented
from segengine.segmenters._files import EngineName, check_choice
from segengine.segmenters._network import Anchored, Network, is_count
from segengine.segmenters.model import Auto, network

_PACKAGE = "ukis-csmask"
_LEVELS = ("l1c", "l2a")
_SIX = ("blue", "green", "red", "nir", "swir16", "swir22")
CLASSES = ("clear", "cloud", "shadow")
COLORS = ((42, 92, 62), (245, 245, 245), (54, 54, 96))
_SHARED = 0.2
"""Share of a window that neighbours repeat on the package's grid."""


def create(
    bands: Mapping[str, int],
    level: str,
    divide: float = 10000.0,
    offset: float = 0.0,
    overlap: float | None = None,
    batch: int | Auto = 2,
    engine: EngineName | None = None,
    precision: Precision = "float32",
    augment: Augment | None = None,
) -> Network | Augmented:
    """The cloud mask as a segmenter.

    bands: 1-based number in the raster of blue, green, red and nir, and for the better network of
    swir16 and swir22. level: l1c (top of atmosphere) or l2a (surface). divide, offset: reflectance
    is (value + offset) / divide; 10000 and, from Sentinel-2's processing baseline 04.00 on, -1000;
    1 where the raster holds reflectance. overlap: share of a window that neighbours repeat, on a
    grid of ours instead of the package's; 0.125 takes a fifth fewer windows. engine: onnxruntime
    by default, or openvino. The others as for `model`.
    """
    if engine == "tensorflow":
        raise ValueError("engine: the network is an ONNX file; onnxruntime and openvino run it")
    for name, value, known in (
        ("engine", engine or "onnxruntime", EngineName),
        ("precision", precision, Precision),
    ):
        check_choice(name, value, known)
    if level not in _LEVELS:
        raise ValueError(f"level: must be l1c or l2a, not {level!r}")
    numbers: tuple[tuple[str, object], ...] = (("divide", divide), ("offset", offset))
    for name, number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{name}: must be a number, not {number!r}")
    if divide <= 0:
        raise ValueError(f"divide: must be above 0, not {divide}")
    if overlap is not None and not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap: must be a number from 0 to 0.9, not {overlap!r}")
    names = _names(bands)
    file = _file(f"model_{len(names)}b_{level}.onnx")
    about = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["data"]
    mean, std = about["dataset_statistics"]["img"]
    order = about["dataset_statistics"]["band_names"]
    # (v + offset) / divide - mean = v / divide - (mean - offset / divide)
    opened = _files.open_model(file, engine, precision)
    found = network(
        opened,
        opened.digest,
        bands=[bands[name] for name in order],
        scale={"divide": divide, "mean": [m - offset / divide for m in mean], "std": std},
        classes=CLASSES,
        activation="softmax",
        layout="nchw",
        overlap=overlap or 0.0,
        batch=batch,
        colors=COLORS,
    )
    if overlap is None:
        found = replace(found, cut=_grid(about["target_size"][0]))
    return augmented(found, augment)


def _grid(window: int) -> Anchored:
    """Windows as ukis-csmask places and weighs them; its flanks are a pixel short of the overlap."""
    from scipy.signal.windows import tukey

    shared = window * _SHARED
    return Anchored(tukey(window, 2 * _SHARED), int(window - shared), int(shared))


def _names(bands: Mapping[str, int]) -> tuple[str, ...]:
    """Bands of the network that fits: six where all six are there."""
    given: object = bands
    if not isinstance(given, Mapping):
        raise ValueError("bands: must map names to band numbers, as in {blue: 2, green: 3, ...}")
    unknown = sorted(set(map(str, given)) - set(_SIX))
    if unknown:
        raise ValueError(f"bands.{unknown[0]}: no such band; known are {', '.join(_SIX)}")
    for name, number in given.items():
        if not is_count(number):
            raise ValueError(f"bands.{name}: must be a band number from 1 on, not {number!r}")
    missing = [name for name in _SIX[:4] if name not in bands]
    if missing:
        raise ValueError(f"bands: {', '.join(missing)} must be there")
    if len(bands) == 5:
        raise ValueError("bands: swir16 and swir22 come together, or neither")
    return _SIX if len(bands) == 6 else _SIX[:4]


def _file(name: str) -> Path:
    """A file of the installed package, found without importing it."""
    try:
        found = metadata.distribution(_PACKAGE).locate_file(f"ukis_csmask/{name}")
    except metadata.PackageNotFoundError:
        raise ValueError(
            f"kind: cloudmask needs {_PACKAGE}; `pip install segengine[cloudmask]` brings it"
        ) from None
    path = Path(str(found))
    if not path.is_file():
        raise ValueError(f"kind: {_PACKAGE} {metadata.version(_PACKAGE)} has no {name}")
    return path
