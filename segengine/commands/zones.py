"""What a map holds of each class in polygons: areas on the ground, shares, and how much is void.

A pixel counts by the part of it that a polygon covers. Of scenes that overlap, and of a scene's frames,
the sum counts; masks are read shard by shard, and only those that a polygon meets.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segengine import tiling
from segengine.areas.coverage import BITS, tally
from segengine.areas.features import GEOMETRY, Polygons, read_polygons
from segengine.areas.placed import Finder, Placed, square_metres
from segengine.areas.strata import left_out
from segengine.errors import JobError
from segengine.ground import Ground
from segengine.outputs import claimed
from segengine.reader import SceneStore, Store, open_store
from segengine.sources._files import is_url
from segengine.store.keys import MASK
from segengine.store.kinds import MaskRecord

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet", ".geoparquet")
VOID_SHARE = "void_share"


@dataclass(frozen=True, slots=True)
class ZonesReport:
    """What `zones` wrote."""

    store: str
    table: str
    """The file."""
    polygons: int
    outside: int
    """Polygons that meet no scene."""
    scenes: tuple[str, ...]
    """That polygons meet."""
    areas: dict[str, float]
    """Square metres of each class in all polygons."""
    notices: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Always 0: void is a figure, not a failure."""
        return 0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "store": self.store,
            "table": self.table,
            "polygons": self.polygons,
            "outside": self.outside,
            "scenes": list(self.scenes),
            "areas": self.areas,
            "notices": list(self.notices),
        }

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        many = "1 polygon" if self.polygons == 1 else f"{self.polygons:,} polygons"
        scenes = "1 scene" if len(self.scenes) == 1 else f"{len(self.scenes):,} scenes"
        found = [f"{self.table}: {many} on {scenes}"]
        width = max(map(len, self.areas))
        found += [f"{name:{width}}  {area / 1e6:14,.4f} km2" for name, area in self.areas.items()]
        return (*found, *self.notices)


def zones(
    store_path: str, polygons: str, out: str, *, layer: str | None = None, overwrite: bool = False
) -> ZonesReport:
    """Write a table of a file's polygons, one row each, with what a store's masks hold of each class.

    `out`: CSV, or GeoParquet with the shapes, by its suffix. `layer`: of a file with several.
    `overwrite`: also a file that no export wrote. Raises JobError, StoreError.
    """
    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise JobError(f"--out: {out} ends in none of {', '.join(SUFFIXES)}")
    store = open_store(store_path)
    given = read_polygons(polygons, layer)
    names = _names(store.classes)
    taken = sorted({*names, GEOMETRY} & set(given.columns.column_names))
    if taken:
        raise JobError(f"{given.path}: has a column {taken[0]} already; rename it")
    if path.exists() and not is_url(polygons) and os.path.samefile(path, polygons):
        raise JobError(f"--out: {out} is the file of the polygons; name another")
    output = claimed(store, os.fspath(path.parent), [path], overwrite=overwrite)
    sums = _Sums(given, len(store.classes))
    notices = (*given.notices, *_add_all(store, sums))
    if not sums.met:
        raise JobError(
            f"{polygons}: no polygon of it meets a scene of {store.path}; it says that its CRS is "
            f"{given.crs.name}"
        )
    columns = dict(zip(names, sums.columns(), strict=True))
    with output.replacing(path) as partial:
        _write(partial, path.suffix.lower(), given, columns)
    output.close()
    missing = sums.outside
    if missing:
        notices = (*notices, f"{missing:,} of them meet no scene: void_share is 1")
    return ZonesReport(
        store=store.path,
        table=os.fspath(path),
        polygons=len(given.shapes),
        outside=missing,
        scenes=tuple(sums.met),
        areas={name: float(sums.areas[:, i].sum()) for i, name in enumerate(store.classes)},
        notices=notices,
    )


