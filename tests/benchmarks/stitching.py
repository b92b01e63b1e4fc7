"""Objects cut by tiles and made one again: panoptic quality, time and memory.

patchworks is measured side by side where it is installed (pip install --no-deps patchworks).
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import nan
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

from segengine.instances.join import BAND, Seen, components, join, see
from segengine.instances.rows import objects_of
from tests.benchmarks.table import Row, show

SIDE, TILES = 2048, 8
MAP, MAP_TILES = 4096, 32
NOISE = 0.05
Cells = dict[tuple[int, int], np.ndarray]


def discs(size: int, gap: int) -> np.ndarray:
    """Discs of 40 pixels, `gap` pixels apart; each row is shifted, so that borders cut them anywhere."""
    y, x = np.mgrid[:size, :size]
    pitch = 40 + gap
    row = y // pitch
    x = x + row * 17
    column = x // pitch
    inside = (y % pitch - 19.5) ** 2 + (x % pitch - 19.5) ** 2 <= 20**2
    return np.where(inside, row * 1000 + column + 1, 0)


def voronoi(size: int, count: int) -> np.ndarray:
    """Cells without a gap."""
    points = np.random.default_rng(1).integers(0, size, (count, 2))
    marks = np.ones((size, size), bool)
    marks[tuple(points.T)] = False
    nearest = ndimage.distance_transform_edt(marks, return_distances=False, return_indices=True)
    owner = np.zeros((size, size), int)
    owner[tuple(points.T)] = np.arange(1, count + 1)
    return owner[tuple(nearest)]


def lines(size: int) -> np.ndarray:
    """Lines two pixels wide across the whole frame, at a slope that meets borders everywhere."""
    y, x = np.mgrid[:size, :size]
    along = 3 * x + 7 * y
    return np.where(along % 140 < 15, along // 140 + 1, 0)  # 15 / hypot(3, 7) is 2 pixels


def stitched(truth: np.ndarray, tiles: int, noise: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """What is made of the tiles of a perfect segmenter, and where noise fell."""
    side = -(-len(truth) // tiles)
    seen: dict[tuple[int, int], Seen] = {}
    cores: Cells = {}
    void = np.zeros(truth.shape, bool)
    for r, c in np.ndindex(tiles, tiles):
        rows, cols = (slice(i * side, min((i + 1) * side, len(truth))) for i in (r, c))
        top, left = max(0, rows.start - BAND), max(0, cols.start - BAND)
        part = truth[top : rows.stop + BAND, left : cols.stop + BAND]
        inner = (
            slice(rows.start - top, rows.stop - top),
            slice(cols.start - left, cols.stop - left),
        )
        rng = np.random.default_rng([r, c])
        if noise:
            hit = rng.random(part.shape) < noise
            other = np.where(rng.random(part.shape) < 0.5, 0, np.roll(part, 3, axis=1))
            part = np.where(hit, other, part)
            void[rows, cols] = hit[inner]
        values, dense = np.unique(part, return_inverse=True)
        own = rng.permutation(len(values)) + 1  # each tile numbers its own way
        own[values == 0] = 0
        ids = own[dense].reshape(part.shape)
        labels = (ids > 0).astype(np.uint8)
        seen[r, c], cores[r, c], _ = see(ids, labels, inner, (rows.start, cols.start), len(truth))
    ids_of = join(seen, overlap=True).ids
    found = np.block([[ids_of[r, c][cores[r, c]] for c in range(tiles)] for r in range(tiles)])
    return found, void


def panoptic_quality(found: np.ndarray, truth: np.ndarray, void: np.ndarray) -> float:
    """Kirillov et al. 2019, one class; void pixels do not count."""
    keep = ~void
    pairs, common = np.unique(np.stack([found[keep], truth[keep]]), axis=1, return_counts=True)
    ours = np.bincount(found[keep].astype(int))
    theirs = np.bincount(truth[keep].astype(int))
    both = (pairs > 0).all(axis=0)
    a, b = pairs[:, both].astype(int)
    iou = common[both] / (ours[a] + theirs[b] - common[both])
    matched = iou > 0.5
    segments = np.count_nonzero(ours[1:]) + np.count_nonzero(theirs[1:])
    return float(iou[matched].sum() / (segments / 2))  # TP + FP / 2 + FN / 2


def quality(size: int, tiles: int) -> list[Row]:
    """Panoptic quality of each kind of object, without and with noise."""
    kinds: dict[str, tuple[np.ndarray, float]] = {
        "discs with gaps": (discs(size, 6), 1.0),
        "touching discs": (discs(size, 0), 0.999),
        "Voronoi cells": (voronoi(size, size * size // 4096), 0.868),
        "lines of 2 pixels": (lines(size), 1.0),
    }
    found = []
    for name, (truth, peer) in kinds.items():
        clean, noisy = (scored(truth, tiles, noise) for noise in (0, NOISE))
        what = f"PQ of {name} over {tiles * tiles} tiles"
        found.append(Row(what, clean, peer, "PQ", clean / peer, ">= 0.999"))
        found.append(Row(f"{what}, {NOISE:.0%} noise", noisy, nan, "PQ", nan, ">= 0.98"))
    return found


def scored(truth: np.ndarray, tiles: int, noise: float) -> float:
    """Panoptic quality of a stitched frame; what noise fell on does not count."""
    found, void = stitched(truth, tiles, noise)
    return panoptic_quality(found, truth, void)


def tiled_components(mask: np.ndarray, tiles: int) -> np.ndarray:
    """8-connected components of a mask, tile by tile."""
    side = len(mask) // tiles
    seen, cores = {}, {}
    for r, c in np.ndindex(tiles, tiles):
        labels = mask[r * side : (r + 1) * side, c * side : (c + 1) * side].astype(np.uint8)
        ids, whole = components(labels, (0,)), (slice(0, side), slice(0, side))
        origin = (r * side, c * side)
        seen[r, c], cores[r, c], _ = see(ids, labels, whole, origin, len(mask), band=0)
    ids_of = join(seen, overlap=False).ids
    return np.block([[ids_of[r, c][cores[r, c]] for c in range(tiles)] for r in range(tiles)])


def bijective(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two maps say the same with other numbers."""
    pairs = np.unique(np.stack([a.reshape(-1), b.reshape(-1)]), axis=1)
    return all(len(np.unique(row)) == pairs.shape[1] for row in pairs) and not pairs[:, 0].any()


