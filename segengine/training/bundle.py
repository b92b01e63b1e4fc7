"""The portable result of a training: a folder with `bundle.json` and `model.weights.h5`.

    format        1
    architecture  name for `segengine.models.build`, with `options`, `bands` and the classes' number
    activation    softmax or sigmoid: what makes probabilities of the network's output, a logit
    classes, colors, scale ({divide}, {mean, std} or {range}), size ([h, w], or nulls: any)
    resize        true where the network was trained on whole frames resized to `size`
    job, metrics  the training job and the figures of its last epoch

No pickle and no code: the network is built anew from its architecture's name.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from segengine import models
from segengine.errors import JobError
from segengine.types import Color

FORMAT = 1
META = "bundle.json"
WEIGHTS = "model.weights.h5"
CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What `bundle.json` says."""

    architecture: str
    options: Mapping[str, Any]
    """For `models.build`; the network gives logits."""
    bands: int
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    scale: Mapping[str, Any]
    activation: str
    size: tuple[int | None, int | None]
    resize: bool
    job: Mapping[str, Any]
    metrics: Mapping[str, float]

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return 1 if self.activation == "sigmoid" else len(self.classes)

    def build(self) -> Any:
        """The network, with fresh weights."""
        return models.build(
            self.architecture,
            bands=self.bands,
            classes=self.outputs,
            size=self.size,
            **self.options,
        )


_NAMES = tuple(f.name for f in fields(Bundle))


def save_bundle(folder: Path, bundle: Bundle, model: Any, card: str) -> None:
    """Write a bundle with its model card; one that is there is replaced as a whole."""
    bare = bundle.build()  # of a compiled network, Keras would save the optimizer too
    bare.set_weights(model.get_weights())
    folder.parent.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"format": FORMAT}
    data |= {name: getattr(bundle, name) for name in _NAMES}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        fresh, old = Path(made) / "new", Path(made) / "old"
        fresh.mkdir()
        text = json.dumps(data, indent=2, default=dict)
        (fresh / META).write_text(f"{text}\n", encoding="utf-8")
        (fresh / CARD).write_text(card, encoding="utf-8")
        bare.save_weights(fresh / WEIGHTS)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def load_bundle(folder: str | Path) -> tuple[Bundle, Any]:
    """A bundle and its network with weights. Raises JobError where it is none or is damaged."""
    folder = Path(folder)
    try:
        data = json.loads((folder / META).read_text(encoding="utf-8"))
        if data.pop("format", None) != FORMAT:
            raise JobError(f"{folder}: is a bundle of another format than {FORMAT}")
        known = {name: data[name] for name in _NAMES}
    except FileNotFoundError:
        raise JobError(f"{folder}: is no bundle: it has no {META}") from None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, AttributeError) as error:
        raise JobError(f"{folder}: {META} is damaged: {error}") from None
    bundle = Bundle(
        **known
        | {
            "classes": tuple(known["classes"]),
            "colors": tuple((r, g, b) for r, g, b in known["colors"]),
            "size": tuple(known["size"]),
        }
    )
    model = bundle.build()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a layer that keeps its fresh weights
            model.load_weights(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        what = str(error).partition("\n")[0]
        raise JobError(f"{folder}: {WEIGHTS} cannot be loaded: {what}") from None
    return bundle, model


def transfer(source: Any, model: Any) -> tuple[int, int]:
    """Copy the weights of every layer whose shapes fit; (layers copied, layers with weights).

    Networks of one architecture pair layer by layer, in order; others by name.
    """
    ours = [layer for layer in model.layers if layer.weights]
    theirs = [layer for layer in source.layers if layer.weights]
    if len(ours) == len(theirs):
        pairs = list(zip(theirs, ours, strict=True))
    else:
        named = {layer.name: layer for layer in theirs}
        pairs = [(named[layer.name], layer) for layer in ours if layer.name in named]
    copied = 0
    for old, new in pairs:
        if [w.shape for w in old.weights] == [w.shape for w in new.weights]:
            new.set_weights(old.get_weights())
            copied += 1
    return copied, len(ours)
