"""Mask R-CNN trained on a few small pictures: stages, a kill, the bundle, and what is refused."""

import contextlib
import io
import json
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import segengine
from segengine import asked
from segengine.errors import JobError
from segengine.models._build import leaves
from segengine.models.maskrcnn.network import network
from segengine.progress import Progress
from segengine.training import checkpoints, maskrcnn
from segengine.training._objects import Objects, changed, class_names, read_objects
from segengine.training.augment import augment
from segengine.training.data import open_data
from segengine.training.job import AugmentSpec, TrainJob, parse_train_job
from segengine.training.maskrcnn import Stage, config_of, level, optimizer_of, stage_at, stages_of
from segengine.training.synthetic import VEHICLES, write_vehicles
from segengine.training.trainers import train

from .conftest import MakeJob

SMALL: dict[str, Any] = {
    "name": "mask-rcnn",
    "backbone": "resnet14",
    "pyramid_channels": 8,
    "rpn_channels": 8,
    "box_channels": 16,
    "mask_channels": 8,
    "anchor_sizes": [12, 20, 32, 48, 64],
    "pre_nms": 100,
    "post_nms": 20,
    "min_score": 0.3,
}


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of 64 x 64 pixels in COCO's format."""
    return write_vehicles(tmp_path_factory.mktemp("vehicles"), range(8), 64, 3)


def job_of(
    root: Path, out: Path, architecture: dict[str, Any] | None = None, **more: Any
) -> TrainJob:
    return parse_train_job(
        {
            "name": "vehicles",
            "source": {"kind": "coco", "paths": [str(root)]},
            "split": {"train": 0.6, "validation": 0.4},
            "architecture": SMALL | (architecture or {}),
            "input": {"size": [64, 64]},
            "augment": {"flip": "both"},
            "batch": 2,
            "epochs": 2,
            "out": str(out),
            **more,
        }
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_stages_a_resumed_training_and_the_bundle(vehicles: Path, tmp_path: Path) -> None:
    stages = {"stages": [{"layers": "heads", "epochs": 1}, {"layers": "all", "rate": 0.5}]}
    whole, killed = (job_of(vehicles, tmp_path / n, stages) for n in ("whole", "killed"))
    (tmp_path / "killed").mkdir()
    seen: list[Progress] = []

    def keep(progress: Progress) -> None:
        seen.append(progress)
        if progress.message.startswith("epoch 2"):  # what a kill in mid-epoch leaves
            shutil.copy(tmp_path / "whole" / checkpoints.FILE, tmp_path / "killed")

    trained = train(whole, keep)
    assert [p.done for p in seen] == list(range(1, seen[0].total + 1))
    found = checkpoints.load(tmp_path / "killed", checkpoints.FILE)
    assert found is not None
    assert found[0].epochs == 1
    keras.utils.set_random_seed(whole.seed)
    fresh = network(config_of(whole, open_data(whole)))
    places = {id(variable): i for i, variable in enumerate(fresh.variables)}
    for layer in leaves(fresh):
        moved = [
            not np.array_equal(v.value.numpy(), found[1][places[id(v)]])
            for v in layer.trainable_variables
        ]
        assert any(moved) == (level(layer.name) == 6), layer.name

    notes: list[str] = []
    resumed = train(killed, note=notes.append)
    assert notes == ["goes on after epoch 1 of 2"]
    assert resumed.metrics == trained.metrics
    ends = [checkpoints.load(Path(job.out), checkpoints.FILE) for job in (whole, killed)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ends[0][1], ends[1][1], strict=True))
    history = ends[0][0].history
    assert history["learning_rate"] == pytest.approx([0.001, 0.0005])
    assert np.isfinite([value for values in history.values() for value in values]).all()
    assert history["loss"][0] == pytest.approx(sum(history[part][0] for part in maskrcnn.PARTS))

    pictures = sorted(p.name for p in (tmp_path / "whole/pictures").iterdir())
    assert pictures == [f"epoch-00{e}.png" for e in range(3)]
    segmenter = segengine.create_segmenter({"kind": "mask-rcnn", "weights": trained.bundle})
    assert segmenter.classes == ("background", *VEHICLES)
    assert segmenter.colors == asked.palette(4)  # no vehicle is as dark as the background
    pixels = np.asarray(Image.open(vehicles / "vehicles/vehicles-00000.png"))[None]
    labels = segmenter.segment(pixels).labels
    assert labels.shape == (1, 64, 64)
    lines = segmenter.describe()
    assert "backbone: resnet14" in lines
    with pytest.raises(JobError, match=r"^backbone: .* is a bundle, which says so itself"):
        segengine.create_segmenter(
            {"kind": "mask-rcnn", "weights": trained.bundle, "backbone": "resnet50"}
        )


