"""`to_xarray`: what xarray and rioxarray make of a mask, against rasterio and the store itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import dask
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - registers `.rio`
import xarray
from rasterio.control import GroundControlPoint

import segengine
from segengine.errors import DamagedStoreError

pytestmark = [
    pytest.mark.usefixtures("plain_report"),
    # rioxarray's own use of affine
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]
OTSU = {"kind": "threshold", "method": "otsu"}
NORTH_UP = rasterio.Affine(10.0, 0, 500_000, 0, -20.0, 4_400_000)
TURNED = rasterio.Affine.translation(500_000, 4_400_000) @ rasterio.Affine.rotation(30)


def write_scene(path: Path, pixels: np.ndarray, **about: Any) -> None:
    height, width = pixels.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **about
    ) as file:
        file.write(pixels, 1)


def write_video(path: Path, frames: int, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            pixels = np.full((48, 64, 3), 20 * i, np.uint8)
            pixels[:24] = 200
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


@pytest.fixture(scope="module")
def town(new_bench: Any, noise: Any) -> Any:
    """A georeferenced scene of several shards, with nodata."""
    bench = new_bench()
    pixels = noise(1, (100, 150))
    pixels[:5] = 0
    write_scene(
        bench.inputs / "town.tif", pixels, crs="EPSG:32613", transform=NORTH_UP, nodata=0
    )  # fmt: skip
    bench.run(OTSU, store={"chunk": 32, "shard": 64})
    return bench.open()["town"]


def test_a_scene_lies_where_rasterio_says(town: Any) -> None:
    found = town.to_xarray()
    assert isinstance(found, xarray.DataArray)
    assert (found.name, found.dims, found.shape) == ("mask", ("frame", "y", "x"), (1, 100, 150))
    assert found.rio.crs.to_epsg() == 32613
    assert found.rio.transform() == NORTH_UP
    assert found.rio.bounds() == rasterio.transform.array_bounds(100, 150, NORTH_UP)
    assert found.rio.nodata == found.attrs["_FillValue"] == 255
    x, y = rasterio.transform.xy(NORTH_UP, [0, 99], [0, 149])
    np.testing.assert_array_equal(found.x[[0, -1]], x)
    np.testing.assert_array_equal(found.y[[0, -1]], y)
    assert found.x.attrs["standard_name"] == "projection_x_coordinate"
    assert found.frame.values.tolist() == ["town.tif"]
    assert (found.attrs["flag_values"].tolist(), found.attrs["flag_meanings"]) == (
        [0, 1],
        "background object",
    )
    np.testing.assert_array_equal(found.values, town.mask[:])


def test_nothing_is_read_before_it_is_asked_for(town: Any) -> None:
    found = town.to_xarray()
    assert found.chunks == ((1,), (64, 36), (64, 64, 22))
    part = found.sel(frame="town.tif", x=slice(500_000, 500_100))
    np.testing.assert_array_equal(part.values, town.mask[0, :, :10])
    with dask.config.set(scheduler="processes", num_workers=1):  # the graph travels
        np.testing.assert_array_equal(found[:, :2, :2].values, town.mask[:, :2, :2])


def test_what_it_becomes_on_disk_is_read_back_by_rioxarray(town: Any, tmp_path: Path) -> None:
    found = town.to_xarray()
    found[0].rio.to_raster(tmp_path / "town.tif")
    with rasterio.open(tmp_path / "town.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32613, NORTH_UP, 255)
        np.testing.assert_array_equal(file.read(1), town.mask[0])
    found.to_zarr(tmp_path / "town.zarr", consolidated=False, zarr_format=2)
    with xarray.open_zarr(
        tmp_path / "town.zarr", consolidated=False, decode_coords="all", mask_and_scale=False
    ) as back:
        assert back.mask.rio.crs.to_epsg() == 32613
        assert back.mask.rio.transform() == NORTH_UP
        assert back.mask.rio.nodata == 255


def test_a_turned_scene_keeps_its_transform(bench: Any, noise: Any) -> None:
    write_scene(bench.inputs / "t.tif", noise(2, (40, 50)), crs="EPSG:32613", transform=TURNED)
    bench.run(OTSU)
    found = bench.open()["t"].to_xarray()
    assert set(found.coords) == {"frame", "xc", "yc", "spatial_ref"}
    assert found.rio.transform().almost_equals(TURNED, 1e-9)
    x, y = rasterio.transform.xy(TURNED, 39, 49)
    assert (float(found.xc[39, 49]), float(found.yc[39, 49])) == (
        pytest.approx(x),
        pytest.approx(y),
    )


def test_control_points_go_with_it(bench: Any, noise: Any) -> None:
    points = [
        GroundControlPoint(row, col, 10.0 + col / 100, 50.0 - row / 100, 0.0, id=str(i), info="")
        for i, (row, col) in enumerate([(0, 0), (0, 50), (40, 0), (40, 50)], 1)
    ]
    write_scene(bench.inputs / "g.tif", noise(3, (40, 50)), gcps=points, crs="EPSG:4326")
    bench.run(OTSU)
    found = bench.open()["g"].to_xarray()
    assert found.rio.crs.to_epsg() == 4326
    assert [p.asdict() for p in found.rio.get_gcps()] == [p.asdict() for p in points]
    assert float(found.x[0]) == 0.5


def test_photos_and_frames_of_a_video_are_named(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(4, (40, 30)))
    bench.put("b.png", noise(5, (20, 60)))
    bench.run({**OTSU, "scope": "frame"})
    (scene,) = bench.open().scenes.values()
    found = scene.to_xarray()
    assert found.frame.values.tolist() == ["a.png", "b.png"]
    assert "spatial_ref" not in found.coords
    assert (float(found.x[0]), float(found.y[-1])) == (0.5, 255.5)
    np.testing.assert_array_equal(found.sel(frame="b.png").values[:20, :60], scene.mask_of("b.png"))
    assert (found.sel(frame="b.png").values[20:] == 255).all()
    with pytest.raises(KeyError):
        scene.mask_of("c.png")


def test_a_video_has_times(bench: Any) -> None:
    write_video(bench.inputs / "clip.mp4", frames=6, rate=4)
    bench.run({**OTSU, "scope": "frame"}, source={"every": 2})
    (scene,) = bench.open().scenes.values()
    found = scene.to_xarray()
    assert found.frame.values.tolist() == ["clip.mp4#0", "clip.mp4#2", "clip.mp4#4"]
    assert found.time.dims == ("frame",)
    np.testing.assert_allclose(found.time, [0.0, 0.5, 1.0])


def test_a_damaged_shard_is_said(bench: Any, noise: Any) -> None:
    bench.put("a.png", noise(6, (40, 30)))
    bench.run({**OTSU, "scope": "frame"})
    (scene,) = bench.open().scenes.values()
    found = scene.to_xarray()
    (bench.store / "scenes" / scene.name / "mask/0/c/0/0/0").unlink()
    with pytest.raises(DamagedStoreError):
        found.compute()


def test_without_xarray_one_line_says_what_to_install(town: Any) -> None:
    code = (
        "import sys; sys.modules['xarray'] = None\nimport segengine\n"
        "try: segengine.open_store(sys.argv[1])['town'].to_xarray()\n"
        "except segengine.errors.JobError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, town.store.path], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "to_xarray: needs xarray, which is not installed; "
        "python -m pip install 'segengine[earth]' brings it\n"
    )
    assert segengine.open_store(town.store.path)["town"].name == "town"
