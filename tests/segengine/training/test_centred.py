"""Patches of objects and of nothing: where they lie, what is in them, what they keep away from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from segengine.errors import JobError
from segengine.networks.scale import Scale
from segengine.segmenters._proposals import BORDER, PATCH, STRIDE, Proposer
from segengine.training import _centred
from segengine.training._centred import Cutting, Spot
from segengine.training._scaling import scaled
from segengine.training.data import Data, open_data
from segengine.training.job import ScaleSpec, parse_train_job
from segengine.training.synthetic import write_vehicles

SIDE = PATCH + 2 * BORDER
places = st.builds(
    Spot,
    st.tuples(st.floats(-40, 240), st.floats(-40, 240)),
    st.floats(-3, 3).map(lambda octaves: 2.0**octaves),
)
boxes = st.lists(
    st.tuples(st.floats(0, 180), st.floats(0, 180), st.floats(4, 120), st.floats(4, 120)),
    min_size=1,
    max_size=8,
).map(lambda rows: np.array([(y, x, y + h, x + w) for y, x, h, w in rows], np.float32))


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vehicles(tmp_path_factory.mktemp("vehicles"), range(6), 96, 4)


def data_of(root: Path, **source: Any) -> Data:
    return open_data(
        parse_train_job(
            {
                "source": {"kind": "coco", "paths": [str(root)], **source},
                "split": {"train": 0.5, "validation": 0.5},
                "architecture": "deepmask",
                "out": str(root / "out"),
            }
        )
    )


@given(places, st.tuples(st.integers(20, 220), st.integers(20, 220)))
def test_a_patch_shows_its_place(place: Spot, shape: tuple[int, int]) -> None:
    """Coordinates as an image: linear, so that neither interpolation nor a mean of them bends it."""
    cutting = Cutting.of(place, shape)
    ramp = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).astype(np.float32)
    patch = np.full((SIDE, SIDE, 2), np.nan, np.float32)
    if not cutting.empty:
        cutting.fill(patch, ramp[cutting.window])
    steps = (np.arange(SIDE) + 0.5 - SIDE / 2) / place.scale
    for axis, middle in enumerate(place.centre):
        wanted = np.broadcast_to(middle + steps - 0.5, (SIDE, SIDE))
        wanted = wanted.T if axis == 0 else wanted
        seen = np.isfinite(patch[..., axis])
        off = np.abs(patch[..., axis] - wanted)[seen]
        # the window has whole pixels, and beyond the middles of the frame's first and last it is flat
        assert off.max(initial=0) <= 1.01 + 2 / place.scale
        beside = (wanted < -1 - 1 / place.scale) | (wanted > shape[axis] + 1 / place.scale)
        assert not seen[beside].any()


@given(boxes, st.tuples(st.floats(-2, 0), st.floats(0, 2)), st.integers(0, 2**32 - 1))
def test_a_patch_of_nothing_has_no_object_in_its_middle(
    around: Any, octaves: tuple[float, float], seed: int
) -> None:
    scales = 2.0 ** octaves[0], 2.0 ** octaves[1]
    half = len(around) // 2
    parts = around[half:], around[:half]
    found = _centred.nothing(parts, (200, 300), scales, np.random.default_rng(seed))
    assume(found is not None)
    assert found is not None
    assert scales[0] * 0.999 <= found.scale <= scales[1] * 1.001
    assert all(0 <= at <= length for at, length in zip(found.centre, (200, 300), strict=True))
    for top, left, bottom, right in around[:half].tolist():  # crowds
        y, x = found.centre
        assert not (top <= y <= bottom and left <= x <= right)
    for top, left, bottom, right in around[half:].tolist():
        apart = max(
            abs(found.centre[0] - (top + bottom) / 2), abs(found.centre[1] - (left + right) / 2)
        )
        ratio = found.scale * max(bottom - top, right - left) / 92
        assert apart * found.scale >= 31.99 or ratio >= 1.999 or ratio <= 0.5001


def test_where_there_is_no_room_for_nothing() -> None:
    none = np.zeros((0, 4), np.float32)
    whole = np.array([(-6, -6, 24, 24)], np.float32), none
    rng = np.random.default_rng(0)
    assert _centred.nothing(whole, (18, 18), (92 / 30, 92 / 30), rng) is None
    assert _centred.nothing(whole, (18, 18), (92 / 14, 92 / 14), rng) is not None
    assert _centred.nothing((none, none), (30, 30), (1, 1), rng) is not None
    assert _centred.nothing((none, whole[0]), (20, 20), (1, 1), rng) is None


@given(boxes, st.integers(0, 2**32 - 1))
def test_an_object_is_centred_at_its_size(around: Any, seed: int) -> None:
    for box in around:
        exact = _centred.centred(box, None)
        longest = (box[2:] - box[:2]).max()
        assert exact.scale * longest == pytest.approx(92, rel=1e-5)
        assert exact.centre == pytest.approx((box[:2] + box[2:]) / 2, rel=1e-5)
        moved = _centred.centred(box, np.random.default_rng(seed))
        assert abs(np.log2(moved.scale / exact.scale)) <= 0.2501
        apart = np.abs(np.subtract(moved.centre, exact.centre)).max() * moved.scale
        assert apart <= 16.01
        # with both, all of it is in the patch
        assert longest * moved.scale / 2 + apart < PATCH / 2


def test_the_pyramid_covers_the_sizes() -> None:
    sides = np.geomspace(23, 184, 50).astype(np.float32)
    found = _centred.pyramid(sides)
    assert found == pytest.approx(2.0 ** (np.arange(-2, 5) / 2))
    best = np.abs(np.log2(np.outer(found, sides) / 92)).min(axis=0)
    assert best.max() <= 0.26
    assert _centred.pyramid(np.full(3, 92, np.float32)) == (1.0,)


def test_objects_are_those_of_the_files(vehicles: Path) -> None:
    data = data_of(vehicles)
    truth = COCO(vehicles / "annotations/instances_vehicles.json")
    frames = (*data.train.frames, *data.validation.frames)
    kinds = [data.classes.index(name) for name in ("car", "truck", "bus")]
    things = _centred.survey(frames, kinds, "training")
    count = 0
    for index, frame in enumerate(frames):
        (image,) = [i for i in truth.dataset["images"] if frame.ref.name.endswith(i["file_name"])]
        wanted = truth.imgToAnns[image["id"]]
        part = slice(things.starts[index], things.starts[index + 1])
        found = things.boxes[part]
        crowd = np.array([bool(a["iscrowd"]) for a in wanted])
        assert things.crowds[part].tolist() == crowd.tolist()
        np.testing.assert_array_equal(things.around(index)[1], found[crowd])
        corners = np.array([a["bbox"] for a in wanted])
        np.testing.assert_allclose(found[:, :2], corners[:, 1::-1])
        np.testing.assert_allclose(found[:, 2:] - found[:, :2], corners[:, :1:-1])
        for place, annotation in enumerate(wanted, int(things.starts[index])):
            assert things.frame_of(place) == index
            assert (
                data.classes[things.kinds[place]] == truth.cats[annotation["category_id"]]["name"]
            )
            sized = max(annotation["bbox"][2:]) >= 11.5
            assert (place in things.learned) == (sized and not annotation["iscrowd"])
            if place in things.learned and count < 6:
                count += 1
                check_mask(frame, things, place, truth.annToMask(annotation))
    assert count == 6
    assert len(things.sides) == len(things.learned)


def check_mask(frame: Any, things: Any, thing: int, whole: Any) -> None:
    """The mask in a patch is the annotation's, enlarged by SciPy."""
    from scipy.ndimage import map_coordinates

    at = _centred.centred(things.boxes[thing], None)
    mask = _centred.mask_of(frame, int(things.rows[thing]), at)
    steps = (np.arange(SIDE) + 0.5 - SIDE / 2) / at.scale - 0.5
    grid = np.meshgrid(at.centre[0] + steps, at.centre[1] + steps, indexing="ij")
    wanted = map_coordinates(whole.astype(np.float64), grid, order=1, mode="constant") >= 0.5
    union = (wanted | (mask == 1)).sum()
    assert (
        wanted & (mask == 1)
    ).sum() / union > 0.85  # half a pixel of the frame is 2 of the patch
    small = _centred.target(mask, 112)
    large = np.kron(_centred.target(mask, 160), np.ones((7, 7)))
    means = large.reshape(112, 10, 112, 10).mean(axis=(1, 3))
    np.testing.assert_array_equal(small, means >= 0.5)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_what_is_learned_is_what_is_seen(vehicles: Path, factor: float) -> None:
    """A patch of a place is what the segmenter's network sees there, also beyond the frame."""
    spec = {"divide": 255.0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    data = data_of(vehicles)
    frame = data.train.frames[0]
    levels: list[Any] = []

    def keep(image: Any) -> Sequence[Any]:
        levels.append(np.asarray(image)[0])
        cells = (1, *(n // STRIDE - 11 for n in image.shape[1:3]))
        return np.zeros((*cells, 4), np.float32), np.zeros((*cells, 1), np.float32)

    scale = Scale.of(spec)
    border = tuple((0.5 - m) / s for m, s in zip(scale.mean, scale.std, strict=True))
    seer = Proposer(keep, None, 3, scale, border, (factor,), 10, 1.0, 0.2, 1.0, "")
    pixels = np.asarray(Image.open(frame.ref.uri))
    seer.find(pixels)
    for row, col in ((0, 0), (1, 3), (3, 1)):
        if max(row, col) * STRIDE > 96 * factor:
            continue
        seen = levels[0][row * STRIDE :, col * STRIDE :][:SIDE, :SIDE]
        place = Spot((row * STRIDE / factor, col * STRIDE / factor), factor)
        learned, reason = _centred.pixels_of(frame, place, 3, ScaleSpec.model_validate(spec))
        assert reason == ""
        found = scaled(learned, ScaleSpec.model_validate(spec))
        # an interpolated pixel at the window's edge has no neighbour beyond it
        inner = slice(2, -2)
        np.testing.assert_allclose(found[inner, inner], seen[inner, inner], atol=2e-2)


def test_no_object_of_a_size_is_said(vehicles: Path) -> None:
    data = data_of(vehicles)
    with pytest.raises(JobError, match=r"^truth: of 0 objects in 1 training frames none can be"):
        _centred.survey(data.train.frames, [99], "training")
