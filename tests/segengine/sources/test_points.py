"""Scenes that ground control points or rational functions place: kept, exported, and said."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

import segengine
from segengine.errors import CorruptInputError
from segengine.export.cog import export
from segengine.job import parse_job
from segengine.planning.plan import make_plan
from segengine.sources.raster import RasterSource
from segengine.store.blobs import open_objects
from segengine.store.seals import SealedObjects
from segengine.types import Entry

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

HEIGHT, WIDTH = 48, 64
POINTS = [
    GroundControlPoint(row, col, 10 + col / 640 + row / 9000, 50 - row / 640, row / 3)
    for row in (0, 24, 48)
    for col in (0.5, 31.25, 64)
]
"""As Sentinel-1 GRD has them: longitude, latitude, height."""
RATIONAL = RPC(
    err_bias=None, err_rand=None, height_off=100.0, height_scale=500.0, lat_off=50.1, lat_scale=0.2,
    line_off=24.0, line_scale=24.0, long_off=10.3, long_scale=0.25, samp_off=32.0, samp_scale=32.0,
    line_num_coeff=[i / 7 for i in range(20)], line_den_coeff=[1.0] + [0.001] * 19,
    samp_num_coeff=[-i / 11 for i in range(20)], samp_den_coeff=[1.0] + [0.002] * 19,
)  # fmt: skip


def write(path: Path, *, gcps: bool = True, rpcs: bool = False) -> Path:
    values = np.random.default_rng(5).integers(0, 4000, (1, HEIGHT, WIDTH)).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=HEIGHT, width=WIDTH, dtype="uint16"
    ) as dataset:
        dataset.write(values)
        if gcps:
            dataset.gcps = POINTS, rasterio.CRS.from_epsg(4326)
        if rpcs:
            dataset.rpcs = RATIONAL
    return path


def job(path: Path) -> dict[str, Any]:
    return {
        "source": {"paths": [str(path)], "kind": "raster"},
        "segmenter": {"kind": "threshold", "method": "fixed", "levels": 2000},
        "store": {"path": str(path.parent / "masks.zarr"), "chunk": 64, "shard": 64},
        "cluster": {"workers": 1},
    }


def as_rows(points: Any) -> list[tuple[float, ...]]:
    return [(p.row, p.col, p.x, p.y, p.z) for p in points]


@pytest.mark.parametrize(("gcps", "rpcs"), [(True, False), (False, True), (True, True)])
def test_they_are_in_the_store_and_in_the_cog(tmp_path: Path, gcps: bool, rpcs: bool) -> None:
    path = write(tmp_path / "s1.tif", gcps=gcps, rpcs=rpcs)
    assert segengine.run(job(path)).failed == ()
    store = str(tmp_path / "masks.zarr")
    attributes = segengine.open_store(store)["s1"].attributes
    assert "transform" not in attributes
    assert ("gcps" in attributes, "rpcs" in attributes) == (gcps, rpcs)
    written, _ = export(store, str(tmp_path / "out"))
    with rasterio.open(written) as found, rasterio.open(path) as source:
        points, crs = found.gcps
        if gcps:
            assert [tuple(row) for row in attributes["gcps"]["points"]] == as_rows(POINTS)
            assert as_rows(points) == as_rows(source.gcps[0]) == as_rows(POINTS)
            assert crs == source.gcps[1] == rasterio.CRS.from_epsg(4326)
        else:
            assert points == []
        assert found.rpcs == source.rpcs
        assert (found.rpcs is None) != rpcs
        np.testing.assert_array_equal(found.read(1), source.read(1) > 2000)


def test_a_notice_says_that_there_is_no_transform(tmp_path: Path) -> None:
    write(tmp_path / "s1.tif")
    block = job(tmp_path / "*.tif")

    def notices() -> str:
        objects = SealedObjects(open_objects(block["store"]["path"]))
        return "\n".join(make_plan(parse_job(block), objects).notices)

    assert "1 scene has ground control points or RPCs and no transform (s1)" in notices()
    for i in range(4):
        write(tmp_path / f"r{i}.tif", gcps=False, rpcs=True)
    said = notices()
    assert (
        "5 scenes have ground control points or RPCs and no transform (r0, r1, r2, r3, s1)" in said
    )
    assert "gdalwarp" in said
    for path in tmp_path.glob("*.tif"):
        write(path, gcps=False)
    assert notices() == ""


def test_beside_a_transform_they_are_kept_without_a_notice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", gcps=False, rpcs=True)
    with rasterio.open(path, "r+") as dataset:
        dataset.transform = rasterio.Affine(2, 0, 5e5, 0, -2, 4e6)
        dataset.crs = "EPSG:32613"
    block = job(path)
    objects = SealedObjects(open_objects(block["store"]["path"]))
    assert make_plan(parse_job(block), objects).notices == ()
    segengine.run(block)
    written, _ = export(block["store"]["path"], str(tmp_path / "out"))
    with rasterio.open(written) as found, rasterio.open(path) as source:
        assert found.transform == source.transform
        assert found.rpcs == source.rpcs
        assert found.rpcs is not None


def test_points_of_nowhere_are_not_kept_and_too_many_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(struct.pack("<d", POINTS[4].x), struct.pack("<d", np.nan)))
    assert path.read_bytes() != whole
    assert "gcps" not in RasterSource().probe(Entry("a.tif", str(path), "")).attributes
    text = "".join(f'<GCP Id="" Pixel="{i}" Line="1" X="1" Y="1"/>' for i in range(70_000))
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><GCPList Projection="EPSG:4326">'
        f'{text}</GCPList><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    with pytest.raises(CorruptInputError, match="has 70,000 ground control points; at most 65,536"):
        RasterSource().probe(Entry("a.vrt", str(tmp_path / "a.vrt"), ""))
