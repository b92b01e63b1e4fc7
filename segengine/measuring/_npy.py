"""Label maps in NumPy's own files: of one frame (y, x), or of several (frame, y, x)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from segengine.errors import MissingTruthError
from segengine.sources._files import open_input


def read_map(uri: str, place: int, size: tuple[int, int]) -> NDArray[Any]:
    """The map of `size` (y, x) of a frame, the `place`-th of a file of several.

    What is pickled is refused, and no more is read than the map. Raises MissingTruthError, ValueError.
    """
    with open_input(uri) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise MissingTruthError(
                f"{uri}: is of version {version} of the format; 1.0 and 2.0 are read"
            )
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, turned, dtype = header(file)
        if dtype.hasobject or dtype.kind not in "buif":
            raise MissingTruthError(f"{uri}: holds {dtype}; a label map holds numbers")
        if len(shape) not in (2, 3) or shape[-2:] != size:
            sides = " x ".join(map(str, shape))
            raise MissingTruthError(f"{uri}: is {sides}, its frame {size[0]} x {size[1]} pixels")
        if len(shape) == 3:
            if turned:
                raise MissingTruthError(f"{uri}: is in Fortran's order; save it in C's")
            if shape[0] > 1:
                if place >= shape[0]:
                    raise MissingTruthError(f"{uri}: has {shape[0]} maps, none with index {place}")
                file.seek(place * size[0] * size[1] * dtype.itemsize, 1)
        count = size[0] * size[1] * dtype.itemsize
        data = file.read(count)
    if len(data) < count:
        raise MissingTruthError(f"{uri}: ends after {len(data):,} of {count:,} bytes of the map")
    return np.frombuffer(data, dtype).reshape(size, order="F" if turned else "C")
