"""What the engine asks of a segmenter or surveyor beyond its protocol, in one place."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import JobError
from segengine.instances.join import BAND, components, renumbered
from segengine.types import Color, Linker, Prediction, Scope, Segmenter

BACKGROUND = frozenset(("background", "BG", "__background__", "not edge", "line"))
"""Classes that are no objects; Mask_RCNN and torchvision have their own words for them."""
SLACK = 1e-3
"""What rounding may add to a probability."""
OUTPUTS = ("labels", "probabilities", "instances", "objects")
_BACKGROUND: Color = (32, 32, 36)


def scope(plugin: Any) -> Scope | None:
    """What must be surveyed before it can label; None for a plain segmenter."""
    return getattr(plugin, "scope", None) if hasattr(plugin, "survey") else None


def check(plugin: Any, kind: str) -> None:
    """Raise JobError where an object is neither a Segmenter nor a Surveyor."""
    surveys = hasattr(plugin, "survey")
    needed = ("scope", "survey", "merge", "fit") if surveys else ("halo", "stride", "segment")
    missing = [name for name in ("classes", *needed) if not hasattr(plugin, name)]
    if missing:
        raise JobError(
            f"segmenter.kind: {kind}: {type(plugin).__name__} is no segmenter: it has no "
            f"{', '.join(missing)}"
        )
    if not plugin.classes:
        raise JobError(f"segmenter.kind: {kind}: classes is empty")


def labeller(plugin: Any) -> Any:
    """What labels in the end: the segmenter, or what a surveyor says it will fit."""
    return getattr(plugin, "segmenter", plugin) if scope(plugin) is not None else plugin


def whole_frames(plugin: Any) -> bool:
    """True where a shard must cover the frame."""
    return getattr(labeller(plugin), "halo", 0) is None


def links(plugin: Any) -> bool:
    """True where labels depend on pieces that cross windows."""
    return isinstance(labeller(plugin), Linker)


def band(plugin: Any) -> int:
    """Pixels beyond its shard by which a window's objects can be matched with its neighbours'."""
    halo = getattr(labeller(plugin), "halo", 0)
    return min(BAND, halo or 0)


def background(classes: Sequence[str]) -> tuple[int, ...]:
    """Labels that are no objects, by their names."""
    return tuple(i for i, name in enumerate(classes) if name in BACKGROUND)


def with_components(found: Prediction, classes: Sequence[str], void: int) -> Prediction:
    """A prediction whose instances are the 8-connected regions of each class, but of no void."""
    without = (*background(classes), void)
    ids = [renumbered(components(labels, without).astype(np.uint32))[0] for labels in found.labels]
    return Prediction(found.labels, found.probabilities, np.stack(ids))


def check_pixels(plugin: Any, bands: int, dtype: str) -> None:
    """Raise ValueError where it cannot label pixels of so many bands and that dtype."""
    check = getattr(labeller(plugin), "check_pixels", None)
    if check is not None:
        check(bands, dtype)


def provenance(plugin: Any) -> str:
    """Engine and version behind its labels, where it says so; never compared."""
    return str(getattr(plugin, "provenance", "") or "")


def is_slow(plugin: Any) -> bool:
    """True where labelling takes so long that reading beside it costs nothing (networks)."""
    return bool(getattr(labeller(plugin), "slow", False))


def seams(plugin: Any) -> int | None:
    """Pixels from one window to the next where those of a network only fade into one another."""
    found: int | None = getattr(labeller(plugin), "seams", None)
    return found


def version(plugin: Any) -> int:
    """The algorithm version: its file raises it when the output can change."""
    return int(getattr(plugin, "version", 1))


def weights(plugin: Any) -> str:
    """Digest of the weights, empty where there are none."""
    return str(getattr(plugin, "weights", "") or "")


def as_probabilities(values: NDArray[Any]) -> NDArray[Any]:
    """The values, what rounding has left outside of 0 to 1 brought back.

    Raises ValueError for values that are none; NaN, where nothing is known, is let through.
    """
    low, high = (float(f.reduce(values, axis=None, initial=0)) for f in (np.fmin, np.fmax))
    if low < -SLACK or high > 1 + SLACK:
        raise ValueError(
            f"its values go from {low:.3g} to {high:.3g}, which are no probabilities; set "
            "`activation` to what makes them such, sigmoid or softmax"
        )
    return np.clip(values, 0, 1) if low < 0 or high > 1 else values


def outputs(plugin: Any) -> tuple[str, ...] | None:
    """What it predicts, where it says so."""
    found = getattr(plugin, "outputs", None)
    return None if found is None else tuple(found)


def probed_outputs(prediction: Prediction) -> tuple[str, ...]:
    """What a segmenter that does not say so turned out to predict."""
    maps = (
        prediction.labels,
        prediction.probabilities,
        prediction.instances,
        prediction.objects,
    )
    return tuple(n for n, value in zip(OUTPUTS, maps, strict=True) if value is not None)


def colors(plugin: Any) -> tuple[Color, ...]:
    """One colour a class: its own, or a palette of well-separated hues on a dark background."""
    own = getattr(plugin, "colors", None)
    if own is not None and len(own) == len(plugin.classes):
        return tuple((int(r), int(g), int(b)) for r, g, b in own)
    return palette(len(plugin.classes))


def palette(classes: int) -> tuple[Color, ...]:
    """`classes` colours: the first dark, then hues a golden angle apart."""
    found = [_BACKGROUND] if classes > 1 else []
    for i in range(classes - len(found)):
        hue = (0.02 + i * 0.61803398875) % 1.0
        r, g, b = colorsys.hsv_to_rgb(hue, 0.62 + 0.2 * (i % 2), 0.95 - 0.2 * (i // 7 % 2))
        found.append((round(255 * r), round(255 * g), round(255 * b)))
    return tuple(found)


def as_prediction(value: Any, segmenter: Segmenter, shape: tuple[int, int, int]) -> Prediction:
    """Check what `segment` returned. Raises TypeError or ValueError naming what is wrong."""
    if not isinstance(value, Prediction):
        raise TypeError(f"segment returned {type(value).__name__}, not a Prediction")
    labels = np.asarray(value.labels)
    if labels.shape != shape:
        raise ValueError(f"segment returned labels {labels.shape} for pixels {shape}")
    if labels.dtype.kind not in "ub":
        raise TypeError(f"segment returned {labels.dtype} labels; they must be unsigned")
    if labels.size and int(labels.max()) >= len(segmenter.classes):
        raise ValueError(f"segment returned label {labels.max()}, above its classes")
    return value
