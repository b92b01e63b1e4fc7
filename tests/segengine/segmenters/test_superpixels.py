"""Superpixels: what slic and felzenszwalb make of pictures, and that slic's hang on no cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.color
import skimage.data
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import adapted_rand_error
from skimage.segmentation import felzenszwalb, slic

import segengine
from segengine.job import load_job
from segengine.segmenters import _felzenszwalb, _lab, _slic
from segengine.segmenters._growing import planes
from segengine.segmenters._squares import View
from segengine.segmenters.superpixels import Felzenszwalb, Slic, create
from tests.segengine.segmenters.cuts import blotches, same_partition

JOBS = Path(__file__).parents[3] / "deployments/jobs"


@pytest.fixture(scope="module")
def coffee() -> NDArray[np.uint8]:
    return np.ascontiguousarray(skimage.data.coffee()[100:300, 150:450])


def ids_of(spec: dict[str, Any], image: NDArray[Any]) -> NDArray[Any]:
    found = segengine.predict(image, {"kind": "superpixels", **spec}, alpha=False).instances
    assert found is not None
    return found.astype(np.int64)


def recall(ids: NDArray[Any], edges: NDArray[np.bool_]) -> float:
    """Share of the edges' pixels that have a border of the partition within two pixels."""
    border = np.zeros(ids.shape, bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    return float(ndimage.binary_dilation(border, iterations=2)[edges].mean())


def test_slic_keeps_to_outlines_as_scikit_image_s_does(coffee: NDArray[np.uint8]) -> None:
    ids = ids_of({"size": 12, "iterations": 10}, coffee)
    theirs = slic(coffee, n_segments=len(np.unique(ids)), compactness=10, max_num_iter=10)
    assert len(np.unique(ids)) == pytest.approx(coffee[..., 0].size / 144, rel=0.2)
    edges = cv2.Canny(coffee, 100, 200) > 0
    assert recall(ids, edges) > recall(theirs, edges) - 0.02
    flat = coffee.reshape(-1, 3).astype(float)

    def unlike(partition: NDArray[Any]) -> float:
        """Root mean square of what is left of the colours when each piece has its mean."""
        _, number = np.unique(partition, return_inverse=True)
        counts = np.bincount(number.ravel())
        means = np.stack([np.bincount(number.ravel(), band) / counts for band in flat.T], axis=1)
        return float(np.sqrt(((flat - means[number.ravel()]) ** 2).mean()))

    assert unlike(ids) < 1.05 * unlike(theirs)


def test_each_superpixel_is_one_piece_of_some_size(coffee: NDArray[np.uint8]) -> None:
    ids = ids_of({"size": 12}, coffee)
    for number in np.unique(ids):
        assert ndimage.label(ids == number)[1] == 1
    assert np.bincount(ids.ravel())[1:].min() >= 36
    assert np.bincount(ids_of({"size": 12, "min_size": 1}, coffee).ravel())[1:].min() < 36


def test_more_compactness_makes_squares() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    ids = ids_of({"size": 16, "compactness": 1e6}, image)
    np.testing.assert_array_equal(ids, np.kron(np.arange(1, 13).reshape(4, 3), np.ones((16, 16))))


def test_a_colour_is_not_mixed_with_another() -> None:
    image = np.full((40, 40), 50, np.uint8)
    image[:, 21:] = 200
    ids = ids_of({"size": 8, "compactness": 1}, image)
    assert not set(np.unique(ids[:, :21])) & set(np.unique(ids[:, 21:]))


def test_felzenszwalb_is_scikit_image_s(coffee: NDArray[np.uint8]) -> None:
    for scale, least in ((50, 20), (400, 60)):
        spec = {"method": "felzenszwalb", "scale": scale, "min_size": least, "space": "bands"}
        theirs = felzenszwalb(coffee, scale=scale, sigma=0.8, min_size=least)
        ids = ids_of(spec, coffee)
        assert adapted_rand_error(theirs + 1, ids)[0] < 0.02
        assert ids.max() == pytest.approx(theirs.max() + 1, rel=0.02)


def test_lab_is_scikit_image_s(coffee: NDArray[np.uint8]) -> None:
    for image in (coffee, coffee.astype(np.uint16) * 257):
        wanted = np.moveaxis(skimage.color.rgb2lab(image), -1, 0)
        np.testing.assert_allclose(_lab.lab(image), wanted, atol=0.003)


@pytest.mark.parametrize(
    ("seed", "sigma", "side", "spec"),
    [
        (837884, 1.0, 20, {"size": 5, "iterations": 1, "compactness": 1.0, "min_size": 40}),
        (623093, 3.0, 30, {"size": 3, "iterations": 1, "compactness": 0.1, "min_size": 16}),
        (134041, 1.0, 20, {"size": 3, "iterations": 3, "compactness": 0.1, "min_size": 16}),
        (274048, 3.0, 30, {"size": 2, "iterations": 3, "compactness": 3.0, "min_size": 4}),
        (473188, 1.0, 30, {"size": 5, "iterations": 3, "compactness": 0.1, "min_size": 1}),
    ],
)
def test_a_window_has_the_superpixels_of_its_frame(
    seed: int, sigma: float, side: int, spec: dict[str, Any]
) -> None:
    """Pictures of which a window has others as soon as its halo is two squares or the steps smaller."""
    same_partition(create(**spec), blotches(seed, sigma), side)


def test_small_pieces_far_from_any_large_one_stay() -> None:
    labels = np.arange(40 * 40, dtype=np.int32).reshape(40, 40)
    values, centres = np.zeros((1, 40, 40), np.float32), np.zeros((1600, 3), np.float32)
    labels[:3, :3] = 0
    found = _slic._connected(values, labels, centres, 9, 4)
    assert (found[:3, :3] == 1).all()
    assert (found[0, 6], found[0, 7] > 1) == (1, True)
    assert len(np.unique(found)) == 1 + np.count_nonzero(found != 1)


@pytest.mark.parametrize("method", ["slic", "felzenszwalb"])
def test_the_range_ends_where_it_is_said(method: str, coffee: NDArray[np.uint8]) -> None:
    wide = coffee.astype(np.uint16) * 8
    for space in ("lab", "bands"):
        spec = {"method": method, "space": space}
        wanted = ids_of({**spec, "top": 255.0}, coffee)
        np.testing.assert_array_equal(ids_of(spec, coffee), wanted)
        alike = adapted_rand_error(wanted, ids_of({**spec, "top": 255 * 8}, wide))[0]
        assert alike < (0.01 if space == "bands" else 0.05)


@pytest.mark.parametrize("method", ["slic", "felzenszwalb"])
def test_what_is_not_known_takes_no_part(method: str) -> None:
    image = np.random.default_rng(1).random((50, 60, 2)).astype(np.float32)
    image[10:14, 20:40, 0] = np.nan
    image[40, 3] = [np.inf, -3e38]
    found = segengine.predict(image, {"kind": "superpixels", "method": method})
    assert found.instances is not None
    np.testing.assert_array_equal(found.instances == 0, np.isnan(image[..., 0]))
    np.testing.assert_array_equal(found.labels, np.where(np.isnan(image[..., 0]), 255, 1))
    assert np.isnan(_felzenszwalb.blurred(np.full((1, 9, 9), np.nan, np.float32), 1.0)).all()


def test_squares_lie_where_they_lie_in_the_frame() -> None:
    whole = View((0, 0), (39, 41), (39, 41))
    assert whole.bounds(0, 8).tolist() == [0, 8, 16, 24, 32, 39]
    assert whole.bounds(1, 8).tolist() == [0, 8, 16, 24, 32, 41]
    assert View((0, 0), (35, 4), (35, 4)).bounds(0, 8).tolist() == [0, 8, 16, 24, 35]
    part = View((10, 30), (39, 41), (20, 11))
    assert part.bounds(0, 8).tolist() == [0, 6, 14, 20]
    assert part.origins(0, 8).tolist() == [-2, 6, 14]
    assert (part.cut(0), part.cut(1)) == ((True, True), (True, False))
    assert (part.inner(0, 3), part.inner(1, 3)) == ((3, 17), (3, 11))


def test_compiled_is_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    values = planes(np.random.default_rng(0).integers(0, 256, (14, 17, 2), np.uint8), 100 / 255)
    view = View((0, 0), (14, 17), (14, 17))
    fast = _slic.superpixels(values, view, 4, 10.0, 2, 6), _felzenszwalb.pieces(values, 9.0, 0.8, 5)
    for module, names in (
        (_slic, ("_squares", "_means", "_assign", "_pieces")),
        (_felzenszwalb, ("_blur", "_edge", "_count", "_sort", "_root", "_join")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name).plain)
    slow = _slic.superpixels(values, view, 4, 10.0, 2, 6), _felzenszwalb.pieces(values, 9.0, 0.8, 5)
    for a, b in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"method": "quickshift"}, "method: 'quickshift' is not one of slic, felzenszwalb"),
        ({"top": 0}, "top: 0 is not a number from 1e-12 to 1e[+]20"),
        ({"size": 1}, "size: 1 is not a whole number from 2 to 1024"),
        ({"scale": 3.0}, "scale: slic has no such option"),
        (
            {"method": "felzenszwalb", "iterations": 3},
            "iterations: felzenszwalb has no such option",
        ),
        ({"compactness": -1}, "compactness: -1 is not a number from 0 to 1e[+]06"),
        ({"method": "felzenszwalb", "sigma": 101}, "sigma: 101 is not a number from 0 to 100"),
    ],
)
def test_what_is_no_option_is_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(**spec)


