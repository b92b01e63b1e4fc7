"""A training end to end: what it leaves, what it starts from, when it ends."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segengine
from segengine.errors import JobError, SegengineError
from segengine.progress import Progress
from segengine.training import checkpoints, fit
from segengine.training.bundle import load_bundle, save_bundle
from segengine.training.data import open_data
from segengine.training.optimizers import optimizer
from segengine.training.plan import plan
from segengine.training.synthetic import CLASSES, write_scenes
from segengine.training.trainers import train

from .conftest import MakeJob

# Keras copies its variables in a way that NumPy 2 frowns upon.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STILL = {"name": "adam", "learning_rate": 1e-30}
"""A rate that changes no weight."""


def test_a_training_leaves_pictures_curves_and_a_bundle_that_segments(
    make_job: MakeJob, scenes: Path
) -> None:
    job = make_job(
        optimizer={"learning_rate": 0.01, "schedule": "cosine"},
        loss=[{"loss": "sparse_categorical_ce"}, {"loss": "dice", "weight": 0.5}],
        class_weights="auto",
        epochs=3,
    )
    seen: list[Progress] = []
    trained = train(job, seen.append)
    out = Path(job.out)
    assert [(p.done, p.total) for p in seen] == [(i + 1, 9) for i in range(9)]
    assert "epoch 3 of 3: " in seen[-1].message
    assert trained.epochs == 3
    assert sorted(p.name for p in (out / "pictures").iterdir()) == [
        f"epoch-{e:03d}.png" for e in range(4)
    ]
    for name in ("pictures/epoch-000.png", "history.png", "model.png"):
        assert np.asarray(Image.open(out / name).convert("RGB")).std() > 5
    assert [p.stat().st_size > 200 for p in (out / "tensorboard").iterdir()] == [True]
    found = checkpoints.load(out, checkpoints.FILE)
    assert found is not None
    losses = found[0].history["loss"]
    assert losses[-1] < losses[0]

    meta = json.loads((out / "bundle/bundle.json").read_text())
    assert meta["format"] == 1
    assert meta["architecture"] == "unet"
    assert meta["options"] == {"start_neurons": 2, "depth": 1, "activation": None}
    assert (meta["bands"], meta["classes"]) == (3, list(CLASSES))
    assert meta["scale"] == {"divide": 255.0}
    assert (meta["activation"], meta["size"], meta["resize"]) == ("softmax", [None, None], False)
    assert meta["metrics"] == dict(trained.metrics)
    assert not any(str(out.parent) in str(v) for v in meta.values())  # of no machine
    assert "val_mean_iou" in (out / "bundle/README.md").read_text()

    _, network = load_bundle(out / "bundle")
    image = np.asarray(Image.open(scenes / "images/scene-00000.png"))
    logits = np.asarray(network(image[None] / np.float32(255)))
    segmenter = segengine.create_segmenter({"kind": "model", "path": trained.bundle})
    assert segmenter.classes == CLASSES
    labels = segengine.segment(image, segmenter)
    assert (labels == logits[0].argmax(axis=-1)).mean() > 0.999


def test_a_frozen_network_stops_early_and_starts_another(make_job: MakeJob) -> None:
    first = make_job(optimizer=STILL, early_stopping={"patience": 2}, epochs=9)
    notes: list[str] = []
    trained = train(first, note=notes.append)
    assert trained.epochs == 3  # the first was the best, two more were not better
    again = train(first, note=notes.append)
    assert (again.epochs, again.metrics) == (3, trained.metrics)
    assert notes == ["goes on after epoch 3 of 9"]

    paths = make_job().truth.paths  # type: ignore[union-attr]
    truth = {"paths": paths, "classes": ["land", "water", "built"], "values": [0, 1, 3]}
    second = make_job(
        out="second", truth=truth, optimizer=STILL, epochs=1, seed=5, **{"from": trained.bundle}
    )
    train(second, note=notes.append)
    assert notes[-1].startswith("7 of 8 layers start from ")
    (_, old), (_, new) = load_bundle(trained.bundle), load_bundle(Path(second.out) / "bundle")
    for a, b in zip(old.layers, new.layers, strict=True):
        pairs = zip(a.get_weights(), b.get_weights(), strict=True)
        same = [x.shape == y.shape and np.allclose(x, y, atol=1e-12) for x, y in pairs]
        assert all(same) == (a.name != "logits")


def test_the_last_picture_shows_what_the_bundle_predicts(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Any, ...]] = []

    def keep(*panels: Any) -> Any:
        shown.append(panels)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(fit.pictures, "sample_picture", keep)
    trained = train(make_job(optimizer={"learning_rate": 0.05}))
    pixels, true, found, *_ = shown[-1]
    _, network = load_bundle(trained.bundle)
    expected = np.asarray(network(pixels[None] / np.float32(255)))[0].argmax(axis=-1)
    assert found.shape == true.shape == (16, 16)
    assert (found == expected).mean() > 0.99


def test_a_network_that_looks_at_all_of_its_window_keeps_the_size_it_learned_from(
    make_job: MakeJob,
) -> None:
    sized = {"size": [32, 32], "resize": "patches"}
    light = {"name": "deeplab", "backbone": "mobilenetv2"}
    for architecture, size in ((light, (32, 32)), ({"name": "unet"}, (None, None))):
        job = make_job(architecture=architecture, input=sized)
        bundle = fit.bundle_of(job, open_data(job), {})
        assert bundle.size == size
        folder = Path(job.out) / architecture["name"]
        save_bundle(folder, bundle, bundle.build(), "")
        spec = {"kind": "model", "path": str(folder)}
        found = segengine.create_segmenter(spec).cut
        assert (getattr(found, "window", None) == 32) == (size == (32, 32))
        if size == (32, 32):
            assert segengine.create_segmenter(spec | {"window": 64}).cut.window == 64


def test_two_classes_can_share_one_channel(make_job: MakeJob) -> None:
    paths = make_job().truth.paths  # type: ignore[union-attr]
    job = make_job(
        truth={"paths": paths, "classes": ["dry", "water"]},
        architecture={"name": "unet", "start_neurons": 2, "depth": 1, "classes": 1},
        loss="bce",
        epochs=1,
        input={"size": [16, 16], "resize": True},
    )
    trained = train(job)
    bundle, network = load_bundle(trained.bundle)
    assert (bundle.activation, bundle.size, bundle.resize) == ("sigmoid", (16, 16), True)
    assert network.output_shape == (None, 16, 16, 1)
    assert 0 < trained.metrics["val_accuracy"] <= 1


def test_void_changes_neither_loss_nor_gradient(make_job: MakeJob) -> None:
    import tensorflow as tf

    job = make_job(loss=[{"loss": "sparse_categorical_ce"}, {"loss": "dice"}])
    loss = fit.loss(job, open_data(job))
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, (2, 6, 6)).astype(np.int32)
    true[:, 2:4] = 255
    logits = tf.Variable(rng.normal(size=(2, 6, 6, 5)).astype(np.float32))
    with tf.GradientTape() as tape:
        value = loss(true, logits)
    slope = tape.gradient(value, logits).numpy()
    assert not slope[:, 2:4].any()
    assert slope[:, :2].any()
    logits[:, 2:4].assign(tf.fill((2, 2, 6, 5), 99.0))
    assert float(loss(true, logits)) == pytest.approx(float(value), rel=1e-6)
    nothing = loss(np.full_like(true, 255), logits)
    assert np.isfinite(float(nothing))


def test_class_weights_make_classes_weigh_the_same(make_job: MakeJob, scenes: Path) -> None:
    job = make_job(class_weights="auto")
    data = open_data(job)
    weights = fit.class_weights(job, data)
    assert weights is not None
    images = [np.asarray(Image.open(scenes / "labels" / f.ref.name)) for f in data.train.frames]
    counts = np.bincount(np.concatenate(images).ravel(), minlength=5)
    total = weights * counts
    np.testing.assert_allclose(total[counts > 0], counts.sum() / (counts > 0).sum())
    assert fit.class_weights(make_job(), data) is None
    with pytest.raises(JobError, match=r"^class_weights: 2 weights for 5 classes"):
        fit.class_weights(make_job(class_weights=[1, 2]), data)


def test_schedules_are_their_formulas(make_job: MakeJob) -> None:
    wanted = {
        "constant": lambda e: 0.1,
        "cosine": lambda e: 0.05 * (1 + np.cos(np.pi * e / 10)),
        "exponential": lambda e: 0.1 * 0.5 ** (e / 4),
        "step": lambda e: 0.1 * 0.5 ** (e // 4),
    }
    for name, formula in wanted.items():
        spec = {"learning_rate": 0.1, "schedule": name, "decay": 0.5, "every": 4}
        for kind in ("adam", "adamw", "sgd"):
            job = make_job(optimizer=spec | {"name": kind}, epochs=10)
            made = optimizer(job, steps=7)
            assert type(made).__name__.lower() == kind
        for epoch in (0, 3, 4, 9):
            made.iterations.assign(7 * epoch)
            assert float(np.asarray(made.learning_rate)) == pytest.approx(formula(epoch), rel=1e-5)


def test_pictures_of_which_none_can_be_read_end_it(make_job: MakeJob, tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", range(4), 32)
    for file in (root / "images").iterdir():
        file.write_bytes(file.read_bytes()[:300])
    truth = {"paths": [str(root / "labels/{stem}.png")], "classes": list(CLASSES)}
    job = make_job(source={"paths": [str(root / "images/*.png")]}, truth=truth)
    with pytest.raises(
        SegengineError, match=r"^source.paths: none of \d frames can be learned from; "
    ):
        train(job)


def test_what_is_no_bundle_is_never_replaced_by_one(make_job: MakeJob, tmp_path: Path) -> None:
    photos = tmp_path / "out" / "bundle"
    photos.mkdir(parents=True)
    (photos / "a.jpg").write_bytes(b"mine")
    with pytest.raises(JobError, match=r"^out: .*bundle is there and no bundle"):
        train(make_job(out=str(tmp_path / "out")))
    assert (photos / "a.jpg").read_bytes() == b"mine"


def test_a_loss_that_is_no_number_ends_it(make_job: MakeJob) -> None:
    job = make_job(optimizer={"name": "sgd", "learning_rate": 1e30}, epochs=3)
    with pytest.raises(SegengineError, match=r"^optimizer\.learning_rate: the loss is \w+ in epo"):
        train(job)


def test_jobs_that_cannot_be(make_job: MakeJob, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"architecture": {"name": "unet", "depht": 1}}, r"^architecture\.depht: .* did you mean"),
        ({"architecture": {"name": "unet", "classes": 3}}, r"^architecture\.classes: 3 for 5"),
        ({"input": {"size": [20, 20]}}, r"^input\.size: must be a multiple of 16, not 20 x 20"),
        ({"loss": {"loss": "dice", "gama": 2}}, r"^loss\.gama: "),
        ({"from": str(tmp_path / "none")}, "^from: .*none: is no bundle"),
        (
            {"architecture": {"name": "unet", "activation": "softmax"}},
            r"^architecture\.activation: .* leave it out",
        ),
        ({"out": str(tmp_path / "file")}, "^out: .*file cannot be made a folder: File exists"),
    ]
    (tmp_path / "file").touch()
    for changes, message in wrong:
        if "input" in changes:
            changes |= {"architecture": {"name": "unet"}}
        with pytest.raises(JobError, match=message) as error:
            train(make_job(**changes))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out" / checkpoints.FILE).exists()


def test_a_plan_shows_the_resolved_job(make_job: MakeJob) -> None:
    lines = plan(make_job(class_weights="auto")).lines()
    text = "\n".join(lines)
    assert "epochs: 2" in text
    assert "loss: sparse_categorical_ce" in text
    assert lines[-1].startswith("# 519 parameters, 519 of them trained, in 2 epochs of 3 steps")
    assert any(line.startswith("# classes: 0 field (x ") for line in lines)
