"""DeepMask and SharpMask trained on a few small pictures: losses, a kill, bundles, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import segengine
from segengine.errors import JobError, SegengineError
from segengine.progress import Progress
from segengine.training import checkpoints, proposals
from segengine.training._pairs import Batch, drawn
from segengine.training.bundle import Bundle, load_bundle
from segengine.training.data import open_data
from segengine.training.job import TrainJob, parse_train_job
from segengine.training.plan import plan
from segengine.training.proposals import Training, optimizer_of, scale_of
from segengine.training.synthetic import write_vehicles
from segengine.training.trainers import train

from .conftest import MakeJob

SMALL: dict[str, Any] = {"name": "deepmask", "backbone": "resnet14"}

BARE: dict[str, Any] = {
    "architecture": "deepmask",
    "options": {},
    "bands": 3,
    "classes": ("background", "object"),
    "colors": (),
    "scale": {},
    "activation": "sigmoid",
    "size": (None, None),
    "resize": False,
    "job": {},
    "metrics": {},
}


@pytest.fixture(scope="module")
def vehicles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of 64 x 64 pixels in COCO's format."""
    return write_vehicles(tmp_path_factory.mktemp("vehicles"), range(4), 64, 2)


def job_of(
    root: Path, out: Path, architecture: dict[str, Any] | None = None, **more: Any
) -> TrainJob:
    return parse_train_job(
        {
            "name": "things",
            "source": {"kind": "coco", "paths": [str(root)]},
            "split": {"train": 0.5, "validation": 0.5},
            "architecture": architecture or SMALL,
            "input": {"patches": 8},
            "augment": {"flip": "both", "rotate": 20},
            "optimizer": {"learning_rate": 0.001},
            "batch": 4,
            "epochs": 2,
            "out": str(out),
            **more,
        }
    )


