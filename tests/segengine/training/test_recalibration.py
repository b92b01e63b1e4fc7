"""Statistics of batch normalisation over data: those of all pixels, whatever the batches."""

from typing import Any

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from numpy.typing import NDArray

from segengine.training.bundle import load_bundle
from segengine.training.recalibration import Recalibration
from segengine.training.trainers import train

from .conftest import MakeJob

Array = NDArray[Any]


def network() -> keras.Model:
    """Two normalisations that learn, the first inside a model of its own, and one that does not."""
    keras.utils.set_random_seed(3)
    inner_image = keras.Input((8, 8, 2))
    inner = keras.Model(inner_image, layers.BatchNormalization(name="first")(inner_image))
    image = keras.Input((8, 8, 2))
    x = layers.Dropout(0.5)(inner(image))
    x = layers.BatchNormalization(trainable=False, name="frozen")(x)
    x = layers.ReLU()(layers.Conv2D(4, 3, name="conv")(x))
    return keras.Model(image, layers.BatchNormalization(name="last")(x))


def pictures(count: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 8, 8, 2)) * [3, 0.2] + [5, -1]).astype(np.float32)


MODEL = network()
RECALIBRATE = Recalibration(MODEL)


def norm(name: str) -> Any:
    inner = next(part for part in MODEL.layers if isinstance(part, keras.Model))
    return inner.get_layer(name) if name == "first" else MODEL.get_layer(name)


def statistics(name: str) -> tuple[Array, Array]:
    return np.asarray(norm(name).moving_mean), np.asarray(norm(name).moving_variance)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_statistics_are_those_of_all_data_however_it_is_cut(sizes: list[int]) -> None:
    data = pictures(sum(sizes))
    RECALIBRATE(np.split(data, np.cumsum(sizes)[:-1]))
    mean, variance = statistics("first")
    np.testing.assert_allclose(mean, data.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, data.astype(np.float64).var(axis=(0, 1, 2)), rtol=1e-4)


def test_after_one_batch_inference_gives_what_training_without_dropout_gave() -> None:
    data = pictures(4)
    RECALIBRATE([data])
    epsilon = norm("first").epsilon
    x = data.astype(np.float64)
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + epsilon)
    x = x / np.sqrt(1 + epsilon)  # the frozen one's fresh statistics
    kernel = np.asarray(MODEL.get_layer("conv").kernel)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    x = np.maximum(np.einsum("nyxcij,ijcd->nyxd", windows, kernel), 0)
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + epsilon)
    np.testing.assert_allclose(MODEL(data, training=False), x, atol=1e-4)


def test_nothing_else_changes() -> None:
    moving = {id(v) for name in ("first", "last") for v in norm(name).non_trainable_variables}
    others = [v for v in MODEL.variables if id(v) not in moving]
    assert len(others) == 11  # scale and shift, kernel and bias, the frozen one's, dropout's state
    before = [np.array(v) for v in others]
    RECALIBRATE([pictures(3), pictures(2, seed=1)])
    for variable, value in zip(others, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value, err_msg=variable.path)
    assert (norm("last").momentum, norm("frozen").momentum) == (0.99, 0.99)
    assert next(p for p in MODEL.layers if isinstance(p, layers.Dropout)).rate == 0.5


def test_without_normalisation_nothing_is_read() -> None:
    image = keras.Input((8, 8, 2))
    Recalibration(keras.Model(image, layers.Conv2D(1, 1)(image)))(iter([None]))  # type: ignore[list-item]


def test_a_trained_bundle_has_them(make_job: MakeJob) -> None:
    """After three steps a running average is still near its beginning: mean 0, variance 1."""
    job = make_job(
        architecture={"name": "unet", "start_neurons": 2, "depth": 1, "batch_norm": True},
        optimizer={"learning_rate": 1e-6},
        epochs=1,
    )
    _, trained = load_bundle(train(job).bundle)
    found = next(p for p in trained.layers if isinstance(p, layers.BatchNormalization))
    # a 3 x 3 convolution of values of 0 to 1, of which the scenes' spread is small
    assert np.asarray(found.moving_variance).max() < 0.3