def test_objects_are_those_of_the_files(vehicles: Path, tmp_path: Path) -> None:
    data = open_data(job_of(vehicles, tmp_path))
    assert class_names(data) == ("background", *VEHICLES)
    truth = COCO(vehicles / "annotations/instances_vehicles.json")
    crowds = 0
    for frame in (*data.train.frames, *data.validation.frames):
        found, reason = read_objects(frame, data)
        assert not reason
        (image,) = [i for i in truth.dataset["images"] if frame.ref.name.endswith(i["file_name"])]
        wanted = truth.imgToAnns[image["id"]]
        assert [truth.annToMask(a).astype(bool).tolist() for a in wanted] == found.masks.tolist()
        assert [a["category_id"] for a in wanted] == found.classes.tolist()
        assert [bool(a["iscrowd"]) for a in wanted] == found.crowd.tolist()
        crowds += int(found.crowd.sum())
    assert crowds


def test_a_frame_without_its_truth_teaches_nothing(tmp_path: Path) -> None:
    root = write_vehicles(tmp_path / "set", range(4), 64, 2)
    file = root / "annotations/instances_vehicles.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["category_id"] = 77
    file.write_text(json.dumps(document))
    data = open_data(job_of(root, tmp_path))
    frames = [*data.train.frames, *data.validation.frames]
    (bad,) = [f for f in frames if f.ref.name.endswith("vehicles-00000.png")]
    found, reason = read_objects(bad, data)
    assert "has the category 77" in reason
    assert found.crowd.tolist() == [True]
    assert found.masks.all()


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 3, 70]))
def test_masks_are_changed_as_labels_are(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 12, 16)) > 0.5
    pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
    none = np.zeros(count)
    given = Objects(pixels, masks, none.astype(np.int32), none.astype(bool))
    spec = AugmentSpec(flip="both", rotate=40, scale=1.5, color=0.2)
    found = changed(given, spec, [seed, 5])
    assert found.masks.shape == masks.shape
    for before, after in zip(masks, found.masks, strict=True):
        same = np.random.default_rng([seed, 5])
        moved, alone = augment(pixels.astype(np.float32), before.astype(np.uint8), spec, same, 0)
        np.testing.assert_array_equal(after, alone == 1)
        np.testing.assert_array_equal(found.pixels, np.rint(np.clip(moved, 0, 255)))


def test_the_published_stages_and_others(vehicles: Path, tmp_path: Path) -> None:
    def stages(epochs: int, **architecture: Any) -> tuple[Stage, ...]:
        return stages_of(job_of(vehicles, tmp_path, architecture, epochs=epochs))

    assert stages(8) == (Stage("all", 8),)
    assert stages(1, weights="coco") == (Stage("all", 1, 0.1),)
    published = stages(160, weights="coco")
    assert published == (Stage("heads", 40), Stage("4+", 80), Stage("all", 40, 0.1))
    assert [stage_at(published, e).layers for e in (0, 39, 40, 119, 120, 159)] == [
        *("heads", "heads", "4+", "4+", "all", "all")
    ]
    assert stages(5, stages=[{"layers": "3+", "epochs": 2}, {"layers": "all"}]) == (
        Stage("3+", 2),
        Stage("all", 3),
    )
    for wrong, message in (
        ("heads", "must be a list"),
        ([{"layers": "top"}], "layers must be one of heads"),
        ([{"layers": "all", "epochs": 0}], "epochs must be from 1"),
        ([{"layers": "all", "rate": -1}], "rate must be above 0"),
        ([{"layers": "all", "lr": 1}], "lr is none of"),
    ):
        with pytest.raises(JobError, match=rf"^architecture\.stages: {message}"):
            stages(5, stages=wrong)


