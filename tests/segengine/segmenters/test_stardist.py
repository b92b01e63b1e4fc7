"""StarDist's head: against the package's own suppression and drawing, on drawn networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.networks.scale import Scale
from segengine.segmenters._finder import Finder
from segengine.segmenters._stardist import StarDist
from segengine.segmenters.model import create
from tests.segengine.segmenters import finders

Array = np.ndarray[Any, Any]


def published(prob: Array, dist: Array, grid: int, size: tuple[int, int]) -> tuple[Array, Array]:
    """Ids (y, x) and scores, by the package."""
    from stardist.geometry import polygons_to_label
    from stardist.nms import non_maximum_suppression

    points, scores, rays = non_maximum_suppression(
        dist, prob, grid=(grid, grid), nms_thresh=0.4, prob_thresh=0.5
    )
    return polygons_to_label(rays, points, size, prob=scores), scores


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("grid", "joint"), [(1, False), (2, False), (1, True)])
def test_objects_are_those_of_the_package(
    tmp_path: Path, noise: Any, seed: int, grid: int, joint: bool
) -> None:
    path = finders.stars(tmp_path / "s.onnx", seed=seed, grid=grid, joint=joint)
    frame = noise(seed, (64, 96, 3))
    segmenter = create(path, head="stardist" if joint else "auto", scale={"divide": 255})
    assert isinstance(segmenter, Finder)
    assert segmenter.classes == ("background", "object")
    found = segengine.predict(frame, segmenter)
    batch = (frame[None] / np.float32(255)).astype(np.float32)
    values = np.concatenate(finders.session(path, batch), axis=-1)[0]
    ids, scores = published(values[..., 0], values[..., 1:], grid, (64, 96))
    # Clipper cuts noise of 7 pixels on its own scanlines: of overlaps at the limit a few differ.
    own = set(found.objects.column("score").to_pylist())
    both = own & set(scores.tolist())
    assert len(both) >= 0.98 * max(len(own), len(scores)) > 1
    either = (found.labels > 0) | (ids > 0)
    assert ((found.labels > 0) & (ids > 0)).sum() >= 0.98 * either.sum()
    kept = {i + 1 for i, score in enumerate(scores.tolist()) if score in both}
    for row in found.objects.to_pylist():
        mine = found.instances == row["id"]
        theirs, counts = np.unique(ids[mine], return_counts=True)
        if row["score"] in both and mine.any() and set(theirs.tolist()) <= kept:
            assert counts.max() == mine.sum()


@dataclass(frozen=True)
class Maps:
    """An engine that knows its answer."""

    outputs: dict[str, Array]
    input_shape = (None, None, None, 1)
    dtype = np.dtype("float32")

    def run(self, _: Array) -> dict[str, Array]:
        return {name: values[None] for name, values in self.outputs.items()}


@pytest.mark.parametrize("rough", [0, 0.15])
def test_nuclei_are_those_of_the_package(rough: float) -> None:
    """Maps that the package makes of the nuclei of its picture: the same polygons, the same pixels.

    The picture's sides are no multiples of what is fed: maps go on where it was mirrored.
    """
    from stardist.data import test_image_nuclei_2d as nuclei
    from stardist.geometry import polygons_to_label, star_dist
    from stardist.nms import non_maximum_suppression_sparse
    from stardist.utils import edt_prob

    size, grid = (250, 501), 2
    truth = np.asarray(nuclei(return_mask=True)[1])[:256, :512].astype(np.uint16)
    rng = np.random.default_rng(0)
    rays = star_dist(truth, 32, grid=(grid, grid))
    rays = np.maximum(rays * (1 + rough * rng.normal(size=rays.shape)), 1e-3).astype(np.float32)
    # no two may be equally likely: their order is that of a sort that keeps none
    prob = 0.9 * edt_prob(truth)[::grid, ::grid] + 0.05 * rng.random(rays.shape[:2])
    prob = prob.astype(np.float32)
    engine: Any = Maps({"prob": prob[..., None], "dist": rays})
    head = StarDist(engine, ("prob", "dist"), Scale(), "nhwc")
    found = head.find(np.zeros((*size, 1), np.uint8))
    inside = np.zeros(prob.shape, bool)
    inside[2:-2, 2:-2] = prob[2:-2, 2:-2] > 0.5
    points = grid * np.stack(np.nonzero(inside), 1)
    within = (points < size).all(axis=1)
    points, scores, rays, _ = non_maximum_suppression_sparse(
        rays[inside][within], prob[inside][within], points[within], nms_thresh=0.4
    )
    assert [one.score for one in found] == scores.tolist()
    assert len(found) > 30
    drawn = np.zeros(size, int)
    for number, one in reversed(list(enumerate(found, 1))):
        y, x = one.corner
        drawn[y : y + one.mask.shape[0], x : x + one.mask.shape[1]][one.mask] = number
    np.testing.assert_array_equal(drawn, polygons_to_label(rays, points, size, prob=scores))


def test_without_a_scale_the_percentiles_of_a_frame_count(tmp_path: Path, noise: Any) -> None:
    """csbdeep's `normalize(image, 1, 99.8)`, and a size that is no multiple of anything."""
    path = finders.stars(tmp_path / "s.onnx", seed=5)
    frame = noise(5, (50, 71, 3), "uint16")
    low, high = np.percentile(frame, [1, 99.8])
    scaled = ((frame - low) / (high - low + 1e-20)).astype(np.float32)
    batch = np.pad(scaled, ((0, 14), (0, 25), (0, 0)), mode="reflect")[None]
    prob, dist = (values[0] for values in finders.session(path, batch))
    prob[50:] = prob[:, 71:] = 0
    ids, _ = published(prob[..., 0], dist, 1, (50, 71))
    found = segengine.predict(frame, create(path))
    assert ((found.labels > 0) != (ids > 0)).mean() < 0.01


