"""What a store takes to be written, read, exported, verified and asked how far it is.

One thread each; page cache, nothing flushed. Masks are 64 MB: the labels of a photo, and noise.
"""

import dataclasses
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
import rasterio.shutil
import skimage.data
import xxhash
import zarr
from numcodecs.zstd import compress, decompress
from numpy.typing import NDArray

from segengine.commands.status import status
from segengine.commands.verify import verify
from segengine.export import cog
from segengine.job import parse_job
from segengine.runs import Run
from segengine.store.arrays import ArraySpec
from segengine.store.blobs import open_objects
from segengine.store.keys import MASK, layout_key, pack_key, table_key
from segengine.store.layouts import commit_layout, load_layouts
from segengine.store.packs import pack_records
from segengine.store.parquet import read_parquet
from segengine.store.records import RecordLog
from segengine.store.seals import SealedObjects
from segengine.store.shards import open_array, read_region, write_block
from segengine.tiling import shard_grid, shard_indices
from tests.benchmarks.scenes import big_raster
from tests.benchmarks.table import Row, show

SIDE, SHARD, CHUNK = 8192, 2048, 512
MEGABYTES = SIDE * SIDE / 1e6
SCENES = 10_000
Labels = NDArray[np.uint8]


def rows() -> Iterator[Row]:
    """Megabytes of labels a second, best of three; seconds."""
    for what, labels in (("smooth labels", smooth()), ("noise", noise())):
        with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
            yield from _blocks(what, labels, Path(name))
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        yield from _commands(Path(name))
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        yield _status(Path(name))


def smooth() -> Labels:
    """(8192, 8192) 8 labels, by the brightness of a photo that is enlarged."""
    gray = cv2.cvtColor(skimage.data.coffee(), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) // 32)


def noise() -> Labels:
    """(8192, 8192) 8 labels, each pixel on its own."""
    return np.random.default_rng(0).integers(0, 8, (SIDE, SIDE), np.uint8)


def best(work: Callable[[], object], turns: int = 3) -> float:
    """Seconds of the fastest turn."""
    found = []
    for _ in range(turns):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


# ------------------------------------------------------------------------------- shards of a mask


SPEC = ArraySpec(
    path=MASK, shape=(1, SIDE, SIDE), shard=(1, SHARD, SHARD), chunk=(1, CHUNK, CHUNK),
    dtype="uint8", fill=255, axes=("frame", "y", "x"),
)  # fmt: skip
PLACES = tuple(shard_indices(shard_grid(SPEC.shape, SPEC.shard)))


def _blocks(what: str, labels: Labels, folder: Path) -> Iterator[Row]:
    """Shards written and read, against zarr-python, and against the compressor alone."""
    blocks = {place: np.ascontiguousarray(labels[_box(place)])[None] for place in PLACES}
    chunks = [
        np.ascontiguousarray(labels[y : y + CHUNK, x : x + CHUNK])
        for y in range(0, SIDE, CHUNK)
        for x in range(0, SIDE, CHUNK)
    ]
    objects = open_objects(str(folder / "ours.zarr"))
    plain = zarr.create_array(
        folder / "plain.zarr", shape=SPEC.shape, dtype="u1", fill_value=255,
        chunks=SPEC.chunk, shards=SPEC.shard,
        compressors=zarr.codecs.ZstdCodec(level=1, checksum=True),
    )  # fmt: skip

    def write() -> None:
        for place, block in blocks.items():
            write_block(objects, SPEC, "scene", place, block)

    def write_plain() -> None:
        for place, block in blocks.items():
            plain[(0, *_box(place))] = block[0]

    def read() -> None:
        array = open_array(objects.root, "scene", SPEC)
        for place in PLACES:
            read_region(objects, array, (0, *_box(place)))

    def read_plain() -> None:
        for place in PLACES:
            np.asarray(plain[(0, *_box(place))])

    zstd = best(lambda: [compress(chunk, 1, True) for chunk in chunks])
    packed = [compress(chunk, 1, True) for chunk in chunks]
    unpacked = best(lambda: [decompress(chunk) for chunk in packed])
    ours = best(write)
    yield _rate(
        f"mask written, {what}, against zarr-python", ours, best(write_plain), ">= 500 MB/s"
    )
    yield _rate(f"mask written, {what}, against zstd level 1 alone", ours, zstd, "-")
    ours = best(read)
    yield _rate(f"mask read, {what}, against zarr-python", ours, best(read_plain), ">= 500 MB/s")
    yield _rate(f"mask read, {what}, against zstd alone", ours, unpacked, "-")


