"""From raster values to what a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.types import Pixels


@dataclass(frozen=True, slots=True)
class Scale:
    """`(value / divide - mean) / std`, band by band; each step is rounded to float32."""

    divide: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    """One a band, or one for all."""
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, spec: Mapping[str, Any] | None) -> Scale:
        """From `{divide: v}`, `{mean: [...], std: [...], divide: v}` or `{range: [lo, hi]}`.

        range: the raster's values that become 0 and 1. Raises ValueError naming the key.
        """
        if not spec:
            return cls()
        if not isinstance(spec, Mapping):
            raise ValueError(f"scale: must be a block such as {{divide: 255}}, not {spec!r}")
        unknown = sorted(set(spec) - {"divide", "mean", "std", "range"})
        if unknown:
            raise ValueError(
                f"scale.{unknown[0]}: no such key; give divide, mean and std, or range"
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
        return cls(divide, mean, std)

    def check(self, bands: int) -> None:
        """Raise ValueError where there is neither one value nor one a band."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, bands):
                raise ValueError(
                    f"scale.{name}: has {len(values)} values and the model takes {bands} bands"
                )

    def apply(self, pixels: Pixels) -> NDArray[np.float32]:
        """Pixels (..., band) as float32; what is not finite (nodata) becomes 0."""
        scaled = pixels.astype(np.float32)
        if self.divide != 1:
            scaled /= np.float32(self.divide)
        if any(self.mean):
            scaled -= np.array(self.mean)
        if any(s != 1 for s in self.std):
            scaled /= np.array(self.std)
        if pixels.dtype.kind == "f":  # one NaN would spoil all that the network sees it from
            scaled[~np.isfinite(scaled)] = 0
        return scaled

    def levels(self, scaled: NDArray[Any]) -> NDArray[np.uint8]:
        """The pixels of 0 to 255 that `apply` made these values of; others are rounded and cut."""
        found = (scaled.astype(np.float64) * np.array(self.std) + np.array(self.mean)) * self.divide
        levels: NDArray[np.uint8] = np.clip(np.rint(found), 0, 255).astype(np.uint8)
        return levels


def _numbers(value: Any, name: str) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise ValueError(f"{name}: must be a number or a list of numbers, not {value!r}")
    return tuple(float(v) for v in values)
