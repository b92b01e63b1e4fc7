"""Overlapping scenes as one map: the uncut scene, NumPy and rasterio say what it must be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio import Affine

import segengine
from segengine.errors import JobError
from segengine.sources._strips import read_window
from segengine.worker.segment import segment_shard
from tests.segengine.sources.scenes import UTM
from tests.segengine.sources.stac_scenes import make_item, save

HEIGHT, WIDTH = 150, 190
PLACE = Affine(0.3, 0, 600_000.1, 0, -0.3, 5_000_000.7)
CUTS = {
    "a": (0, 90, 0, 110),
    "b": (0, 95, 80, WIDTH),
    "c": (70, HEIGHT, 0, 120),
    "d": (60, HEIGHT, 95, WIDTH),
}
"""First and last row and column of each."""
OTHERWISE = {
    "p": (0, 64, 0, WIDTH),
    "q": (48, 120, 0, 100),
    "r": (50, 120, 90, WIDTH),
    "s": (112, HEIGHT, 0, WIDTH),
}
SEGMENTERS: dict[str, dict[str, Any]] = {
    "threshold": {"kind": "threshold", "method": "fixed", "levels": 1500},
    "k-means": {"kind": "kmeans", "clusters": 3, "scope": "run"},
    "canny": {"kind": "edges", "operator": "canny", "sigma": 1.2},
    "components": {"kind": "threshold", "method": "fixed", "levels": 1500, "instances": "components"},
    "otsu": {"kind": "threshold", "method": "otsu", "scope": "frame"},
}  # fmt: skip


@pytest.fixture(scope="module")
def pixels() -> NDArray[Any]:
    """(band, y, x) waves with noise; its upper left corner is nodata, 0."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(5).normal(0, 50, (3, HEIGHT, WIDTH))
    waves = 1500 + 500 * np.sin(x / 13) + 400 * np.cos(y / 11)
    found = (waves + noise + np.arange(3)[:, None, None] * 90).clip(1, 9000).astype("uint16")
    found[:, x + y < 70] = 0
    return found