def _box(place: tuple[int, ...]) -> tuple[slice, slice]:
    y, x = (SHARD * i for i in place[1:])
    return slice(y, y + SHARD), slice(x, x + SHARD)


def _rate(what: str, ours: float, theirs: float, target: str, size: float = MEGABYTES) -> Row:
    return Row(f"stores: {what}", size / ours, size / theirs, "MB/s", theirs / ours, target)


# ---------------------------------------------------------------------------------------- commands


def _commands(folder: Path) -> Iterator[Row]:
    """A COG against GDAL's of the same labels in a GeoTIFF; what `verify` reads against a bare hash."""
    for what, labels in (("smooth labels", smooth()), ("noise", noise())):
        scene = folder / "scene.tif"
        profile = {
            "driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint8",
            "tiled": True, "blockxsize": CHUNK, "blockysize": CHUNK, "crs": "EPSG:32613",
            "transform": rasterio.Affine(1, 0, 500_000, 0, -1, 4_400_000),
        }  # fmt: skip
        with rasterio.open(scene, "w", **profile) as data:
            data.write(32 * labels + 16, 1)
        store = folder / "masks.zarr"
        shutil.rmtree(store, ignore_errors=True)
        _run(scene, store, SHARD)
        with rasterio.open(folder / "labels.tif", "w", **profile, nodata=255) as data:
            data.write(labels, 1)

        def translate() -> None:
            rasterio.shutil.copy(
                folder / "labels.tif", folder / "gdal.tif", driver="COG", compress="deflate",
                blocksize=CHUNK, overview_resampling="mode",
            )  # fmt: skip

        out = folder / "out"
        ours = best(partial(cog.export, str(store), str(out), overwrite=True))
        yield _rate(f"export --to cog, {what}, against GDAL", ours, best(translate), ">= 0.8")
        paths = [path for path in store.rglob("*") if path.is_file()]

        def bare(paths: list[Path] = paths) -> None:
            for path in paths:
                xxhash.xxh3_128_digest(path.read_bytes())

        size = sum(path.stat().st_size for path in paths) / 1e6
        ours = best(partial(verify, str(store), sample=0))
        yield _rate(
            f"verify of {size:.0f} MB, {what}, against a bare hash", ours, best(bare), "-", size
        )


def _run(scene: Path, store: Path, shard: int) -> None:
    """Eight labels by brightness, in this process."""
    job = parse_job(
        {
            "source": {"paths": [str(scene)], "kind": "raster"},
            "segmenter": {"kind": "threshold", "method": "fixed", "levels": [*range(31, 255, 32)]},
            "store": {"path": str(store), "shard": shard, "chunk": min(shard, CHUNK)},
        }
    )
    with Run(job, in_process=True) as run:
        for stage in Run.STAGES:
            for _ in run.stage(stage):
                pass


def _status(folder: Path) -> Row:
    """Of a finished store of as many scenes, each with a layout and packed records of its own."""
    store = folder / "masks.zarr"
    _run(big_raster(folder / "scene.tif", 64), store, 64)
    write_scenes(SealedObjects(open_objects(str(store)), heals=True), SCENES)
    seconds = best(partial(status, str(store)), 2)
    return Row(f"stores: status of {SCENES:,} scenes", seconds, 1, "s", seconds, "<= 1")


def write_scenes(objects: SealedObjects, count: int) -> None:
    """Make as many scenes of a store's only one, as runs that publish them do."""
    (layout,) = load_layouts(objects).values()
    records = list(RecordLog(objects).read(layout.scene))
    names = [f"scene{i:05}" for i in range(count - 1)]
    tables = {key: read_parquet(objects.get(key) or b"") for key in map(table_key, TABLES)}
    objects.open([*tables, *(key(name) for name in names for key in (layout_key, pack_key))])
    for name in names:
        commit_layout(objects, dataclasses.replace(layout, scene=name, names=(f"{name}.tif",)))
        objects.put(
            pack_key(name), pack_records(dataclasses.replace(r, scene=name) for r in records)
        )
    for key, table in tables.items():
        scenes = pa.array([layout.scene, *names], pa.string())
        many = pa.concat_tables([table] * count).set_column(0, "scene", scenes)
        sink = io.BytesIO()
        pq.write_table(many, sink)
        objects.put(key, sink.getvalue())
    objects.commit("published")


TABLES = ("frames", "shards")


if __name__ == "__main__":
    show(rows())
