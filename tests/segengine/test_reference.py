"""The uncut reference: shapes, scopes, nodata, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from skimage.filters import threshold_otsu

import segengine
from segengine.errors import JobError
from segengine.instances.boxes import row_of
from segengine.instances.rle import decode_rle
from segengine.instances.rows import SCHEMA, of_frames

OTSU = {"kind": "threshold", "method": "otsu"}


def test_shapes_follow_the_image(noise: Any) -> None:
    gray, color = noise(1, (20, 30, 1))[..., 0], noise(2, (20, 30, 3))
    stack = noise(3, (4, 20, 30, 3))
    assert segengine.segment(gray, OTSU).shape == (20, 30)
    assert segengine.segment(color, OTSU).shape == (20, 30)
    assert segengine.segment(stack, OTSU).shape == (4, 20, 30)
    np.testing.assert_array_equal(
        segengine.segment(gray, OTSU), segengine.segment(gray[..., None], OTSU)
    )
    third = segengine.segment(stack, OTSU)[2]
    np.testing.assert_array_equal(third, segengine.segment(stack[2], OTSU))
    for wrong in (np.zeros(5), np.zeros((1, 1, 1, 1, 1))):
        with pytest.raises(ValueError, match="image: has shape"):
            segengine.segment(wrong, OTSU)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8, 0), np.uint8), "is no band"),
        (np.zeros((8, 8, 3), np.complex64), "is of complex64"),
        (np.zeros((8, 8), "datetime64[s]"), "is of datetime64"),
        (np.zeros((8, 8), object), "is of object"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"image: .*{said}"):
        segengine.segment(image, {"kind": "threshold"})


def test_scopes(noise: Any) -> None:
    stack = np.stack([noise(1, (30, 30, 1)) // 3, noise(2, (30, 30, 1))])
    every = segengine.segment(stack, {**OTSU, "scope": "run"})
    level = threshold_otsu(stack)
    np.testing.assert_array_equal(every, stack[..., 0] > level)
    for image, labels in zip(stack, segengine.segment(stack, OTSU), strict=True):
        np.testing.assert_array_equal(labels, image[..., 0] > threshold_otsu(image))


def test_nan_is_void(noise: Any) -> None:
    image = noise(1, (30, 30, 2), "float32")
    image[3:9, 4:7, 1] = np.nan
    labels = segengine.segment(image, {"kind": "threshold", "method": "mean"})
    np.testing.assert_array_equal(labels == 255, np.isnan(image).any(axis=-1))


def test_predict_gives_more_than_labels(toys: str, noise: Any) -> None:
    image = noise(1, (21, 30, 3))
    found = segengine.predict(image, {"kind": "edges", "output": "regions"})
    assert found.instances is not None
    np.testing.assert_array_equal(found.labels, found.instances > 0)
    blocks = segengine.predict(image, {"kind": f"{toys}:Blocks"})
    assert blocks.probabilities is not None
    assert blocks.probabilities.shape == (21, 30, 5)
    np.testing.assert_array_equal(blocks.probabilities.argmax(axis=-1), blocks.labels)


class Grays:
    """A gray value is an object, which reaches one row further up below its neighbours."""

    classes = ("background", "object")
    halo, stride = 8, 1
    outputs = ("labels", "instances", "objects")

    def segment(self, pixels: np.ndarray) -> segengine.Prediction:
        ids = np.where(pixels[..., 0] > 0, 300 - pixels[..., 0].astype(np.uint32), 0)
        tables = []
        for frame in ids:
            rows = []
            for value in np.unique(frame[frame > 0]).tolist():
                mask = frame == value
                mask[:-1] |= mask[1:]
                rows.append(row_of(value, 1, value / 300, mask, (0, 0), mask.shape))
            rows.append(row_of(999, 1, 0.5, frame < 0xFFFF, (0, 0), frame.shape))  # hidden wholly
            tables.append(pa.Table.from_pylist(rows, schema=SCHEMA))
        labels = (ids > 0).astype(np.uint8)
        return segengine.Prediction(labels, instances=ids, objects=of_frames(tables))


class GraysOfAFrame:
    """The same after a survey of each frame."""

    classes, scope = Grays.classes, "frame"

    def survey(self, pixels: np.ndarray, valid: np.ndarray) -> int:
        return int(pixels.max())

    def merge(self, a: int, b: int) -> int:
        return max(a, b)

    def fit(self, state: int) -> Grays:
        return Grays()


@pytest.mark.parametrize("segmenter", [Grays(), GraysOfAFrame()])
def test_every_frame_keeps_its_objects(segmenter: Any) -> None:
    stack = np.random.default_rng(0).integers(0, 5, (3, 9, 12), np.uint8)
    stack[1] = 0
    found = segengine.predict(stack[..., None], segmenter)
    rows = found.objects.to_pylist()
    assert [row["frame"] for row in rows] == sorted(row["frame"] for row in rows)
    for i, image in enumerate(stack):
        alone = segengine.predict(image, segmenter)
        assert alone.objects.schema == SCHEMA
        np.testing.assert_array_equal(found.instances[i], alone.instances)
        assert [{k: row[k] for k in SCHEMA.names} for row in rows if row["frame"] == i] == (
            alone.objects.to_pylist()
        )
        ids = np.unique(alone.instances[alone.instances > 0]).tolist()
        first = [np.flatnonzero(alone.instances.ravel() == n)[0] for n in ids]
        assert first == sorted(first)
        for row in alone.objects.to_pylist()[:-1]:
            mask = decode_rle(row["rle"], image.shape)
            assert mask[alone.instances == row["id"]].all()
        assert alone.objects.column("id").to_pylist() == [*ids, len(ids) + 1]


def test_what_is_no_segmenter(toys: str) -> None:
    with pytest.raises(JobError, match=r"NoSegmenter is no segmenter: it has no halo, stride"):
        segengine.create_segmenter({"kind": f"{toys}:NoSegmenter"})
    with pytest.raises(JobError, match=r"'thresold' .* did you mean threshold"):
        segengine.create_segmenter({"kind": "thresold"})
    with pytest.raises(JobError, match=r"^method: 'ots'"):
        segengine.create_segmenter({"kind": "threshold", "method": "ots"})
    with pytest.raises(JobError, match=r"^clusters: kmeans needs this option"):
        segengine.create_segmenter({"kind": "kmeans"})
    with pytest.raises(JobError, match="kind: this key is needed"):
        segengine.create_segmenter({})


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (np.zeros((1, 3, 3), np.int64), TypeError, "must be unsigned"),
        (np.zeros((1, 3, 4), np.uint8), ValueError, r"labels \(1, 3, 4\) for pixels \(1, 3, 3\)"),
        (np.full((1, 3, 3), 2, np.uint8), ValueError, "label 2, above its classes"),
    ],
)
def test_what_a_segmenter_may_not_return(labels: Any, error: type[Exception], words: str) -> None:
    class Wrong:
        classes = ("a", "b")
        halo, stride = 0, 1

        def segment(self, pixels: np.ndarray) -> segengine.Prediction:
            return segengine.Prediction(labels)

    with pytest.raises(error, match=words):
        segengine.segment(np.zeros((3, 3), np.uint8), Wrong())


@pytest.mark.parametrize("kind", ["threshold", "edges", "kmeans"])
def test_alpha_is_no_gray(kind: str, noise: Any) -> None:
    colors = noise(0, (40, 50, 3))
    options = {"threshold": {"method": "otsu"}, "kmeans": {"clusters": 3, "attempts": 1}}
    spec = {"kind": kind, **options.get(kind, {})}
    if kind != "edges":
        spec["scope"] = "frame"
    expected = segengine.segment(colors, spec)
    for alpha in (np.full((40, 50, 1), 255), np.full((40, 50, 1), 9)):
        seen = np.concatenate([colors, alpha.astype(np.uint8)], axis=-1)
        assert np.array_equal(segengine.segment(seen, spec), expected)
    cut = np.full((40, 50, 1), 255, np.uint8)
    cut[:7] = 0
    seen = np.concatenate([colors, cut], axis=-1)
    assert (segengine.segment(seen, spec)[:7] == 255).all()
    assert (segengine.segment(seen, spec)[7:] != 255).all()


def test_a_fourth_band_that_is_no_alpha_counts(noise: Any) -> None:
    bands = noise(0, (40, 50, 4))
    spec = {"kind": "threshold", "method": "fixed", "levels": 110}
    gray = bands.astype(np.int64).sum(axis=-1)
    assert np.array_equal(segengine.segment(bands, spec), gray > 4 * 110)
    bands[..., 3] |= 1
    as_alpha = segengine.segment(bands, spec, alpha=True)
    assert np.array_equal(as_alpha, segengine.segment(bands[..., :3], spec))
    bands[..., 3] = 255
    kept = segengine.segment(bands, spec, alpha=False)
    assert np.array_equal(kept, bands.astype(np.int64).sum(axis=-1) > 4 * 110)
    with pytest.raises(ValueError, match="alpha: is the fourth of four bands, and there are 3"):
        segengine.segment(bands[..., :3], spec, alpha=True)