def _names(classes: Sequence[str]) -> list[str]:
    """Columns of a table, all different."""
    names = [f"{name}_{what}" for name in classes for what in ("area", "share")] + [VOID_SHARE]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise JobError(f"the classes of the store would make the column {twice[0]} twice")
    return names


def _add_all(store: Store, sums: _Sums) -> Iterator[str]:
    """Add every scene that polygons meet; lines about those that cannot be, or not wholly."""
    unplaced = []
    finder = Finder(sums.polygons)
    for name, scene in store.scenes.items():
        ground = scene.layout.placing.ground
        if ground is None:
            unplaced.append(name)
            continue
        placed = finder.on(scene.layout.placing, name)
        if placed is None:
            continue
        if sums.add(scene, ground, placed):
            undone = scene.layout.shards - sum(
                record.status == "done" for record in store.log.read(name, MaskRecord)
            )
            if undone:
                yield f"scene {name}: {undone:,} of {scene.layout.shards:,} shards are not done: void"
    if unplaced and len(unplaced) == len(store.scenes):
        raise JobError(
            f"{store.path}: no scene of it is georeferenced, so that no polygon has a place"
        )
    if unplaced:
        yield left_out(unplaced)


@dataclass
class _Sums:
    """What polygons hold, added up over scenes."""

    polygons: Polygons
    classes: int
    met: list[str] = field(default_factory=list)
    """Scenes."""

    def __post_init__(self) -> None:
        shape = (len(self.polygons.shapes), self.classes + 1)
        self.areas = np.zeros(shape)
        """Square metres of each class, then of void."""
        self.pixels = np.zeros(shape)
        self.whole = np.zeros(shape[0])
        """Pixels of each polygon, in a scene or not; NaN where they cannot be told."""
        self.grid: list[Any] = [None] * shape[0]
        """What kind of pixels each was counted in; False: of several kinds."""

    def add(self, scene: SceneStore, ground: Ground, placed: Placed) -> bool:
        """Add what polygons hold of a scene; whether they hold any of it."""
        exponent = ground.exponent
        assert exponent is not None
        outlines, layout = placed.outlines, scene.layout
        shape = (len(outlines.zones), self.classes + 1)
        counts, grounds = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        unit = exponent + 2  # so that the sums of 2**34 pixels are whole numbers of 64 bits
        for rows, cols in _windows(layout.shape, layout.shard):
            chosen = outlines.meeting(rows, cols)
            if not len(chosen):
                continue
            metres = np.nan_to_num(ground.metres(rows, cols))
            weights = np.ldexp(metres, -unit - BITS)
            corner = (rows.start, cols.start)
            for frame in range(layout.shape[0]):
                labels = scene.read(MASK, frame, rows, cols)
                own = tally(labels, weights, corner, outlines, chosen, self.classes)
                counts[chosen] += own[0]
                grounds[chosen] += own[1]
        if not counts.any():
            return False
        self.met.append(scene.name)
        self._take(
            scene,
            placed,
            np.ldexp(counts.astype(np.float64), -BITS),
            np.ldexp(grounds.astype(np.float64), unit),
        )
        return True

    def _take(
        self,
        scene: SceneStore,
        placed: Placed,
        pixels: NDArray[np.float64],
        areas: NDArray[np.float64],
    ) -> None:
        zones, boxes = placed.outlines.zones, placed.outlines.boxes
        np.add.at(self.pixels, zones, pixels)
        np.add.at(self.areas, zones, areas)
        frames, height, width = scene.layout.shape
        inside = (boxes[:, 0] >= 0) & (boxes[:, 1] <= height)
        inside &= (boxes[:, 2] >= 0) & (boxes[:, 3] <= width)
        # one that lies in the scene is as large as what was counted of it, to the last digit
        whole = np.where(inside & ~np.isnan(placed.pixels), pixels.sum(axis=1), placed.pixels)
        whole[~inside] *= frames
        placing = scene.layout.placing
        kind = (placing.wkt, *(placing.transform[i] for i in (0, 1, 3, 4)))
        parts: dict[int, float] = {}
        there = (pixels > 0).any(axis=1)
        for i in np.flatnonzero(there).tolist():
            zone, part = int(zones[i]), float(whole[i])
            # one that lies in parts, on several turns of longitude, has no area in pixels
            parts[zone] = math.nan if zone in parts else part
        for zone, part in parts.items():
            before = self.grid[zone]
            self.grid[zone] = kind if before in (None, kind) else False
            known = max(self.whole[zone], part)
            self.whole[zone] = part if math.isnan(part) else known

    @property
    def outside(self) -> int:
        """Polygons that meet no scene."""
        import shapely

        there = ~shapely.is_missing(self.polygons.shapes)
        return int((there & ~self.pixels.any(axis=1)).sum())

    def columns(self) -> Iterator[NDArray[np.float64]]:
        """Area and share of each class, then the share of void; NaN where there is none."""
        import shapely

        mixed = np.array([grid is False for grid in self.grid])
        amounts = np.where(mixed[:, None], self.areas, self.pixels)
        valid = amounts[:, :-1].sum(axis=1)
        missing = shapely.is_missing(self.polygons.shapes)
        for label in range(self.classes):
            yield np.where(missing, np.nan, self.areas[:, label])
            yield np.divide(
                amounts[:, label], valid, out=np.full(len(valid), np.nan), where=valid > 0
            )
        whole = self.whole.copy()
        for zone in np.flatnonzero(mixed | np.isnan(whole)).tolist():
            amounts[zone] = self.areas[zone]
            whole[zone] = square_metres(self.polygons.shapes[zone], self.polygons.crs)
        whole = np.maximum(whole, amounts.sum(axis=1))
        valid = amounts[:, :-1].sum(axis=1)
        met = np.divide(valid, whole, out=np.zeros(len(valid)), where=whole > 0)
        yield np.where(missing, np.nan, 1 - met)


