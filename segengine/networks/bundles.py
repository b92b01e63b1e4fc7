"""The portable result of a training: `bundle.json` and weights, in a folder or a zip of it.

    format        1
    architecture  name for `segengine.models.build`, with `options`, `bands` and the classes' number
    activation    softmax or sigmoid: what makes probabilities of the network's output, a logit
    classes, colors, scale ({divide}, {mean, std} or {range}), size ([h, w], or nulls: any)
    resize        true where the network was trained on whole frames resized to `size`
    job, metrics  the training job and the figures of its last epoch
    inference     options of the segmenter that follow from what was learned; may be absent
    resolution, band_names   metres a pixel and bands of the scenes it learned from; may be absent

Beside it lies `model.weights.h5`, or `model.keras`. No pickle and no code: the network is built anew
from the name of an architecture that is installed, and a bundle names no other file. Whatever is wrong
with a bundle is a ValueError of one line.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from segengine import registry
from segengine.guards import keras as guard
from segengine.guards import texts, zips
from segengine.guards.copies import check_inside, copied
from segengine.types import Color

FORMAT = 1
META = "bundle.json"
WEIGHTS = ("model.weights.h5", "model.keras")
"""What the file with the weights may be called; we write the first."""
MOST = 16 << 20
"""Bytes of a `bundle.json`."""
_LONGEST = 200
"""Characters of a band's name."""
_FILES = ("weights", "trunk", "weights_url")
"""Options that name a file: what training started from, which a bundle has no more need of."""
IMAGENET: Mapping[str, Any] = {
    "divide": 255,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
"""Scale of RGB bytes for weights that torchvision's networks learned from ImageNet."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `bundle.json` says."""

    architecture: str
    options: Mapping[str, Any]
    """For `models.build`; the network gives logits."""
    bands: int
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    """One a class, or none."""
    scale: Mapping[str, Any]
    activation: str
    """What makes probabilities of the network's output; sigmoid: of one channel."""
    size: tuple[int | None, int | None]
    """(height, width) in pixels; None: any."""
    resize: bool
    """Whole frames were resized to `size`."""
    job: Mapping[str, Any]
    metrics: Mapping[str, float]
    inference: Mapping[str, Any] = field(default_factory=dict)
    """Options of the segmenter that follow from what was learned."""
    resolution: float | None = None
    """Metres a pixel of the scenes it was trained on, where all were alike."""
    band_names: tuple[str, ...] = ()
    """Of these scenes."""

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return 1 if self.activation == "sigmoid" else len(self.classes)

    @property
    def shaping(self) -> dict[str, Any]:
        """The options without those that name a file."""
        return {name: value for name, value in self.options.items() if name not in _FILES}

    def build(self) -> Any:
        """The network (a `keras.Model`) with fresh weights. Raises JobError, ValueError, TypeError."""
        sizes = {"bands": self.bands, "classes": self.outputs, "size": self.size}
        return registry.create("models", self.architecture, {**sizes, **self.shaping})

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        data = {"format": FORMAT} | {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("inference", "resolution", "band_names"):
            if not data[name]:
                del data[name]
        return json.dumps(data, indent=2, default=dict) + "\n"


def is_bundle(path: Path) -> bool:
    """True for a folder or zip with a `bundle.json`."""
    if path.is_dir():
        return (path / META).is_file()
    return path.suffix == ".zip" and zipfile.is_zipfile(path) and META in _packed(path)


def read(path: Path) -> Bundle:
    """What a bundle says. Raises ValueError, also where it has no weights."""
    if path.is_dir():
        _weights_among({p.name for p in path.iterdir()})
        check_inside(path / META, path, META)
        return _said(path / META)
    _weights_among(_packed(path))
    with tempfile.TemporaryDirectory(prefix="segengine-") as folder:
        _unpack(path, Path(folder), {META})
        return _said(Path(folder) / META)


@contextmanager
def opened(path: Path) -> Iterator[tuple[Bundle, Path]]:
    """A bundle, and a copy of the file with its weights that nothing else can change.

    They are there while the context lasts, with `bundle.json` beside it. Raises ValueError.
    """
    if path.is_dir():
        weights = _weights_among({p.name for p in path.iterdir()})
        with copied(((path / name, name) for name in (META, weights)), path) as folder:
            yield _said(folder / META), folder / weights
        return
    weights = _weights_among(_packed(path))
    with tempfile.TemporaryDirectory(prefix="segengine-") as unpacked:
        _unpack(path, Path(unpacked), {META, weights})
        yield _said(Path(unpacked) / META), Path(unpacked, weights)


def check_architecture(bundle: Bundle, asked: str | None) -> None:
    """Raise ValueError where a bundle names code of its own choice, `package.module:function`.

    asked: what the job says; that is the user's choice.
    """
    if ":" in bundle.architecture and bundle.architecture != asked:
        own = zips.shown(bundle.architecture)
        raise ValueError(
            f"the bundle names the code {own} as its architecture, which is refused; if it is yours, "
            f"set `architecture: {own}` beside the path"
        )


def load_weights(model: Any, file: Path) -> None:
    """Fill a network from what `save_weights` wrote. Raises ValueError, also where a layer is not
    in the file, and where it holds NaN.

    The file must be one that nothing else can change: it is checked, then loaded.
    """
    try:
        guard.check_weights(file)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a layer that keeps its fresh weights
            model.load_weights(file)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        what = str(error).partition("\n")[0].partition(" Example error message")[0]
        raise ValueError(f"cannot be loaded: {what}") from error
    check_finite(model)


def check_finite(model: Any) -> None:
    """Raise ValueError naming a variable of a network that holds NaN or infinity."""
    import numpy as np

    for variable in model.variables:
        values = variable.numpy()
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{variable.path} holds NaN or infinity")


def _weights_among(names: Collection[str]) -> str:
    for name in WEIGHTS:
        if name in names:
            return name
    raise ValueError(f"the bundle has no {WEIGHTS[0]}")


def _packed(path: Path) -> list[str]:
    """Last names of all that a zip holds."""
    with zipfile.ZipFile(path) as archive:
        return [name.rpartition("/")[2] for name in archive.namelist()]


def _unpack(path: Path, folder: Path, wanted: Collection[str]) -> None:
    """Files of a zip into a folder by their last names only: no path leads out of it."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            zips.check(file)
            for name in wanted:
                members = [m for m in archive.namelist() if m.rpartition("/")[2] == name]
                if len(members) > 1:
                    raise ValueError(f"the zip has several {name}; pack one bundle a zip")
                with archive.open(members[0]) as source, open(folder / name, "wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"the zip is damaged: {_line(error)}") from error


def _said(meta: Path) -> Bundle:
    if meta.stat().st_size > MOST:
        raise ValueError(f"{META} is larger than {MOST >> 20} MiB and is refused")
    return _parse(meta.read_bytes())


def _parse(text: bytes) -> Bundle:
    try:
        data = texts.parse(text, META)
        if data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format')!r} is not known; this reads {FORMAT}")
        height, width = data.get("size") or (None, None)
        if not isinstance(data["classes"], list):
            raise ValueError("classes is no list")
        return Bundle(
            architecture=str(data["architecture"]),
            options=dict(data.get("options") or {}),
            bands=int(data["bands"]),
            classes=tuple(map(str, data["classes"])),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in data.get("colors") or ()),
            scale=dict(data.get("scale") or {}),
            activation=str(data.get("activation") or "none"),
            size=(_side(height), _side(width)),
            resize=bool(data.get("resize", False)),
            job=dict(data.get("job") or {}),
            metrics=dict(data.get("metrics") or {}),
            inference=dict(data.get("inference") or {}),
            resolution=None if data.get("resolution") is None else float(data["resolution"]),
            band_names=tuple(str(name)[:_LONGEST] for name in data.get("band_names") or ()),
        )
    except KeyError as error:
        raise ValueError(f"{META} is damaged: it has no {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{META} is damaged: {_line(error)}") from error


def _side(value: Any) -> int | None:
    return None if value is None else int(value)


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
