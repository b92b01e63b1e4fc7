"""Regions grown from seeds: what grows, where it ends, what is one, and that none of it hangs on a cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import skimage.data
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import flood

import segengine
from segengine.instances.join import renumbered
from segengine.job import load_job
from segengine.segmenters import _growing, _seeded
from segengine.segmenters._squares import View
from segengine.segmenters.regions import create
from tests.segengine.segmenters.cuts import blotches, same_partition

JOBS = Path(__file__).parents[3] / "deployments/jobs"


def ids_of(spec: dict[str, Any], image: NDArray[Any]) -> NDArray[Any]:
    found = segengine.predict(image, {"kind": "regions", **spec})
    assert found.instances is not None
    np.testing.assert_array_equal(found.labels == 1, found.instances > 0)
    return found.instances.astype(np.int64)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_from_one_seed_it_is_scikit_image_s_flood(dtype: str) -> None:
    photo = skimage.data.camera()
    scale = {"uint8": 1, "uint16": 257, "float32": np.float32(1 / 256)}[dtype]
    image = photo.astype(dtype) * scale
    top = 1 if dtype == "float32" else np.iinfo(dtype).max
    for seed in ((10, 10), (300, 200), (450, 450)):
        for tolerance in (5, 30):
            wanted = flood(image, seed, connectivity=1, tolerance=tolerance * scale)
            spec = {"seeds": [list(seed)], "distance": float(tolerance * scale / top)}
            np.testing.assert_array_equal(ids_of(spec, image), wanted)


def test_regions_of_a_photo_are_of_one_colour_each() -> None:
    """Each is one piece, near the colour of its seed; most of the photo is in one."""
    photo = skimage.data.coffee()
    ids = ids_of({"merge": 0.0}, photo)
    again = ids_of({"merge": 0.0, "top": 255 * 8}, photo.astype(np.uint16) * 8)
    np.testing.assert_array_equal(again, ids)
    sizes = np.bincount(ids.ravel())
    assert sizes[0] < 0.15 * ids.size
    boxes = ndimage.find_objects(ids)
    assert all(ndimage.label(ids[box] == i)[1] == 1 for i, box in enumerate(boxes, 1))
    flat = photo.reshape(-1, 3) / 255
    for band in flat.T:
        mean = np.bincount(ids.ravel(), band) / sizes
        spread = np.sqrt(np.bincount(ids.ravel(), (band - mean[ids.ravel()]) ** 2) / sizes)
        assert spread[1:].max() < 0.1 * np.sqrt(3)
    merged = ids_of({}, photo)
    np.testing.assert_array_equal(merged == 0, ids == 0)
    assert merged.max() < 0.25 * ids.max()


def test_a_region_ends_where_the_colour_does_or_its_reach() -> None:
    image = np.full((20, 30), 100, np.uint8)
    image[:, 15] = 160
    image[3, 3] = 120
    ids = ids_of({"seeds": [[10, 5], [10, 20], [2, 2], [99, 1]], "distance": 10 / 255}, image)
    wanted = np.where(np.arange(30) < 15, 1, 2) * (image == 100)
    # [2, 2] begins in the first one's colour: it has what it reaches first.
    assert (ids == 0).sum() == 21
    np.testing.assert_array_equal(ids > 0, wanted > 0)
    assert len(np.unique(ids[:, :15])) == 3
    far = ids_of({"seeds": [[10, 5]], "distance": 10 / 255, "reach": 4}, image)
    y, x = np.indices(image.shape)
    np.testing.assert_array_equal(far > 0, abs(y - 10) + abs(x - 5) <= 4)


def test_one_seed_grows_as_one_of_several_does() -> None:
    """By a flood fill, which is faster than ring by ring."""
    image = skimage.data.coffee()[::2, ::2]
    for seed in ([20, 20], [100, 170], [150, 220], [999, 0]):
        alone = ids_of({"seeds": [seed]}, image)
        np.testing.assert_array_equal(ids_of({"seeds": [seed, seed]}, image), alone)
    lost = np.full((5, 5), np.nan, np.float32)
    assert not ids_of({"seeds": [[2, 2]]}, lost).any()


def test_a_pixel_that_two_reach_goes_to_the_nearer_colour() -> None:
    image = np.uint8([[100, 100, 112, 120, 120]])
    spec = {"seeds": [[0, 0], [0, 4]], "distance": 0.1}
    assert ids_of(spec, image).tolist() == [[1, 1, 2, 2, 2]]
    assert ids_of(spec, image - np.uint8([[0, 0, 2, 0, 0]])).tolist() == [[1, 1, 1, 2, 2]]
    assert ids_of({**spec, "merge": 0.1}, image).tolist() == [[1] * 5]


def test_seeds_lie_where_a_square_is_most_even() -> None:
    values = np.random.default_rng(3).random((2, 9, 14)).astype(np.float32)
    values[:, 4:7, 9:12] = 0.5
    view, ids = View((0, 0), (9, 14), (9, 14)), np.zeros((9, 14), np.int32)
    rows, cols = view.bounds(0, 7), view.bounds(1, 7)
    colors = np.full((3, 2), np.nan, np.float32)
    _seeded._most_even(values, rows, cols, *(view.origins(a, 7) for a in (0, 1)), 7, ids, colors)
    assert np.argwhere(ids == 2).tolist() == [[5, 10]]
    assert colors[2].tolist() == [0.5, 0.5]
    flat = ids_of({"spacing": 8, "reach": 1}, np.zeros((8, 16), np.uint8))
    assert np.argwhere(flat).mean(axis=0).tolist() == [4, 8]  # the middles, as all is even


def test_nodata_takes_no_part() -> None:
    image = np.full((40, 40, 2), 0.5, np.float32)
    image[:, 20, 0] = np.nan
    ids = ids_of({"seeds": [[5, 5], [7, 20]]}, image)
    assert ids[:, :20].min() == ids.max() == 1
    assert not ids[:, 20:].any()
    ids = ids_of({}, image)
    assert [len(np.unique(part)) for part in (ids[:, :20], ids[:, 21:], ids)] == [1, 1, 3]
    assert not ids_of({}, np.full((9, 9), np.nan, np.float32)).any()


@pytest.mark.parametrize(
    ("seed", "sigma", "spec"),
    [
        (384244, 1.0, {"spacing": 4, "distance": 0.3, "merge": 0.1, "reach": 3}),
        (879368, 3.0, {"spacing": 5, "distance": 0.1, "merge": 0.1, "reach": 3}),
        (215279, 3.0, {"spacing": 6, "distance": 0.1, "merge": 0.005, "reach": 12}),
    ],
)
def test_a_window_has_the_regions_of_its_frame(
    seed: int, sigma: float, spec: dict[str, Any]
) -> None:
    """Pictures of which a window has others with a smaller halo, or with regions made one outside."""
    same_partition(create(**spec), blotches(seed, sigma), 30)


def test_compiled_is_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    image = cv2.resize(skimage.data.coffee(), (23, 17))
    segmenter = create(spacing=5, distance=0.15)
    fast = segmenter.segment(image[None]).instances
    for module, names in (
        (_growing, ("_shore", "_grow")),
        (_seeded, ("_most_even", "_colors", "_root", "_merge")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name).plain)
    np.testing.assert_array_equal(segmenter.segment(image[None]).instances, fast)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"distance": "near"}, "distance: 'near' is not a number"),
        ({"distance": -0.1}, "distance: -0.1 is not a number from 0 to 1e[+]06"),
        ({"merge": float("nan")}, "merge: nan is not a number from 0 to 1e[+]06"),
        ({"spacing": 1}, "spacing: 1 is not a whole number from 2 to 1024"),
        ({"reach": 0}, "reach: 0 is not a whole number from 1 to 4096"),
        ({"seeds": "minima"}, "seeds: 'minima' is neither grid nor a list of"),
        ({"seeds": [[1]]}, r"seeds: \[\[1\]\] is neither grid nor a list of"),
        ({"seeds": [[1, -2]]}, r"seeds: \[1, -2\] is no \[y, x\] in whole pixels, 0 or more"),
        ({"seeds": [[1, 2]], "spacing": 8}, "spacing: is of `seeds: grid`, and these are listed"),
    ],
)
def test_what_is_no_option_is_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(**spec)


def test_the_shipped_job_cuts_a_scene_and_gives_what_the_whole_gives(bench: Any) -> None:
    """Regions that go through many shards, also behind nodata of a value that they have, are one."""
    image = skimage.data.coffee()[100:300, 150:450].copy()
    image[80:100] = 95
    image[:, 120:136] = 90  # nodata, on both sides of a border
    height, width, _ = image.shape
    about = {"height": height, "width": width, "count": 3, "dtype": "uint8", "nodata": 90}
    about["transform"] = rasterio.Affine(1, 0, 5, 0, -1, 5)
    bench.inputs.mkdir()
    with rasterio.open(bench.inputs / "a.tif", "w", **about) as file:
        file.write(np.moveaxis(image, -1, 0))
    places = ["store.chunk=64", "store.shard=64", f"store.path={bench.store}"]
    settings = [f"source.paths=[{bench.inputs}/a.tif]", "segmenter.top=255", *places]
    assert segengine.run(load_job(JOBS / "regions.yaml", settings)).exit_code == 0
    wanted = segengine.predict(image, {"kind": "regions", "distance": 0.06, "merge": 0.03})
    void = (image == 90).any(axis=-1)
    scene = bench.open()["a"]
    np.testing.assert_array_equal(np.asarray(scene.mask)[0], np.where(void, 255, wanted.labels))
    assert wanted.instances is not None
    ids, _ = renumbered(np.where(void, np.uint32(0), wanted.instances))
    np.testing.assert_array_equal(np.asarray(scene.instances)[0], ids)
