"""`kind: mask-rcnn`: maps and objects of frames, and the options."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.transform import resize

import segengine
from segengine.commands.plan import plan
from segengine.errors import JobError
from segengine.instances.rows import SCHEMA
from segengine.job import parse_job
from segengine.models.maskrcnn import weights
from segengine.models.maskrcnn.config import preset
from segengine.models.maskrcnn.maps import draw
from segengine.models.maskrcnn.network import network
from segengine.models.maskrcnn.postprocess import Cutout, Instance, instances
from segengine.models.maskrcnn.preprocess import Prepared, prepare, to_bytes
from segengine.segmenters.maskrcnn import MaskRcnn

from . import h5
from .drawn import draw_matterport, photos

NAMES = ["background", "round", "square", "long"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = preset("matterport", 4, "resnet14")
    found = tmp_path_factory.mktemp("weights") / "small.h5"
    slots = weights.slots(network(config), config)
    h5.write(found, {s.key: draw_matterport(s.key, s.shape) for s in slots})
    return found


def options(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "mask-rcnn",
        "weights": str(path),
        "backbone": "resnet14",
        "classes": NAMES,
        "min_score": 0.5,
        "min_side": 128,
        "max_side": 128,
        "max_detections": 12,
        **changes,
    }


@pytest.mark.parametrize("scale", ["fit", "native"])
def test_maps_and_objects_agree(path: Path, scale: str) -> None:
    segmenter = segengine.create_segmenter(options(path, scale=scale, overlap=40))
    assert segmenter.classes == tuple(NAMES)
    assert segmenter.halo == (None if scale == "fit" else 40)
    pixels = np.stack([photos()["astronaut"][:150, :140], photos()["chelsea"][:150, :140]])
    found = segmenter.segment(pixels)
    assert found.labels.shape == found.instances.shape == (2, 150, 140)
    assert found.objects.select(SCHEMA.names).schema == SCHEMA
    for frame in (0, 1):
        rows = [r for r in found.objects.to_pylist() if r["frame"] == frame]
        assert rows
        assert [r["id"] for r in rows] == list(range(1, len(rows) + 1))
        ids, first = np.unique(found.instances[frame], return_index=True)
        shown = ids[ids > 0]
        assert (np.diff(first[ids > 0]) > 0).all()  # numbered by first pixel
        assert shown.tolist() == list(range(1, len(shown) + 1))
        for row in rows:
            rle = {"size": [150, 140], "counts": row["rle"].encode()}
            mask = coco_mask.decode(rle).astype(bool)
            assert mask.sum() == row["area"] > 0
            mine = found.instances[frame] == row["id"]
            assert not (mine & ~mask).any()
            assert (found.labels[frame][mine] == row["class"]).all()
        alone = segmenter.segment(pixels[frame : frame + 1])
        assert alone.objects.schema == SCHEMA
        np.testing.assert_array_equal(alone.instances[0], found.instances[frame])
    np.testing.assert_array_equal(found.labels > 0, found.instances > 0)


def test_options_are_checked_and_the_weights_are_digested(path: Path) -> None:
    segmenter = segengine.create_segmenter(options(path))
    assert isinstance(segmenter, MaskRcnn)
    assert len(segmenter.weights) == 64
    for change, message in (
        ({"scale": "big"}, "scale: must be one of fit, native"),
        ({"overlap": -1}, "overlap: must be a number of pixels"),
        ({"classes": ["a", "a"]}, "classes: each needs a name of its own"),
        ({"weights": "nowhere.h5"}, "weights: nowhere.h5: there is no such file"),
        ({"preset": "detectron"}, "preset: must be one of"),
        ({"halo": 3}, "halo: mask-rcnn has no such option"),
    ):
        with pytest.raises(JobError, match=message):
            segengine.create_segmenter(options(path, **change))


@st.composite
def scenes(make: Callable[..., Any]) -> list[Instance]:
    found = []
    for score in sorted(make(st.lists(st.floats(0, 1, width=32), max_size=6)), reverse=True):
        y, x = make(st.integers(0, 8)), make(st.integers(0, 6))
        h, w = make(st.integers(0, 10 - y)), make(st.integers(0, 9 - x))
        bits = make(st.lists(st.booleans(), min_size=h * w, max_size=h * w))
        mask = np.array(bits, bool).reshape(h, w)
        label = make(st.integers(1, 3))
        found.append(Instance((y, x, y + h, x + w), label, score, Cutout(y, x, mask)))
    return found


@settings(deadline=None)
@given(scenes())
def test_the_map_shows_the_higher_score_and_the_table_has_all(found: list[Instance]) -> None:
    labels, ids, objects = draw(found, (10, 9), 4)
    best = np.full((10, 9), -1)
    for rank, one in reversed(list(enumerate(found))):
        h, w = one.cutout.mask.shape
        best[one.cutout.y : one.cutout.y + h, one.cutout.x : one.cutout.x + w][one.cutout.mask] = (
            rank
        )
    np.testing.assert_array_equal(
        labels, [[found[r].label if r >= 0 else 0 for r in row] for row in best]
    )
    rows = {row["id"]: row for row in objects.to_pylist()}
    assert len(rows) == sum(one.cutout.mask.any() for one in found)
    for at in zip(*np.nonzero(ids), strict=True):
        assert rows[int(ids[at])]["score"] == found[best[at]].score
    assert ((ids > 0) == (best >= 0)).all()


@given(
    st.integers(20, 60),
    st.integers(20, 60),
    st.lists(st.floats(-0.2, 1.2), min_size=4, max_size=4),
    st.integers(0, 1000),
)
def test_a_matterport_mask_is_skimages_resize(
    height: int, width: int, ends: list[float], seed: int
) -> None:
    config = preset("matterport")
    mask = np.random.default_rng(seed).random((28, 28)).astype(np.float32)
    y, x = np.clip(sorted(ends[:2]), 0, 1), np.clip(sorted(ends[2:]), 0, 1)
    outputs = {
        "boxes": np.array([[[y[0], x[0], y[1], x[1]]]], np.float32),
        "classes": np.array([[1]]),
        "scores": np.array([[0.9]], np.float32),
        "masks": mask[None, None],
    }
    prepared = Prepared(np.zeros((64, 64, 3), np.float32), (0, 0, 64, 64), (height, width))
    found = instances(config, prepared, outputs)
    if not found:  # an empty box, rounded
        assert (y[1] - y[0]) * height < 1 or (x[1] - x[0]) * width < 1
        return
    y1, x1, y2, x2 = map(int, found[0].box)
    wanted = resize(mask, (y2 - y1, x2 - x1), order=1, mode="constant", anti_aliasing=False)
    clear = np.abs(wanted - 0.5) > 1e-5
    rows, cols = slice(max(-y1, 0), height - y1), slice(max(-x1, 0), width - x1)
    np.testing.assert_array_equal(
        found[0].cutout.mask[clear[rows, cols]], (wanted >= 0.5)[rows, cols][clear[rows, cols]]
    )


def test_native_pixels_are_only_padded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    for name, sides, corner in (
        ("matterport", (128, 128), (29, 14)),
        ("torchvision", (96, 128), (0, 0)),
    ):
        config = preset(name)
        found = prepare(config, image, native=True)
        assert found.image.shape == (*sides, 3)
        y1, x1, y2, x2 = found.window
        assert ((y1, x1), (y2 - y1, x2 - x1)) == (corner, (70, 100))
        back = found.image[y1:y2, x1:x2] * config.deviation + config.mean
        np.testing.assert_allclose(back, image, atol=1e-3)


def test_other_dtypes_and_gray_become_bytes() -> None:
    assert to_bytes(np.array([[[65535], [257]]], np.uint16), 3).tolist() == [[[255] * 3, [1] * 3]]
    assert to_bytes(np.array([[[np.nan, 12.4, 300.0]]]), 3).tolist() == [[[0, 12, 255]]]
    with pytest.raises(ValueError, match="bands: the network takes 3, the image has 4"):
        to_bytes(np.zeros((2, 2, 4), np.uint8), 3)


@pytest.mark.usefixtures("plain_report")
def test_frames_that_share_a_call_keep_their_objects(path: Path, bench: Any) -> None:
    pixels = [photos()[name][:150, :140] for name in ("astronaut", "chelsea")]
    for i, photo in enumerate(pixels):
        bench.put(f"{i}.png", photo)
    store = {"shard": 256, "frames": 2}
    lines = plan(parse_job(bench.job(options(path), store=store))).lines()
    assert "  backbone: resnet14" in lines
    bench.run(options(path), store=store)
    rows = pq.read_table(bench.store / "tables/instances.parquet").to_pylist()
    segmenter = segengine.create_segmenter(options(path))
    for frame, photo in enumerate(pixels):
        alone = segmenter.segment(photo[None]).objects.to_pylist()
        found = [{k: row[k] for k in alone[0]} for row in rows if row["frame"] == frame]
        assert found == alone
        assert max(row["score"] for row in found) < 1


def test_weights_that_cannot_be_loaded_end_a_run_before_its_first_shard(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(b"nothing")
    Image.fromarray(photos()["chelsea"]).save(tmp_path / "photo.png")
    job = {
        "source": {"paths": [str(tmp_path / "photo.png")]},
        "segmenter": options(damaged),
        "store": {"path": str(tmp_path / "m.zarr")},
    }
    said = rf"segmenter\.weights: {re.escape(str(damaged))}: .* it is neither HDF5 nor a zip"
    with pytest.raises(JobError, match=said):
        segengine.run(job)
    assert not (tmp_path / "m.zarr").exists()
