"""The segments of a frame on both sides, and how many pixels each two share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_IDS = 32  # bits of an instance id


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of one side of a frame: pixels of a class and an id; that of class -1 is void."""

    keys: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Pixels of each."""
    places: NDArray[np.int64]
    """(pixel,) which segment each is of."""

    @classmethod
    def of(cls, classes: NDArray[np.int32], ids: NDArray[np.uint32]) -> Segments:
        """Those of classes and ids (1, y, x). Raises ValueError where they are not of the same pixels."""
        if ids.shape != classes.shape:
            raise ValueError(f"instances: their shape is {ids.shape}, not {classes.shape}")
        wide = classes.astype(np.int64) + 1 << _IDS
        keys, places, sizes = np.unique(
            np.where(classes < 0, 0, wide + ids.astype(np.int64)),
            return_inverse=True,
            return_counts=True,
        )
        return cls(keys, sizes, places.reshape(-1))

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class of each."""
        return (self.keys >> _IDS) - 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """Id of each; 0: pixels of a class without one."""
        return self.keys & (1 << _IDS) - 1


def shared(
    theirs: Segments, ours: Segments
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(true segment, found segment, pixels) of each two that share some."""
    both, at = np.unique(theirs.places * len(ours.keys) + ours.places, return_counts=True)
    return both // len(ours.keys), both % len(ours.keys), at
