"""Where a scene lies, how its levels belong together and what its labels are, as other readers look for it.

    spatial, proj, multiscales     Zarr conventions 0.1, in attributes of the scene, its masks and arrays
    image-label                    OME-Zarr 0.5, in the `ome` attributes of the masks: colours and classes

Only a scene that has a transform is placed. Each convention is said where readers look: of levels in
the group above them, of place in each array too, for group attributes hold for direct children only.

Sources: https://github.com/zarr-conventions (spatial, proj, multiscales: tag v0.1);
https://ngff.openmicroscopy.org/0.5/#label-md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from segengine.placing import Placing
from segengine.types import Color

_UUIDS = {
    "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "multiscales": "d35379db-88df-4056-af3a-620245f8e347",
}
"""By which readers know a convention, whatever its version."""
_AXES = ("y", "x")
MOST = 1024
"""Classes that are told with each scene: metadata of 65,535 would be larger than many a mask."""


def placed(
    placing: Placing, *, level: int = 0, layout: Any = None, group: bool = True
) -> dict[str, Any]:
    """Attributes of a group, or of an array, of a scene; empty where it has no transform.

    `level`: of the pyramid; `layout`: the arrays of a group that are its levels, as `levels` says it.
    No more than readers need: it is written with every array of every scene.
    """
    if not placing.transform:
        return {}
    found: dict[str, Any] = {
        "spatial:dimensions": list(_AXES),
        "spatial:transform": _scaled(placing, level),
    }
    if group:
        found["spatial:shape"] = [placing.height, placing.width]
        found["spatial:bbox"] = _box(placing)
    names = ["spatial"]
    crs = _crs(placing.wkt) if placing.georeferenced else {}
    if crs:
        names.append("proj")
    if layout:
        names.append("multiscales")
        found["multiscales"] = {"layout": layout, "resampling_method": "mode"}
    conventions = [{"uuid": _UUIDS[name], "name": name} for name in names]
    return {"zarr_conventions": conventions, **found, **crs}


def levels(
    placing: Placing, shapes: Sequence[tuple[int, ...]], paths: Sequence[str]
) -> list[dict[str, Any]]:
    """How each level of a pyramid was made of the one before; shapes (frame, y, x), finest first.

    Empty where the scene has no transform.
    """
    found: list[dict[str, Any]] = []
    if not placing.transform:
        return found
    for level, (shape, path) in enumerate(zip(shapes, paths, strict=True)):
        one: dict[str, Any] = {"asset": path}
        if level:
            one["derived_from"] = paths[level - 1]
            one["transform"] = {"scale": [1.0, 2.0, 2.0], "translation": [0.0, 0.0, 0.0]}
        one["spatial:shape"] = list(shape[-2:])
        one["spatial:transform"] = _scaled(placing, level)
        found.append(one)
    return found


def image_label(classes: Sequence[str], colors: Sequence[Color], void: int) -> dict[str, Any]:
    """What the labels of a mask are: classes by name and colour, void transparent.

    Empty where there are too many to be told with each scene.
    """
    if not 0 < len(classes) <= MOST:
        return {}
    shown = [
        {"label-value": value, "rgba": [*map(int, color), 255]}
        for value, color in enumerate(colors)
    ]
    shown.append({"label-value": void, "rgba": [0, 0, 0, 0]})
    named: list[dict[str, Any]] = [
        {"label-value": value, "class": name} for value, name in enumerate(classes)
    ]
    named.append({"label-value": void, "class": "void"})
    return {"colors": shown, "properties": named}


def _scaled(placing: Placing, level: int) -> list[float]:
    """The transform of a level, whose pixels are as many times larger, from the same corner."""
    a, b, c, d, e, f = map(float, placing.transform)
    times = 2.0**level
    return [a * times, b * times, c, d * times, e * times, f]


def _box(placing: Placing) -> list[float]:
    """Least x and y, greatest x and y of a scene's corners."""
    a, b, c, d, e, f = map(float, placing.transform)
    corners = [(x, y) for x in (0, placing.width) for y in (0, placing.height)]
    xs = [a * x + b * y + c for x, y in corners]
    ys = [d * x + e * y + f for x, y in corners]
    return [min(xs), min(ys), max(xs), max(ys)]


@lru_cache(maxsize=256)
def _crs(wkt: str) -> dict[str, str]:
    """A CRS by its code, or where it has none as WKT 2; empty where PROJ does not know it."""
    from pyproj import CRS
    from pyproj.exceptions import ProjError

    try:
        crs = CRS.from_wkt(wkt)
        code = crs.to_authority()
        text = "" if code else crs.to_wkt("WKT2_2019")
    except ProjError:
        return {}
    if code:
        return {"proj:code": ":".join(code)}
    return {"proj:wkt2": text} if text else {}
