"""Segment Anything: samexporter's own steps by ONNX Runtime, OpenCV and Pillow; discs, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco

import segengine
from segengine.errors import JobError
from segengine.segmenters._finder import Finder
from segengine.segmenters.sam import create
from tests.segengine.segmenters import finders, sams, test_prompts

Array = np.ndarray[Any, Any]
JOB = Path(__file__).parents[3] / "deployments/jobs/sam.yaml"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sam")
    return {
        "encoder": sams.encoder(folder / "e.onnx"),
        "decoder": sams.decoder(folder / "d.onnx"),
    }


def published(files: dict[str, str], frame: Array, point: tuple[float, ...]) -> tuple[Array, Array]:
    """Scores (k,) and logits (k, y, x) of a point, as `SegmentAnythingONNX` goes about it, or of a box
    (x1, y1, x2, y2), which segment_anything's own notebook feeds without a point of padding."""
    first, second = (onnxruntime.InferenceSession(files[k]) for k in ("encoder", "decoder"))
    height, width = frame.shape[:2]
    scale = 1024 / max(height, width)
    new = int(height * scale + 0.5), int(width * scale + 0.5)
    image = np.asarray(Image.fromarray(frame).resize(new[::-1], Image.Resampling.BILINEAR))
    image = (image.astype(np.float32) - np.float32([123.675, 116.28, 103.53])) / np.float32(
        [58.395, 57.12, 57.375]
    )
    fed = np.pad(image.transpose(2, 0, 1), ((0, 0), (0, 1024 - new[0]), (0, 1024 - new[1])))[None]
    (embedding,) = first.run(None, {"x": fed})
    ratio = np.array([new[1] / width, new[0] / height])
    corners = np.array(point).reshape(-1, 2) * ratio
    padded = corners if len(corners) == 2 else [*corners, (0, 0)]
    _, scores, low = second.run(
        None,
        {
            "image_embeddings": embedding,
            "point_coords": np.array([padded], np.float32),
            "point_labels": np.array([[2, 3] if len(corners) == 2 else [1, -1]], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array([height, width], np.float32),
        },
    )
    found = []
    for mask in low[0]:
        large = cv2.resize(mask, (1024, 1024), interpolation=cv2.INTER_LINEAR)
        cut = large[: new[0], : new[1]]
        found.append(cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR))
    return scores[0], np.stack(found)


