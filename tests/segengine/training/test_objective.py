"""What a network is trained by: all its outputs, where its architecture says how."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import segengine
from segengine import losses
from segengine.errors import JobError
from segengine.models import dual_task, fastfcn, gscnn
from segengine.training import checkpoints
from segengine.training.bundle import load_bundle
from segengine.training.objective import Trainee
from segengine.training.trainers import train

from .conftest import MakeJob

VOID = 255
LOSS = losses.create("sparse_categorical_ce", from_logits=True, ignore=VOID)
TWO_OUTPUTS = """
import keras
from keras import ops

def build(bands=3, classes=1, size=(None, None), activation="auto", pooled=False):
    image = keras.Input((*size, bands))
    x = keras.layers.MaxPooling2D(2)(image) if pooled else image
    logits = keras.layers.Conv2D(classes, 3, padding="same", name="logits")(x)
    more = keras.layers.Conv2D(1, 3, padding="same", name="more")(x)
    return keras.Model(image, [logits, more])
"""
OBJECTIVE = """
def objective(loss):
    return lambda labels, outputs: loss(labels, outputs[0]) + ops.mean((outputs[1] - 9) ** 2)
"""


def drawn(seed: int, classes: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, max(classes, 2), (2, 12, 12)).astype(np.int32)
    labels[0, :3] = VOID
    return labels, rng.normal(size=(2, 12, 12, classes)).astype(np.float32)


def test_gscnn_adds_the_dual_task_to_the_loss_of_the_job() -> None:
    labels, logits = drawn(0, 3)
    edge = np.random.default_rng(1).uniform(0.1, 0.9, (2, 12, 12, 1)).astype(np.float32)
    noise = dual_task._gumbel(logits, 0)
    found = dual_task.terms(labels, logits, edge, noise)
    further = 20 * found["edge"] + found["selected"] + found["consistency"]
    expected = float(LOSS(labels, logits)) + float(np.mean(further))
    assert float(gscnn.objective(LOSS)(labels, [logits, edge])) == pytest.approx(expected, rel=1e-5)
    assert np.mean(further) > 1


def test_fastfcn_weighs_its_auxiliary_and_its_presence_output() -> None:
    labels, logits = drawn(0, 3)
    _, more = drawn(1, 3)
    present = np.array([[0.5, -1, 2], [1, 1, 0]], np.float32)
    objective = fastfcn.objective(LOSS)
    first = float(LOSS(labels, logits))
    auxiliary, presence = LOSS(labels, more), fastfcn.presence_loss(labels, present)
    for outputs, expected in (
        ([logits], first),
        ([logits, more], first + 0.4 * float(auxiliary)),
        ([logits, present], first + 0.2 * float(presence)),
        ([logits, more, present], first + 0.4 * float(auxiliary) + 0.2 * float(presence)),
    ):
        assert float(objective(labels, outputs)) == pytest.approx(expected, rel=1e-6)


@given(
    labels=hnp.arrays(np.int32, (3, 2, 2), elements=st.sampled_from([0, 1, 2, VOID])),
    logits=hnp.arrays(np.float32, (3, 3), elements=st.floats(-5, 5, width=32)),
    channels=st.sampled_from([1, 3]),
)
def test_presence_is_the_cross_entropy_of_which_classes_an_image_has(
    labels: Any, logits: Any, channels: int
) -> None:
    if channels == 1:
        labels[labels == 2] = VOID
    logits = logits[:, :channels]
    terms = []
    for image, row in zip(labels, logits, strict=True):
        if (image == VOID).all():
            continue
        wanted = [1] if channels == 1 else [0, 1, 2]
        for k, value in zip(wanted, row.tolist(), strict=True):
            p = 1 / (1 + math.exp(-value))
            terms.append(-math.log(p if (image == k).any() else 1 - p))
    expected = sum(terms) / len(terms) if terms else 0.0
    assert float(fastfcn.presence_loss(labels, logits)) == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def two_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silent_net.py").write_text(TWO_OUTPUTS)
    (tmp_path / "telling_net.py").write_text(TWO_OUTPUTS + OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("two_outputs")
@pytest.mark.parametrize(("module", "learns"), [("silent_net", False), ("telling_net", True)])
def test_an_architecture_says_what_its_further_outputs_learn(
    make_job: MakeJob, module: str, learns: bool
) -> None:
    job = make_job(architecture={"name": f"{module}:build"}, optimizer={"learning_rate": 0.1})
    if not learns:
        # Keras tells of variables that the loss does not reach
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            trained = train(job)
    else:
        trained = train(job)
    assert 0 <= trained.metrics["val_accuracy"] <= 1
    _, network = load_bundle(trained.bundle, f"{module}:build")
    moved = [float(abs(np.asarray(v)).max()) > 0 for v in network.trainable_variables]
    # both biases begin at 0
    assert [moved[1], moved[3]] == [True, learns]
    pixels = np.full((20, 24, 3), 9, np.uint8)
    own = {"kind": "model", "path": trained.bundle, "architecture": f"{module}:build"}
    segmenter = segengine.create_segmenter(own)
    logits, _ = network(pixels[None] / np.float32(255))
    np.testing.assert_array_equal(segengine.segment(pixels, segmenter), np.argmax(logits, -1)[0])
    found = checkpoints.load(Path(job.out), checkpoints.FILE)
    assert found is not None
    assert set(found[0].history) >= {"loss", "accuracy", "val_loss", "val_mean_iou"}


@pytest.mark.usefixtures("two_outputs")
def test_a_network_without_a_score_for_each_pixel_is_refused(make_job: MakeJob) -> None:
    job = make_job(architecture={"name": "silent_net:build", "pooled": True})
    with pytest.raises(JobError, match=r"^architecture\.name: silent_net:build gives no score for"):
        train(job)


def test_a_trainee_keeps_what_layers_add_to_the_loss() -> None:
    image = keras.Input((8, 8, 3))
    ridge = keras.regularizers.L2(0.1)
    logits = keras.layers.Conv2D(3, 1, kernel_regularizer=ridge)(image)
    network = keras.Model(image, logits)
    trainee = Trainee(network, lambda labels, outputs: LOSS(labels, outputs[0]))
    labels, _ = drawn(0, 3)
    pixels = np.random.default_rng(2).random((2, 8, 8, 3), np.float32)
    labels = labels[:, :8, :8]
    found = trainee.compute_loss(pixels, labels, trainee(pixels))
    kernel = np.asarray(network.trainable_variables[0])
    expected = float(LOSS(labels, network(pixels))) + 0.1 * float((kernel**2).sum())
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("dice", "auto"),
        ("hausdorff", False),
        ([{"loss": "sparse_categorical_ce"}, {"loss": "boundary", "weight": 0.1}], False),
    ],
)
def test_a_loss_that_needs_the_host_is_not_compiled(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, loss: Any, expected: object
) -> None:
    told: list[object] = []

    def compile_(self: Trainee, **given: Any) -> None:
        told.append(given["jit_compile"])
        keras.Model.compile(self, **given)

    monkeypatch.setattr(Trainee, "compile", compile_)
    trained = train(make_job(loss=loss, epochs=1))
    assert told == [expected]
    assert math.isfinite(trained.metrics["loss"])