@pytest.mark.parametrize("head", ["stardist", "cellpose"])
def test_values_are_scaled_as_the_model_says(tmp_path: Path, head: Any) -> None:
    """In windows too; what the job says goes before it."""
    made = finders.stars if head == "stardist" else finders.disc_cells
    path = made(tmp_path / "s.onnx")
    frame = finders.discs(3, (64, 96), 6)[0]
    own, other = (create(path, head=head, scale={"divide": n}) for n in (255, 64))
    wanted, unlike = (segengine.predict(frame, s).objects for s in (own, other))
    assert wanted.num_rows > 1
    assert not unlike.equals(wanted)
    finders.told_by_item(path, {"type": "scale", "value": 255}, "ground", "nucleus")
    told = create(path, head=head)
    assert segengine.predict(frame, told).objects.equals(wanted)
    assert told.classes == ("background", "nucleus")
    assert create(path, head=head, window=64).grid is not None
    named = create(path, head=head, scale={"divide": 64}, classes=["cell"])
    assert segengine.predict(frame, named).objects.equals(unlike)
    assert named.classes == ("background", "cell")
    finders.told_by_item(path, {"type": "clip", "minimum": 1, "maximum": 0}, "a", "b", "c")
    with pytest.raises(ValueError, match=r"^scale: s\.onnx\.json .*\(clip\).*; say here"):
        create(path, head=head)
    assert create(path, head=head, scale={}).classes == ("background", "object")


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    path = finders.stars(tmp_path / "s.onnx")
    yolo = finders.yolo(tmp_path / "y.onnx")
    for file, options, said in (
        (path, {"window": 64}, r"^scale: head stardist takes values by the percentiles"),
        (path, {"classes": ["a", "b"]}, r"^classes: the model knows one kind of object, and 2"),
        (path, {"resize": [64, 64]}, r"^resize: head stardist sees frames at their own size"),
        (yolo, {"head": "stardist"}, r"^window: the model takes 64 x 64 only; set `window: 64`"),
        (path, {"outputs": {"prob": "dis"}}, r"^outputs\.prob: the model has no output 'dis'"),
    ):
        with pytest.raises(ValueError, match=said):
            create(file, **options)  # type: ignore[arg-type]