def test_lab_is_of_colours() -> None:
    assert isinstance(create(), Slic)
    assert isinstance(create("felzenszwalb"), Felzenszwalb)
    with pytest.raises(
        ValueError, match=r"space: lab needs 3 bands of uint8 or uint16, .* 4 of uint8"
    ):
        create(space="lab").check_pixels(4, "uint8")
    create().check_pixels(4, "float32")


def test_the_shipped_job_cuts_a_scene_and_gives_what_the_whole_gives(
    bench: Any, coffee: NDArray[np.uint8]
) -> None:
    """In shards, with nodata across them: the ids are those of the uncut scene."""
    image = coffee.astype(np.float32)
    image[60:75] = np.nan
    bench.put("a.tif", image)
    places = ["store.chunk=64", "store.shard=64", f"store.path={bench.store}"]
    own = ["segmenter.size=6", "segmenter.top=255"]
    settings = [f"source.paths=[{bench.inputs}/a.tif]", *own, *places]
    assert segengine.run(load_job(JOBS / "superpixels.yaml", settings)).exit_code == 0
    spec = {"kind": "superpixels", "size": 6, "compactness": 5, "space": "bands", "top": 255}
    wanted = segengine.predict(image, spec)
    scene = bench.open()["a"]
    np.testing.assert_array_equal(np.asarray(scene.mask)[0], wanted.labels)
    np.testing.assert_array_equal(np.asarray(scene.instances)[0], wanted.instances)


def test_a_square_without_a_pixel_is_near_to_nothing(
    coffee: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lay in memory before."""
    image = coffee.astype(np.float32)
    image[60:75] = np.nan
    spec = {"kind": "superpixels", "size": 6, "compactness": 5, "space": "bands", "top": 255}
    found = []
    for left in (0, 100, np.nan):

        def empty(shape: Any, dtype: Any, left: float = left) -> NDArray[Any]:
            held = left if np.dtype(dtype).kind == "f" else 0
            return np.full(shape, held, dtype)

        monkeypatch.setattr(_slic.np, "empty", empty)
        found.append(segengine.predict(image, spec).instances)
        monkeypatch.undo()
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
