"""The scenes of a store that are volumes, with the file that each becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segengine.errors import JobError
from segengine.reader import SceneStore, Store
from segengine.store.keys import INSTANCES, MASK

REMEDY = "python -m pip install 'segengine[medical]' brings it"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Which solid an object of a slice is part of."""

    of: Mapping[int, Mapping[int, int]]
    """By frame and id."""
    most: int

    @classmethod
    def of_table(cls, rows: Any) -> Numbers:
        """From a scene's rows of `tables/solids.parquet`."""
        found: dict[int, dict[int, int]] = {}
        names = ("solid", "frames", "ids")
        for solid, frames, ids in zip(
            *(rows.column(name).to_pylist() for name in names), strict=True
        ):
            for frame, number in zip(frames, ids, strict=True):
                found.setdefault(frame, {})[number] = solid
        return cls(found, rows.num_rows)

    @property
    def dtype(self) -> Any:
        """The smallest that holds them; beyond 16 bits signed, which all tools read."""
        small = np.min_scalar_type(self.most)
        return small if small.itemsize <= 2 else np.dtype(np.int32)

    def drawn(self, frame: int, ids: NDArray[Any]) -> NDArray[Any]:
        """(y, x) solids of a frame's ids."""
        own = self.of.get(frame, {})
        there, places = np.unique(ids, return_inverse=True)
        solids = np.array([own.get(number, 0) for number in there.tolist()], self.dtype)
        found: NDArray[Any] = solids[places].reshape(ids.shape)
        return found


@dataclass(frozen=True, slots=True)
class Volume:
    """A scene that is a volume."""

    scene: SceneStore
    path: Path

    @property
    def about(self) -> dict[str, Any]:
        """What the scene's group says of it."""
        found: dict[str, Any] = self.scene.attributes["volume"]
        return found

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """(4, 4) column, row, frame to RAS in its unit; None: it lies nowhere."""
        found = self.about.get("affine")
        return None if found is None else np.array(found, np.float64)

    @property
    def slices(self) -> int:
        """Frames of one time."""
        return self.scene.layout.slices or self.scene.layout.shape[0]

    def labels(self) -> Iterator[NDArray[Any]]:
        """(y, x) labels of each frame, in order."""
        yield from self._frames(MASK)

    def solids(self, numbers: Numbers) -> Iterator[NDArray[Any]]:
        """(y, x) solids of each frame, in order."""
        for frame, ids in enumerate(self._frames(INSTANCES)):
            yield numbers.drawn(frame, ids)

    def _frames(self, array: str) -> Iterator[NDArray[Any]]:
        frames, height, width = self.scene.layout.shape
        for frame in range(frames):
            yield self.scene.read(array, frame, slice(0, height), slice(0, width))


def volumes(store: Store, to: str, form: str, suffix: str) -> list[Volume]:
    """Those of a store, each with its file below `to`. Raises JobError where there are none."""
    found = [
        Volume(scene, Path(to, f"{name}{suffix}"))
        for name, scene in store.scenes.items()
        if "volume" in scene.attributes
    ]
    if not found:
        raise JobError(
            f"--to {form}: the store holds no volume (source.kind: volume); "
            "png, cog and the others take its frames"
        )
    return found


def needed(form: str, package: str) -> None:
    """Raise JobError where a package is not installed."""
    from importlib import import_module

    try:
        import_module(package)
    except ImportError as error:
        raise JobError(
            f"--to {form}: needs {error.name}, which is not installed; {REMEDY}"
        ) from None
