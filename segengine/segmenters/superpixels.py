"""Superpixels: a frame in small pieces of one colour each, that keep to the outlines of what is shown.

    slic            pieces of about one size, from squares on (Achanta et al. 2012; `_slic`)
    felzenszwalb    pieces as large as what they show (Felzenszwalb and Huttenlocher 2004; `_felzenszwalb`)

Every pixel is `region`, and its piece's id stands in `instances`. What slic makes of a pixel follows from
the squares around it, so scenes of any size are cut as one likes; felzenszwalb needs frames whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segengine.instances.join import BAND
from segengine.segmenters import _felzenszwalb, _slic
from segengine.segmenters._growing import planes, top_of
from segengine.segmenters._lab import lab
from segengine.segmenters._options import require_number, require_whole
from segengine.segmenters._regions import COLORS, numbered, of_frames
from segengine.segmenters._squares import View
from segengine.segmenters._windows import InWindows
from segengine.types import Color, Pixels, Prediction, Segmenter

Method = Literal["slic", "felzenszwalb"]
Space = Literal["lab", "bands"]
CLASSES = ("background", "region")
MOST_SIDE, MOST_ITERATIONS = 1024, 100
MOST_COMPACTNESS, MOST_SCALE = 1e6, 1e12
LEAST_SIGMA, MOST_SIGMA = 1e-3, 100
"""Beside 0, in pixels."""
LEAST_TOP, MOST_TOP = 1e-12, 1e20
"""Of `top`; that of uint64 is 2e19."""
_SLIC = {"size": 16, "compactness": 10.0, "iterations": 5}
_FELZENSZWALB = {"scale": 100.0, "sigma": 0.8}


def create(
    method: Method = "slic",
    size: int | None = None,
    compactness: float | None = None,
    iterations: int | None = None,
    space: Space | None = None,
    scale: float | None = None,
    sigma: float | None = None,
    min_size: int | None = None,
    top: float | None = None,
) -> Slic | Felzenszwalb:
    """A segmenter that makes superpixels.

    - `method`: `slic` or `felzenszwalb`.
    - `size`: slic: side in pixels of the squares that the superpixels begin as; default 16.
    - `compactness`: slic: what a distance of one side counts for, in units of L*, or hundredths of
      the range; more makes squarer pieces, less such as keep closer to outlines; 0 to 1e6,
      default 10.
    - `iterations`: slic: how often they move; default 5. Context around a shard is 2 `size` each.
    - `space`: `lab` (sRGB of 8 or 16 bits) or `bands`, hundredths of the dtype's range; by default
      lab where there are 3 bands of uint8 or uint16.
    - `scale`: felzenszwalb: more makes larger pieces, in gray values of 8 bits times pixels;
      0 to 1e12, default 100.
    - `sigma`: felzenszwalb: Gaussian smoothing before, in pixels; 0.001 to 100, default 0.8, 0 for
      none.
    - `min_size`: pixels below which a piece is given to its neighbours; default a quarter of a
      square (slic) or 20.
    - `top`: value that the range ends with, 2047 of 11 bits in a file of 16; 1e-12 to 1e20, default
      the dtype's greatest, 1 of floats.
    """
    require_top(top)
    if method not in get_args(Method):
        raise ValueError(f"method: {method!r} is not one of {', '.join(get_args(Method))}")
    if space is not None and space not in get_args(Space):
        raise ValueError(f"space: {space!r} is not one of {', '.join(get_args(Space))}")
    given = {"size": size, "compactness": compactness, "iterations": iterations}
    others = {"scale": scale, "sigma": sigma}
    for name, value in (others if method == "slic" else given).items():
        if value is not None:
            raise ValueError(f"{name}: {method} has no such option")
    if min_size is not None:
        require_whole("min_size", min_size, 1, 1 << 30)
    if method == "felzenszwalb":
        found = {k: _FELZENSZWALB[k] if v is None else v for k, v in others.items()}
        require_number("scale", found["scale"], 0, MOST_SCALE)
        require_number("sigma", found["sigma"], 0, MOST_SIGMA)
        if 0 < found["sigma"] < LEAST_SIGMA:
            raise ValueError(f"sigma: {found['sigma']} pixels; take 0, or {LEAST_SIGMA} on")
        return Felzenszwalb(
            scale=float(found["scale"]),
            sigma=float(found["sigma"]),
            least=20 if min_size is None else min_size,
            space=space,
            top=top,
        )
    chosen: dict[str, Any] = {k: _SLIC[k] if v is None else v for k, v in given.items()}
    require_whole("size", chosen["size"], 2, MOST_SIDE)
    require_whole("iterations", chosen["iterations"], 1, MOST_ITERATIONS)
    require_number("compactness", chosen["compactness"], 0, MOST_COMPACTNESS)
    side = chosen["size"]
    least = max(1, side * side // 4) if min_size is None else min_size
    return Slic(
        side=side,
        compactness=float(chosen["compactness"]),
        iterations=chosen["iterations"],
        least=least,
        space=space,
        top=top,
    )


@dataclass(frozen=True, slots=True)
class Slic(InWindows):
    """Superpixels of about one size."""

    side: int
    """Of the squares that they begin as, in pixels."""
    compactness: float
    iterations: int
    least: int
    """Pixels below which a piece is given away."""
    space: Space | None
    """None: what the pixels suggest."""
    top: float | None
    """Value that the range ends with; None: the dtype's."""
    version: ClassVar[int] = 1
    stride: ClassVar[int] = 1
    agrees: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances")
    classes: ClassVar[tuple[str, ...]] = CLASSES
    colors: ClassVar[tuple[Color, ...]] = COLORS

    @property
    def halo(self) -> int:
        """What decides on a pixel, and on those at the border that two windows compare."""
        return _slic.halo(self.side, self.iterations) + BAND

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where the space has no meaning for such pixels."""
        check_space(self.space, bands, dtype)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels and ids (n, y, x) of pixels (n, y, x, band); right where the halo around is given too."""
        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        window = pixels.shape[1], pixels.shape[2]
        view = View(self.corner, self.size or window, window)
        how = view, self.side, self.compactness, self.iterations, self.least

        def ids(frame: Pixels) -> NDArray[np.uint32]:
            return numbered(_slic.superpixels(axes(frame, self.space, self.top), *how))

        return of_frames(pixels, ids)