def _windows(
    shape: tuple[int, int, int], shard: tuple[int, int, int]
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of a scene's shards."""
    flat, cut = (1, *shape[1:]), (1, *shard[1:])
    for place in tiling.shard_indices(tiling.shard_grid(flat, cut)):
        _, rows, cols = tiling.shard_window(place, flat, cut).slices
        yield rows, cols


def _write(
    path: Path, suffix: str, polygons: Polygons, columns: dict[str, NDArray[np.float64]]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = polygons.columns
    found = {name: own[name] for name in own.column_names}
    for name, values in columns.items():
        found[name] = pa.array(values, pa.float64(), from_pandas=True)
    table = pa.table(found)
    if suffix == ".csv":
        import pyarrow.csv

        pyarrow.csv.write_csv(_plain(table), path)
        return
    import shapely

    shapes = pa.array(shapely.to_wkb(polygons.shapes).tolist(), pa.binary())
    table = table.append_column(GEOMETRY, shapes).replace_schema_metadata({b"geo": _geo(polygons)})
    pq.write_table(table, path, compression="zstd")


def _geo(polygons: Polygons) -> bytes:
    """GeoParquet 1.1's metadata."""
    import shapely

    known = polygons.shapes[~shapely.is_missing(polygons.shapes)]
    about = {
        "encoding": "WKB",
        "geometry_types": sorted({shape.geom_type for shape in known}),
        "crs": polygons.crs.to_json_dict(),
        "bbox": shapely.total_bounds(known).tolist(),
    }
    geo = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: about}}
    return json.dumps(geo).encode()


def _plain(table: pa.Table) -> pa.Table:
    """A table of numbers and texts; what is neither, as JSON."""
    import pyarrow as pa

    for i, entry in enumerate(table.schema):
        kind = entry.type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            values = [
                None if v is None else json.dumps(v, default=str)
                for v in table[entry.name].to_pylist()
            ]
            table = table.set_column(i, entry.name, pa.array(values, pa.string()))
    return table