def test_the_rate_is_the_stage_s_of_the_job_s(vehicles: Path, tmp_path: Path) -> None:
    stages = (Stage("heads", 1), Stage("4+", 2, 0.5), Stage("all", 1, 0.1))
    cosine = {"name": "adam", "learning_rate": 0.01, "schedule": "cosine"}
    plain = optimizer_of(job_of(vehicles, tmp_path, optimizer=cosine, epochs=4), stages[:1], 5)
    for job, base in (
        (job_of(vehicles, tmp_path, epochs=4), None),
        (job_of(vehicles, tmp_path, optimizer=cosine, epochs=4), plain),
    ):
        found = optimizer_of(job, stages, 5)
        assert found.global_clipnorm == 5
        for step in range(20):
            found.iterations.assign(step)
            wanted = 0.001
            if base is not None:
                base.iterations.assign(step)
                wanted = float(np.asarray(base.learning_rate))
            factor = stage_at(stages, step // 5).rate
            assert float(np.asarray(found.learning_rate)) == pytest.approx(wanted * factor)


def test_jobs_that_cannot_be(vehicles: Path, make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"^truth: mask-rcnn learns from instances"):
        train(make_job(architecture=SMALL))
    for changes, message in (
        ({"input": {"size": [64, 96]}}, r"^input\.size: mask-rcnn takes squares"),
        ({"input": {"size": [64, 64], "resize": "patches"}}, r"^input\.resize: "),
        ({"input": {"size": [64, 64], "scale": {"divide": 2}}}, r"^input\.scale: "),
        ({"loss": "dice"}, r"^loss: mask-rcnn has losses and figures of its own; leave it out"),
        ({"input": {"size": [70, 70]}}, r"^architecture\.max_side: must be a multiple of 64"),
        ({"architecture": {"depth": 3}}, r"^architecture\.depth: mask-rcnn has no such option"),
        ({"architecture": {"train_regions": 0}}, r"^architecture\.train_regions: must be a posit"),
        ({"architecture": {"weights": "no.h5"}}, r"^architecture\.weights: no\.h5: there is no"),
    ):
        with pytest.raises(JobError, match=message):
            train(job_of(vehicles, tmp_path / "out", **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "out" / checkpoints.FILE).exists()


def test_hidden_vehicles_are_crowds(tmp_path: Path) -> None:
    root = write_vehicles(tmp_path, range(6), 96, 12)
    text = (root / "annotations/instances_vehicles.json").read_text()
    document = json.loads(text)
    assert {a["iscrowd"] for a in document["annotations"]} == {0, 1}
    ids = [a["id"] for a in document["annotations"]]
    assert ids == sorted(set(ids))


def test_colours_of_the_truth_are_kept_where_it_has_its_own(vehicles: Path, tmp_path: Path) -> None:
    data = open_data(job_of(vehicles, tmp_path / "out"))
    assert maskrcnn.draw_colors(data) == asked.palette(4)
    own = tuple((i, i, 200) for i, _ in enumerate(data.classes))
    found = maskrcnn.draw_colors(replace(data, colors=own))
    assert found[1:] == tuple(own[data.classes.index(name)] for name in VEHICLES)


def test_the_shipped_network_finds_vehicles_it_never_saw(tmp_path: Path) -> None:
    root = write_vehicles(tmp_path, range(9000, 9016))
    bundle = str(files("segengine") / "data/vehicles-mask-rcnn")
    segmenter = segengine.create_segmenter({"kind": "mask-rcnn", "weights": bundle})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(root / "annotations/instances_vehicles.json")
        found = []
        for number, image in truth.imgs.items():
            pixels = np.asarray(Image.open(root / "vehicles" / image["file_name"]))
            size = [image["height"], image["width"]]
            found += [
                {
                    "image_id": number,
                    "category_id": row["class"],
                    "score": row["score"],
                    "segmentation": {"size": size, "counts": row["rle"]},
                }
                for row in segmenter.segment(pixels[None]).objects.to_pylist()
            ]
        scored = COCOeval(truth, truth.loadRes(found), "segm")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[1] > 0.8  # AP50
