"""Proposals: geometry with a network that sees what it should, masks, ids, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy.ndimage import map_coordinates

import segengine
from segengine.errors import JobError
from segengine.networks.scale import Scale
from segengine.segmenters import _proposals
from segengine.segmenters._proposals import PYRAMID, Found, Proposer, draw, paste
from segengine.types import Segmenter

Array = NDArray[Any]
_: type[Segmenter] = Proposer


class Watcher:
    """Scores patches by how well a bright thing fills their middle; its masks are what it saw.

    A vector is the patch in 40 x 40 cells of 4 pixels.
    """

    def __init__(self) -> None:
        self.passes = 0

    def bottom_up(self, image: Array) -> list[Array]:
        self.passes += 1
        inner = np.asarray(image)[0, 16:-16, 16:-16, 0]
        cells = inner.reshape(inner.shape[0] // 4, 4, -1, 4).mean((1, 3))
        windows = np.lib.stride_tricks.sliding_window_view(cells, (40, 40))[::4, ::4]
        bright = windows > 0.75
        # right in size: as large as the middle, and nothing of it outside
        middle = bright[:, :, 10:30, 10:30].mean((2, 3))
        around = (bright.sum((2, 3)) - bright[:, :, 10:30, 10:30].sum((2, 3))) / 1200
        scores = 8 * (middle - 3 * around) - 4
        vectors = windows.reshape(1, *windows.shape[:2], -1)
        return [vectors, scores[None, ..., None]]

    def top_down(self, vectors: Array) -> Array:
        return (vectors.reshape(-1, 40, 40, 1) - 0.75) * 20


def proposer(watcher: Watcher, **options: Any) -> Proposer:
    scale = Scale.of({"divide": 255})
    made = Proposer(
        watcher.bottom_up, watcher.top_down, 1, scale, (0.5,), PYRAMID, 100, 0.5, 0.5, 1.0, ""
    )
    return replace(made, **options)


def decoded(table: Any, row: int, size: tuple[int, int]) -> Array:
    counts = table.column("rle")[row].as_py().encode()
    found: Array = coco.decode({"size": list(size), "counts": counts}).astype(bool)
    return found


@settings(deadline=None, max_examples=15)
@given(
    top=st.integers(0, 150),
    left=st.integers(0, 150),
    side=st.sampled_from([64, 80, 120, 160]),
    shape=st.tuples(st.integers(200, 330), st.integers(200, 330)),
)
def test_a_thing_is_found_where_it_is(
    top: int, left: int, side: int, shape: tuple[int, int]
) -> None:
    top, left = top % (shape[0] - side + 1), left % (shape[1] - side + 1)  # all of it is seen
    image = np.full((1, *shape, 1), 40, np.uint8)
    image[0, top : top + side, left : left + side] = 250
    truth = image[0, ..., 0] > 200
    watcher = Watcher()
    found = proposer(watcher).segment(image)
    assert watcher.passes == len(PYRAMID)
    best = int(np.argmax(found.objects.column("score").to_numpy()))
    mask = decoded(found.objects, best, shape)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    real_rows, real_columns = (np.flatnonzero(truth.any(axis)) for axis in (1, 0))
    for seen, real in ((rows, real_rows), (columns, real_columns)):
        assert abs((seen[0] + seen[-1]) - (real[0] + real[-1])) / 2 <= 4


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    place=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    scale=st.tuples(st.floats(0.15, 1.5), st.floats(0.15, 1.5)),
    threshold=st.sampled_from([0.2, 0.5]),
)
def test_masks_are_interpolated_at_pixel_centres(
    seed: int, place: tuple[int, int], scale: tuple[float, float], threshold: float
) -> None:
    size = (90, 120)
    logits = np.random.default_rng(seed).normal(size=(14, 14)).astype(np.float32)
    (y, x), mask = paste(logits, np.array(place), scale, size, threshold)
    y_in, x_in = (
        (np.arange(n) + 0.5) * s - (16 * i - 80) for n, s, i in zip(size, scale, place, strict=True)
    )
    at = np.stack(np.meshgrid(y_in, x_in, indexing="ij")) * 14 / 160 - 0.5
    values = map_coordinates(logits.astype(float), at, order=1, mode="nearest")
    expected = 1 / (1 + np.exp(-values)) > threshold
    expected &= ((y_in >= 0) & (y_in < 160))[:, None] & ((x_in >= 0) & (x_in < 160))
    whole = np.zeros(size, bool)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    near = abs(1 / (1 + np.exp(-values)) - threshold) < 1e-5
    np.testing.assert_array_equal(whole[~near], expected[~near])
    if mask.size:
        assert mask[0].any()
        assert mask[-1].any()
        assert mask[:, 0].any()
        assert mask[:, -1].any()


def boxes(seed: int, count: int) -> list[Found]:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(count))[::-1].tolist()
    corners = rng.integers(0, 9, (count, 2)).tolist()
    sides = rng.integers(1, 9, (count, 2))
    return [
        Found(score, (y, x), rng.random(side) > 0.3)
        for score, (y, x), side in zip(scores, corners, sides, strict=True)
    ]


@given(seed=st.integers(0, 1000), overlap=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
@settings(deadline=None, max_examples=40)
def test_duplicates_are_those_that_overlap_a_better_kept_one(seed: int, overlap: float) -> None:
    found = boxes(seed, 12)
    kept = _proposals.without_duplicates(found, overlap)
    left = list(found)
    expected = []
    while left:
        best = left.pop(0)
        expected.append(best)
        left = [f for f in left if overlap == 1 or iou(best, f) <= overlap]
    assert kept == expected


def iou(a: Found, b: Found) -> float:
    boxes = [[f.corner[1], f.corner[0], f.mask.shape[1], f.mask.shape[0]] for f in (a, b)]
    return float(coco.iou(np.array(boxes[:1], float), np.array(boxes[1:], float), [0])[0, 0])


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_the_map_shows_the_best_and_ids_follow_their_first_pixel(seed: int) -> None:
    found = boxes(seed, 6)
    instances = np.zeros((18, 18), np.uint32)
    ids = draw(found, instances)
    assert sorted(ids) == list(range(1, 7))
    for y, x in np.ndindex(18, 18):
        holders = [
            i
            for i, f in enumerate(found)
            if f.corner[0] <= y < f.corner[0] + f.mask.shape[0]
            and f.corner[1] <= x < f.corner[1] + f.mask.shape[1]
            and f.mask[y - f.corner[0], x - f.corner[1]]
        ]
        assert instances[y, x] == (ids[holders[0]] if holders else 0)
    seen = [i for i in dict.fromkeys(instances.ravel().tolist()) if i]
    assert seen == list(range(1, len(seen) + 1))


def test_rows_say_what_their_masks_are() -> None:
    image = np.full((1, 220, 260, 1), 40, np.uint8)
    image[0, 60:140, 80:160] = 250
    found = proposer(Watcher(), duplicates=0.6, min_score=0.2).segment(image)
    assert set(np.unique(found.labels)) == {0, 1}
    np.testing.assert_array_equal(found.labels, found.instances > 0)
    assert found.objects.column("class").to_pylist() == [1] * found.objects.num_rows
    for row in range(found.objects.num_rows):
        mask = decoded(found.objects, row, (220, 260))
        rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert found.objects.column("area")[row].as_py() == mask.sum() == coco.area(rle)
        assert found.objects.column("bbox")[row].as_py() == coco.toBbox(rle).tolist()


def test_frames_of_one_call_are_apart() -> None:
    images = np.full((2, 220, 220, 1), 40, np.uint8)
    images[1, 60:140, 80:160] = 250
    found = proposer(Watcher()).segment(images)
    alone = proposer(Watcher()).segment(images[1:]).objects
    assert alone.num_rows
    assert found.objects.drop_columns("frame").equals(alone)
    assert set(found.objects.column("frame").to_pylist()) == {1}
    assert not found.labels[0].any()
    np.testing.assert_array_equal(
        found.instances[1:], proposer(Watcher()).segment(images[1:]).instances
    )


@pytest.mark.parametrize("kind", ["deepmask", "sharpmask"])
def test_a_trained_file_gives_proposals(kind: str, tmp_path: Path) -> None:
    """Each mask of a dense pass is that of the patch alone, where the trunk sees no further."""
    from segengine import models

    model = models.build(kind, activation=None)
    for layer in model.get_layer("bottom_up").layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size[0] in (3, 7):
            kernel = np.zeros(layer.kernel.shape, np.float32)
            middle = kernel.shape[0] // 2
            kernel[middle, middle] = 3 * np.asarray(layer.kernel)[middle, middle]
            layer.kernel.assign(kernel)
    file = tmp_path / "net.weights.h5"
    model.save_weights(file)
    options = {"scale": {"divide": 255}, "pyramid": [1.0], "min_score": 0.0, "most": 3}
    found = segengine.create_segmenter({"kind": kind, "weights": str(file), **options})
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    level = found._level(image.astype(np.float32) / 255, 1.0)
    assert level.scores.shape == (48 // 16 + 1, 64 // 16 + 1)
    padded = np.pad(image / np.float32(255), ((96, 96), (96, 96), (0, 0)), constant_values=0.5)
    places = np.array([(0, 0), (1, 3), (3, 4)])
    patches = np.stack([padded[16 * y :, 16 * x :][:192, :192] for y, x in places])
    masks, scores = model(patches, training=False)
    np.testing.assert_allclose(level.scores[tuple(places.T)], np.ravel(scores), atol=1e-5)
    np.testing.assert_allclose(found._masks(level, places), masks[..., 0], atol=1e-5)

    prediction = segengine.predict(image, found)
    assert prediction.objects.num_rows <= 3
    assert len(found.weights) == 32


def test_a_whole_model_is_read_and_wrong_files_are_refused(tmp_path: Path) -> None:
    from segengine import models

    models.build("deepmask", bands=1).save(tmp_path / "net.keras")
    made = {"kind": "deepmask", "bands": [2], "scale": {"range": [0, 4000]}}
    found = segengine.create_segmenter({**made, "weights": str(tmp_path / "net.keras")})
    assert found.border == (0.5,)
    with pytest.raises(ValueError, match=r"^bands: 2 is asked for and the pixels have 1"):
        found.check_pixels(1, "uint16")
    (tmp_path / "model.t7").write_bytes(b"4")
    for changed, message in (
        ({"weights": str(tmp_path / "none.keras")}, "there is no such file"),
        ({"weights": str(tmp_path / "model.t7")}, "train the network again"),
        ({"kind": "sharpmask"}, "it is a deepmask of 1 bands, and a sharpmask of 1 is asked for"),
        ({"bands": 3}, "it is a deepmask of 1 bands, and a deepmask of 3"),
    ):
        job = {**made, "weights": str(tmp_path / "net.keras"), **changed}
        with pytest.raises(JobError, match=message) as raised:
            segengine.create_segmenter(job)
        assert str(raised.value).startswith("weights: ")


def test_a_level_beyond_all_bounds_is_refused() -> None:
    wide = proposer(Watcher(), pyramid=(8.0,))
    with pytest.raises(ValueError, match=r"^pyramid: at a scale of 8 this frame has 8,000 x 8,000"):
        wide.find(np.zeros((1000, 1000, 1), np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pyramid": 3}, r"^pyramid: needs a list with at least one scale, not 3"),
        ({"most": 0}, r"^most: must be an integer from 1"),
        ({"threshold": 1}, r"^threshold: must be a number"),
        ({"pyramid": []}, r"^pyramid: needs a list with at least one scale"),
        ({"pyramid": [0]}, r"^pyramid: must be a number"),
        ({"bands": 4}, r"^scale: has no default for 4 bands"),
        ({"scale": {"mean": [1, 2]}}, r"^scale.mean: has 2 values"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        segengine.create_segmenter({"kind": "deepmask", "weights": "none.keras", **options})
