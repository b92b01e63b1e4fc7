"""The portable result of a training: `bundle.json` and weights, in a folder or a zip of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segengine.engines import reason
from segengine.types import Color

META = "bundle.json"
WEIGHTS = ("model.weights.h5", "model.keras")
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle says of its network."""

    architecture: str
    options: Mapping[str, Any]
    """For `segengine.models.build`."""
    bands: int
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    scale: Mapping[str, Any]
    activation: str
    """What makes probabilities of the network's output; sigmoid: of one channel."""
    size: tuple[int | None, int | None]
    resize: bool
    """Whole frames were resized to `size`."""


def is_bundle(path: Path) -> bool:
    """True for a folder or zip with a `bundle.json`."""
    if path.is_dir():
        return (path / META).is_file()
    if path.suffix != ".zip" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == META for name in archive.namelist())


@contextmanager
def opened(path: Path) -> Iterator[tuple[Bundle, Path]]:
    """A bundle, and the file with its weights while the context lasts.

    Raises ValueError where the bundle is damaged.
    """
    if path.is_dir():
        yield _read(path), _weights(path)
        return
    with tempfile.TemporaryDirectory(prefix="segengine-") as name:
        folder = Path(name)
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():  # by their last name only: no path leads out of it
                wanted = member.rpartition("/")[2]
                if wanted in (META, *WEIGHTS):
                    with archive.open(member) as source, open(folder / wanted, "wb") as target:
                        shutil.copyfileobj(source, target)
        yield _read(folder), _weights(folder)


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"the bundle has no {WEIGHTS[0]}")


def _read(folder: Path) -> Bundle:
    try:
        data = json.loads((folder / META).read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format')!r} is not known; this reads {FORMAT}")
        height, width = data.get("size") or (None, None)
        return Bundle(
            str(data["architecture"]),
            dict(data.get("options") or {}),
            int(data["bands"]),
            tuple(map(str, data["classes"])),
            tuple((int(r), int(g), int(b)) for r, g, b in data.get("colors") or ()),
            dict(data.get("scale") or {}),
            str(data.get("activation") or "none"),
            (height, width),
            bool(data.get("resize", False)),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{META} is damaged: {reason(error)}") from error
