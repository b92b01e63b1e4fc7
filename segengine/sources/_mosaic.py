"""A window of a map of many scenes: per pixel the first of them that is valid there.

    members, the first on top -> of each the rows and columns where nothing is valid yet -> one array

A member whose pixels lie on the map's own lattice is read as it is; any other is warped, as bands of one
scene are. What is covered is not read, and a member that is covered wholly is not opened. Where a member
cannot be read, what it would have shown there is void, whatever lies below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from segengine.errors import CorruptInputError, TransientInputError
from segengine.mosaics import Cells, Member, Mosaic
from segengine.sources import _apart, _parts
from segengine.sources._area import area_on
from segengine.sources._grid import Grid, crs_of, inverse, local, same_crs
from segengine.sources._warp import ROWS, Read, Warp
from segengine.types import Bool, Entry, FrameRef, Probe, Tile

Order = Literal["newest", "oldest", "cloud", "path"]
"""Which scene is on top."""
ORDERS: tuple[str, ...] = get_args(Order)
STRIP = 128
"""Rows of a map that are looked at together for what is still missing of them."""
ON_LATTICE = 1e-3
"""Of a pixel: by how much one may lie beside the lattice and still be on it."""
_REACH = {"nearest": 1.0, "bilinear": 2.0, "cubic": 3.0, "average": 1.5}
"""Pixels of the coarser grid around one that cannot be read, whose warped pixels may lack it."""
_NAMED = 3
"""Members that a reason names."""


def require_order(order: object) -> None:
    """Raise ValueError for an option that is none."""
    if order is not None and order not in ORDERS:
        raise ValueError(f"mosaic: is {order!r}; choose from {', '.join(ORDERS)}")


def read(source: _parts.Opens, ref: FrameRef, rows: slice, cols: slice) -> Tile:
    """A window of a map. Raises TransientInputError, and CorruptInputError where none of it is known."""
    mosaic = ref.mosaic
    assert mosaic is not None
    _require_told(mosaic, rows, cols)
    grid = Grid(ref.height, ref.width, mosaic.transform, mosaic.wkt)
    canvas = _Canvas.of(mosaic, rows, cols)
    inside = _inside(source, grid, rows, cols)
    if inside is not None:
        canvas.missing &= inside
    if not mosaic.untaken(rows, cols).any():
        canvas.missing[:] = False  # all of it is in an earlier map
    own = alone(source)
    for member, box in zip(mosaic.members, mosaic.boxes.tolist(), strict=True):
        _put(own, grid, mosaic, member, box, canvas)
    return canvas.tile(mosaic.untaken(rows, cols), inside)


def within(source: _parts.Opens, ref: FrameRef, rows: slice, cols: slice) -> Bool | None:
    """(y, x) pixels of a window that are in the area, and in no earlier map; None: all are."""
    mosaic = ref.mosaic
    assert mosaic is not None
    grid = Grid(ref.height, ref.width, mosaic.transform, mosaic.wkt)
    inside = _inside(source, grid, rows, cols)
    if not mosaic.taken:
        return inside
    own = mosaic.untaken(rows, cols)
    return own if inside is None else own & inside


def alone(source: Any) -> Any:
    """The same source for one of the scenes, on the grid that is its own."""
    return replace(source, resolution=None, crs=None, area=None, area_mark="", mosaic=None)


def shift(grid: Grid, part: Grid) -> tuple[int, int] | None:
    """Row and column of a grid where another one on its lattice begins; None: it lies on another."""
    if not same_crs(grid.wkt, part.wkt):
        return None
    a, b, c, d, e, f = local(part, grid)
    far = max(part.height, part.width)
    skew = max(abs(a - 1), abs(b), abs(d), abs(e - 1)) * far
    off = max(abs(c - round(c)), abs(f - round(f)))
    return (round(f), round(c)) if skew + off <= ON_LATTICE else None


def _require_told(mosaic: Mosaic, rows: slice, cols: slice) -> None:
    """Raise CorruptInputError where a window lies beyond that whose scenes are known here."""
    if mosaic.window is None:
        return
    top, left, bottom, right = mosaic.window
    if rows.start < top or cols.start < left or rows.stop > bottom or cols.stop > right:
        raise CorruptInputError(
            "more of it is read than its scenes were planned for; a surveyor whose segmenter has a halo "
            "must name it as `segmenter`"
        )


def _inside(source: _parts.Opens, grid: Grid, rows: slice, cols: slice) -> Bool | None:
    if source.area is None:
        return None
    return area_on(source.area, source.area_mark, grid).inside(rows, cols)


@dataclass(slots=True)
class _Canvas:
    """A window of the map while members are put."""

    corner: tuple[int, int]
    bands: int
    dtype: np.dtype[Any]
    missing: Bool
    """(y, x) what is looked for, and not found yet."""
    valid: Bool
    told: Bool
    """(y, x) some member has said what stands there, be it nodata."""
    held: NDArray[Any] | None = None
    """(y, x, band); None: nothing is there yet."""
    flaws: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, mosaic: Mosaic, rows: slice, cols: slice) -> _Canvas:
        shape = rows.stop - rows.start, cols.stop - cols.start
        dtype = np.dtype(mosaic.dtype)
        _apart.allow(shape[0] * shape[1] * mosaic.bands * dtype.itemsize)
        return cls(
            corner=(rows.start, cols.start),
            bands=mosaic.bands,
            dtype=dtype,
            missing=np.ones(shape, np.bool_),
            valid=np.zeros(shape, np.bool_),
            told=np.zeros(shape, np.bool_),
        )

    def wanted(self, box: Sequence[int], step: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of the window, in a box of the map, that hold all that is missing there."""
        height, width = self.missing.shape
        top, bottom = max(box[0] - self.corner[0], 0), min(box[2] - self.corner[0], height)
        left, right = max(box[1] - self.corner[1], 0), min(box[3] - self.corner[1], width)
        last: Cells | None = None
        start = top
        while start < bottom and left < right:
            # Strips are counted from the map's corner, as the warper's blocks are.
            stop = min(bottom, ((start + self.corner[0]) // step + 1) * step - self.corner[0])
            lacking = self.missing[start:stop, left:right]
            down, along = np.flatnonzero(lacking.any(axis=1)), np.flatnonzero(lacking.any(axis=0))
            if len(down):
                first, end = start + int(down[0]), start + int(down[-1]) + 1
                here = first, left + int(along[0]), end, left + int(along[-1]) + 1
                grows = last is not None and last[2] == first and last[1::2] == here[1::2]
                if last is not None and grows and end - last[0] <= ROWS:
                    here = last[0], last[1], end, last[3]
                elif last is not None:
                    yield slice(last[0], last[2]), slice(last[1], last[3])
                last = here
            start = stop
        if last is not None:
            yield slice(last[0], last[2]), slice(last[1], last[3])

    @property
    def pixels(self) -> NDArray[Any]:
        """(y, x, band), zeros where nobody has anything."""
        if self.held is None:
            self.held = np.zeros((*self.missing.shape, self.bands), self.dtype)
        return self.held

    def put(self, at: tuple[slice, slice], found: _Found) -> None:
        """What a member has there, where nothing is valid yet."""
        missing, there = self.missing[at], found.there
        shown = missing & there & found.valid
        # What is void everywhere stands there as the first member that reaches it has it.
        fresh = shown | (missing & there & ~self.told[at])
        if not fresh.all():
            np.copyto(self.pixels[at], found.pixels, where=fresh[..., None])
        elif self.held is None and fresh.shape == self.missing.shape:
            self.held = found.pixels
        else:
            self.pixels[at] = found.pixels
        self.told[at] |= there
        self.valid[at] |= shown
        missing &= ~(shown | found.lost)

    def tile(self, untaken: Bool, inside: Bool | None) -> Tile:
        valid = self.valid & untaken
        if inside is not None:
            # What was read beside the area depends on the window, and must not be seen.
            self.pixels[~inside] = 0
        flaw = "; ".join(self.flaws[:_NAMED])
        if len(self.flaws) > _NAMED:
            flaw += f"; and {len(self.flaws) - _NAMED} more"
        return Tile(self.pixels, None if valid.all() else valid, flaw)


class _Found(NamedTuple):
    """What a member has in a window."""

    pixels: NDArray[Any]
    """(y, x, band)"""
    valid: Any
    """(y, x), or whether all of it is."""
    there: Any
    """(y, x) its own pixels, valid or not; or whether all are."""
    lost: Any
    """(y, x) what cannot be read of it, or whether any of it is."""


def probe(source: Any, entry: Entry) -> Probe:
    """What the headers of a member's files say: its own grid, and when it was taken (`time`).

    Raises as `Source.probe`.
    """
    scene = _parts.scene_of(alone(source), entry.uri, entry.parts)
    first = next(layer for layer in scene.layers if 0 in layer.places)
    if any("transform" not in layer.attributes for layer in scene.layers):
        raise CorruptInputError(
            "lies nowhere on a map: it has no transform, or one of ground control points; `gdalwarp` it "
            "first, or leave source.mosaic out"
        )
    found = _parts.attributes_on(scene, entry.parts)
    if first.time is not None:
        found["time"] = first.time
    return Probe(
        kind="raster",
        height=scene.grid.height,
        width=scene.grid.width,
        bands=scene.bands,
        dtype=scene.dtype,
        windowed=True,
        attributes=found,
    )


def _put(
    source: _parts.Opens, grid: Grid, mosaic: Mosaic, member: Member, box: Any, canvas: _Canvas
) -> None:
    """What a member shows of what is still missing."""
    planned = Grid(member.height, member.width, member.transform, mosaic.crs[member.crs])
    boxes = list(canvas.wanted(box, STRIP if shift(grid, planned) is not None else ROWS))
    if not boxes:
        return
    damage: list[str] = []
    try:
        scene = _parts.known(source, member.ref)
        _require_planned(scene, member, mosaic)
        places = [_at(canvas.corner, *at) for at in boxes]
        for at, found in zip(boxes, _read(source, scene, grid, places, damage), strict=True):
            canvas.put(at, found)
    except CorruptInputError as error:
        # Not one pixel of it is known, nor where it has none: all that it covers is void.
        whole = [(0, 0, planned.height, planned.width)]
        for at in boxes:
            canvas.missing[at] &= ~_covered(grid, planned, *_at(canvas.corner, *at), whole, 0.0)
        damage = [str(error)]
    except TransientInputError as error:
        raise type(error)(f"{member.name}: {error}") from error
    if damage:
        canvas.flaws.append(f"{member.name}: {damage[0]}")


def _require_planned(scene: _parts.Scene, member: Member, mosaic: Mosaic) -> None:
    """Raise TransientInputError where a member is not what it was when it was planned."""
    grid = scene.grid
    same = (grid.height, grid.width) == (member.height, member.width)
    same = same and grid.transform == member.transform
    same = same and same_crs(grid.wkt, mosaic.crs[member.crs])
    if not same or (scene.bands, scene.dtype) != (mosaic.bands, mosaic.dtype):
        raise TransientInputError("has changed since it was planned; run again")


def _at(corner: tuple[int, int], rows: slice, cols: slice) -> tuple[slice, slice]:
    """Rows and columns of the map, from those of a window."""
    down, along = corner
    return slice(down + rows.start, down + rows.stop), slice(along + cols.start, along + cols.stop)


def _read(
    source: _parts.Opens,
    scene: _parts.Scene,
    grid: Grid,
    boxes: Sequence[tuple[slice, slice]],
    damage: list[str],
) -> Iterator[_Found]:
    """What a scene has in rows and columns of the map; says in `damage` what cannot be read."""
    first = scene.layers[0]
    if first.places == tuple(range(scene.bands)):
        yield from _layer(source, first, grid, boxes, damage)
        return
    shapes = [(rows.stop - rows.start, cols.stop - cols.start) for rows, cols in boxes]
    pixels = [np.zeros((*shape, scene.bands), scene.dtype) for shape in shapes]
    masks: list[tuple[Any, Any, Any]] = [(True, True, False)] * len(boxes)
    for layer in scene.layers:
        for i, found in enumerate(_layer(source, layer, grid, boxes, damage)):
            pixels[i][..., list(layer.places)] = found.pixels
            valid, there, lost = masks[i]
            masks[i] = valid & found.valid, there & found.there, lost | found.lost
    yield from (_Found(each, *mask) for each, mask in zip(pixels, masks, strict=True))


def _layer(
    source: _parts.Opens,
    layer: _parts.Layer,
    grid: Grid,
    boxes: Sequence[tuple[slice, slice]],
    damage: list[str],
) -> Iterator[_Found]:
    """The same of what lies in one file. Where some of it cannot be decoded, that is looked for block by
    block: what is lost must not depend on the window."""
    moved, warp, overview = shift(grid, layer.grid), Warp(grid, layer.grid, source.resampling), None
    if moved is None:
        overview = _parts.overview_of(warp, layer.overviews)
    done = 0
    try:
        with _parts.named(layer.parts[0]), source.open(layer.uri, overview) as dataset:
            seen = _seen(warp, layer, overview, dataset)

            def window(rows: slice, cols: slice) -> tuple[NDArray[Any], Bool | None]:
                return _parts.window_in(dataset, layer, rows, cols)

            for box in boxes:
                yield _found(seen, moved, layer, box, window, [])
                done += 1
        return
    except CorruptInputError as error:
        damage.append(str(error))
    with _parts.named(layer.parts[0]), source.open(layer.uri, overview) as dataset:
        seen, block = _seen(warp, layer, overview, dataset), dataset.block_shapes[0]
    for box in boxes[done:]:
        broken: list[Cells] = []

        def sound(
            rows: slice, cols: slice, broken: list[Cells] = broken
        ) -> tuple[NDArray[Any], Bool | None]:
            return _sound(source, layer, overview, block, rows, cols, broken)

        yield _found(seen, moved, layer, box, sound, broken)


def _seen(warp: Warp, layer: _parts.Layer, overview: int | None, dataset: Any) -> Warp:
    """From the map to what is open. Raises TransientInputError where that is not what was planned."""
    size = dataset.height, dataset.width
    if overview is not None:
        return replace(warp, source=_parts.coarser(layer.grid, *size))
    if size != (layer.grid.height, layer.grid.width):
        raise TransientInputError("has changed since it was planned; run again")
    return warp


def _found(
    warp: Warp,
    moved: tuple[int, int] | None,
    layer: _parts.Layer,
    box: tuple[slice, slice],
    window: Read,
    broken: list[Cells],
) -> _Found:
    """What a file has in rows and columns of the map; `broken` fills with what cannot be read of it."""
    rows, cols = box
    if moved is None:
        pixels, valid = warp.read(window, rows, cols, len(layer.bands), layer.dtype)
        there: Any = True if valid is None else valid
    else:
        pixels, valid, there = _shifted(moved, layer, rows, cols, window)
    lost: Any = False
    if broken:
        reach = 0.0
        if moved is None:
            sx, sy = warp.least_scale(rows, cols)
            reach = _REACH[warp.resampling] * max(1.0, 1 / sx, 1 / sy) + 1
        lost = _covered(warp.grid, warp.source, rows, cols, broken, reach)
    return _Found(pixels, True if valid is None else valid, there, lost)


def _shifted(
    moved: tuple[int, int], layer: _parts.Layer, rows: slice, cols: slice, window: Read
) -> tuple[NDArray[Any], Bool | None, Any]:
    """Pixels as they are, whether they are valid, and where there are any."""
    down, along = moved
    own = (
        slice(max(rows.start - down, 0), min(rows.stop - down, layer.grid.height)),
        slice(max(cols.start - along, 0), min(cols.stop - along, layer.grid.width)),
    )
    shape = rows.stop - rows.start, cols.stop - cols.start
    size = tuple(max(0, each.stop - each.start) for each in own)
    if size == shape:
        return *window(*own), True
    pixels = np.zeros((*shape, len(layer.bands)), layer.dtype)
    there = np.zeros(shape, np.bool_)
    valid = there.copy()
    if all(size):
        at = (
            slice(own[0].start + down - rows.start, own[0].stop + down - rows.start),
            slice(own[1].start + along - cols.start, own[1].stop + along - cols.start),
        )
        pixels[at], sure = window(*own)
        there[at] = True
        valid[at] = True if sure is None else sure
    return pixels, valid, there


def _sound(
    source: _parts.Opens,
    layer: _parts.Layer,
    overview: int | None,
    block: tuple[int, int],
    rows: slice,
    cols: slice,
    broken: list[Cells],
) -> tuple[NDArray[Any], Bool | None]:
    """Rows and columns of a file of which some blocks cannot be decoded: these are not valid."""
    shape = rows.stop - rows.start, cols.stop - cols.start
    pixels = np.zeros((*shape, len(layer.bands)), layer.dtype)
    valid = np.zeros(shape, np.bool_)
    high, wide = block
    for top in range(rows.start // high * high, rows.stop, high):
        for left in range(cols.start // wide * wide, cols.stop, wide):
            cell = max(top, rows.start), max(left, cols.start), top + high, left + wide
            cell = (*cell[:2], min(cell[2], rows.stop), min(cell[3], cols.stop))
            try:
                with source.open(layer.uri, overview) as dataset:
                    found, sure = _parts.window_in(
                        dataset, layer, slice(cell[0], cell[2]), slice(cell[1], cell[3])
                    )
            except CorruptInputError:
                broken.append(cell)
                continue
            at = (
                slice(cell[0] - rows.start, cell[2] - rows.start),
                slice(cell[1] - cols.start, cell[3] - cols.start),
            )
            pixels[at] = found
            valid[at] = True if sure is None else sure
    return pixels, valid


def _covered(
    grid: Grid, part: Grid, rows: slice, cols: slice, boxes: Sequence[Cells], reach: float
) -> Bool:
    """(y, x) of rows and columns of a grid, whose centres lie in boxes of another, or near them."""
    lines, columns = np.meshgrid(
        np.arange(rows.start, rows.stop) + 0.5,
        np.arange(cols.start, cols.stop) + 0.5,
        indexing="ij",
    )
    if same_crs(grid.wkt, part.wkt):
        a, b, c, d, e, f = local(grid, part)
        x, y = a * columns + b * lines + c, d * columns + e * lines + f
    else:
        from rasterio.warp import transform

        a, b, c, d, e, f = grid.transform
        xs, ys = a * columns + b * lines + c, d * columns + e * lines + f
        moved = transform(crs_of(grid.wkt), crs_of(part.wkt), xs.ravel(), ys.ravel())
        xs, ys = (np.asarray(axis).reshape(xs.shape) for axis in moved)
        a, b, c, d, e, f = inverse(part.transform)
        x, y = a * xs + b * ys + c, d * xs + e * ys + f
    found = np.zeros(x.shape, np.bool_)
    for top, left, bottom, right in boxes:
        found |= (
            (x >= left - reach) & (x < right + reach) & (y >= top - reach) & (y < bottom + reach)
        )
    return found