def trunk_of(model: keras.Model) -> dict[str, list[np.ndarray[Any, Any]]]:
    """Weights of what a SharpMask shares with a DeepMask."""
    up = model.get_layer("bottom_up")
    own = [
        layer for layer in up.layers if layer.weights and layer.name.partition(".")[0][:1] != "h"
    ]
    return {layer.name: layer.get_weights() for layer in own}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_deepmask_then_a_sharpmask_and_their_bundles(vehicles: Path, tmp_path: Path) -> None:
    whole, killed = (job_of(vehicles, tmp_path / name) for name in ("whole", "killed"))
    (tmp_path / "killed").mkdir()
    seen: list[Progress] = []

    def keep(progress: Progress) -> None:
        seen.append(progress)
        if progress.message.startswith("epoch 2"):  # what a kill in mid-epoch leaves
            shutil.copy(tmp_path / "whole" / checkpoints.FILE, tmp_path / "killed")

    trained = train(whole, keep)
    assert [p.done for p in seen] == [1, 2, 3, 4]
    assert seen[0].total == 4
    notes: list[str] = []
    resumed = train(killed, note=notes.append)
    assert notes == ["goes on after epoch 1 of 2"]
    assert resumed.metrics == trained.metrics
    ends = [checkpoints.load(Path(job.out), checkpoints.FILE) for job in (whole, killed)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ends[0][1], ends[1][1], strict=True))
    history = ends[0][0].history
    for part in ("", "val_"):
        sums = np.add(history[f"{part}mask"], np.divide(history[f"{part}score"], 32))
        np.testing.assert_allclose(history[f"{part}loss"], sums)
    assert 0 <= trained.metrics["val_iou"] <= 1
    assert 0 <= trained.metrics["val_accuracy"] <= 1
    pictures = sorted(p.name for p in (tmp_path / "whole/pictures").iterdir())
    assert pictures == [f"epoch-00{e}.png" for e in range(3)]

    bundle, model = load_bundle(trained.bundle)
    assert bundle.classes == ("background", "object")
    assert bundle.options == {"backbone": "resnet14", "activation": None}
    segmenter = segengine.create_segmenter({"kind": "model", "path": trained.bundle})
    assert list(segmenter.pyramid) == bundle.inference["pyramid"]
    assert min(segmenter.pyramid) > 1  # vehicles of 64 x 64 pixels are small
    assert segmenter.border == (0.5,)
    named = segengine.create_segmenter(
        {"kind": "deepmask", "weights": trained.bundle, "pyramid": [1.0], "min_score": 0.0}
    )
    assert named.pyramid == (1.0,)
    pixels = np.asarray(Image.open(vehicles / "vehicles/vehicles-00000.png"))
    found = segengine.predict(pixels, named)
    assert found.objects.num_rows
    card = (Path(trained.bundle) / "README.md").read_text()
    assert "kind: deepmask, weights: THIS_FOLDER" in card
    assert "patches of 192 x 192 pixels" in card

    notes.clear()
    start = {"from": trained.bundle}
    finer = {"architecture": {"name": "sharpmask"}, **start}
    other = {"architecture": {"name": "sharpmask", "backbone": "resnet50"}}
    for changes, message in (
        (
            {"input": {"scale": {"divide": 127}}},
            r"^input.scale: .* learned with {divide: 255.0}; l",
        ),
        (other, r"^from: .* is of another backbone"),
    ):
        with pytest.raises(JobError, match=message):
            plan(job_of(vehicles, tmp_path / "no", **{**finer, **changes}))
    sharp = job_of(
        vehicles,
        tmp_path / "sharp",
        {"name": "sharpmask"},
        epochs=1,
        optimizer={"name": "sgd", "learning_rate": 0.01},
        loss=[{"loss": "bce"}, {"loss": "dice", "weight": 0.5}],
        **start,
    )
    assert plan(sharp).steps == 2  # eight patches, of objects all
    ended = train(sharp, note=notes.append)
    assert notes == [f"trunk and scores are those of {trained.bundle}, and stay"]
    refined, network = load_bundle(ended.bundle)
    assert refined.options == {"backbone": "resnet14", "activation": None}
    fixed = trunk_of(network)
    for name, weights in trunk_of(model).items():
        for a, b in zip(weights, fixed[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
    assert {"loss", "mask", "val_iou"} <= set(ended.metrics)
    assert "val_score" not in ended.metrics
    again = {**finer, "from": ended.bundle, "optimizer": {"learning_rate": 1e-4}}
    lines = plan(job_of(vehicles, tmp_path / "again", **again)).lines()
    assert any(line.endswith("; trunk and scores stay") for line in lines)
    wrong_bundles(Path(trained.bundle), vehicles, tmp_path / "wrong")
    segmenter = segengine.create_segmenter({"kind": "sharpmask", "weights": ended.bundle})
    assert segengine.predict(pixels, segmenter).labels.shape == (64, 64)
    for given, message in (
        ({"kind": "deepmask", "weights": ended.bundle}, r"^weights: .* of a sharpmask, not of a d"),
        ({"kind": "model", "path": ended.bundle, "window": 64}, r"^window: .* bundle of sharpmask"),
        (
            {"kind": "model", "path": ended.bundle, "bands": 4},
            r"^path: .* of 3 bands, and a sharpm",
        ),
        ({"kind": "mask-rcnn", "weights": ended.bundle}, r"^weights: .* is a sharpmask, which"),
    ):
        with pytest.raises(JobError, match=message):
            segengine.create_segmenter(given)


def wrong_bundles(bundle: Path, vehicles: Path, folder: Path) -> None:
    """Each with one thing wrong, refused by what it is."""
    for pyramid, message in (
        ("a", r"pyramid: needs a list with at least one scale, not 'a'"),
        ([], r"pyramid: needs a list with at least one scale, not \[\]"),
        ([100], r"pyramid: must be a number from 0.015625 to 8, not 100"),
        ([-1.0], r"pyramid: must be a number from"),
        ([float("nan")], r"pyramid: must be a number from"),
    ):
        copy = shutil.copytree(bundle, folder, dirs_exist_ok=True)
        said = json.loads((copy / "bundle.json").read_text())
        said["inference"]["pyramid"] = pyramid
        (copy / "bundle.json").write_text(json.dumps(said))
        for kind in (
            {"kind": "model", "path": str(copy)},
            {"kind": "deepmask", "weights": str(copy)},
        ):
            with pytest.raises(JobError, match=message) as raised:
                segengine.create_segmenter(kind)
            assert str(copy) in str(raised.value)
    copy = shutil.copytree(bundle, folder, dirs_exist_ok=True)
    _, model = load_bundle(copy)
    model.get_layer("bottom_up").get_layer("bn1").gamma.assign(np.full(64, np.nan))
    model.save_weights(copy / "model.weights.h5")
    with pytest.raises(JobError, match=r"bn1/gamma.* holds NaN or infinity"):
        plan(job_of(vehicles, folder / "no", {"name": "sharpmask"}, **{"from": str(copy)}))
    with pytest.raises(JobError, match=r"^path: .*NaN"):
        segengine.create_segmenter({"kind": "model", "path": str(copy)})


def test_losses_are_their_formulas(vehicles: Path, tmp_path: Path) -> None:
    """Of patches that are known, by NumPy; and one without truth changes none of them."""
    job = job_of(vehicles, tmp_path / "out")
    run = Training(job, open_data(job), lambda _: None, lambda _: None)
    batch = next(iter(run.learned.batches(0)))
    assert batch.pixels.shape == (4, 192, 192, 3)
    assert batch.masks.shape == (2, 112, 112)
    assert batch.known.tolist() == [1, 1, 1, 1]
    assert batch.masks.any(axis=(1, 2)).all()
    masks, scores = (np.asarray(v, np.float64) for v in run.network(batch.pixels, training=False))
    true, logits = batch.masks, masks[:2, ..., 0]
    by_pixel = np.logaddexp(0, -np.where(true, 1, -1) * logits)
    by_score = np.logaddexp(0, -np.array([1, 1, -1, -1]) * scores[:, 0])
    found = {name: float(value) for name, value in run._look(*batch).items()}
    assert found["mask"] == pytest.approx(by_pixel.mean(), rel=1e-5)
    assert found["score"] == pytest.approx(by_score.mean(), rel=1e-5)
    ious = [
        (t & (v > 0)).sum() / (t | (v > 0)).sum() for t, v in zip(true == 1, logits, strict=True)
    ]
    assert found["iou"] == pytest.approx(np.mean(ious), rel=1e-5)
    right = (scores[:, 0] > 0) == [True, True, False, False]
    assert found["accuracy"] == pytest.approx(right.mean())

    lost = Batch(batch.pixels, true.copy(), np.array([1, 0, 1, 0], np.float32))
    lost.masks[1] = proposals.VOID
    found = {name: float(value) for name, value in run._look(*lost).items()}
    assert found["mask"] == pytest.approx(by_pixel[0].mean(), rel=1e-5)
    assert found["score"] == pytest.approx(by_score[[0, 2]].mean(), rel=1e-5)
    assert found["iou"] == pytest.approx(ious[0], rel=1e-5)


def test_a_frame_that_cannot_be_read_teaches_nothing(vehicles: Path, tmp_path: Path) -> None:
    root = shutil.copytree(vehicles, tmp_path / "set")
    job = job_of(root, tmp_path / "out")
    run = Training(job, open_data(job), lambda _: None, lambda _: None)
    for file in (root / "vehicles").iterdir():
        file.write_bytes(file.read_bytes()[:300])
    batch = next(iter(run.learned.batches(0)))
    assert not batch.known.any()
    assert (batch.masks == proposals.VOID).all()
    assert run.learned.lost
    assert float(run._look(*batch)["mask"]) == 0
    with pytest.raises(
        SegengineError, match=r"^source.paths: none of \d frames can be learned from"
    ):
        train(job)


def test_objects_of_an_epoch(vehicles: Path, tmp_path: Path) -> None:
    data = open_data(job_of(vehicles, tmp_path))
    learned, _ = proposals._things(data)
    every = learned.learned.tolist()
    rng = np.random.default_rng(0)
    assert sorted(drawn(learned, len(every), False, 0, rng)) == every
    assert sorted(drawn(learned, 2 * len(every), False, 1, rng)) == sorted(every * 2)
    many = drawn(learned, 6000, True, 0, rng)
    kinds = learned.kinds[learned.learned]
    counts = np.bincount(learned.kinds[many])[np.unique(kinds)]
    np.testing.assert_allclose(counts / 6000, 1 / len(np.unique(kinds)), atol=0.03)


def test_patches_of_nothing_are_of_all_frames(vehicles: Path, tmp_path: Path) -> None:
    root = shutil.copytree(vehicles, tmp_path / "set")
    file = root / "annotations/instances_vehicles.json"
    document = json.loads(file.read_text())
    empty = document["images"][0]
    Image.new("RGB", (64, 64), (9, 200, 9)).save(root / "vehicles" / empty["file_name"])
    kept = [a for a in document["annotations"] if a["image_id"] != empty["id"]]
    file.write_text(json.dumps(document | {"annotations": kept}))
    job = job_of(root, tmp_path / "out", split={"train": 0.75, "validation": 0.25}, augment={})
    run = Training(job, open_data(job), lambda _: None, lambda _: None)
    assert not any(name.endswith(empty["file_name"]) for name in run.learned.names)
    assert len(run.learned.names) == len(run.learned.things.surveyed) - 1
    patches = [run.learned.bare(0, place).pixels for place in range(30)]
    green = [bool((patch == (9, 200, 9)).all(axis=-1).any()) for patch in patches]
    assert 3 <= sum(green) <= 20  # of three frames one


def test_the_published_rates(vehicles: Path, tmp_path: Path) -> None:
    for name, momentum, last in (("deepmask", 0.9, 120), ("sharpmask", 0.0, 80)):
        raw = job_of(vehicles, tmp_path, {"name": name}).as_json()
        raw.pop("optimizer")
        raw = parse_train_job(raw).as_json()  # what is shown and kept is the same job again
        assert not {"optimizer", "loss", "metrics"} & set(raw)
        made = optimizer_of(parse_train_job(raw | {"batch": 32}), steps=3)
        assert (type(made).__name__, made.momentum) == ("SGD", momentum)
        for epoch, part in ((0, 1), (49, 1), (51, 0.5), (last - 1, 0.5), (last + 1, 0.1)):
            made.iterations.assign(3 * epoch)
            rate = float(np.asarray(made.learning_rate))
            assert rate == pytest.approx(32 * 0.001 * part), (name, epoch)


def test_a_plan_says_what_the_network_decides(vehicles: Path, tmp_path: Path) -> None:
    raw = job_of(vehicles, tmp_path / "out").as_json()
    raw.pop("optimizer")
    lines = plan(parse_train_job(raw)).lines()
    assert "# optimizer: SGD with a rate of 0.004, as published" in lines
    assert any(line.startswith("# pyramid: ") for line in lines)
    assert "# scale: {divide: 255.0}" in lines
    start = Bundle(**BARE | {"scale": {"range": [0.0, 9.0]}})
    job = parse_train_job(raw)
    imagenet = {"divide": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    trunk = parse_train_job(raw | {"architecture": SMALL | {"trunk": "resnet50.pth"}})
    own = parse_train_job(raw | {"input": {"scale": {"divide": 7}}})
    for case, begun, wanted in (
        (job, None, {"divide": 255.0}),
        (trunk, None, imagenet),
        (job, start, {"range": [0.0, 9.0]}),
        (own, start, {"divide": 7.0}),
    ):
        found = scale_of(case, begun).model_dump(mode="json", exclude_none=True)
        assert found == wanted
    assert not any(line.startswith(("loss", "optimizer", "metrics")) for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"size": [64, 64]}}, r"^input.size: the patches of deepmask have 192 x 192"),
        ({"input": {"resize": True}}, r"^input.resize: deepmask learns from patches of its own"),
        ({"input": {"resize": "patches"}}, r"^input.resize: deepmask learns from patches of its"),
        ({"augment": {"crop": 0.5}}, r"^augment.crop: deepmask moves and scales its patches"),
        ({"augment": {"scale": 2}}, r"^augment.scale: deepmask moves and scales its patches"),
        ({"class_weights": "auto"}, r"^class_weights: the objects of deepmask have no class"),
        ({"metrics": ["accuracy"]}, r"^metrics: the objects of deepmask have no class"),
        ({"batch": 5}, r"^batch: half of it are patches with an object, so even, not 5"),
        ({"architecture": SMALL | {"backbone": "vgg16"}}, r"^architecture.backbone: must be one"),
        ({"architecture": SMALL | {"classes": 3}}, r"^architecture.classes: masks and scores are"),
        ({"architecture": SMALL | {"depth": 3}}, r"^architecture.depth: "),
        ({"loss": "no_such"}, "no_such"),
        ({"loss": "sparse_categorical_ce"}, r"^loss: .*needs at least two classes"),
        ({"architecture": SMALL | {"backbone": ["resnet14"]}}, r"^architecture.backbone: must be"),
        (
            {"architecture": SMALL | {"trunk": 5}},
            r"^architecture.trunk: 5: give the path of a file",
        ),
        ({"architecture": SMALL | {"weights": 5}}, r"^architecture.weights: there is no file 5"),
        ({"architecture": SMALL | {"train_norm": "y"}}, r"^architecture.train_norm: must be true"),
        ({"from": "/nowhere"}, r"^from: /nowhere: is no bundle"),
    ],
)
def test_what_cannot_be_trained(
    vehicles: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        plan(job_of(vehicles, tmp_path / "out", **changes))


def test_labels_without_instances_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match=r"^truth: deepmask learns from instances"):
        plan(make_job(architecture=SMALL))