def write(
    path: Path,
    layers: NDArray[Any],
    row: int = 0,
    column: int = 0,
    place: Affine = PLACE,
    **profile: Any,
) -> None:
    """A GeoTIFF of (band, y, x) whose corner lies at a row and a column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = profile.pop("tags", {})
    options = {
        "driver": "GTiff", "count": len(layers), "height": layers.shape[1], "width": layers.shape[2],
        "dtype": layers.dtype, "crs": UTM, "nodata": 0, "tiled": True, "blockxsize": 16, "blockysize": 16,
        "transform": place * Affine.translation(column, row), **profile,
    }  # fmt: skip
    with rasterio.open(path, "w", **options) as file:
        file.write(layers)
        file.update_tags(**tags)


def cut(folder: Path, pixels: NDArray[Any], cuts: dict[str, Any], **profile: Any) -> None:
    for name, (top, bottom, left, right) in cuts.items():
        write(folder / f"{name}.tif", pixels[:, top:bottom, left:right], top, left, **profile)


def job(
    bench: Any, segmenter: Any, paths: str = "*.tif", shard: int = 64, **source: Any
) -> dict[str, Any]:
    block = {"paths": [str(bench.inputs / paths)], "mosaic": "newest", **source}
    found: dict[str, Any] = bench.job(segmenter, source=block, store={"shard": shard, "chunk": 16})
    return found


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Scene and place of each shard that is worked on."""
    found: list[tuple[str, Any]] = []

    def counted(task: Any) -> Any:
        found.append((task.scene, task.place))
        return segment_shard(task)

    monkeypatch.setattr("segengine.stages.segment.compute_shard", counted)
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Pixels that are read of each file, by its stem."""
    found: dict[str, int] = {}

    def counted(dataset: Any, bands: Any, dtype: str, rows: slice, cols: slice) -> Any:
        stem = Path(dataset.name).stem
        count = (rows.stop - rows.start) * (cols.stop - cols.start)
        found[stem] = found.get(stem, 0) + count
        return read_window(dataset, bands, dtype, rows, cols)

    monkeypatch.setattr("segengine.sources._parts.read_window", counted)
    return found


@pytest.mark.usefixtures("plain_report")
@pytest.mark.parametrize("name", SEGMENTERS)
def test_cuts_of_a_scene_are_the_scene(name: str, pixels: Any, new_bench: Any) -> None:
    """The very same bytes, georeference, pyramid and instances among them, however it is cut."""
    spec, uncut = SEGMENTERS[name], new_bench()
    write(uncut.inputs / "mosaic.tif", pixels)
    whole = segengine.run(
        uncut.job(spec, source={"paths": [str(uncut.inputs)]}, store={"shard": 64})
    )
    assert whole.exit_code == 0
    bench = new_bench()
    cut(bench.inputs, pixels, CUTS)
    assert segengine.run(job(bench, spec)).exit_code == 0
    assert bench.tree() == uncut.tree()
    other = new_bench()
    cut(other.inputs, pixels, OTHERWISE, tiled=False, blockysize=7)
    segengine.run(job(other, spec, shard=48, mosaic="path"))
    one, two = (b.open()["mosaic"] for b in (uncut, other))
    np.testing.assert_array_equal(np.asarray(one.mask), np.asarray(two.mask))
    assert (np.asarray(one.mask)[0][pixels[0] == 0] == 255).all()
    if one.instances is not None:
        np.testing.assert_array_equal(np.asarray(one.instances), np.asarray(two.instances))


@pytest.mark.system
@pytest.mark.usefixtures("plain_report")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_networks_labels_of_cuts_are_those_of_the_scene(
    pixels: Any, new_bench: Any, tmp_path: Path
) -> None:
    import keras

    from segengine import models

    keras.utils.set_random_seed(3)
    models.build("unet", bands=3, classes=4, start_neurons=4, depth=2).save(tmp_path / "u.keras")
    spec = {"kind": "model", "path": str(tmp_path / "u.keras"), "scale": {"divide": 3000}}
    uncut, bench = new_bench(), new_bench()
    write(uncut.inputs / "mosaic.tif", pixels)
    cut(bench.inputs, pixels, CUTS)
    segengine.run(uncut.job(spec, store={"shard": 64}))
    segengine.run(job(bench, spec))
    assert bench.tree() == uncut.tree()
    assert len(np.unique(np.asarray(bench.open()["mosaic"].mask))) > 2


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_a_rotated_scene_is_read_as_it_is(resampling: str, pixels: Any, new_bench: Any) -> None:
    place = PLACE * Affine.rotation(17)
    uncut, bench = new_bench(), new_bench()
    write(uncut.inputs / "mosaic.tif", pixels, place=place)
    cut(bench.inputs, pixels, CUTS, place=place)
    spec = SEGMENTERS["threshold"]
    segengine.run(uncut.job(spec, store={"shard": 64}))
    segengine.run(job(bench, spec, resampling=resampling))
    assert bench.tree() == uncut.tree()


# Which is on top


ORDERS = st.sampled_from(["newest", "oldest", "path"])


@pytest.mark.usefixtures("plain_report")
@settings(
    max_examples=12, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_the_first_valid_pixel_counts(data: st.DataObject, new_bench: Any) -> None:
    """Levels of scenes at random places with holes, dates and folders, against a loop over NumPy arrays."""
    bench, order = new_bench(), data.draw(ORDERS)
    scenes = []
    for i in range(data.draw(st.integers(2, 5))):
        top, left = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
        height, width = data.draw(st.integers(3, 40)), data.draw(st.integers(3, 40))
        layers = np.full((1, height, width), 10 * (i + 1), np.uint8)
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        layers[:, rng.random((height, width)) < 0.3] = 0
        date = data.draw(st.sampled_from(["", "2026:05:01 00:00:00", "2026:05:02 10:00:00"]))
        folder = data.draw(st.sampled_from(["x", "y"]))
        tags = {"TIFFTAG_DATETIME": date} if date else {}
        write(bench.inputs / folder / f"{i}.tif", layers, top, left, tags=tags)
        scenes.append((date, folder, i, top, left, layers[0]))
    paths = [
        str(bench.inputs / each / "*.tif") for each in ("y", "x") if (bench.inputs / each).exists()
    ]
    if order == "path":
        ranked = sorted(scenes, key=lambda s: (s[1] != "y", s[2]))
    else:
        dated = sorted((s for s in scenes if s[0]), key=lambda s: s[2])
        dated.sort(key=lambda s: s[0], reverse=order == "newest")
        ranked = dated + sorted(
            (s for s in scenes if not s[0]), key=lambda s: s[2], reverse=order == "newest"
        )
    tops, lefts = [s[3] for s in scenes], [s[4] for s in scenes]
    bottoms = [s[3] + s[5].shape[0] for s in scenes]
    rights = [s[4] + s[5].shape[1] for s in scenes]
    wanted = np.zeros((max(bottoms) - min(tops), max(rights) - min(lefts)), np.uint8)
    for _, _, _, top, left, layer in reversed(ranked):
        at = wanted[top - min(tops) :, left - min(lefts) :][: layer.shape[0], : layer.shape[1]]
        at[layer > 0] = layer[layer > 0]
    spec = {"kind": "threshold", "method": "fixed", "levels": [5, 15, 25, 35, 45]}
    shard = data.draw(st.sampled_from([16, 32, 64]))
    segengine.run(job(bench, spec, paths="", shard=shard) | {
        "source": {"paths": paths, "mosaic": order}
    })  # fmt: skip
    found = np.asarray(bench.open()["mosaic"].mask)[0]
    np.testing.assert_array_equal(found, np.where(wanted > 0, wanted // 10, 255))


@pytest.mark.parametrize(
    ("order", "top"), [("newest", 3), ("oldest", 1), ("cloud", 2), ("path", 1)]
)
def test_items_tell_their_time_and_their_clouds(order: str, top: int, bench: Any) -> None:
    clouds = {"i1": 70.0, "i2": 5.0, "i3": None}
    items = [
        make_item(
            bench.inputs, name, {"red": np.full((30, 30), 10 * (i + 1), np.uint8)}, i, clouds[name]
        )
        for i, name in enumerate(clouds)
    ]
    catalog = save(bench.inputs, *items)
    spec = {"kind": "threshold", "method": "fixed", "levels": [5, 15, 25]}
    source = {"kind": "stac", "paths": [catalog], "assets": ["red"], "mosaic": order}
    assert segengine.run(bench.job(spec, source=source)).exit_code == 0
    assert np.unique(bench.open()["mosaic"].mask).tolist() == [top]
