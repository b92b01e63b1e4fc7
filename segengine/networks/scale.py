"""From raster values to what a network was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.types import Pixels

_KEYS = frozenset(("divide", "mean", "std", "minimum", "maximum", "range"))


@dataclass(frozen=True, slots=True)
class Scale:
    """`(cut(value) / divide - mean) / std`, band by band; each step is rounded to float32.

    cut: `min(max(value, minimum), maximum)`, as MLM's `clip` is.
    """

    divide: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    """One a band, or one for all."""
    std: tuple[float, ...] = (1.0,)
    minimum: tuple[float, ...] = (-math.inf,)
    """Least value of the raster that is told from lesser ones; one a band, or one for all."""
    maximum: tuple[float, ...] = (math.inf,)

    @classmethod
    def of(cls, spec: Mapping[str, Any] | None) -> Scale:
        """From `{divide: v}`, `{mean: [...], std: [...], divide: v}` or `{range: [lo, hi]}`.

        range: the raster's values that become 0 and 1. minimum, maximum, not with range: what the
        raster's values are cut to first; null of a band: they are not. Raises ValueError naming the
        key.
        """
        if not spec:
            return cls()
        if not isinstance(spec, Mapping):
            raise ValueError(f"scale: must be a block such as {{divide: 255}}, not {spec!r}")
        unknown = sorted(set(spec) - _KEYS)
        if unknown:
            raise ValueError(
                f"scale.{unknown[0]}: no such key; give divide, mean, std, minimum and maximum, or range"
            )
        if "range" in spec:
            low, *rest = _numbers(spec["range"], "scale.range")
            if len(spec) > 1 or len(rest) != 1 or rest[0] <= low:
                raise ValueError(
                    f"scale.range: must be [low, high] and stand alone, not {dict(spec)!r}"
                )
            return cls(1.0, (low,), (rest[0] - low,))
        (divide,) = _numbers(spec.get("divide", 1), "scale.divide")[:1]
        mean = _numbers(spec.get("mean", 0), "scale.mean")
        std = _numbers(spec.get("std", 1), "scale.std")
        if divide == 0 or 0 in std:
            raise ValueError("scale.divide: it and every std must not be 0")
        least = _bounds(spec.get("minimum"), "scale.minimum", -math.inf)
        most = _bounds(spec.get("maximum"), "scale.maximum", math.inf)
        sides = {1, len(least), len(most)}
        if len(sides) < 3 and np.greater(least, most).any():
            raise ValueError("scale.minimum: must not be above scale.maximum")
        return cls(divide, mean, std, least, most)

    def check(self, bands: int) -> None:
        """Raise ValueError where there is neither one value nor one a band."""
        for name in ("mean", "std", "minimum", "maximum"):
            values = getattr(self, name)
            if len(values) not in (1, bands):
                raise ValueError(
                    f"scale.{name}: has {len(values)} values and the model takes {bands} bands"
                )

    def apply(self, pixels: Pixels) -> NDArray[np.float32]:
        """Pixels (..., band) as float32; what is not finite (nodata) becomes 0."""
        scaled = pixels.astype(np.float32)
        if self._cuts:
            low, high = (np.array(bound, np.float32) for bound in (self.minimum, self.maximum))
            np.clip(scaled, low, high, out=scaled)
        if self.divide != 1:
            scaled /= np.float32(self.divide)
        if any(self.mean):
            scaled -= np.array(self.mean)
        if any(s != 1 for s in self.std):
            scaled /= np.array(self.std)
        if pixels.dtype.kind == "f":  # one NaN would spoil all that the network sees it from
            scaled[~np.isfinite(scaled)] = 0
        return scaled

    @property
    def _cuts(self) -> bool:
        return any(map(math.isfinite, (*self.minimum, *self.maximum)))

    def levels(self, scaled: NDArray[Any]) -> NDArray[np.uint8]:
        """The pixels of 0 to 255 that `apply` made these values of; others are rounded and cut."""
        found = (scaled.astype(np.float64) * np.array(self.std) + np.array(self.mean)) * self.divide
        levels: NDArray[np.uint8] = np.clip(np.rint(found), 0, 255).astype(np.uint8)
        return levels


def _bounds(value: Any, name: str, none: float) -> tuple[float, ...]:
    """As `_numbers`, where null is no bound."""
    values = value if isinstance(value, list | tuple) else [value]
    found = _numbers([none if v is None else v for v in values], name)
    if any(map(math.isnan, found)):
        raise ValueError(f"{name}: must be a number or a list of numbers, not {value!r}")
    return found


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise ValueError(f"{name}: must be a number or a list of numbers, not {value!r}")
    return tuple(float(v) for v in values)
