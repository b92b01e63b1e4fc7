"""The cloud mask against ukis-csmask's own class, on the same pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from ukis_csmask.mask import CSmask

import segengine
from segengine.errors import JobError
from segengine.segmenters.cloudmask import create

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
BORDER = 256
"""Pixels at the bottom and right that depend on how the scene is continued beyond its end."""


def sky(side: int, bands: int, seed: int) -> np.ndarray:
    """Fields under clouds and their shadows, as reflectance x 10000."""
    rng = np.random.default_rng(seed)

    def smooth(cell: int) -> np.ndarray:
        coarse = rng.normal(size=(side // cell + 2, side // cell + 2)).astype(np.float32)
        return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)

    ground = [0.07, 0.09, 0.08, 0.28, 0.2, 0.12][:bands]
    land = np.stack([level * (1 + 0.25 * smooth(40)) for level in ground], axis=-1)
    puffs = smooth(90) + 0.3 * smooth(30) + 0.15 * smooth(11)
    cloud = np.clip(2 * puffs - 0.4, 0, 1)[..., None]
    shadow = np.roll(cloud, (30, -25), (0, 1))
    seen = land * (1 - 0.7 * shadow) * (1 - cloud) + 0.9 * cloud
    return np.clip(seen * 10000 + rng.normal(0, 20, seen.shape), 1, 65535).astype(np.uint16)


@pytest.mark.parametrize(
    ("bands", "level", "engine"),
    [(4, "l1c", None), (6, "l2a", None), (4, "l2a", "openvino")],
)
def test_labels_are_those_of_their_class(bands: int, level: str, engine: Any) -> None:
    scene = sky(470, bands, seed=2)
    order = BANDS[:bands]
    theirs = CSmask(
        scene.astype(np.float32) / 10000, list(order), level, intra_op_num_threads=1
    ).csm[..., 0]
    # The raster has its bands in another order, behind one that is not wanted.
    raster = np.concatenate([scene[..., :1] * 0, scene[..., ::-1]], axis=-1)
    spec = {"kind": "cloudmask", "level": level, "engine": engine}
    spec["bands"] = {name: bands + 1 - i for i, name in enumerate(order)}
    found = segengine.predict(raster, spec)
    inner = (slice(0, -BORDER), slice(0, -BORDER))
    agree = found.labels[inner] == theirs[inner]
    # Another engine rounds otherwise, which decides where two classes are as good as equal.
    assert agree.mean() >= (1 if engine is None else 0.999)
    assert len(np.unique(theirs[inner])) > 1
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, atol=1e-5)
    assert segengine.create_segmenter(spec).classes == ("clear", "cloud", "shadow")


def test_offset_and_divide_make_reflectance() -> None:
    numbers = {name: i + 1 for i, name in enumerate(BANDS[:4])}
    plain = sky(204, 4, seed=1)[None]
    expected = create(numbers, "l1c").segment(plain)
    shifted = create(numbers, "l1c", offset=-1000).segment(plain + np.uint16(1000))
    np.testing.assert_allclose(shifted.probabilities, expected.probabilities, atol=1e-3)
    floats = create(numbers, "l1c", divide=1).segment(plain.astype(np.float32) / 10000)
    np.testing.assert_allclose(floats.probabilities, expected.probabilities, atol=1e-3)


@pytest.mark.parametrize("overlap", [None, 0.125])
def test_windows_are_joined_on_one_grid(bench: Any, overlap: float | None) -> None:
    scene = sky(480, 4, seed=2)[:, :200]
    bench.put("a.zarr", scene)
    spec = {"kind": "cloudmask", "bands": dict(zip(BANDS[:4], (1, 2, 3, 4), strict=True))}
    spec |= {"level": "l1c", "overlap": overlap}
    bench.run(spec, store={"shard": 320})
    np.testing.assert_array_equal(bench.open()["a"].mask[0], segengine.segment(scene, spec))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bands": {"blue": 1}, "level": "l1c"}, "bands: green, red, nir must be there"),
        ({"bands": {"cyan": 1}, "level": "l1c"}, "bands.cyan: no such band"),
        ({"bands": {"blue": 0}, "level": "l1c"}, "bands.blue: must be a band number"),
        ({"bands": [1, 2, 3, 4], "level": "l1c"}, "bands: must map names"),
        ({"bands": {}, "level": "l3"}, "level: must be l1c or l2a"),
        ({"bands": {}, "level": "l1c", "engine": "tensorflow"}, "engine: "),
        ({"bands": {}, "level": "l1c", "divide": 0}, "divide: must be above 0"),
        ({"bands": {}, "level": "l1c", "overlap": 1}, "overlap: "),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError) as caught:
        segengine.create_segmenter({"kind": "cloudmask", **options})
    assert str(caught.value).startswith(says)