@pytest.mark.parametrize("size", [(64, 90), (120, 50)])
def test_masks_of_points_and_boxes_are_those_of_the_published_steps(
    drawn: dict[str, str],
    tmp_path: Path,
    noise: Any,
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points: list[tuple[float, ...]] = [
        (10.5, 20.0),
        (40.0, 50.5),
        (8.0, 10.5, 30.0, 48.0),
        (25.0, 8.0),
    ]
    shapes = [test_prompts.point(*p) if len(p) == 2 else test_prompts.square(*p) for p in points]
    file = test_prompts.geojson(tmp_path / "points.geojson", *shapes)
    monkeypatch.setattr("segengine.segmenters.sam.MOST", 1)  # which is of a grid alone
    frame = noise(1, (*size, 3))
    segmenter = create(**drawn, prompts=file, min_score=0, duplicates=1)
    assert isinstance(segmenter, Finder)
    found = segengine.predict(frame, segmenter)
    wanted = []
    for point in points:
        scores, logits = published(drawn, frame, point)
        best = int(scores.argmax())
        wanted.append((float(scores[best]), logits[best]))
    wanted = sorted((w for w in wanted if (w[1] > 0).any()), key=lambda w: -w[0])
    rows = sorted(found.objects.to_pylist(), key=lambda row: -row["score"])
    assert len(rows) == len(wanted) > 1
    for row, (score, logits) in zip(rows, wanted, strict=True):
        assert row["score"] == pytest.approx(score, abs=1e-5)
        mask = coco.decode({"size": list(size), "counts": row["rle"].encode()}) == 1
        sure = np.abs(logits) > 1e-3
        np.testing.assert_array_equal(mask[sure], (logits > 0)[sure])


def test_a_grid_takes_every_mask_that_is_good_and_no_two_alike(
    drawn: dict[str, str], noise: Any
) -> None:
    frame = noise(2, (60, 60, 3))
    every = segengine.predict(frame, create(**drawn, points=3, min_score=0, duplicates=1))
    assert 9 < every.objects.num_rows <= 27
    some = segengine.predict(frame, create(**drawn, points=3, min_score=0, duplicates=0.5))
    assert 0 < some.objects.num_rows < every.objects.num_rows
    middle = float(np.median(every.objects.column("score").to_numpy()))
    sure = segengine.predict(frame, create(**drawn, points=3, min_score=middle, duplicates=1))
    assert 0 < sure.objects.num_rows < every.objects.num_rows


def test_a_job_of_the_manual_finds_every_disc_once(bench: Any) -> None:
    """deployments/jobs/sam.yaml, in windows and shards: the encoder is asked once a window."""
    data = yaml.safe_load(JOB.read_text())
    picture, ids = finders.discs(4, (150, 170), 9, apart=40)
    bench.put("a.zarr", picture)
    del data["source"]["bands"]
    data["source"]["paths"] = [str(bench.inputs)]
    data["segmenter"] |= {
        "encoder": sams.encoder(bench.root / "e.onnx", None),
        "decoder": sams.decoder(bench.root / "d.onnx", None),
        "points": 14,
        "window": 96,
        "overlap": 0.4,
    }
    data["store"] = {"path": str(bench.store), "chunk": 32, "shard": 96}
    assert segengine.run(data).exit_code == 0
    (scene,) = bench.open().scenes.values()
    found = scene.instances[0]
    assert found.max() == 9
    for number in range(1, 10):
        mine = ids == number
        values, counts = np.unique(found[mine], return_counts=True)
        best = values[counts.argmax()]
        both = int(((found == best) & mine).sum())
        assert both / ((found == best) | mine).sum() > 0.85


def test_what_is_wrong_is_one_line(drawn: dict[str, str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.geojson"
    bad.write_text('{"type": "Feature", "geometry": {"type": "Point", "coordinates": "here"}}')
    far = tmp_path / "far.geojson"
    far.write_text('{"type": "Point", "coordinates": [-1, 4]}')
    wrong: list[tuple[dict[str, Any], str]] = [
        (
            {"decoder": drawn["encoder"]},
            r"^decoder: .*e\.onnx: has no image_embeddings, .*is it an encoder",
        ),
        ({"encoder": drawn["decoder"]}, r"^encoder: .*the model takes 6 inputs, not one"),
        (
            {"decoder": str(tmp_path / "no.onnx")},
            r"^decoder: .*no\.onnx: there is no such \.onnx file",
        ),
        ({"prompts": "no.geojson"}, r"^prompts: no\.geojson: No such file.*; give grid"),
        ({"prompts": str(bad)}, r"^prompts: .*bad\.geojson: "),
        ({"prompts": str(far)}, r"^prompts: .*far\.geojson: has a point or box beyond all frames"),
        ({"points": 0}, r"^points: must be a whole number from 1 to 128"),
        ({"min_score": 3}, r"^min_score: must be a number from 0 to 1, not 3"),
        ({"window": "all"}, r"^window: must be a whole number from 16"),
        ({"encoder": 3}, "^encoder: must be a path, not 3$"),
        ({"decoder": 3}, "^decoder: must be a path, not 3$"),
        ({"prompts": 3}, "^prompts: must be grid, or name a file or store, not 3$"),
        ({"bands": [1]}, r"^bands: the model takes red, green and blue, not 1"),
    ]
    for options, said in wrong:
        with pytest.raises(ValueError, match=said) as error:
            create(**(drawn | options))
        assert "\n" not in str(error.value)
    with pytest.raises(JobError, match=r"decoder: this (key|option) is needed|decoder"):
        segengine.create_segmenter({"kind": "sam", "encoder": drawn["encoder"]})
    with pytest.raises(ValueError, match="the model takes pixels of uint8, not of uint16"):
        create(**drawn).check_pixels(3, "uint16")