def tile_labels(path: str) -> list[int]:
    """Label each tile of a map by itself into a Zarr array; the number of labels of each."""
    rng = np.random.default_rng(3)
    smooth = ndimage.uniform_filter(rng.random((MAP, MAP), np.float32), 9)
    mask = smooth > np.float32(0.5)
    side = MAP // MAP_TILES
    root = zarr.open_group(path, mode="w")
    array = root.create_array("labels", shape=mask.shape, chunks=(side, side), dtype="i4")
    counts = []
    for r, c in np.ndindex(MAP_TILES, MAP_TILES):
        box = np.s_[r * side : (r + 1) * side, c * side : (c + 1) * side]
        ids, count = ndimage.label(mask[box], np.ones((3, 3)))
        array[box] = ids
        counts.append(count)
    return counts


def merge(source: str, target: str) -> None:
    """The stitch stage on Zarr arrays: each tile's summary, the union, each tile written once."""
    labels = zarr.open_group(source, mode="r")["labels"]
    out = zarr.open_group(target, mode="w").create_array(
        "labels", shape=labels.shape, chunks=labels.chunks, dtype="u4"
    )
    side = labels.chunks[0]
    grid = list(np.ndindex(*(n // side for n in labels.shape)))

    def box(r: int, c: int) -> tuple[slice, slice]:
        return np.s_[r * side : (r + 1) * side, c * side : (c + 1) * side]

    def summary(cell: tuple[int, int]) -> tuple[Seen, np.ndarray]:
        ids = np.asarray(labels[box(*cell)])
        whole = (slice(0, side), slice(0, side))
        origin = (cell[0] * side, cell[1] * side)
        seen, core, _ = see(ids, (ids > 0).view(np.uint8), whole, origin, labels.shape[1], band=0)
        return seen, core

    def write(cell: tuple[int, int]) -> None:
        out[box(*cell)] = ids_of[cell][cores[cell]]

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(grid, pool.map(summary, grid), strict=True))
        cores = {cell: core for cell, (_, core) in found.items()}
        ids_of = join({cell: seen for cell, (seen, _) in found.items()}, overlap=False).ids
        list(pool.map(write, grid))


def _peak_of_merge(source: str) -> float:
    """Megabytes that a process takes for a merge, beyond what it takes without one."""
    code = (
        "import pathlib, re, sys; from tests.benchmarks.stitching import merge\n"
        "import scipy.sparse.csgraph\n"
        "status = pathlib.Path('/proc/self/status')\n"  # ru_maxrss is inherited from the parent
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1])\n"
        "before = peak(); merge(sys.argv[1], sys.argv[2]); print((peak() - before) / 1e3)"
    )
    command = [sys.executable, "-c", code, source, f"{source}-peak"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def speed(folder: Path) -> list[Row]:
    """Merging 1,024 labelled tiles, and making rows of instances."""
    source = str(folder / "tiles.zarr")
    counts = tile_labels(source)
    ours = min(_timed(lambda: merge(source, str(folder / "ours.zarr"))) for _ in range(3))
    theirs = nan
    merged = np.asarray(zarr.open_group(str(folder / "ours.zarr"), mode="r")["labels"])
    what = f"merging {MAP_TILES**2:,} tiles of a {MAP} x {MAP} map"
    if importlib.util.find_spec("patchworks") is not None:
        import patchworks

        def peer() -> None:
            target = str(folder / "theirs.zarr")
            patchworks.merge_tile_labels(source, target, label_counts=counts, connectivity=2)

        theirs = min(_timed(peer) for _ in range(3))
        other = np.asarray(zarr.open_group(str(folder / "theirs.zarr"), mode="r")["labels"])
        if not bijective(merged, other):
            what += " (NOT the same objects)"
    peak = _peak_of_merge(source)
    ids = merged[:SIDE, :SIDE]
    labels = (ids > 0).astype(np.uint8)
    each = len(np.unique(ids)) / _timed(lambda: objects_of(ids, labels))
    return [
        Row(f"{what}, patchworks", ours, theirs, "s", ours / theirs, "< 1"),
        Row("memory of that merge beyond the map", peak - MAP * MAP * 4 / 1e6, 300, "MB",
            (peak - MAP * MAP * 4 / 1e6) / 300, "<= 1"),
        Row("rows of instances, with run lengths", each, 500, "1/s", each / 500, ">= 1"),
    ]  # fmt: skip


def rows() -> list[Row]:
    """Panoptic quality, components, seconds and megabytes."""
    found = quality(SIDE, TILES)
    mask = ndimage.uniform_filter(np.random.default_rng(0).random((SIDE, SIDE)), 5) > 0.5
    whole, _ = ndimage.label(mask, np.ones((3, 3)))
    same = float(bijective(tiled_components(mask, TILES), whole))
    found.append(Row("components bijective with scipy.ndimage.label", same, 1, "", same, "1"))
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        return found + speed(Path(name))


if __name__ == "__main__":
    show(rows())