@dataclass(frozen=True, slots=True)
class Felzenszwalb:
    """Pieces of whole frames that are as large as what they show."""

    scale: float
    """In gray values of 8 bits times pixels."""
    sigma: float
    """Gaussian smoothing before, in pixels; 0: none."""
    least: int
    """Pixels below which a piece is given away."""
    space: Space | None
    """None: what the pixels suggest."""
    top: float | None
    """Value that the range ends with; None: the dtype's."""
    version: ClassVar[int] = 1
    halo: ClassVar[None] = None
    stride: ClassVar[int] = 1
    outputs: ClassVar[tuple[str, ...]] = ("labels", "instances")
    classes: ClassVar[tuple[str, ...]] = CLASSES
    colors: ClassVar[tuple[Color, ...]] = COLORS

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError where the space has no meaning for such pixels."""
        check_space(self.space, bands, dtype)

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels and ids (n, y, x) of whole frames (n, y, x, band)."""
        self.check_pixels(pixels.shape[-1], str(pixels.dtype))
        how = self.scale * 100 / 255, self.sigma, self.least
        return of_frames(
            pixels,
            lambda frame: _felzenszwalb.pieces(axes(frame, self.space, self.top), *how),
        )


def check_space(space: Space | None, bands: int, dtype: str) -> None:
    """Raise ValueError where colours cannot be compared in the space."""
    if np.dtype(dtype).kind not in "buif":
        raise ValueError(f"space: the pixels are {dtype}, and must be real numbers")
    if space == "lab" and not _is_color(bands, dtype):
        raise ValueError(
            f"space: lab needs 3 bands of uint8 or uint16, the pixels have {bands} of {dtype}; "
            "use space: bands"
        )


def axes(frame: Pixels, space: Space | None, top: float | None) -> Any:
    """(band, y, x) float32 of a frame (y, x, band), in the space; `top`: what its range ends with."""
    if space != "bands" and _is_color(frame.shape[-1], str(frame.dtype)):
        return lab(frame, top)
    return planes(frame, 100 / (top or top_of(frame.dtype)))


def _is_color(bands: int, dtype: str) -> bool:
    return bands == 3 and dtype in ("uint8", "uint16")


def require_top(top: object) -> None:
    """Raise ValueError where the range cannot end with a value."""
    if top is not None:
        require_number("top", top, LEAST_TOP, MOST_TOP)


_segmenters: tuple[type[Segmenter], ...] = (Slic, Felzenszwalb)
